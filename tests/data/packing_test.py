# SPDX-License-Identifier: Apache-2.0
"""Packing against plain loops over what went in."""

import itertools
from typing import Any

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


# -- Text ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('bos', 'separate', 'want'),
    [
        # EOS is BOS: GPT-3 has one of them between two documents.
        (1, False, [1, 5, 6, 1, 7]),
        (1, True, [1, 5, 6, 1, 1, 7, 1]),
        (2, False, [2, 5, 6, 1, 2, 7, 1]),
        (2, True, [2, 5, 6, 1, 2, 7, 1]),
    ],
)
def test_documents_as_one_run(bos, separate, want):
  documents = [[5, 6], np.array([7])]
  run = packing.joined(documents, bos, 1, separate=separate)
  assert run.dtype == np.int32 and run.tolist() == want
  # One by one, as they come from a file, they are the same.
  pieces = [packing.joined([d], bos, 1, separate=separate) for d in documents]
  assert np.concatenate(pieces).tolist() == want
  assert packing.joined([], bos, 1).tolist() == []


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
  with pytest.raises(ValueError, match='the batch has 2 entries but rows is 1'):
    packing.text_batch(np.zeros((2, 3), np.int32), 1, PAD)


@pytest.mark.parametrize('bos', [1, 2], ids=['BOS is EOS', 'BOS of its own'])
@pytest.mark.parametrize('row_length', [4, 7, 16, 50])
def test_separate_documents_are_segments(bos, row_length):
  """Against a walk over the documents, which knows where each begins."""
  eos, rng = 1, np.random.default_rng(0)
  documents = [rng.integers(5, 90, n).tolist() for n in rng.integers(1, 12, 40)]
  run, which, place = [], [], []
  for number, document in enumerate(documents):
    whole = [bos, *document, eos]
    run += whole
    which += [number] * len(whole)
    place += range(len(whole))
  rows = len(run) // row_length
  tokens = packing.joined(documents, bos, eos, separate=True)
  assert tokens.tolist() == run
  batch = packing.text_batch(
      tokens[: rows * row_length].reshape(rows, row_length),
      rows,
      PAD,
      bos_and_eos=(bos, eos),
  )
  for row in range(rows):
    segment = 0
    for t in range(row_length):
      at = row * row_length + t
      first = t == 0 or which[at] != which[at - 1]
      segment += first
      assert batch.segment_ids_BT[row, t] == segment
      # All is learnt but what begins a document or, where it is cut, a row:
      # the EOS of every document too.
      assert batch.loss_mask_BT[row, t] == (not first)
      if place[at] == len(documents[which[at]]) + 1 and t:
        assert tokens[at] == eos and batch.loss_mask_BT[row, t]


def test_a_document_cut_by_the_end_of_a_row_goes_on_as_a_segment():
  # BOS 5 6 7 | 8 EOS BOS 9: the second row begins in the middle of a document.
  batch = packing.text_batch(
      np.array([[1, 5, 6, 7], [8, 1, 1, 9]], np.int32), 2, PAD,
      bos_and_eos=(1, 1),
  )  # fmt: skip
  assert batch.segment_ids_BT.tolist() == [[1, 1, 1, 1], [1, 1, 2, 2]]
  assert batch.loss_mask_BT.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1]]


# -- Which share a row --------------------------------------------------------


def _is_best_fit(rows, lengths, row_length, order):
  """Replays the placing, and asks at each step whether it was the best."""
  home = {index: row for row, held in enumerate(rows) for index in held}
  assert sorted(home) == sorted(itertools.chain(*rows)) == sorted(order)
  room = {}
  # Longest first; those of one length in the order given.
  rank = {index: place for place, index in enumerate(order)}
  for index in sorted(order, key=lambda i: (-lengths[i], rank[i])):
    length, row = lengths[index], home[index]
    fitting = [left for left in room.values() if left >= length]
    if fitting:
      assert row in room and room[row] == min(fitting), 'not the tightest'
    else:
      assert row not in room, 'a row without room'
      room[row] = row_length
    room[row] -= length
    assert room[row] >= 0, 'a row is too full'


def test_best_fit_by_its_rule_on_all_small_inputs():
  for lengths in itertools.product([1, 2, 3, 5], repeat=5):
    order = [3, 1, 4, 0, 2]
    rows = packing.best_fit(lengths, 5, order)
    _is_best_fit(rows, lengths, 5, order)


def test_best_fit_by_its_rule_on_random_inputs():
  rng = np.random.default_rng(0)
  for _ in range(200):
    row_length = int(rng.integers(1, 40))
    lengths = rng.integers(1, row_length + 1, rng.integers(0, 60)).tolist()
    order = rng.permutation(len(lengths))
    rows = packing.best_fit(lengths, row_length, order)
    _is_best_fit(rows, lengths, row_length, order.tolist())


@pytest.mark.parametrize(('median', 'row_length'), [(60, 512), (250, 2048)])
def test_best_fit_leaves_little_empty(median, row_length):
  rng = np.random.default_rng(1)
  lengths = rng.lognormal(np.log(median), 0.9, 10_000).astype(int) + 1
  lengths = np.minimum(lengths, row_length).tolist()
  order = rng.permutation(len(lengths))
  rows = packing.best_fit(lengths, row_length, order)
  assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
  assert max(sum(lengths[i] for i in row) for row in rows) <= row_length
  assert sum(lengths) / (len(rows) * row_length) >= 0.98


def test_best_fit_follows_from_the_order_alone():
  rng = np.random.default_rng(2)
  lengths = rng.integers(1, 30, 300).tolist()
  one, two = rng.permutation(300), rng.permutation(300)
  rows = packing.best_fit(lengths, 40, one)
  assert rows == packing.best_fit(lengths, 40, one)
  assert rows == packing.best_fit(tuple(lengths), 40, one.tolist())
  other = packing.best_fit(lengths, 40, two)
  assert len(rows) == len(other) and rows != other
  assert packing.best_fit([], 40, np.arange(0)) == []


