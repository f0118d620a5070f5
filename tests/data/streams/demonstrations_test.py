# SPDX-License-Identifier: Apache-2.0
"""Batches of demonstrations, and the text that is mixed in."""

import collections
import itertools

import numpy as np
import pytest

from tests.data import made


@pytest.mark.parametrize('pack', [True, False])
def test_segments_are_the_demonstrations_with_loss_on_the_response(pack):
  want = {
      made.MARK + i: (d.prompt_ids.tolist(), d.response_ids.tolist())
      for i, d in enumerate(made.demonstrations())
  }
  stream = made.demonstration_stream(pack=pack)
  shared = 0
  for step in range(stream.steps(1)):
    batch = stream.batch(step)
    for tokens, segments, mask in zip(
        batch.tokens_BT, batch.segment_ids_BT, batch.loss_mask_BT, strict=True
    ):
      assert (tokens[segments == 0] == made.PAD).all()
      assert not mask[segments == 0].any()
      shared += segments.max() > 1
      for segment in range(1, segments.max() + 1):
        ids = tokens[segments == segment].tolist()
        (mark,) = [i for i in ids if i >= made.MARK]
        prompt, response = want[mark]
        assert ids == prompt + response
        assert mask[segments == segment].tolist() == (
            [False] * len(prompt) + [True] * len(response)
        )
  assert bool(shared) == pack


def test_packing_needs_fewer_steps():
  packed, alone = [made.demonstration_stream(pack=p) for p in (True, False)]
  assert alone.steps(1) == made.N // 4 and packed.steps(1) <= alone.steps(1) / 2


def test_who_shares_a_row_hangs_on_the_seed():
  def rows(seed):
    stream = made.demonstration_stream(seed)
    return {
        frozenset(made.marks(row))
        for step in range(stream.steps(1))
        for row in stream.batch(step).tokens_BT
    }

  assert rows(0) == rows(0) != rows(1)


@pytest.mark.parametrize('rows_of_text', [2, 20])
def test_text_is_an_endless_tenth_whichever_is_longer(rows_of_text):
  """9 rows of demonstrations and 1 of text; neither waits for the other."""
  items = made.text(rows_of_text, 0)
  text = made.text_stream(3, items=items, rows=1)
  stream = made.demonstration_stream(rows=9, pack=False, mix=(text, 1))
  alone = made.demonstration_stream(rows=9, pack=False)
  # Demonstrations come nine times in 40 steps, text 20 times or twice.
  steps = 40
  found = collections.Counter()
  for step in range(steps):
    batch = stream.batch(step)
    assert batch.tokens_BT.shape == (10, made.T)
    assert (batch.segment_ids_BT[9] == 1).all(), 'no row of text is empty'
    assert batch.loss_mask_BT[9].tolist() == [False] + [True] * (made.T - 1)
    assert np.array_equal(batch.tokens_BT[:9], alone.batch(step).tokens_BT)
    (row,) = set(made.marks(batch.tokens_BT[9]))
    found[row] += 1
  assert found == dict.fromkeys(range(rows_of_text), steps // rows_of_text)


def test_mixed_rows_of_text_come_last_as_they_are():
  text = made.text_stream(3)
  batch = made.demonstration_stream(mix=(text, 2)).batch(5)
  assert batch.tokens_BT.shape == (6, made.T)
  want = text.take(5, 2)
  for name, array in vars(want).items():
    assert np.array_equal(getattr(batch, name)[4:], array)


def test_three_demonstrations_fill_batches_of_four_rows():
  stream = made.demonstration_stream(items=made.demonstrations(3), pack=False)
  seen = [made.marks(stream.batch(s).tokens_BT) for s in range(3)]
  whole = list(itertools.chain(*seen))
  assert [sorted(whole[i : i + 3]) for i in (0, 3, 6, 9)] == [[0, 1, 2]] * 4


def test_what_cannot_be_served_is_refused_at_once():
  with pytest.raises(ValueError, match='there are no demonstrations'):
    made.demonstration_stream(items=[])
  with pytest.raises(ValueError, match='a row has 5: lower max_prompt_tokens'):
    made.demonstration_stream(row_length=5)
  with pytest.raises(ValueError, match='rows of text have 24 tokens, those of'):
    made.demonstration_stream(row_length=30, mix=(made.text_stream(), 2))
