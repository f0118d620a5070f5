# SPDX-License-Identifier: Apache-2.0
"""What each field may be by itself, and each section may hold."""

from collections.abc import Iterator

from rlhf import sharding
from rlhf.model import SIZES, ModelConfig
from rlhf.problems import rules
from rlhf.problems.rules import Config, Problem, Rule
from rlhf.watching.alarms import AlarmConfig

# rlhf.stages.STAGES has the same names; tests/problems_test.py compares.
STAGES = ('pretrain', 'sft', 'comparisons', 'reward', 'ppo')
SPLITS = ('train', 'validation', 'test', 'all')
NETWORKS = ('policy', 'value', 'reference', 'reward')

_POSITIVE = rules.number('above 0', lambda x: x > 0)
_NOT_NEGATIVE = rules.number('of 0 or more', lambda x: x >= 0)
_FRACTION = rules.number('from 0 to 1', lambda x: 0 <= x <= 1)
_SHARE = rules.number('from 0 to below 1', lambda x: 0 <= x < 1)

_OPTIMIZER: tuple[tuple[str, Rule], ...] = (
    ('learning_rate', _POSITIVE),
    ('schedule', rules.one_of('constant', 'cosine', 'linear')),
    ('warmup_steps', rules.integer(0)),
    ('warmup_from', _FRACTION),
    ('final_fraction', _FRACTION),
    ('b1', _SHARE),
    ('b2', _SHARE),
    ('eps', _POSITIVE),
    ('eps_form', rules.one_of('optax', 'tensorflow')),
    ('weight_decay', _NOT_NEGATIVE),
    ('clip_norm', _NOT_NEGATIVE),
)

TABLE: tuple[tuple[str, Rule], ...] = (
    ('stage', rules.one_of(*STAGES)),
    ('root', rules.text),
    ('reward_root', rules.text),
    ('run', rules.text),
    ('seed', rules.integer(0)),
    ('prerequisites', rules.one_of('auto', 'require')),
    ('batch', rules.integer(1)),
    ('rows', rules.integer(1)),
    ('micro_batches', rules.integer(1)),
    ('epochs', rules.integer(1)),
    ('steps', rules.integer(0)),
    ('k_min', rules.integer(2)),
    ('k_max', rules.integer(2)),
    ('prompts.train', rules.integer(1)),
    ('prompts.validation', rules.integer(1)),
    ('pretraining_share', _SHARE),
    ('temperature', _POSITIVE),
    # Chance is one half: see rlhf/stages/gate.py, `strength`.
    (
        'labeler_agreement',
        rules.number('above 0.5, at most 1', lambda x: 0.5 < x <= 1),
    ),
    ('loop.log_every', rules.integer(1)),
    ('loop.evaluate_every', rules.integer(0)),
    ('loop.save_every', rules.integer(0)),
    ('loop.keep', rules.integer(1)),
    ('loop.keep_every', rules.integer(0)),
    ('loop.tensorboard', rules.switch),
    ('loop.step_timeout', _NOT_NEGATIVE),
    ('loop.nonfinite', rules.one_of('stop', 'skip', 'rollback')),
    ('loop.nonfinite_bound', rules.integer(1)),
    ('resume.changed', rules.texts),
    ('resume.missing', rules.texts),
    ('resume.left_over', rules.texts),
    ('data.strict', rules.switch),
    ('data.pack', rules.switch),
    ('data.separate_documents', rules.switch),
    ('data.prompt_tokens', rules.integer(1)),
    ('data.response_tokens', rules.integer(1)),
    ('data.row_tokens', rules.integer(2)),
    ('data.ptx_row_tokens', rules.integer(2)),
    ('data.validation_share', _SHARE),
    ('data.test_share', _SHARE),
    *(
        (f'{name}.{key}', rule)
        for name in ('optimizer', 'value_optimizer')
        for key, rule in _OPTIMIZER
    ),
    ('ppo.episodes', rules.integer(1)),
    ('ppo.batch', rules.integer(1)),
    ('ppo.minibatches', rules.integer(1)),
    ('ppo.inner_epochs', rules.integer(1)),
    ('ppo.micro_batches', rules.integer(1)),
    ('ppo.ptx_micro_batches', rules.integer(0)),
    ('ppo.rollout_tensor', rules.integer(0)),
    ('ppo.rollout_rows', rules.integer(0)),
    ('ppo.score_rows', rules.integer(0)),
    ('ppo.kl_coefficient', _NOT_NEGATIVE),
    ('ppo.clip', _POSITIVE),
    ('ppo.value_clip', _POSITIVE),
    ('ppo.value_coefficient', _POSITIVE),
    ('ppo.gamma', _FRACTION),
    ('ppo.gae_lambda', _FRACTION),
    ('ppo.whiten_rewards', rules.switch),
    ('ppo.whiten_advantages', rules.switch),
    (
        'ppo.missing_eos_score',
        rules.optional(rules.number('', lambda x: True)),
    ),
    ('ppo.ptx_coefficient', _NOT_NEGATIVE),
    ('ppo.ptx_ratio', rules.integer(1)),
    ('ppo.value_warmup_iterations', rules.integer(0)),
    ('ppo.ema_decay', rules.optional(_SHARE)),
    *(
        (f'ppo.spread.{name}', rules.some_of(*sharding.SPREAD))
        for name in NETWORKS
    ),
)


