# SPDX-License-Identifier: Apache-2.0
"""Two hosts see the batches that one sees, and read only their own rows.

Two processes of four devices each against one of eight, over the end of an
epoch, and again from its middle. tests/data/streams/every_test.py plays eight
hosts without processes.
"""

import contextlib
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from rlhf import hosts, sharding, update
from rlhf.data import store
from rlhf.data.streams import (
    DemonstrationStream,
    PromptStream,
    RankingStream,
    TextStream,
)
from tests import pair as pairs
from tests.data import made

STEPS, RESUMED = 14, 5
# Rows of a batch, and the micro-batches that it is cut into. Of the 16 rows of
# SFT 2 are text.
SIZES = {'sft': (16, 2), 'rankings': (16, 1), 'prompts': (8, 1), 'text': (8, 1)}


class _Examples(store.StoredExamples):
  """Remembers which examples were read."""

  def __init__(self, folder):
    super().__init__(folder)
    self.read = set()

  def __getitem__(self, i):
    self.read.add(int(i))
    return super().__getitem__(i)


class _Text(store.StoredTokens):
  """Remembers which rows of text were read, as `made.T` tokens each."""

  def __init__(self, folder):
    super().__init__(folder)
    self.read = set()

  def __getitem__(self, where):
    self.read.add(where.start // made.T)
    return super().__getitem__(where)


def write(folder: pathlib.Path) -> None:
  """The stores that all processes read."""
  for kind, examples in (
      ('demonstrations', made.demonstrations()),
      ('rankings', made.rankings()),
      ('prompts', made.prompts(lengths=(2, 3, 5, 9))),
  ):
    store.write_examples(folder / kind, examples, lambda k=kind: {'kind': k})
  store.write_tokens(folder / 'text', [made.text(13)], lambda: {'kind': 'text'})


def _stream(name: str, folder: pathlib.Path, local: np.ndarray | None):
  """A stream of stored examples, and those who remember what it reads."""
  common: dict[str, Any] = dict(pad_id=made.PAD, seed=3)
  if name in ('sft', 'text'):
    text = _Text(folder / 'text')
    rows = TextStream(text, row_length=made.T, rows=8, local=local, **common)
    if name == 'text':
      return rows, [text]
    examples = _Examples(folder / 'demonstrations')
    stream = DemonstrationStream(
        examples, rows=14, row_length=made.T, mix=(rows, 2), local=local,
        **common,
    )  # fmt: skip
    return stream, [examples, text]
  examples = _Examples(folder / name)
  if name == 'rankings':
    stream = RankingStream(
        examples, rows=16, row_length=made.T, max_prompts=4, max_responses=9,
        local=local, **common,
    )  # fmt: skip
  else:
    stream = PromptStream(
        examples, batch_size=8, lengths=(4, 12), local=local, **common
    )
  return stream, [examples]


def _walk(name: str, folder: pathlib.Path, mesh, first: int) -> list[dict]:
  """What a new stream gives from a step on: the whole batches, as the devices
  of all hosts have them, and what this host has read for them."""
  rows, micro_batches = SIZES[name]
  local = hosts.local_rows(rows, mesh, micro_batches=micro_batches)
  stream, readers = _stream(name, folder, local)
  assert first or stream.steps(1) < STEPS - 1, 'the end of an epoch is passed'
  found = []
  for step in range(first, STEPS):
    for reader in readers:
      reader.read.clear()
    batch = made.arrays(stream.batch(step))
    placed = sharding.put_batch(
        update.split_batch(batch, micro_batches), mesh,
        stacked=micro_batches > 1,
    )  # fmt: skip
    whole = sharding.fetch(placed)
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(whole):
      digest.update(f'{leaf.dtype} {leaf.shape}'.encode() + leaf.tobytes())
    tokens = made.tokens(whole).reshape(rows, -1)
    found.append({
        'hash': digest.hexdigest(),
        'marks': [sorted(set(made.marks(row))) for row in tokens],
        'local': np.flatnonzero(
            np.ones(rows) if local is None else local
        ).tolist(),
        'read': [sorted(reader.read) for reader in readers],
    })
  return found


def main(folder: str, out: str, port: str = '', index: str = '0') -> None:
  """A process: one of two, or with no port alone."""
  joined = contextlib.nullcontext()
  if port:
    joined = hosts.joined(f'localhost:{port}', 2, int(index))
  with joined:
    mesh = sharding.make_mesh({'data': 2, 'fsdp': -1})
    assert mesh.size == 8
    found = {
        name: [_walk(name, pathlib.Path(folder), mesh, s) for s in (0, RESUMED)]
        for name in SIZES
    }
    pathlib.Path(out).write_text(json.dumps(found))


@pytest.fixture(scope='module')
def walks(tmp_path_factory, fresh_python):
  """Of one process, and of each of two: stream -> (from 0, from RESUMED)."""
  folder = tmp_path_factory.mktemp('hosts')
  write(folder)
  code = 'from tests.data import hosts_test; hosts_test.main'

  def arguments(port, index):
    about = (str(folder), str(folder / f'{index}.json'), str(port), str(index))
    return ['-c', f'{code}{about!r}']

  with pairs.pair(arguments, folder, devices=4) as pair:
    alone = str(folder), str(folder / 'one.json')
    fresh_python(f'{code}{alone!r}', devices=8)
    for index in range(2):
      ended, log = pair.wait(index, 200)
      assert ended == 0, log
  return [
      json.loads((folder / f'{name}.json').read_text())
      for name in ('one', '0', '1')
  ]


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize('name', SIZES)
def test_two_hosts_put_together_the_batches_of_one(walks, name):
  one, *both = [walk[name][0] for walk in walks]
  assert len(one) == STEPS and len({step['hash'] for step in one}) > STEPS // 2
  for host in both:
    assert [s['hash'] for s in host] == [s['hash'] for s in one]


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize('name', SIZES)
def test_a_host_reads_the_examples_of_its_rows_alone(walks, name):
  one, *both = [walk[name][0] for walk in walks]
  rows, _ = SIZES[name]
  for step, want in enumerate(one):
    assert want['local'] == list(range(rows)), 'one host has all rows'
    own = [set(host[step]['local']) for host in both]
    assert not own[0] & own[1] and own[0] | own[1] == set(range(rows))
    assert len(own[0]) == len(own[1])
    for host, mine in zip(both, own, strict=True):
      expected = [[], []] if name == 'sft' else [[]]
      for row in sorted(mine):
        # The last two rows of SFT are text, whose marks are its rows.
        expected[name == 'sft' and row >= 14] += want['marks'][row]
      got = host[step]['read']
      assert got == [sorted(set(marks)) for marks in expected], (step, mine)


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize('name', SIZES)
def test_hosts_that_start_again_go_on_where_they_were(walks, name):
  unbroken = walks[0][name][0][RESUMED:]
  for walk in walks:
    resumed = walk[name][1]
    assert [s['hash'] for s in resumed] == [s['hash'] for s in unbroken]
