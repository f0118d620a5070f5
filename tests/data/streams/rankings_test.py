# SPDX-License-Identifier: Apache-2.0
"""Batches of rankings."""

import collections

import numpy as np
import pytest

from tests.data import made


def _rankings_of(batch):
  """(mark, prompt and response of each k, ranks) of a batch's rankings."""
  tokens, segments = batch.tokens_MT, batch.segment_ids_MT
  mask = batch.response_mask_MT
  for b in np.flatnonzero(batch.mask_BK.any(axis=1)):
    found = []
    for k in np.flatnonzero(batch.mask_BK[b]):
      row, end = divmod(int(batch.end_BK[b, k]), tokens.shape[1])
      here = segments[row] == segments[row, end]
      assert np.flatnonzero(here)[-1] == end, 'the last token of its segment'
      found.append((
          tokens[row, here & ~mask[row]].tolist(),
          tokens[row, here & mask[row]].tolist(),
      ))
    (number,) = {made.marks(prompt)[0] for prompt, _ in found}
    yield number, found, batch.ranks_BK[b][batch.mask_BK[b]].tolist()


@pytest.mark.parametrize(
    'options', [{}, dict(rows=12, max_prompts=40), dict(row_length=90, rows=5)]
)
def test_all_responses_of_a_prompt_are_in_one_batch_ties_and_all(options):
  stream, want = made.ranking_stream(**options), made.rankings()
  sizes, seen = set(), collections.Counter()
  for step in range(stream.steps(3)):
    batch = stream.batch(step)
    found = list(_rankings_of(batch))
    assert len(found) <= stream.max_prompts
    assert [number for number, _, _ in found] == stream.indices(step).tolist()
    for number, responses, ranks in found:
      ranking = want[number]
      assert ranks == list(ranking.ranks)
      prompt = ranking.prompt_ids.tolist()
      assert responses == [
          (prompt, ids.tolist()) for ids in ranking.responses_ids
      ]
      sizes.add(len(ranks))
      seen[number] += 1
    # Nothing is packed that no end points at.
    assert batch.segment_ids_MT.max(axis=1).sum() == batch.mask_BK.sum()
  assert seen == dict.fromkeys(range(made.N), 3)
  assert len(sizes) == 8, 'K from 2 to 9'
  assert any(len(set(r.ranks)) < len(r.ranks) for r in want), 'there are ties'


def test_epochs_have_the_same_batches_in_another_order():
  stream = made.ranking_stream()
  steps = stream.steps(1)
  epochs = [
      [tuple(stream.indices(s)) for s in range(e * steps, (e + 1) * steps)]
      for e in range(3)
  ]
  assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
  assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_takes_prompts_until_the_next_does_not_fit():
  stream = made.ranking_stream(rows=12, max_prompts=40)
  lengths = {
      i: [len(r.prompt_ids) + len(ids) for ids in r.responses_ids]
      for i, r in enumerate(made.rankings())
  }
  held = [stream.indices(s) for s in range(stream.steps(1))]
  used = [sum(sum(lengths[int(i)]) for i in indices) for indices in held]
  # Only the last of an epoch, by size, may be half empty.
  assert sorted(used)[1] > 0.5 * 12 * made.T


def test_once_goes_in_the_order_of_the_data():
  stream = made.ranking_stream()
  indices = np.concatenate(list(stream.once_indices()))
  assert indices.tolist() == list(range(made.N))
  for batch, expected in zip(
      stream.once(), stream.once_indices(), strict=True
  ):
    numbers = [number for number, _, _ in _rankings_of(batch)]
    assert numbers == expected.tolist()


def test_what_cannot_be_served_is_refused_at_once():
  with pytest.raises(ValueError, match='there are no rankings'):
    made.ranking_stream(items=[])
  with pytest.raises(ValueError, match='9 responses but max_responses is 4'):
    made.ranking_stream(max_responses=4)
  with pytest.raises(ValueError, match='does not fit into 1 rows of 24'):
    made.ranking_stream(rows=1)
  with pytest.raises(ValueError, match='ranking 0 has .* a row has 4'):
    made.ranking_stream(row_length=4)
