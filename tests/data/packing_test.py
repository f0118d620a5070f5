# SPDX-License-Identifier: Apache-2.0
"""Packing against plain loops over what went in."""

import numpy as np
import pytest

from rlhf.data import packing

PAD = 99


def _segments(tokens, segment_ids):
  """Every segment of packed rows as ((row, start), tokens), by a loop."""
  found = []
  for row in range(tokens.shape[0]):
    for segment in range(1, segment_ids[row].max() + 1):
      at = np.flatnonzero(segment_ids[row] == segment)
      assert list(at) == list(range(at[0], at[-1] + 1)), 'not in one piece'
      found.append(((row, at[0]), tokens[row, at].tolist()))
  return found


def test_left_pad():
  tokens, mask = packing.left_pad([[1, 2], [3, 4, 5]], 4, PAD)
  assert tokens.tolist() == [[PAD, PAD, 1, 2], [PAD, 3, 4, 5]]
  assert mask.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
  assert tokens.dtype == np.int32 and mask.dtype == bool
  with pytest.raises(ValueError, match='prompt 0 has 3 entries but length'):
    packing.left_pad([[1, 2, 3]], 2, PAD)
  with pytest.raises(ValueError, match='prompt 1 has no tokens'):
    packing.left_pad([[1], []], 2, PAD)


def test_right_pad():
  tokens, segments = packing.right_pad([[1, 2], []], 3, PAD)
  assert tokens.tolist() == [[1, 2, PAD], [PAD] * 3]
  assert segments.tolist() == [[1, 1, 0], [0, 0, 0]]


def test_text_rows_join_with_eos_and_drop_the_remainder():
  rows = packing.text_rows([[5, 6], [7], [8, 9, 10]], 4, eos_id=1)
  # EOS 5 6 EOS | 7 EOS 8 9 | 10 is left over.
  assert rows.tolist() == [[1, 5, 6, 1], [7, 1, 8, 9]]
  assert packing.text_rows([[5]], 4, 1).shape == (0, 4)
  assert packing.text_rows([], 4, 1).shape == (0, 4)


def test_text_batch_learns_all_but_the_first_and_pads_rows():
  batch = packing.text_batch(np.array([[1, 5, 6]], np.int32), 2, PAD)
  assert batch.tokens_BT.tolist() == [[1, 5, 6], [PAD] * 3]
  assert batch.segment_ids_BT.tolist() == [[1, 1, 1], [0, 0, 0]]
  assert batch.loss_mask_BT.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_first_fit_places_groups_whole_and_stops_at_a_misfit():
  # Rows of 5: 3 -> row 0; 4 -> row 1; (2, 2) has no room for its second, so
  # its first is taken back and the 1 behind it, which would fit, is not tried.
  assert packing.first_fit([[3], [4], [2, 2], [1]], 2, 5) == [[0], [1]]
  assert packing.first_fit([[3], [4], [2, 1], [1]], 2, 5) == [[0], [1], [0, 1]]


@pytest.mark.parametrize('pack', [True, False])
def test_every_token_of_every_example_is_in_the_batch_once(pack):
  rng = np.random.default_rng(0)
  examples = []
  for n in rng.integers(1, 9, 12):
    tokens = rng.integers(0, 90, n)
    examples.append((tokens, np.arange(n) >= n // 2))
  batch = packing.pack_examples(examples, 12, 16, PAD, pack=pack)
  found = sorted(t for _, t in _segments(batch.tokens_BT, batch.segment_ids_BT))
  assert found == sorted(t.tolist() for t, _ in examples)
  assert np.all((batch.segment_ids_BT == 0) == (batch.tokens_BT == PAD))
  # Targets: those asked for, less a segment's first token.
  assert batch.loss_mask_BT.sum() == sum(m[1:].sum() for _, m in examples)
  if not pack:
    assert batch.segment_ids_BT.max() == 1
  else:
    assert (batch.segment_ids_BT.max(1) == 0).any(), 'packing saved no row'


def test_targets_stay_with_their_tokens():
  examples = [([1, 2, 3], [0, 0, 1]), ([4, 5], [1, 1])]
  batch = packing.pack_examples(examples, 1, 6, PAD)
  assert batch.tokens_BT.tolist() == [[1, 2, 3, 4, 5, PAD]]
  assert batch.segment_ids_BT.tolist() == [[1, 1, 1, 2, 2, 0]]
  # 4 is a target by request, but nothing stands before it in its segment.
  assert batch.loss_mask_BT.tolist() == [[0, 0, 1, 0, 1, 0]]


def test_an_example_longer_than_a_row_is_cut():
  batch = packing.pack_examples([([1, 2, 3], [0, 1, 1])], 1, 2, PAD, pack=False)
  assert batch.tokens_BT.tolist() == [[1, 2]]


def test_examples_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match='2 of 3 examples fit into 1 rows of 4'):
    packing.pack_examples([([1, 2], [1, 1])] * 3, 1, 4, PAD)
  with pytest.raises(ValueError, match='3 tokens but 2 target flags'):
    packing.pack_examples([([1, 2, 3], [1, 1])], 1, 4, PAD)


@pytest.mark.parametrize('k', range(2, 10))
def test_rankings_of_every_k(k):
  rng = np.random.default_rng(k)
  rankings = []
  for size in (k, 2, k):
    prompt = [1, *rng.integers(5, 90, 3)]
    responses = [[*rng.integers(5, 90, rng.integers(0, 6)), 1]
                 for _ in range(size)]
    rankings.append((prompt, responses, rng.integers(1, 4, size).tolist()))
  batch = packing.pack_rankings(rankings, 24, 20, 4, 9, PAD)

  segments = dict(_segments(batch.tokens_MT, batch.segment_ids_MT))
  flat_tokens = batch.tokens_MT.ravel()
  flat_mask = batch.response_mask_MT.ravel()
  seen = set()
  for b, (prompt, responses, ranks) in enumerate(rankings):
    assert batch.mask_BK[b].sum() == len(responses)
    assert batch.ranks_BK[b, : len(ranks)].tolist() == ranks
    for i, response in enumerate(responses):
      end = batch.end_BK[b, i]
      row, start = end // 20, end % 20 - len(prompt) - len(response) + 1
      assert segments[row, start] == [*prompt, *response]
      assert flat_tokens[end] == response[-1]
      # The response and nothing of the prompt.
      assert flat_mask[end - len(response) + 1 : end + 1].all()
      begin = end - len(response) - len(prompt) + 1
      assert not flat_mask[begin : begin + len(prompt)].any()
      seen.add((row, start))
  assert seen == set(segments), 'something is packed that nobody points at'
  assert batch.response_mask_MT.sum() == sum(
      len(r) for _, rs, _ in rankings for r in rs
  )
  assert not batch.mask_BK[3].any() and not batch.end_BK[3].any()


def test_rankings_that_do_not_fit_are_refused():
  ranking = ([1, 2], [[3, 1], [4, 1]], [1, 2])
  with pytest.raises(ValueError, match='max_prompts is 1'):
    packing.pack_rankings([ranking] * 2, 9, 9, 1, 9, PAD)
  with pytest.raises(ValueError, match='1 of 2 rankings fit into 3 rows'):
    packing.pack_rankings([ranking] * 2, 3, 4, 2, 9, PAD)
  with pytest.raises(ValueError, match='max_responses is 1'):
    packing.pack_rankings([ranking], 3, 9, 2, 1, PAD)
