# SPDX-License-Identifier: Apache-2.0
"""Simulated labelers: weights over the rubric, tastes, and noise.

A labeler's opinion of a response is the weighted sum of its features plus
normal noise, put on a scale of steps, so that responses close together tie.
The noise is calibrated so that two training labelers agree on 73% of the
pairs that neither ties: 72.6 +- 1.5% in Ouyang et al. 2022, section 3.3.
Held-out labelers weigh otherwise (truth more, length less) and label no
training data.

Dimensions, beside those of `rlhf.dims`: L labelers, X features of the rubric.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf.world.rubric import FEATURES

_WEIGHTS = np.array((2.2, 1.3, 1.3, 1.5, 1.8, .15, .3))
_TASTES = slice(FEATURES.index('polite'), None)
_HELD_OUT_SHIFT = (-.2, .1, .3, .4, 0., 0., .5)

TARGET_AGREEMENT = .73


@dataclasses.dataclass(frozen=True, eq=False)
class Labelers:
  """A group of labelers.

  Attributes:
    weights_LX: float64 [labelers, features], utility per unit of a feature.
    sigma: standard deviation of the noise of one judgement, in utility.
    step: width of a step of the scale, in utility.
  """

  weights_LX: np.ndarray
  sigma: float
  step: float = .5

  @property
  def size(self) -> int:
    """How many labelers."""
    return len(self.weights_LX)

  def scores(
      self,
      features_KX: np.ndarray,
      labeler: int | np.ndarray,
      rng: np.random.Generator,
  ) -> np.ndarray:
    """Judges responses on the labeler's scale; higher is better.

    Args:
      features_KX: [responses, features].
      labeler: index of the labeler, or of one for each response.
      rng: source of the noise.

    Returns:
      int64 [responses], in steps.
    """
    utility = np.sum(features_KX * self.weights_LX[labeler], axis=-1)
    utility += self.sigma * rng.standard_normal(utility.shape)
    return np.rint(utility / self.step).astype(np.int64)

  def ranks(
      self, features_KX: np.ndarray, labeler: int, rng: np.random.Generator
  ) -> np.ndarray:
    """Ranks responses: int64 [responses], 1 is best, ties equal, no gaps."""
    scores = self.scores(features_KX, labeler, rng)
    return np.unique(-scores, return_inverse=True)[1].reshape(-1) + 1

  def utility(self, features: np.ndarray) -> np.ndarray:
    """Noiseless utility to the average labeler, [..., features] -> [...]."""
    return features @ self.weights_LX.mean(axis=0)


def recruit(
    n: int,
    seed: int,
    sigma: float,
    *,
    spread: float,
    taste: float,
    shift: Sequence[float] = (0.,) * len(FEATURES),
) -> Labelers:
  """Draws a group of labelers around the common weights.

  Args:
    n: how many.
    seed: of the draw.
    sigma: noise, see `Labelers`.
    spread: standard deviation of the logarithm of a quality's weight.
    taste: standard deviation of a taste's weight, which may be negative.
    shift: added to the weights of the whole group.
  """
  rng = np.random.default_rng(seed)
  weights_LX = _WEIGHTS * np.exp(
      spread * rng.standard_normal((n, len(FEATURES))))
  tastes = _WEIGHTS[_TASTES]
  normal_LX = rng.standard_normal((n, len(tastes)))
  weights_LX[:, _TASTES] = tastes + taste * normal_LX
  return Labelers(weights_LX + np.array(shift), sigma)


class Agreement(NamedTuple):
  """How two labelers judge the same pairs.

  Attributes:
    rate: share of the pairs that neither ties which both order the same way.
    ties: share of all pairs that the first labeler ties.
    pairs: number of pairs that neither ties.
  """

  rate: float
  ties: float
  pairs: int


def agreement(
    labelers: Labelers,
    sets: Sequence[np.ndarray],
    rng: np.random.Generator,
    other: Labelers | None = None,
) -> Agreement:
  """Agreement of two different labelers on every pair within every set.

  Args:
    labelers: the group of the first labeler, drawn anew for each set.
    sets: features_KX of the responses to one prompt, each.
    rng: source of the labelers drawn and of their noise.
    other: the group of the second labeler; None for another of the same.
  """
  features_MX, of_set, first, second = _flatten(sets)
  one = rng.integers(labelers.size, size=len(sets))
  if other is None:
    other = labelers
    # A shift by 1 to size - 1 always lands on another labeler.
    shift = rng.integers(1, labelers.size, size=len(sets))
    two = (one + shift) % labelers.size
  else:
    two = rng.integers(other.size, size=len(sets))
  a = labelers.scores(features_MX, one[of_set], rng)
  b = other.scores(features_MX, two[of_set], rng)
  order_a = np.sign(a[first] - a[second])
  order_b = np.sign(b[first] - b[second])
  clear = (order_a != 0) & (order_b != 0)
  return Agreement(
      rate=float(np.mean(order_a[clear] == order_b[clear])),
      ties=float(np.mean(order_a == 0)),
      pairs=int(np.sum(clear)))


def best_case(
    labelers: Labelers,
    sets: Sequence[np.ndarray],
    rng: np.random.Generator,
    repeats: int = 8,
) -> float:
  """The accuracy that no reward model can exceed by much.

  The accuracy of the labelers' mean noiseless utility in predicting fresh
  noisy rankings, over the pairs that the labeler does not tie. A pair of equal
  utility counts one half: nothing but noise tells its responses apart.

  Args:
    labelers: the group that labels; one labeler, drawn anew, for each set.
    sets: features_KX of the responses to one prompt, each.
    rng: source of the labelers drawn and of their noise.
    repeats: how often each set is labelled.
  """
  features_MX, of_set, first, second = _flatten(sets)
  utility = labelers.utility(features_MX)
  # Equal features may differ in the last bit of their weighted sum.
  predicted = np.sign(np.round(utility[first] - utility[second], 9))
  right, clear = 0., 0
  for _ in range(repeats):
    labeler = rng.integers(labelers.size, size=len(sets))
    scores = labelers.scores(features_MX, labeler[of_set], rng)
    order = np.sign(scores[first] - scores[second])
    right += np.sum(.5 + .5 * (predicted * order)[order != 0])
    clear += np.sum(order != 0)
  return float(right / clear)


def calibrate(
    labelers: Labelers,
    sets: Sequence[np.ndarray],
    target: float = TARGET_AGREEMENT,
    seed: int = 0,
) -> float:
  """The sigma at which two of the labelers agree on `target` of the pairs.

  Bisection on the logarithm of sigma, from .05 to 5; agreement falls as noise
  grows. Every step draws the same labelers and the same noise, scaled.

  Args:
    labelers: the group; its own sigma is not used.
    sets: features_KX of the responses to one prompt, each.
    target: share of the pairs that neither ties.
    seed: of the labelers drawn and of the noise.
  """
  low, high = .05, 5.
  for _ in range(20):
    sigma = (low * high) ** .5
    noisy = dataclasses.replace(labelers, sigma=sigma)
    rate = agreement(noisy, sets, np.random.default_rng(seed)).rate
    low, high = (sigma, high) if rate > target else (low, sigma)
  return sigma


def _flatten(
    sets: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Joins sets: features_MX, set of each row, and the rows of every pair."""
  sizes = [len(features_KX) for features_KX in sets]
  starts = np.cumsum([0, *sizes[:-1]])
  pairs = np.concatenate([
      np.triu_indices(size, 1) + start
      for size, start in zip(sizes, starts, strict=True)], axis=1)
  of_set = np.repeat(np.arange(len(sets)), sizes)
  return np.concatenate(sets), of_set, pairs[0], pairs[1]


# One noise for both groups: held-out labelers are other people, no worse ones.
# To make it anew: python -m rlhf.world.calibration
SIGMA = .85

TRAINING = recruit(8, 1, SIGMA, spread=.3, taste=.35)
HELD_OUT = recruit(6, 2, SIGMA, spread=.45, taste=.45, shift=_HELD_OUT_SHIFT)
