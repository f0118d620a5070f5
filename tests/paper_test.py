# SPDX-License-Identifier: Apache-2.0
"""The paper-scale configs hold the paper's numbers (Ouyang et al. 2022).

They are typed here once more, from the paper, by size: 1.3B, 6B, 175B.
"""

import pytest

from launch import pipeline

SIZES = ('1.3b', '6b', '175b')


def _configs(name):
  return [pipeline.load_config(f'configs/{name}.py:{size}') for size in SIZES]


def _values(name, field):
  """The field of each size's config, by its dotted name."""
  return tuple(_get(config, field) for config in _configs(name))


def _get(config, field):
  for part in field.split('.'):
    config = config[part]
  return config


def _assert_fields(name, fields):
  """Fields are one value for all sizes, or a tuple of three."""
  for field, value in fields.items():
    want = value if isinstance(value, tuple) else (value,) * 3
    assert _values(name, field) == want, f'configs/{name}.py: {field}'


# Section 3.4 (3.5 in arXiv) and appendices C.1 to C.4.


def test_sft():
  _assert_fields(
      'sft',
      {
          'epochs': 16,
          'batch': (32, 32, 8),
          'optimizer.learning_rate': (9.65e-6, 9.65e-6, 5.03e-6),
          'optimizer.schedule': 'cosine',
          'optimizer.final_fraction': 0.1,
          'optimizer.warmup_steps': 0,
          'pretraining_share': 0.0,
      },
  )


def test_rl_init():
  _assert_fields(
      'rl_init',
      {
          'epochs': 2,
          'batch': (32, 32, 8),
          'optimizer.learning_rate': (5e-6, 1.04e-5, 2.45e-6),
          'optimizer.schedule': 'cosine',
          'optimizer.final_fraction': 0.1,
          'pretraining_share': 0.1,
      },
  )


def test_reward_model():
  _assert_fields(
      'rm',
      {
          'epochs': 1,
          'batch': 64,  # Prompts, of up to 9 responses.
          'k_max': 9,
          'optimizer.learning_rate': 9e-6,
          'optimizer.schedule': 'cosine',
          'optimizer.final_fraction': 0.1,
          'run_model.reward_pooling': 'last',
      },
  )
  for config in _configs('rm'):
    # Room for 64 prompts of 9 responses, each as long as the context.
    assert config.rows == 64 * 9
    assert config.data.row_tokens == 2048


@pytest.mark.parametrize('name, gamma', [('ppo_ptx', 27.8), ('ppo', 0.0)])
def test_ppo(name, gamma):
  _assert_fields(
      name,
      {
          'ppo.ptx_coefficient': gamma,
          'ppo.ptx_ratio': 8,
          'ppo.episodes': 256_000,
          'ppo.batch': 512,
          'ppo.minibatches': 512 // 64,
          'ppo.inner_epochs': 1,
          'ppo.clip': 0.2,
          'ppo.kl_coefficient': 0.02,
          'ppo.gamma': 1.0,
          'ppo.ema_decay': 0.992,
          'temperature': 1.0,
          'optimizer.schedule': 'constant',
          'optimizer.warmup_steps': 10 * 8,  # Iterations of 8 minibatches.
          'optimizer.warmup_from': 0.1,
          'value_optimizer.learning_rate': (9e-6, 9e-6, 5e-6),
      },
  )
  for rate in _values(name, 'optimizer.learning_rate'):
    assert 2.55e-6 <= rate <= 8.05e-6  # What was searched and did not diverge.


@pytest.mark.parametrize('name', ['sft', 'rl_init', 'rm', 'ppo_ptx'])
def test_adam_and_lengths(name):
  _assert_fields(
      name,
      {
          'optimizer.b1': 0.9,
          'optimizer.b2': 0.95,
          'data.prompt_tokens': 1024,
          'data.response_tokens': 1024,
          'data.hygiene.prompts.per_user': 200,
      },
  )


def test_dropout_is_for_sft_alone():
  """0.2 on the residuals in SFT. A network keeps the dropout that it was
  trained with, so a stage that wants another one has to say so. (PPO passes no
  dropout key at all.)"""
  _assert_fields('sft', {'run_model.dropout': 0.2})
  _assert_fields('rm', {'run_model.dropout': 0.0})


def test_ppo_is_ppo_ptx_without_pretraining_data():
  for size in ('mini', *SIZES):
    ppo, ptx = [
        pipeline.load_config(f'configs/{name}.py:{size}').to_dict()
        for name in ('ppo', 'ppo_ptx')
    ]
    assert ppo.pop('run') != ptx.pop('run')
    assert ppo['ppo'].pop('ptx_coefficient') == 0.0
    assert ptx['ppo'].pop('ptx_coefficient') > 0.0
    assert ppo == ptx
