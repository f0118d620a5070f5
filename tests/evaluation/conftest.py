# SPDX-License-Identifier: Apache-2.0
"""A made-up exam, whose outcome each test can change."""

import numpy as np
import pytest

from rlhf import statistics
from rlhf.evaluation import findings, measurements
from rlhf.world.rubric import FEATURES

_N = 400

# What came out in the prototype, about.
_MEANS = {
    'base': dict(win=0.22, gold=5.6, loss=0.83, invention=0.9, rude=0.8),
    'prompted': dict(win=0.3, gold=5.9, loss=0.83, invention=0.8, rude=0.7),
    'sft': dict(win=0.5, gold=7.4, loss=0.85, invention=0.64, rude=0.25),
    'ppo': dict(win=0.58, gold=7.8, loss=0.91, invention=0.51, rude=0.01),
    'ppo_ptx': dict(win=0.58, gold=7.8, loss=0.84, invention=0.52, rude=0.03),
}


def _model(rng, *, win, gold, loss, invention, rude):
  def around(mean, spread):
    """Numbers with exactly this mean."""
    values = rng.normal(size=_N)
    return mean + spread * (values - values.mean())

  def share(mean):
    values = np.zeros(_N)
    values[: round(mean * _N)] = 1
    return rng.permutation(values)

  return {
      'win_rate/training_labelers': around(win, 0.2),
      'win_rate/heldout_labelers': around(win, 0.2),
      'gold_utility': around(gold, 0.3),
      **{f'rubric/{name}': share(0.7) for name in FEATURES},
      'invention_rate': share(invention),
      'rude_rate/plain': share(rude),
      'rude_rate/respectful': share(rude / 3),
      'pretrain_loss': around(loss, 0.02),
      'fact_cloze': share(0.95),
      'kl_from_sft': around(0.5, 0.5),
      'length': around(9.0, 2.0),
      'finished': share(1.0),
      'rm_score': around(0.3, 0.5),
  }


def _ratio(rng, mean, of=10.0):
  return np.stack([rng.normal(mean * of, 0.5, _N), np.full(_N, of)], 1)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
  """A coarse bootstrap; tests/statistics_test.py is about the real one."""
  monkeypatch.setattr(statistics, '_DRAWS', 300)


@pytest.fixture
def make_measured():
  """`make_measured(seed=0, duel=0.5, strength=0.75, ppo=dict(win=0.4), ...)`.

  Measurements of everything that the report speaks of; models take other means
  than the usual ones.
  """

  def make(seed=0, *, duel=0.5, strength=0.75, **models):
    rng = np.random.default_rng(seed)
    measured = {
        name: _model(rng, **(means | models.get(name, {})))
        for name, means in _MEANS.items()
    }
    for name, win in (('clean_writer', 0.7), ('demonstrator', 0.6)):
      usual = _model(rng, **(_MEANS['sft'] | {'win': win}))
      measured[name] = {
          k: v
          for k, v in usual.items()
          if k not in ('kl_from_sft', 'rm_score', 'pretrain_loss')
      }
    vote = np.clip(rng.normal(duel, 0.1, _N), 0, 1)
    measured['ppo_ptx_vs_ppo'] = {
        'win_rate/training_labelers': vote,
        'win_rate/heldout_labelers': vote,
    }
    measured['reward_model'] = {
        f'{name}{suffix}': _ratio(rng, mean)
        for suffix in ('', '_held_out')
        for name, mean in (
            ('accuracy', 0.7),
            ('ceiling', 0.77),
            ('agreement', 0.73),
            ('strength', strength),
        )
    }
    seen = (np.arange(_N) % 4 > 0).astype(float)
    measured['prompts'] = {'seen_in_training': seen}
    measured['contrasts'] = findings.contrasts(measured)
    return measured

  return make


@pytest.fixture
def make_results(make_measured):
  """The same as `results.json` has it, for one seed."""

  def make(**changes):
    measured = make_measured(**changes)
    results = measurements.summarised([measured])
    results['prompts'] |= {'mixed': _N, 'special': 320, 'users': 80}
    answers = {name: f'{name} | says so' for name in measurements.MODELS}
    return results | {
        'seed': 7,
        'smoke': False,
        'versions': {'python': '3.11', 'jax': '0.10'},
        'machine': '2 CPU cores',
        'samples': [{'prompt': 'hello .', 'kind': 'chat', 'answers': answers}],
        'seconds': {'sft': 60.0, 'evaluation': 20.0, 'total': 80.0},
    }

  return make
