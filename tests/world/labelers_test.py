# SPDX-License-Identifier: Apache-2.0
"""Labelers: ranks, agreement and ceiling against loops and closed forms."""

import itertools
import math

import numpy as np
import pytest

from rlhf.world import calibration, labelers
from rlhf.world.labelers import HELD_OUT, TRAINING, Labelers


@pytest.fixture(scope='module')
def pool() -> list[np.ndarray]:
  return calibration.stand_in_sets('train', 4000, seed=0)


def _one_weight(n: int, sigma: float, step: float) -> Labelers:
  weights_LX = np.zeros((n, 7))
  weights_LX[:, 0] = 1.
  return Labelers(weights_LX, sigma, step)


def _sets(*utilities: list[float]) -> list[np.ndarray]:
  sets = []
  for values in utilities:
    features_KX = np.zeros((len(values), 7))
    features_KX[:, 0] = values
    sets.append(features_KX)
  return sets


def test_groups():
  assert TRAINING.size == 8
  assert HELD_OUT.size == 6
  assert TRAINING.sigma == HELD_OUT.sigma == labelers.SIGMA
  # The held-out group values truth and brevity more than the training group.
  shift = HELD_OUT.weights_LX.mean(0) - TRAINING.weights_LX.mean(0)
  assert shift[2] > 0 and shift[6] > 0


def test_scores_round_utility_to_steps():
  group = _one_weight(1, sigma=0., step=.5)
  features_KX, = _sets([0., .2, .3, 1.1, -.8])
  scores = group.scores(features_KX, 0, np.random.default_rng(0))
  assert scores.tolist() == [0, 0, 1, 2, -2]


def test_ranks_are_dense_and_ties_equal():
  group = _one_weight(1, sigma=0., step=.5)
  features_KX, = _sets([1., 3., 1.1, 0., 3.])
  ranks = group.ranks(features_KX, 0, np.random.default_rng(0))
  assert ranks.tolist() == [2, 1, 2, 3, 1]


def test_ranks_of_noisy_labels_are_dense(pool):
  rng = np.random.default_rng(0)
  tied = 0
  for features_KX in pool[:200]:
    ranks = TRAINING.ranks(features_KX, 3, rng)
    assert set(ranks) == set(range(1, max(ranks) + 1))
    tied += len(set(ranks)) < len(ranks)
  assert tied > 50


def test_utility_is_the_mean_over_labelers(pool):
  utility = TRAINING.utility(pool[0])
  each = [pool[0] @ weights for weights in TRAINING.weights_LX]
  np.testing.assert_allclose(utility, np.mean(each, axis=0))


def test_a_labeler_per_response_or_one_for_all(pool):
  rows = len(pool[0])
  one = TRAINING.scores(pool[0], 2, np.random.default_rng(0))
  each = TRAINING.scores(
      pool[0], np.full(rows, 2), np.random.default_rng(0))
  assert one.tolist() == each.tolist()


def test_agreement_without_noise_is_counted_by_a_loop():
  # Labeler 0 counts the first feature, labeler 1 the second: whichever comes
  # first, they see the same pairs.
  weights_LX = np.zeros((2, 7))
  weights_LX[0, 0] = weights_LX[1, 1] = 1.
  group = Labelers(weights_LX, sigma=0., step=1.)
  features_KX = np.zeros((5, 7))
  features_KX[:, 0] = [1, 2, 3, 3, 0]
  features_KX[:, 1] = [1, 3, 2, 0, 0]
  agreed = clear = 0
  for i, j in itertools.combinations(range(5), 2):
    a = features_KX[i, 0] - features_KX[j, 0]
    b = features_KX[i, 1] - features_KX[j, 1]
    if a and b:
      clear += 1
      agreed += a * b > 0
  found = labelers.agreement(group, [features_KX], np.random.default_rng(0))
  assert found.pairs == clear == 8
  assert found.rate == pytest.approx(agreed / clear)
  # Each of the two ties one pair of ten.
  assert found.ties == pytest.approx(.1)


def test_agreement_never_asks_one_labeler_twice():
  # Two labelers with opposite views disagree on all; one would agree.
  weights_LX = np.zeros((2, 7))
  weights_LX[:, 0] = [1., -1.]
  group = Labelers(weights_LX, sigma=0., step=.1)
  sets = _sets(*[[0., 1.]] * 50)
  assert labelers.agreement(group, sets, np.random.default_rng(0)).rate == 0.


def test_agreement_follows_the_normal_law():
  # Both are right with p = Phi(gap / (sigma sqrt 2)): agree with p^2 + q^2.
  group = _one_weight(3, sigma=1., step=1e-6)
  sets = _sets(*[[0., 1.2]] * 40_000)
  p = .5 * (1 + math.erf(1.2 / 2))
  found = labelers.agreement(group, sets, np.random.default_rng(0))
  assert found.rate == pytest.approx(p * p + (1 - p) ** 2, abs=.01)
  found = labelers.agreement(group, sets, np.random.default_rng(1), group)
  assert found.rate == pytest.approx(p * p + (1 - p) ** 2, abs=.01)


def test_best_case_follows_the_normal_law():
  # Two thirds of the pairs are .9 apart; on a tie in utility, one half.
  group = _one_weight(3, sigma=1., step=1e-6)
  sets = _sets(*[[.9, 0., .9]] * 5000)
  p = .5 * (1 + math.erf(.9 / 2))
  ceiling = labelers.best_case(group, sets, np.random.default_rng(0))
  assert ceiling == pytest.approx((2 * p + .5) / 3, abs=.01)


def test_best_case_without_noise_is_one():
  group = _one_weight(2, sigma=0., step=.1)
  sets = _sets([0., 1., 2., 2.], [3., 1.])
  # The pair that ties in utility ties in the labels, and is left out.
  assert labelers.best_case(group, sets, np.random.default_rng(0)) == 1.


def test_training_labelers_agree_on_73_percent(pool):
  found = labelers.agreement(TRAINING, pool, np.random.default_rng(1))
  assert found.rate == pytest.approx(.73, abs=.02)
  assert .05 < found.ties < .2


def test_held_out_labelers_agree_about_as_much(pool):
  rng = np.random.default_rng(1)
  assert .70 <= labelers.agreement(HELD_OUT, pool, rng).rate <= .77
  across = labelers.agreement(TRAINING, pool, rng, HELD_OUT)
  assert .70 <= across.rate <= .77


def test_the_ceiling_is_above_the_agreement(pool):
  # Noise enters once there, twice in an agreement.
  rng = np.random.default_rng(1)
  ceiling = labelers.best_case(TRAINING, pool, rng, repeats=2)
  assert .73 < ceiling < .80


def test_calibrate_finds_the_shipped_sigma(pool):
  found = labelers.calibrate(TRAINING, pool)
  assert found == pytest.approx(labelers.SIGMA, abs=.03)