def find(config: Config) -> Iterator[Problem]:
  """What is wrong with single fields, and with sections of free keys."""
  yield from rules.follow(config, TABLE)
  yield from _keys(config, 'ppo.spread', NETWORKS)
  yield from _adaptive_kl(config)
  yield from _alarms(config)
  yield from _mesh(config)
  for name in ('model', 'run_model'):
    yield from _model(config, name)


def _keys(config: Config, name: str, known: tuple[str, ...]):
  """Keys of a section that it can't have."""
  for key, value in rules.section(config, name).items():
    if key not in known:
      yield Problem(
          f'{name}.{key}',
          value,
          f'is unknown: give one of {", ".join(known)}'
          f'{rules.near(key, known)}',
      )


def _adaptive_kl(config: Config) -> Iterator[Problem]:
  name, keys = 'ppo.adaptive_kl', ('target', 'horizon')
  found = rules.section(config, name)
  yield from _keys(config, name, keys)
  yield from rules.follow(config, [(f'{name}.{k}', _POSITIVE) for k in keys])
  for key in keys:
    if found and key not in found:
      yield Problem(
          name,
          found,
          f"has no {key!r}: give both, as in {{'target': 6.0, 'horizon':"
          ' 10000.0}, or {} for a fixed coefficient',
      )


def _alarms(config: Config) -> Iterator[Problem]:
  name, known = 'ppo.alarms', tuple(AlarmConfig.__dataclass_fields__)
  yield from _keys(config, name, known)
  fractions = ('score_spread', 'empty', 'unfinished', 'entropy')
  for key in known:
    rule = _FRACTION if key in fractions else _NOT_NEGATIVE
    yield from rules.follow(config, [(f'{name}.{key}', rule)])


def _mesh(config: Config) -> Iterator[Problem]:
  axes = rules.section(config, 'mesh')
  yield from _keys(config, 'mesh', sharding.AXES)
  for axis in sharding.AXES:
    size = axes.get(axis, 1)
    if not rules.is_integer(size) or (size < 1 and size != -1):
      yield Problem(
          f'mesh.{axis}',
          size,
          'is no number of devices: give an integer of 1 or more, or -1 for all'
          ' that are left',
      )
  rest = [axis for axis in sharding.AXES if axes.get(axis) == -1]
  for axis in rest[1:]:
    yield Problem(
        f'mesh.{axis}',
        -1,
        f'mesh.{rest[0]} is -1 too, and only one can be all that are left:'
        ' give a number of devices',
    )


# What a network is, and not how it is run.
_SHAPE = (
    'layers', 'width', 'heads', 'head_size', 'context', 'vocab_size', 'pad_id',
    'mlp_ratio', 'vocab_multiple', 'attention', 'band', 'init_std',
)  # fmt: skip
_MODEL_FIELDS = ModelConfig.__dataclass_fields__


def _model(config: Config, name: str) -> Iterator[Problem]:
  """Fields of a network, or of how it is run, one by one."""
  yield from _keys(config, name, tuple(_MODEL_FIELDS))
  for field, value in rules.section(config, name).items():
    key = f'{name}.{field}'
    if field not in _MODEL_FIELDS:
      continue
    if name == 'run_model' and field in _SHAPE:
      message = 'is what the network is, which it brings along: leave it out'
      yield Problem(key, value, message)
      continue
    if _MODEL_FIELDS[field].type is int and not rules.is_integer(value):
      yield Problem(key, value, 'is no integer: give an integer')
      continue
    try:
      # Values of a wrong type can't be compared with their bounds.
      ModelConfig(**SIZES['mini'] | {field: value})
    except (TypeError, ValueError) as error:
      what = ' '.join(str(error).rpartition(': ')[2].split())
      yield Problem(key, value, f'is not possible: {what}')
