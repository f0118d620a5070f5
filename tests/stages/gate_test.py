# SPDX-License-Identifier: Apache-2.0
"""The warning before PPO, against results written by hand."""

import json

import pytest

from configs import ppo
from rlhf.stages import gate


@pytest.fixture
def config(tmp_path):
  c = ppo.get_config('mini').unlock()
  c.root = str(tmp_path)
  return c.lock()


def _results(tmp_path, stage, results):
  (tmp_path / stage).mkdir()
  (tmp_path / stage / 'results.json').write_text(json.dumps(results))


@pytest.mark.parametrize(
    'accuracy, ceiling, want',
    [(0.5, 0.8, 0.0), (0.8, 0.8, 1.0), (0.7, 0.8, 2 / 3), (0.4, 0.7, -0.5)],
)
def test_strength_is_the_way_from_chance_to_the_ceiling(
    accuracy, ceiling, want
):
  assert gate.strength(accuracy, ceiling) == pytest.approx(want)


def test_a_weak_reward_model_is_warned_of(config, tmp_path, capsys):
  _results(tmp_path, 'rm', {'accuracy': {'mean': 0.60}})
  _results(tmp_path, 'comparisons', {'ceiling': 0.77})
  warning = gate.check_reward_model(config)
  assert warning is not None
  # 0.10 of 0.27.
  for part in ('0.600', '0.770', '37%', 'More rankings', 'KL coefficient'):
    assert part in warning
  assert str(config.ppo.kl_coefficient) in warning
  assert f'warning: {warning}' in capsys.readouterr().out.replace('\n', ' ')


def test_a_strong_one_is_not(config, tmp_path, capsys):
  _results(tmp_path, 'rm', {'accuracy': {'mean': 0.70}})
  _results(tmp_path, 'comparisons', {'ceiling': 0.77})
  assert gate.check_reward_model(config) is None
  assert '74% of the way' in capsys.readouterr().out


def test_the_ceiling_of_human_rankings_is_their_agreement(config, tmp_path):
  """72.6 % in the paper; there is no comparisons stage to measure it."""
  _results(tmp_path, 'rm', {'accuracy': {'mean': 0.60}})
  warning = gate.check_reward_model(config)
  assert warning is not None and '0.726' in warning


def test_an_unknown_accuracy_is_warned_of(config, tmp_path):
  (tmp_path / 'rm').mkdir()
  warning = gate.check_reward_model(config)
  assert warning is not None
  assert 'no accuracy on record' in warning and str(tmp_path / 'rm') in warning
