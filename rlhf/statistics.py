# SPDX-License-Identifier: Apache-2.0
"""Means with 95 % intervals, by the bootstrap, over prompts and over seeds."""

from collections.abc import Sequence

import numpy as np

_DRAWS = 2000


def interval(
    values: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0
) -> dict[str, float]:
  """Mean of per-prompt values, with a percentile bootstrap over prompts.

  Args:
    values: float [n]; or, with `weights`, numerators.
    weights: float [n], denominators: the mean is sum(values) / sum(weights),
      the ratio over all, as for comparisons that come in prompts.
    seed: of the resampling.

  Returns:
    {'mean', 'low', 'high', 'n'}; NaN for no values, or a ratio to nothing.
  """
  values, weights = _pair(values, weights)
  n = len(values)
  if n == 0 or weights.sum() == 0:
    return {'mean': np.nan, 'low': np.nan, 'high': np.nan, 'n': n}
  means = _resampled(values, weights, np.random.default_rng(seed))
  return _summary(values.sum() / weights.sum(), means, n)


def interval_over_seeds(
    values: Sequence[np.ndarray],
    weights: Sequence[np.ndarray] | None = None,
    *,
    seed: int = 0,
) -> dict:
  """Mean over training seeds and prompts, resampling both.

  A draw takes as many seeds as there are, with replacement, and of each its
  prompts with replacement. Three seeds say little about the spread between
  them, so the result is widened by sqrt(s / (s - 1)) around the mean: the
  bootstrap's variance of s values is too small by that factor squared.
  Student's t over the seeds' means, which trusts no more than s numbers, stands
  beside it.

  Args:
    values: of each training seed, per-prompt values, float [n].
    weights: of each training seed, denominators, as in `interval`. Seeds weigh
      the same whatever theirs are.
    seed: of the resampling.

  Returns:
    {'mean', 'low', 'high', 'n', 'seeds', 'each', 't_low', 't_high'}: `each`
    holds the seeds' own means; the last two are None for one seed.
  """
  rng = np.random.default_rng(seed)
  count = len(values)
  pairs = [
      _pair(v, None if weights is None else weights[i])
      for i, v in enumerate(values)
  ]
  # A draw takes a random seed, and of its resampled means a random one, for
  # each seed that there is.
  pool = np.array([_resampled(v, w, rng) for v, w in pairs])
  chosen = rng.integers(count, size=(count, _DRAWS))
  means = pool[chosen, rng.integers(_DRAWS, size=chosen.shape)].mean(axis=0)
  each = [float(v.sum() / w.sum()) for v, w in pairs]
  mean = float(np.mean(each))
  if count > 1:
    means = mean + (means - mean) * (count / (count - 1)) ** 0.5
  t_low, t_high = student_t(each) if count > 1 else (None, None)
  return _summary(mean, means, sum(len(v) for v, _ in pairs)) | {
      'seeds': count, 'each': each, 't_low': t_low, 't_high': t_high
  }


def student_t(means: Sequence[float]) -> tuple[float, float]:
  """The 95 % interval of the mean of a few, at least two, normal numbers."""
  from scipy import special  # Late: few need it.

  count = len(means)
  if count < 2:
    raise ValueError(f'a t interval needs two means or more, got {count}')
  error = np.std(means, ddof=1) / count**0.5
  half = float(special.stdtrit(count - 1, 0.975) * error)
  mean = float(np.mean(means))
  return mean - half, mean + half


def _pair(values, weights):
  values = np.asarray(values, float)
  weights = np.ones_like(values) if weights is None else np.asarray(weights)
  return values, weights


def _resampled(values, weights, rng):
  """The mean of each of `_DRAWS` bootstrap samples."""
  n = len(values)
  draws = rng.integers(n, size=(_DRAWS, n), dtype=np.int32)
  return values[draws].sum(axis=1) / weights[draws].sum(axis=1)


def _summary(mean, means, n):
  low, high = np.percentile(means, [2.5, 97.5])
  return {
      'mean': float(mean), 'low': float(low), 'high': float(high), 'n': int(n)
  }
