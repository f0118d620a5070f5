# SPDX-License-Identifier: Apache-2.0
"""The bootstrap against closed forms."""

import numpy as np
import pytest
from scipy import stats

from rlhf import statistics


def _half_width(interval) -> float:
  return (interval['high'] - interval['low']) / 2


def test_interval_is_the_normal_one_for_normal_values():
  values = np.random.default_rng(0).normal(3.0, 2.0, size=1000)
  found = statistics.interval(values)
  half = 1.96 * values.std() / 1000**0.5
  assert found['mean'] == pytest.approx(values.mean())
  assert found['n'] == 1000
  # 2000 draws know a 2.5 % quantile to about 3 % of the width.
  assert _half_width(found) == pytest.approx(half, rel=0.06)


def test_interval_covers_the_truth_in_95_of_100_cases():
  rng = np.random.default_rng(1)
  hits = 0
  for seed in range(400):
    found = statistics.interval(rng.normal(size=60), seed=seed)
    hits += found['low'] <= 0 <= found['high']
  # Standard error .011; the percentile bootstrap is a little short at n = 60.
  assert 0.91 <= hits / 400 <= 0.98


def test_ratio_of_sums_has_the_spread_of_the_delta_method():
  rng = np.random.default_rng(2)
  weights = rng.integers(1, 10, size=800).astype(float)
  values = rng.binomial(weights.astype(int), 0.7).astype(float)
  found = statistics.interval(values, weights)
  ratio = values.sum() / weights.sum()
  residuals = values - ratio * weights
  half = 1.96 * residuals.std() / weights.mean() / 800**0.5
  assert found['mean'] == pytest.approx(ratio)
  assert _half_width(found) == pytest.approx(half, rel=0.06)


def test_equal_weights_change_nothing():
  values = np.random.default_rng(3).normal(size=50)
  plain = statistics.interval(values)
  weighted = statistics.interval(2 * values, np.full(50, 2.0))
  assert weighted == pytest.approx(plain)


def test_no_values_are_not_a_number():
  found = statistics.interval(np.zeros(0))
  assert found['n'] == 0
  assert np.isnan([found['mean'], found['low'], found['high']]).all()


def test_a_ratio_to_nothing_is_not_a_number():
  found = statistics.interval(np.ones(3), np.array([1.0, -1.0, 0.0]))
  assert found['n'] == 3
  assert np.isnan(found['mean'])


def test_interval_over_seeds_has_both_variances():
  """Var = s/(s-1) * (variance of the means + mean of the variances/n) / s."""
  rng = np.random.default_rng(4)
  runs = [rng.normal(rng.normal(0, 0.1), 1.0, size=200) for _ in range(10)]
  found = statistics.interval_over_seeds(runs)
  between = np.var([run.mean() for run in runs])
  within = np.mean([run.var() / 200 for run in runs])
  half = 1.96 * ((between + within) / 10 * 10 / 9) ** 0.5
  assert _half_width(found) == pytest.approx(half, rel=0.08)
  assert found['mean'] == pytest.approx(np.mean(runs))
  assert found['seeds'] == 10
  assert found['n'] == 2000
  assert found['each'] == pytest.approx([run.mean() for run in runs])
  t = stats.t.interval(
      0.95, 9, loc=np.mean(runs), scale=stats.sem(found['each'])
  )
  assert (found['t_low'], found['t_high']) == pytest.approx(t)


def test_seeds_count_the_same_whatever_their_sizes():
  found = statistics.interval_over_seeds([np.zeros(10), np.ones(1000)])
  assert found['mean'] == 0.5
  found = statistics.interval_over_seeds(
      [np.array([1.0, 2.0]), np.array([30.0])],
      [np.array([4.0, 2.0]), np.array([30.0])],
  )
  assert found['each'] == [0.5, 1.0]
  assert found['mean'] == 0.75


def test_one_seed_is_an_interval_over_prompts():
  values = np.random.default_rng(5).normal(size=500)
  found = statistics.interval_over_seeds([values])
  assert _half_width(found) == pytest.approx(
      _half_width(statistics.interval(values)), rel=0.1
  )
  assert found['t_low'] is None


def test_student_t_by_hand():
  """Of 0 and 1: standard error 1/2, one degree of freedom: t = 12.706."""
  low, high = statistics.student_t([0.0, 1.0])
  assert low == pytest.approx(0.5 - 6.353, abs=1e-3)
  assert high == pytest.approx(0.5 + 6.353, abs=1e-3)
  with pytest.raises(ValueError, match='two means or more'):
    statistics.student_t([1.0])


def test_same_seed_same_interval():
  values = np.random.default_rng(6).normal(size=50)
  assert statistics.interval(values) == statistics.interval(values)
