# SPDX-License-Identifier: Apache-2.0
"""What a run computes, by its config: which rows go through which network.

No arrays and no compiler; rlhf/planning/cost.py turns it into FLOPs and bytes.
"""

import dataclasses
import pathlib
from typing import Any, Literal

from rlhf import model
from rlhf.networks import load_safetensors, read_config
from rlhf.stages import ppo_programs

Config = Any


@dataclasses.dataclass(frozen=True)
class Work:
  """Rows that go through one network, in one call of a program.

  Attributes:
    network: 'policy', 'value', 'reference', 'reward', or the stage's name.
    cfg: the network's.
    kind: 'train' (forward and backward), 'forward', or 'decode' (a forward over
      the prompts, then a token at a time).
    rows: of the call, over all devices.
    tokens: T of each row; of the prompts, where responses are decoded.
    head: 'lm' or 'scalar'.
    head_tokens: positions of each row that go through the head.
    new_tokens: R, decoded; 0 elsewhere.
    parts: micro-batches, or parts that rows are read in.
  """

  network: str
  cfg: model.ModelConfig
  kind: Literal['train', 'forward', 'decode']
  rows: int
  tokens: int
  head: Literal['lm', 'scalar'] = 'lm'
  head_tokens: int = 0
  new_tokens: int = 0
  parts: int = 1


@dataclasses.dataclass(frozen=True)
class Call:
  """A program of a run.

  Attributes:
    name: 'train', or 'generate', 'score', 'policy_step', 'value_step'.
    works: what one call computes.
    per_step: calls in a training step; in an iteration of PPO.
  """

  name: str
  works: tuple[Work, ...]
  per_step: int = 1


@dataclasses.dataclass(frozen=True)
class Run:
  """A whole run: `steps` times each of its calls."""

  stage: str
  steps: int
  calls: tuple[Call, ...]


def network_config(config: Config, path: str) -> model.ModelConfig:
  """The model that lies, or will lie, at `path`.

  A finished run says so itself. Before it is there, its size is the part of the
  path that is one (`runs/6b/rm`), its vocabulary GPT-2's.

  Raises:
    ValueError: if neither tells.
  """
  directory = pathlib.Path(path)
  for folder in (directory, directory / 'model'):
    if (folder / 'model.json').exists():
      return read_config(folder)
  if directory.suffix == '.safetensors' and directory.exists():
    return load_safetensors(directory)[1]
  sizes = [part for part in directory.parts if part in model.SIZES]
  if not sizes:
    raise ValueError(
        f'no network in {path}, and no part of that path is a size: want one'
        f' of {", ".join(model.SIZES)}, as in runs/6b/rm'
    )
  return model.ModelConfig(**model.SIZES[sizes[-1]])


def networks(config: Config) -> dict[str, model.ModelConfig]:
  """The model of each network that a stage trains or reads."""
  changes = config.get('run_model', {})
  if config.stage == 'pretrain':
    return {'pretrain': model.ModelConfig(**config.model)}
  trained = dataclasses.replace(
      network_config(config, config.init_from), **changes
  )
  if config.stage != 'ppo':
    return {config.stage: trained}
  reward = dataclasses.replace(
      network_config(config, config.reward_model), **changes
  )
  return {
      'policy': trained,
      'reference': trained,
      'reward': reward,
      'value': reward,
  }


def run_of(config: Config) -> Run:
  """What a config's run computes.

  Raises:
    ValueError: for a stage that trains nothing.
  """
  readers = {
      'pretrain': _pretrain, 'sft': _sft, 'reward': _reward, 'ppo': _ppo
  }
  if config.stage not in readers:
    raise ValueError(
        f'stage {config.stage!r} trains nothing to plan: want one of'
        f' {", ".join(readers)}'
    )
  return readers[config.stage](config, networks(config))


def _text(name, cfg, rows, tokens, parts):
  return Work(
      name, cfg, 'train', rows, tokens, head_tokens=tokens, parts=parts
  )


def _pretrain(config, by_name):
  tokens = config.data.row_tokens
  steps = config.steps or -(
      -int(config.data.planned.text_tokens) // (config.batch * tokens)
  )
  work = _text(
      'pretrain', by_name['pretrain'], config.batch, tokens,
      config.micro_batches,
  )
  return Run('pretrain', steps, (Call('train', (work,)),))


def sft_rows(config: Config) -> int:
  """Rows of a batch, those of pretraining text included."""
  share = config.pretraining_share
  return config.batch + round(config.batch * share / (1.0 - share))


def _sft(config, by_name):
  rows = config.data.planned.demonstrations
  work = _text(
      'sft', by_name['sft'], sft_rows(config), config.data.row_tokens,
      config.micro_batches,
  )
  steps = -(-rows * config.epochs // config.batch)
  return Run('sft', steps, (Call('train', (work,)),))


def _reward(config, by_name):
  steps = -(-config.data.planned.rankings * config.epochs // config.batch)
  work = Work(
      'reward',
      by_name['reward'],
      'train',
      config.rows,
      config.data.row_tokens,
      head='scalar',
      head_tokens=config.data.row_tokens,
      parts=config.micro_batches,
  )
  return Run('reward', steps, (Call('train', (work,)),))


def _ppo(config, by_name):
  c, data = config.ppo, config.data
  tokens = data.prompt_tokens + data.response_tokens
  minibatch = c.batch // c.minibatches
  lm: dict = dict(tokens=tokens, head_tokens=data.response_tokens)
  scalar: dict = dict(tokens=tokens, head='scalar', head_tokens=tokens)
  rollout_rows = c.rollout_rows or c.batch
  parts = c.batch // (c.score_rows or c.batch)
  updates = c.minibatches * c.inner_epochs
  generate = Work(
      'policy', by_name['policy'], 'decode', rollout_rows, data.prompt_tokens,
      new_tokens=data.response_tokens,
  )

  def read(name, kind):
    return Work(
        name, by_name[name], 'forward', c.batch, **kind, parts=parts
    )

  score = (
      read('policy', lm), read('reference', lm),
      read('reward', scalar), read('value', scalar),
  )
  policy = [
      Work(
          'policy', by_name['policy'], 'train', minibatch, **lm,
          parts=c.micro_batches,
      )
  ]
  if c.ptx_coefficient:
    policy.append(
        _text(
            'policy', by_name['policy'], ppo_programs.ptx_rows(config),
            data.ptx_row_tokens, c.ptx_micro_batches or c.micro_batches,
        )
    )
  value = Work(
      'value', by_name['value'], 'train', minibatch, **scalar,
      parts=c.micro_batches,
  )
  calls = (
      Call('generate', (generate,), c.batch // rollout_rows),
      Call('score', score),
      Call('policy_step', tuple(policy), updates),
      Call('value_step', (value,), updates),
  )
  return Run('ppo', ppo_programs.iterations(config), calls)
