# SPDX-License-Identifier: Apache-2.0
"""Simulated judges against what must be so of them."""

import dataclasses

import numpy as np
import pytest

from rlhf.evaluation import judging
from rlhf.inference import Completion
from rlhf.world import labelers, rubric
from rlhf.world.prompts import prompts


def _features(n: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).uniform(size=(n, len(rubric.FEATURES)))


def _sets(count: int, scored_by) -> list:
  sets = []
  for seed in range(count):
    features_KX = _features(5, seed)
    sets.append((scored_by(features_KX), features_KX))
  return sets


def _shares(found) -> dict[str, float]:
  return {k: v[:, 0].sum() / v[:, 1].sum() for k, v in found.items()}


@pytest.fixture
def exact(monkeypatch):
  """Labelers who are all alike and make no noise."""
  weights_LX = np.repeat(labelers.TRAINING.weights_LX[:1], 3, axis=0)
  group = labelers.Labelers(weights_LX, sigma=0.0, step=1e-6)
  monkeypatch.setattr(labelers, 'TRAINING', group)
  return group


def test_against_itself_it_is_a_draw():
  features_BX = _features(2000)
  for wins in judging.win_rates(features_BX, features_BX, seed=0).values():
    # 8 votes on each of 2000 prompts: standard error .004.
    assert wins.mean() == pytest.approx(0.5, abs=0.015)
  rude_BX = features_BX.copy()
  rude_BX[:, rubric.FEATURES.index('not_rude')] = 0
  for wins in judging.win_rates(rude_BX, features_BX, seed=0).values():
    assert wins.mean() < 0.45


def test_rates_are_shares_of_flawed_answers():
  asked = prompts('test', 2, 0, kind='reply')
  said = [
      Completion('', text, (), (), finished=True)
      for text in ('go away you fool .', 'thanks for telling us .')
  ]
  features_BX = judging.grade_completions(asked, said)
  assert judging.rudeness(features_BX).tolist() == [1.0, 0.0]
  named = judging.rubric_values(features_BX)
  assert named['rubric/not_rude'].tolist() == [0.0, 1.0]
  assert judging.invention(features_BX).tolist() == (
      1 - named['rubric/no_invention']
  ).tolist()


def test_the_clean_writer_earns_full_marks():
  asked = prompts('test', 100, 0)
  clean_BX, lengths = judging.examine_writer(asked, flawed=False, seed=0)
  flawed_BX, _ = judging.examine_writer(asked, flawed=True, seed=0)
  tastes = rubric.FEATURES.index('polite')
  assert clean_BX[:, :tastes].mean() > 0.99
  assert flawed_BX[:, :tastes].mean() < 0.97
  assert 5 < lengths.mean() < 30


def test_exact_labelers_are_foretold_exactly(exact):
  rng = np.random.default_rng(0)
  shares = _shares(judging.orders(_sets(30, exact.utility), rng))
  for name in ('accuracy', 'ceiling', 'agreement', 'strength'):
    assert shares[name] == 1.0
  reverse = _sets(30, lambda features_KX: -exact.utility(features_KX))
  shares = _shares(judging.orders(reverse, rng))
  assert shares['accuracy'] == 0.0
  assert shares['strength'] == -1.0
  # Equal scores are right half of the time.
  flat = _sets(30, lambda features_KX: np.zeros(len(features_KX)))
  shares = _shares(judging.orders(flat, rng))
  assert shares['accuracy'] == 0.5
  assert shares['strength'] == 0.0


def test_orders_count_each_comparison_once_a_labeling(exact):
  found = judging.orders(
      _sets(4, exact.utility), np.random.default_rng(0), labelings=3
  )
  # Five responses, no ties: ten comparisons.
  assert found['accuracy'][:, 1].tolist() == [30.0] * 4
  assert found['agreement'][:, 1].tolist() == [30.0] * 4


def test_orders_agree_with_the_worlds_own_measures():
  """Another implementation: `labelers.agreement` and `best_case`."""
  sets = _sets(1500, labelers.TRAINING.utility)
  features = [features_KX for _, features_KX in sets]
  shares = _shares(judging.orders(sets, np.random.default_rng(0), labelings=4))
  rng = np.random.default_rng(1)
  for suffix, group in (
      ('', labelers.TRAINING), ('_held_out', labelers.HELD_OUT)
  ):
    agreed = labelers.agreement(group, features, rng).rate
    ceiling = labelers.best_case(group, features, rng)
    assert shares[f'agreement{suffix}'] == pytest.approx(agreed, abs=0.015)
    assert shares[f'ceiling{suffix}'] == pytest.approx(ceiling, abs=0.01)
  # The training labelers' utility is their ceiling by definition.
  assert shares['accuracy'] == pytest.approx(shares['ceiling'])


def test_what_ties_is_not_compared(exact, monkeypatch):
  """On a coarse scale everything ties."""
  coarse = dataclasses.replace(exact, step=1e6)
  monkeypatch.setattr(labelers, 'TRAINING', coarse)
  found = judging.orders(_sets(3, exact.utility), np.random.default_rng(0))
  assert found['accuracy'].sum() == 0