def test_first_fit_places_groups_whole_and_stops_at_a_misfit():
  # Rows of 5: 3 -> row 0; 4 -> row 1; (2, 2) has no room for its second, so
  # its first is taken back and the 1 behind it, which would fit, is not tried.
  assert packing.first_fit([[3], [4], [2, 2], [1]], 2, 5) == [[0], [1]]
  assert packing.first_fit([[3], [4], [2, 1], [1]], 2, 5) == [[0], [1], [0, 1]]


def test_what_fits_nowhere_is_refused_by_number():
  packing.check_lengths('thing', [[8], [8, 8]], 2, 8)
  with pytest.raises(ValueError, match='thing 1 has 9 tokens but a row has 8'):
    packing.check_lengths('thing', [[8], [9]], 2, 8)
  with pytest.raises(ValueError, match='thing 0 .24 tokens. does not fit'):
    packing.check_lengths('thing', [[8, 8, 8]], 2, 8)


# -- Rows of examples ---------------------------------------------------------


def test_every_token_of_every_example_is_in_its_row():
  rng = np.random.default_rng(0)
  examples = []
  for n in rng.integers(1, 9, 12):
    tokens = rng.integers(0, 90, n)
    examples.append((tokens, np.arange(n) >= n // 2))
  packs = [examples[:2], [], examples[2:5], examples[5:6], examples[6:7]]
  batch = packing.pack_examples(packs, 7, 24, PAD)
  assert batch.tokens_BT.shape == (7, 24)
  for row in range(7):
    tokens, segments, targets = [], [], []
    for number, (ids, is_target) in enumerate(packs[row] if row < 5 else [], 1):
      tokens += ids.tolist()
      segments += [number] * len(ids)
      targets += [t > 0 and bool(is_target[t]) for t in range(len(ids))]
    rest = 24 - len(tokens)
    assert batch.tokens_BT[row].tolist() == tokens + [PAD] * rest
    assert batch.segment_ids_BT[row].tolist() == segments + [0] * rest
    assert batch.loss_mask_BT[row].tolist() == targets + [False] * rest


def test_targets_stay_with_their_tokens():
  examples: Any = [([1, 2, 3], [0, 0, 1]), ([4, 5], [1, 1])]
  batch = packing.pack_examples([examples], 1, 6, PAD)
  assert batch.tokens_BT.tolist() == [[1, 2, 3, 4, 5, PAD]]
  assert batch.segment_ids_BT.tolist() == [[1, 1, 1, 2, 2, 0]]
  # 4 is a target by request, but nothing stands before it in its segment.
  assert batch.loss_mask_BT.tolist() == [[0, 0, 1, 0, 1, 0]]


def test_examples_that_do_not_fit_are_refused():
  example: Any = ([1, 2, 3], [False, True, True])
  with pytest.raises(ValueError, match='row 0 has 6 entries but row_length is'):
    packing.pack_examples([[example, example]], 1, 5, PAD)
  with pytest.raises(ValueError, match='the batch has 2 entries but rows is 1'):
    packing.pack_examples([[example]] * 2, 1, 5, PAD)
  with pytest.raises(ValueError, match='3 tokens but 2 target flags'):
    packing.pack_examples([[([1, 2, 3], [True] * 2)]], 1, 4, PAD)


def _rankings(sizes, rng):
  found = []
  for size in sizes:
    prompt = [1, *rng.integers(5, 90, 3)]
    responses = [[*rng.integers(5, 90, rng.integers(0, 6)), 1]
                 for _ in range(size)]
    found.append((prompt, responses, rng.integers(1, 4, size).tolist()))
  return found


def _pack(rankings, rows, length, prompts, responses, local=None):
  return packing.pack_rankings(
      [[len(p) + len(r) for r in rs] for p, rs, _ in rankings],
      [ranks for _, _, ranks in rankings],
      lambda b: rankings[b][:2],
      rows,
      length,
      prompts,
      responses,
      PAD,
      local,
  )


@pytest.mark.parametrize('k', range(2, 10))
def test_rankings_of_every_k(k):
  rankings = _rankings((k, 2, k), np.random.default_rng(k))
  batch = _pack(rankings, 24, 20, 4, 9)

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


def test_local_rows_of_rankings_are_those_of_the_whole():
  rankings = _rankings((5, 2, 9, 3), np.random.default_rng(0))
  whole = _pack(rankings, 10, 24, 4, 9)
  local = np.arange(10) % 3 == 1
  part = _pack(rankings, 10, 24, 4, 9, local=local)
  for name in ('tokens_MT', 'segment_ids_MT', 'response_mask_MT'):
    got, want = getattr(part, name), getattr(whole, name)
    assert np.array_equal(got[local], want[local])
    assert not np.any(got[~local] != (PAD if name == 'tokens_MT' else 0))
  for name in ('end_BK', 'ranks_BK', 'mask_BK'):
    assert np.array_equal(getattr(part, name), getattr(whole, name))


def test_rankings_that_do_not_fit_are_refused():
  ranking = ([1, 2], [[3, 1], [4, 1]], [1, 2])
  with pytest.raises(ValueError, match='max_prompts is 1'):
    _pack([ranking] * 2, 9, 9, 1, 9)
  with pytest.raises(ValueError, match='1 of 2 rankings fit into 3 rows'):
    _pack([ranking] * 2, 3, 4, 2, 9)
  with pytest.raises(ValueError, match='max_responses is 1'):
    _pack([ranking], 3, 9, 2, 1)
