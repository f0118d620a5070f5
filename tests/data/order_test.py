# SPDX-License-Identifier: Apache-2.0
"""The order of examples against plain loops and plain counting."""

import collections
import itertools
import math
from typing import Any

import numpy as np
import pytest

from rlhf.data import order


def _order(n, seed=5, tag=order.Tag.TEXT):
  return order.Order(n, seed, tag, 'things')


@pytest.mark.parametrize('n', [1, 2, 3, 7, 50, 1000, 65_536])
def test_every_epoch_is_a_permutation(n):
  taken = _order(n).take(0, 3 * n).reshape(3, n)
  for epoch in taken:
    assert np.array_equal(np.sort(epoch), np.arange(n))
  if n >= 50:
    assert len({tuple(epoch) for epoch in taken}) == 3


@pytest.mark.parametrize('n', [50, 100_000])
def test_epochs_seeds_and_tags_have_orders_of_their_own(n):
  taken = {
      'first': _order(n).take(0, 50),
      'epoch': _order(n).take(n, n + 50),
      'seed': _order(n, seed=6).take(0, 50),
  } | {tag: _order(n, tag=tag).take(0, 50) for tag in list(order.Tag)[1:]}
  # Two random permutations of 50 agree at one place on average: at eight or
  # more once in 100,000 times.
  for a, b in itertools.combinations(taken, 2):
    assert (taken[a] == taken[b]).sum() < 8, (a, b)


def test_tags_are_told_apart_from_each_other_and_from_buckets():
  assert len({int(tag) for tag in order.Tag}) == len(order.Tag)
  assert max(order.Tag) < 1 << 8, 'bucket i is tagged PROMPTS + (i << 8)'


@pytest.mark.parametrize('n', [1, 7, 30])
def test_a_position_is_the_same_however_it_is_asked_for(n):
  whole = _order(n).take(0, max(60, 3 * n))
  for start, end in [(0, 0), (0, n), (3, 4), (n - 1, n + 1), (11, 53)]:
    assert _order(n).take(start, end).tolist() == whole[start:end].tolist()
  one = _order(n)
  assert [one.take(i, i + 1)[0] for i in range(n)] == whole[:n].tolist()


@pytest.mark.parametrize('n', [3, 10**6, 2**31 - 1])
def test_far_positions_are_as_near_as_the_first(n):
  # An order that was written down, or walked to, would not come to an end.
  start = 10**12
  stream = _order(n)
  taken = stream.take(start, start + 60)
  assert taken.dtype == np.int64 and 0 <= taken.min() and taken.max() < n
  singles = [_order(n).take(p, p + 1)[0] for p in range(start, start + 60, 20)]
  assert taken[::20].tolist() == singles
  if n > 60:
    assert len(set(taken.tolist())) == 60, 'one epoch repeats nothing'


def test_no_examples_are_refused():
  with pytest.raises(ValueError, match='there are no rows of text: give more'):
    order.Order(0, 0, 0, 'rows of text')


def _chi_square(counts):
  expected = sum(counts) / len(counts)
  return sum((count - expected) ** 2 / expected for count in counts)


def _bound(freedom):
  # Five standard deviations of chi-square above its mean. Seeds are fixed.
  return freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize('n', [64, 256])
def test_every_index_is_as_likely_at_every_place(n):
  epochs, parts = 40, 8
  taken = _order(n).take(0, epochs * n).reshape(epochs, n) * parts // n
  for place in range(parts):
    # Eight parts of the places, and of the indices that stand there.
    here = taken[:, place * n // parts : (place + 1) * n // parts]
    counts = np.bincount(here.ravel(), minlength=parts)
    assert _chi_square(counts) < _bound(parts - 1), (place, counts)
  # What follows what.
  pairs: Any = collections.Counter(
      pair for epoch in taken.tolist() for pair in itertools.pairwise(epoch)
  )
  counts = [pairs[p] for p in itertools.product(range(parts), repeat=2)]
  assert _chi_square(counts) < _bound(len(counts) - 1)


def test_all_orders_of_three_are_as_likely():
  taken = _order(3).take(0, 3 * 120).reshape(-1, 3)
  counts = collections.Counter(map(tuple, taken.tolist()))
  counts = [counts[p] for p in itertools.permutations(range(3))]
  assert _chi_square(counts) < _bound(5), counts


def test_large_orders_mix_the_whole_range():
  n = 100_000
  taken = _order(n).take(0, 2000)
  # The first fiftieth of an epoch comes from everywhere; a shuffle within a
  # window would not.
  assert _chi_square(np.bincount(taken // (n // 20), minlength=20)) < _bound(19)
  steps = np.abs(np.diff(taken))
  # The mean distance of two random points is a third of the range; its
  # standard deviation here is 0.006 of the range.
  assert abs(steps.mean() / n - 1 / 3) < 0.03


@pytest.mark.parametrize(
    'weights',
    [(1,), (1, 1), (8, 1), (1, 8), (9, 3, 1), (1, 3, 9), (5, 1, 7, 1, 2),
     (1000, 1), (31_144, 7, 300)],
)  # fmt: skip
def test_turns_against_a_counter(weights):
  turns, had = order.Turns(weights), [0] * len(weights)
  for step in range(3 * min(sum(weights), 700)):
    turn, before = turns.at(step)
    assert before == had[turn], 'each of its turns once, in order'
    had[turn] += 1
    for i, weight in enumerate(weights):
      share = (step + 1) * weight / sum(weights)
      assert abs(had[i] - share) <= i + 1, (step, i)


def test_turns_are_computed_and_not_counted():
  turns = order.Turns((8, 1))
  far = [turns.at(9 * 10**12 + i) for i in range(9)]
  assert collections.Counter(turn for turn, _ in far) == {0: 8, 1: 1}
  assert [n for turn, n in far if turn == 1] == [10**12]
