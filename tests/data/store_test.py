# SPDX-License-Identifier: Apache-2.0
"""Stores: what comes out is what went in, or one line that names the file."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from rlhf.data import rows as rows_lib
from rlhf.data import store
from tests import conftest
from tests.data import made

KINDS = {
    'demonstrations': made.demonstrations,
    'rankings': made.rankings,
    'prompts': made.prompts,
}


def _write(folder, kind='prompts', examples=None):
  examples = KINDS[kind]() if examples is None else examples
  store.write_examples(folder, iter(examples), lambda: {'kind': kind})
  return store.StoredExamples(folder)


@pytest.mark.parametrize('kind', KINDS)
def test_examples_come_back_bit_for_bit(tmp_path, kind):
  want = KINDS[kind]()
  found = _write(tmp_path / 'a' / 'b', kind)
  assert len(found) == len(want) == found.facts['records']
  for i in (5, 0, -1, len(want) - 1, *range(len(want))):
    assert made.equal_examples(found[i], want[i])
  part: Any = found[3:9:2]
  for a, b in zip(part, want[3:9:2], strict=True):
    assert made.equal_examples(a, b)
  assert made.equal_examples(found[np.int64(7)], want[7])
  assert store.index_of(found) == store.index_of(want)
  lengths = store.index_of(want).lengths
  assert found.facts['tokens'] == sum(map(sum, lengths))
  for i in (len(want), -len(want) - 1):
    with pytest.raises(IndexError, match=f'has {len(want)} examples, not {i}'):
      found[i]


def test_what_is_read_is_not_shared(tmp_path):
  found: Any = _write(tmp_path / 'a')
  found[0].ids[:] = 0
  assert made.equal_examples(found[0], made.prompts()[0])


def test_any_text_comes_back(tmp_path):
  texts = ['', 'é\x00\n', '\u2028', '𝔘', 'a' * 100_000]
  prompts = [made.PromptExample(np.arange(3, dtype=np.int32), t, t[:9])
             for t in texts]  # fmt: skip
  found = _write(tmp_path / 'a', 'prompts', prompts)
  assert [p.text for p in found] == texts
  assert [p.user for p in found] == [t[:9] for t in texts]


@pytest.mark.parametrize('total', [0, 1, 4095, 4096, 4097, 30_001])
def test_slices_of_text_are_numpys(tmp_path, total):
  rng = np.random.default_rng(total)
  run = rng.integers(0, 2**31 - 1, total).astype(np.int32)
  cuts = np.sort(rng.integers(0, total + 1, 40))
  pieces = np.split(run, cuts)  # Empty ones too.
  store.write_tokens(tmp_path / 'a', iter(pieces), lambda: {'kind': 'text'})
  tokens = store.StoredTokens(tmp_path / 'a')
  assert len(tokens) == total
  edges = [0, total, 4095, 4096, 4097, 8192, total // 2, total + 9, -1, -total]
  for _ in range(200):
    start, end = rng.choice(edges) + rng.integers(-3, 4, 2) * rng.integers(0, 2)
    got = tokens[int(start) : int(end)]
    assert got.dtype == np.int32
    assert np.array_equal(got, run[int(start) : int(end)])
  assert np.array_equal(tokens[:], run)
  for start in rng.integers(0, total + 1, 200).tolist():
    end = start + int(rng.integers(0, 9000))
    assert np.array_equal(tokens[start:end], run[start:end])


@pytest.mark.parametrize('at', [0, 7, 40])
def test_an_error_half_way_leaves_nothing_usable(tmp_path, at):
  def breaks():
    yield from made.prompts()[:at]
    raise RuntimeError('a bad row')

  folder = tmp_path / 'a'
  with pytest.raises(RuntimeError, match='a bad row'):
    store.write_examples(folder, breaks(), lambda: {'kind': 'prompts'})
  assert not folder.exists()
  assert len(_write(folder)) == made.N  # And it can be made again.


def _facts_fail():
  raise rows_lib.DataError('nothing left')


def test_facts_that_fail_leave_nothing_usable(tmp_path):
  with pytest.raises(rows_lib.DataError, match='nothing left'):
    store.write_tokens(tmp_path / 'a', [np.arange(9)], _facts_fail)
  assert not (tmp_path / 'a').exists()


def test_a_killed_run_leaves_nothing_usable(tmp_path):
  folder = tmp_path / 'a'
  code = f'''
import os, signal
from rlhf.data import store
from tests.data import made
def killed():
  for _ in range(50):
    yield from made.prompts()
  os.kill(os.getpid(), signal.SIGKILL)
store.write_examples({str(folder)!r}, killed(), lambda: dict(kind='prompts'))
'''
  done = subprocess.run([sys.executable, '-c', code], cwd=conftest.ROOT)
  assert done.returncode == -signal.SIGKILL
  (remains,) = tmp_path.iterdir()
  assert remains.name.startswith('a.new-') and not folder.exists()
  built = []
  store.build_once(folder, lambda: built.append(_write(folder)))
  assert len(built) == 1 and len(store.StoredExamples(folder)) == made.N
  # Another run may be at work there: only what is a day old is removed.
  assert remains.exists()
  old = time.time() - 2 * 24 * 3600
  os.utime(remains, (old, old))
  _write(folder)  # As if a run beside this one had been slower.
  assert list(tmp_path.iterdir()) == [folder]
  assert len(store.StoredExamples(folder)) == made.N


def test_what_is_there_is_not_built_again(tmp_path):
  _write(tmp_path / 'a')

  def build():
    raise AssertionError('built again')

  store.build_once(tmp_path / 'a', build)


def _records(folder) -> pathlib.Path:
  return folder / 'examples.arrayrecord'


def _truncate(folder):
  data = _records(folder).read_bytes()
  _records(folder).write_bytes(data[: len(data) // 2])


def _scribble(folder):
  data = bytearray(_records(folder).read_bytes())
  for at in range(70, len(data) - 70, 200):
    data[at] ^= 0xFF
  _records(folder).write_bytes(bytes(data))


@pytest.mark.parametrize(
    'harm',
    [
        _truncate,
        _scribble,
        lambda folder: _records(folder).unlink(),
        lambda folder: _records(folder).write_bytes(b''),
        lambda folder: _records(folder).write_text('something else\n' * 900),
        lambda folder: (folder / 'index.npz').write_bytes(b'PK'),
        lambda folder: (folder / 'index.npz').unlink(),
        lambda folder: (folder / 'store.json').write_text('{"kind": '),
        lambda folder: (folder / 'store.json').write_text('{}'),
    ],
    ids=['truncated', 'scribbled', 'no file', 'empty', 'other', 'index cut',
         'no index', 'facts cut', 'no facts'],
)  # fmt: skip
def test_a_broken_store_is_one_line_that_names_the_file(tmp_path, harm):
  folder = tmp_path / 'a'
  _write(folder, 'rankings')
  harm(folder)
  with pytest.raises(rows_lib.DataError) as caught:
    list(store.StoredExamples(folder))
  line = str(caught.value)
  assert re.match(rf'{folder}/\w+\.\w+: .*: delete its folder', line), line
  assert '\n' not in line


def test_a_broken_run_of_text_is_one_line_too(tmp_path):
  run = np.random.default_rng(0).integers(0, 2**31 - 1, 50_000, np.int32)
  store.write_tokens(tmp_path / 'a', [run], lambda: {'kind': 'text'})
  _scribble(tmp_path / 'a')
  with pytest.raises(rows_lib.DataError, match='examples.arrayrecord: '):
    store.StoredTokens(tmp_path / 'a')[:]
