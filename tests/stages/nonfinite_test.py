# SPDX-License-Identifier: Apache-2.0
"""Whole stages that meet numbers that are not finite."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf import loop, networks
from rlhf.checkpoint import Checkpoints
from rlhf.stages import ppo, sft
from rlhf.stages import setup as setup_lib
from rlhf.watching import diagnosis
from tests import tiny

_PPO = {'ppo.episodes': 64, 'ppo.value_warmup_iterations': 0}


def _poison(monkeypatch, *iterations):
  """Makes the advantages of these iterations NaN."""
  rollout = ppo.Trainer.rollout

  def poisoned(self, state, index):
    experience, *rest = rollout(self, state, index)
    if index in iterations:
      bad = experience.advantages_BR * np.nan
      experience = dataclasses.replace(experience, advantages_BR=bad)
    return experience, *rest

  monkeypatch.setattr(ppo.Trainer, 'rollout', poisoned)


def _states(monkeypatch):
  """The states that each iteration begins with, by index."""
  seen = {}
  iteration = ppo.Trainer.iteration

  def watched(self, state, index):
    seen[index] = jax.device_get(state)
    return iteration(self, state, index)

  monkeypatch.setattr(ppo.Trainer, 'iteration', watched)
  return seen


def test_a_reward_that_is_not_finite_stops_ppo_and_keeps_its_evidence(root):
  reward, cfg = tiny.network(2, head='last_and_mean')
  reward['scalar_head']['bias'] *= np.nan
  networks.save_model(root / 'broken_rm' / 'model', reward, cfg, {})
  config = tiny.config(
      'ppo_ptx',
      root,
      'nan_reward',
      reward_model=str(root / 'broken_rm'),
      **_PPO,
  )
  with pytest.raises(loop.NonFiniteError) as error:
    ppo.run(config)
  report = str(error.value)
  assert 'step 1 is not finite' in report and 'rollout/score' in report
  assert '--config.loop.nonfinite=skip' in report
  assert len(report.splitlines()) <= 40
  # The experience that it was to learn from, and an untouched policy.
  folder = root / 'nan_reward' / 'nonfinite_step_1'
  batch = diagnosis.load_batch(folder)
  assert np.isnan(batch['advantages_BR']).any()
  assert batch['tokens_BT'].shape == (16, 24)
  template = ppo.Trainer(setup_lib.make(config)).state
  saved = Checkpoints(folder / 'state').restore(template)
  assert saved is not None
  start, _, _ = networks.load_model(root / 'sft')
  tiny.assert_same(saved.state.policy.params, start)
  assert saved.state.policy.skipped == config.ppo.minibatches
  assert not (root / 'nan_reward' / 'results.json').exists()


def test_stopping_leaves_the_policy_that_met_it(root, monkeypatch):
  _poison(monkeypatch, 2)
  seen = _states(monkeypatch)
  config = tiny.config('ppo', root, 'nan_stop', **_PPO)
  with pytest.raises(loop.NonFiniteError, match='step 3 is not finite'):
    ppo.run(config)
  folder = root / 'nan_stop' / 'nonfinite_step_3'
  saved = Checkpoints(folder / 'state').restore(seen[2])
  tiny.assert_same(saved.state.policy.params, seen[2].policy.params)
  tiny.assert_same(saved.state.policy.opt_state, seen[2].policy.opt_state)


def test_skipping_leaves_out_the_updates_of_an_iteration(root, monkeypatch):
  _poison(monkeypatch, 1)
  seen = _states(monkeypatch)
  config = tiny.config(
      'ppo', root, 'nan_skip', **_PPO, **{'loop.nonfinite': 'skip'}
  )
  ppo.run(config)
  tiny.assert_same(seen[2].policy.params, seen[1].policy.params)
  tiny.assert_same(seen[2].policy.ema, seen[1].policy.ema)
  lines = tiny.metrics(root / 'nan_skip')
  assert [line['opt/skipped'] for line in lines] == [0, 2, 2, 2]
  assert lines[1]['policy/loss'] is None and lines[2]['policy/loss'] is not None
  _, _, facts = networks.load_model(root / 'nan_skip')
  assert facts['updates'] == 2 * 3


def test_rolling_back_goes_on_from_the_checkpoint(root, monkeypatch):
  _poison(monkeypatch, 2)
  seen = _states(monkeypatch)
  changes = {'loop.nonfinite': 'rollback', 'loop.save_every': 1}
  ppo.run(tiny.config('ppo', root, 'nan_back', **_PPO, **changes))
  # The whole state, the value function's too, is that of the second step.
  tiny.assert_same(seen[3], seen[2])
  assert [line['step'] for line in tiny.metrics(root / 'nan_back')] == [1, 2, 4]


def test_an_update_that_is_not_finite_stops_sft_before_it_is_made(root):
  config = tiny.config('sft', root, 'inf_rate')
  with config.unlocked():
    config.optimizer.learning_rate = 3e38  # Each update is; their norm is not.
  with pytest.raises(loop.NonFiniteError) as error:
    sft.run(config)
  assert 'opt/update_norm = inf' in str(error.value)
  folder = root / 'inf_rate' / 'nonfinite_step_1'
  # The words that it read are among the evidence.
  batch = diagnosis.load_batch(folder)
  assert batch['sft/tokens_BT'].shape == (4, 24)
