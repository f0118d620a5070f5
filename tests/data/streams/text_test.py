# SPDX-License-Identifier: Apache-2.0
"""Batches of pretraining text."""

import collections

import numpy as np
import pytest

from rlhf.data import packing, store
from tests.data import made


def test_rows_are_the_runs_own_and_the_rest_is_dropped():
  run = np.random.default_rng(0).integers(2, 90, 10 * made.T + 7, np.int32)
  stream = made.text_stream(items=run)
  assert stream.count == 10
  want = {tuple(run[i * made.T : (i + 1) * made.T].tolist()) for i in range(10)}
  one = made.text_stream(items=run, rows=1)
  for first in (0, 10, 20):  # Epochs of ten rows.
    rows = [
        tuple(one.batch(s).tokens_BT[0].tolist())
        for s in range(first, first + 10)
    ]
    assert len(set(rows)) == 10 and set(rows) == want


def test_every_batch_size_walks_the_same_sequence():
  stream = made.text_stream()
  one = np.concatenate([stream.take(s, 1).tokens_BT for s in range(24)])
  for rows in (2, 3, 8):
    taken = [stream.take(s, rows).tokens_BT for s in range(24 // rows)]
    assert np.array_equal(np.concatenate(taken), one)


def test_once_pads_the_last_rows():
  out = list(made.text_stream().once())
  assert len(out) == 4
  assert sum(b.segment_ids_BT.any(1).sum() for b in out) == 10
  assert not out[-1].loss_mask_BT[1:].any()


@pytest.mark.parametrize('bos', [1, 2])
def test_separate_documents_stay_separate_in_batches(bos):
  documents = [np.full(n, made.MARK + n) for n in range(1, 30)]
  run = packing.joined(documents, bos, 1, separate=True)
  stream = made.text_stream(items=run, bos_and_eos=(bos, 1))
  seen = collections.Counter()
  for step in range(stream.steps(1)):
    batch = stream.batch(step)
    for tokens, segments, mask in zip(
        batch.tokens_BT, batch.segment_ids_BT, batch.loss_mask_BT, strict=True
    ):
      assert not mask[0] and segments[0] == 1
      for segment in range(1, segments.max() + 1):
        within = tokens[segments == segment]
        assert len(set(made.marks(within))) <= 1, 'two documents in a segment'
        assert mask[segments == segment].tolist() == [False] + [True] * (
            len(within) - 1
        )
      seen.update(made.marks(tokens))
  assert set(seen) <= set(range(30)) and len(seen) >= 25


def test_text_of_a_store_is_that_of_memory(tmp_path):
  run = np.random.default_rng(0).integers(2, 90, 20_000, np.int32)
  store.write_tokens(tmp_path / 'a', [run[:7], run[7:]], lambda: {})
  stored = store.StoredTokens(tmp_path / 'a')
  for rows, length in ((2, 5000), (3, 24)):
    memory, disk = [
        made.text_stream(items=items, rows=rows, row_length=length)
        for items in (run, stored)
    ]
    assert memory.count == disk.count
    for step in range(5):
      assert made.equal(memory.batch(step), disk.batch(step))


def test_less_than_a_row_is_refused():
  with pytest.raises(ValueError, match='there are no rows of text: give more'):
    made.text_stream(items=np.ones(made.T - 1, np.int32))
