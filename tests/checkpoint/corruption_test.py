# SPDX-License-Identifier: Apache-2.0
"""Every file of a checkpoint: cut short, emptied, removed, a bit turned.

What is restored is either what was saved, or the step before it with a word on
the damaged one. Anything else would go on training on wrong numbers.
"""

import pathlib
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf import hosts, sharding
from rlhf.checkpoint import CheckpointError, Checkpoints, reading
from tests import pair as pairs
from tests import tiny


def _state(seed):
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(40, 32)).astype(np.float32)
  return {
      'policy': {
          'params': {'table': table, 'half': table[:3].astype(jnp.bfloat16)},
          'count': np.int32(seed),
          'moments': (np.zeros((7, 5), np.float32), table[1] ** 2),
      },
      'kept': rng.integers(0, 2, size=9).astype(bool),
  }


_FACTS = {'title': 'ppo', 'position': {'epoch': 3, 'row': 17}}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Steps 10 and 20."""
  directory = tmp_path_factory.mktemp('whole')
  writer = Checkpoints(directory)
  for step in (10, 20):
    writer.save(step, _device(_state(step)), {**_FACTS, 'step': step})
  writer.close()
  return directory


def _device(tree):
  return jax.tree.map(jnp.asarray, tree)


def _files(step: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p.relative_to(step) for p in step.rglob('*') if p.is_file())


def _flips(size: int, rng: random.Random) -> list[int]:
  """Numbers of bits: the first, middle and last bytes', and any."""
  bytes_ = [0, size // 2, size - 1, *(rng.randrange(size) for _ in range(5))]
  return [8 * byte + rng.randrange(8) for byte in bytes_]


def _damage(data: bytes, how: str | int) -> bytes | None:
  if isinstance(how, int):
    changed = bytearray(data)
    changed[how // 8] ^= 1 << how % 8
    return bytes(changed)
  return {'half': data[: len(data) // 2], 'empty': b'', 'removed': None}[how]


def _check(directory, what) -> bool:
  """Whether the older step was taken; fails if anything is silently wrong."""
  restored = Checkpoints(directory).restore(_device(_state(0)))
  assert restored is not None, what
  assert restored.facts == {**_FACTS, 'step': restored.step}, what
  tiny.assert_same(restored.state, _device(_state(restored.step)))
  if restored.step == 20:
    assert not restored.damaged, what
    return False
  assert restored.step == 10, what
  (line,) = restored.damaged
  assert line.startswith('step 20: ') and len(line) < 500, (what, line)
  assert '\n' not in line
  return True


def test_no_damage_to_any_file_is_silent(whole, tmp_path):
  """The files are discovered: what orbax writes is orbax's to change."""
  rng = random.Random(0)
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  files = _files(copy / '20')
  assert len(files) > 5
  noticed = {}
  for name in files:
    path = copy / '20' / name
    data = path.read_bytes()
    for how in ('half', 'empty', 'removed', *_flips(len(data), rng)):
      changed = _damage(data, how)
      path.unlink()
      if changed is not None:
        path.write_bytes(changed)
      noticed[str(name), how] = _check(copy, (str(name), how))
      path.write_bytes(data)
  # The test would show nothing if damage were not met at all.
  facts = [k for k in noticed if k[0] == 'facts/metadata']
  assert all(noticed[key] for key in facts)
  assert sum(noticed.values()) > len(noticed) / 4
  assert not _check(copy, 'as it was')


def _largest(step: pathlib.Path) -> pathlib.Path:
  return max(step.rglob('*'), key=lambda p: p.is_file() and p.stat().st_size)


def test_any_bit_of_the_arrays_is_missed(whole, tmp_path):
  """Of the file that holds most of them, a bit in every 128th byte."""
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  path = _largest(copy / '20')
  data = path.read_bytes()
  for byte in range(0, len(data), 128):
    path.write_bytes(_damage(data, 8 * byte + byte // 128 % 8) or b'')
    _check(copy, byte)


def test_names_that_are_changed_are_missed(whole, tmp_path):
  """Still JSON, and of arrays; bits at random seldom make it."""
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  path = copy / '20' / 'state' / '_METADATA'
  text = path.read_text()
  assert 'kept' in text
  path.write_text(text.replace('kept', 'kepT'))
  assert _check(copy, 'a name')
  path.write_text(text.replace('count', 'kept'))
  assert _check(copy, 'a name twice')


@pytest.mark.parametrize('part', ['state', 'facts'])
def test_a_part_that_is_gone_is_missed(whole, tmp_path, part):
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  shutil.rmtree(copy / '20' / part)
  assert _check(copy, part)


def test_arrays_of_another_step_are_found_out(whole, tmp_path):
  """All of it is readable, and of a checkpoint: only not of this one."""
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  shutil.rmtree(copy / '20' / 'state')
  shutil.copytree(copy / '10' / 'state', copy / '20' / 'state')
  assert _check(copy, 'state')
  shutil.rmtree(copy / '20')
  shutil.copytree(copy / '10', copy / '20')
  assert _check(copy, 'whole')


def test_when_none_is_whole_each_is_named(whole, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  (copy / '20' / 'facts' / 'metadata').write_text('{"facts": {}}')
  path = _largest(copy / '10' / 'state')
  path.write_bytes(path.read_bytes()[:2000])
  with pytest.raises(CheckpointError) as caught:
    Checkpoints(copy).restore(_device(_state(0)))
  first, twenty, ten, advice = str(caught.value).splitlines()
  assert first == f'no checkpoint in {copy} is whole:'
  assert twenty.startswith('  step 20: its facts are not what was written')
  assert ten.startswith('  step 10: ')
  assert 'Put back a copy' in advice


def test_a_damaged_step_that_was_asked_for_is_an_error(whole, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  shutil.rmtree(copy / '20' / 'state')
  with pytest.raises(CheckpointError, match='asked for: step 20'):
    Checkpoints(copy).restore(_device(_state(0)), step=20)


def test_a_damaged_step_stays_until_a_newer_one_is_on_disk(whole, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(whole, copy)
  path = _largest(copy / '20' / 'state')
  path.write_bytes(path.read_bytes()[:2000])
  checkpoints = Checkpoints(copy)
  restored = checkpoints.restore(_device(_state(0)))
  assert restored is not None and restored.step == 10
  assert (copy / '20').exists()
  checkpoints.save(30, restored.state, {})
  checkpoints.close()
  # 20 doesn't count among the two that are kept.
  assert sorted(p.name for p in copy.iterdir()) == ['10', '30']


def two_hosts(directory: str, port: str, index: str) -> None:
  """On each of two hosts: a step that only one can read is left by both."""
  with hosts.joined(f'localhost:{port}', 2, int(index)):
    mesh = sharding.make_mesh({'fsdp': -1})
    where = {'x': NamedSharding(mesh, P('fsdp')), 'y': NamedSharding(mesh, P())}
    make = jax.jit(
        lambda n: {'x': jnp.arange(4096.0) + n, 'y': n}, out_shardings=where
    )
    checkpoints = Checkpoints(directory)
    for step in (10, 20):
      checkpoints.save(step, make(jnp.int32(step)), {'step': step})
    checkpoints.close()
    if int(index) == 1:
      # As if this host's disk had lost its part: nobody else's read fails.
      read = reading.read

      def fails(path, wanted):
        return ({}, 'lost') if '20' in path.parts else read(path, wanted)

      reading.read = fails
    restored = Checkpoints(directory).restore(make(jnp.int32(0)))
    assert restored is not None
    assert restored.damaged == ['step 20: its arrays can not be read (lost)']
    assert restored.step == restored.facts['step'] == 10
    got = sharding.fetch(restored.state)
    np.testing.assert_array_equal(got['x'], np.arange(4096.0) + 10)
    assert got['y'] == 10


@pytest.mark.slow
@pytest.mark.multi_device
def test_two_hosts_take_the_same_step(tmp_path):
  directory = tmp_path / 'checkpoints'

  def arguments(port, index):
    call = f'two_hosts({str(directory)!r}, {str(port)!r}, {str(index)!r})'
    return ['-c', f'from tests.checkpoint.corruption_test import *; {call}']

  with pairs.pair(arguments, tmp_path) as pair:
    for index in range(2):
      code, log = pair.wait(index, 240)
      assert code == 0, log
  # The first host deletes, once.
  assert sorted(p.name for p in directory.iterdir()) == ['10', '20']
