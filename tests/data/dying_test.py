# SPDX-License-Identifier: Apache-2.0
"""Data that die while a run reads them: one line that names file and batch."""

import os
import re

import numpy as np
import pytest

from rlhf.data import store
from rlhf.data.ahead import Ahead
from rlhf.data.rows import DataError
from tests.data import made


def _text(folder):
  run = np.random.default_rng(0).integers(2, 90, 200_000, np.int32)
  store.write_tokens(folder, [run], lambda: {'kind': 'text'})
  tokens = store.StoredTokens(folder)
  return made.text_stream(items=tokens, row_length=4000)


def _examples(kind, make_stream, examples):
  def make(folder):
    store.write_examples(folder, examples(), lambda: {'kind': kind})
    return make_stream(items=store.StoredExamples(folder))

  return make


STREAMS = {
    'text': _text,
    'demonstrations': _examples(
        'demonstrations', made.demonstration_stream, made.demonstrations
    ),
    'rankings': _examples('rankings', made.ranking_stream, made.rankings),
    'prompts': _examples('prompts', made.prompt_stream, made.prompts),
}


def _cut(path):
  os.truncate(path, 1000)  # Some way into the records; an index follows them.


def _emptied(path):
  os.truncate(path, 0)


def _scribbled(path):
  data = bytearray(path.read_bytes())
  for at in range(70, len(data) - 70, 50):
    data[at] ^= 0xFF
  path.write_bytes(bytes(data))


def _alive(stream, steps):
  return [made.tokens(stream.batch(step)).copy() for step in range(steps)]


@pytest.mark.parametrize('harm', [_cut, _emptied, _scribbled])
@pytest.mark.parametrize('kind', STREAMS)
def test_a_store_that_dies_in_mid_run_ends_it_by_name(tmp_path, kind, harm):
  folder = tmp_path / 'a'
  stream = STREAMS[kind](folder)
  want = _alive(stream, stream.steps(1))
  batches = Ahead(stream.batch, 10**6, kind)
  assert np.array_equal(made.tokens(batches(0)), want[0])
  path = folder / 'examples.arrayrecord'
  harm(path)
  with pytest.raises(DataError) as caught:
    for step in range(1, len(want)):
      # What is still handed out is what was there before.
      assert np.array_equal(made.tokens(batches(step)), want[step])
  line = str(caught.value)
  assert re.fullmatch(
      rf'{path}: record \d+ cannot be read: is its disk still there\? .*'
      rf'delete its folder.* \(at batch {step} of {kind}\)', line
  ), line  # fmt: skip


@pytest.mark.parametrize('kind', STREAMS)
def test_a_disk_that_goes_away_ends_the_run_by_name(
    tmp_path, kind, monkeypatch
):
  stream = STREAMS[kind](tmp_path / 'a')
  gone = False
  read = store._Records.__getitem__

  def failing(self, i):
    if gone:
      # As the reader raises it, of a disk that no longer answers.
      monkeypatch.setattr(self, '_source', _Stale())
    return read(self, i)

  monkeypatch.setattr(store._Records, '__getitem__', failing)
  batches = Ahead(stream.batch, 10**6, kind)
  batches(0)
  batches(1)
  gone = True
  with pytest.raises(DataError, match='examples.arrayrecord: record') as caught:
    for step in range(2, 5):
      batches(step)
  assert isinstance(_root(caught.value), OSError)


class _Stale:

  def __getitem__(self, i):
    raise OSError(116, 'Stale file handle')


def _root(error):
  while error.__cause__ is not None:
    error = error.__cause__
  return error


def test_what_was_deleted_while_it_is_open_is_still_read(tmp_path):
  """POSIX keeps an open file: such a run goes on to its end."""
  folder = tmp_path / 'a'
  stream = _text(folder)
  want = _alive(stream, 6)
  (folder / 'examples.arrayrecord').unlink()
  batches = Ahead(stream.batch, 6, 'text')
  for step in range(6):
    assert np.array_equal(made.tokens(batches(step)), want[step])
