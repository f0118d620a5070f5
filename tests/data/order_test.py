# SPDX-License-Identifier: Apache-2.0
"""The order of examples."""

import numpy as np
import pytest

from rlhf.data import order


def test_epochs_are_fresh_permutations():
  first = order.epoch_order(50, 3, 0)
  assert sorted(first) == list(range(50))
  assert (first == order.epoch_order(50, 3, 0)).all()
  for other in (
      order.epoch_order(50, 3, 1),
      order.epoch_order(50, 4, 0),
      order.epoch_order(50, 3, 0, tag=1),
  ):
    assert (first != other).any()


@pytest.mark.parametrize('n', [1, 7, 30])
def test_take_is_a_slice_of_the_epochs_one_after_another(n):
  stream = order.Order(n, 5, 0, 'things')
  whole = np.concatenate([order.epoch_order(n, 5, e) for e in range(60)])
  for start, end in [(0, 0), (0, n), (3, 4), (n - 1, n + 1), (11, 53)]:
    assert stream.take(start, end).tolist() == whole[start:end].tolist()


def test_no_examples_are_refused():
  with pytest.raises(ValueError, match='there are no rows of text'):
    order.Order(0, 0, 0, 'rows of text')


def test_a_plan_covers_the_sequence_whatever_the_window():
  # Batches of 100 are longer than the first window of 64.
  plan = order.Plan(order.Order(30, 1, 0, 'x'), lambda ids: min(100, len(ids)))
  whole = order.Order(30, 1, 0, 'x').take(0, 300)
  assert plan.indices(2).tolist() == whole[200:300].tolist()
  assert plan.indices(0).tolist() == whole[:100].tolist()
  # 90 examples in batches of 100; 120 need a second.
  assert [plan.steps(e) for e in (0, 3, 4)] == [0, 1, 2]


def test_what_fits_nowhere_is_refused_by_number():
  with pytest.raises(ValueError, match='thing 1 has 9 tokens but a row has 8'):
    order.check_lengths('thing', [[8], [9]], 2, 8)
  with pytest.raises(ValueError, match='thing 0 .24 tokens. does not fit'):
    order.check_lengths('thing', [[8, 8, 8]], 2, 8)
