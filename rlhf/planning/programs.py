# SPDX-License-Identifier: Apache-2.0
"""The programs of a run, ready to be compiled from shapes alone.

They are the stages' own: the same builders, terms and shardings, given shapes
where a run gives arrays.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlhf import experience as experience_lib
from rlhf import optim, sampling, sharding, update
from rlhf.planning import shapes, works
from rlhf.planning.shapes import Shapes
from rlhf.stages import ppo_programs, reward, sft
from rlhf.stages import setup as setup_lib

Config = Any


@dataclasses.dataclass(frozen=True)
class Program:
  """One program.

  Attributes:
    call: what it computes; `lay_out` computes nothing (no works).
    mesh: of its arrays.
    jitted: what the stage calls.
    args: shapes of its arguments.
    reads: the residents (`Programs.residents`) that are among them.
  """

  call: works.Call
  mesh: jax.sharding.Mesh
  jitted: Any
  args: tuple[Shapes, ...]
  reads: tuple[str, ...]

  @property
  def name(self) -> str:
    return self.call.name

  def lower(self) -> jax.stages.Lowered:
    return self.jitted.lower(*self.args)


@dataclasses.dataclass(frozen=True)
class Programs:
  """All of a run.

  Attributes:
    run: what it computes.
    mesh: of the training.
    programs: in the order of a step.
    residents: by name, what lies in memory from the first step to the last.
  """

  run: works.Run
  mesh: jax.sharding.Mesh
  programs: tuple[Program, ...]
  residents: dict[str, Shapes]


def build(config: Config, mesh: jax.sharding.Mesh) -> Programs:
  """The programs of a config on a mesh.

  Raises:
    ValueError: for numbers that don't fit together.
  """
  run = works.run_of(config)
  if run.stage == 'ppo':
    return _ppo(config, mesh, run)
  (call,) = run.calls
  (work,) = call.works
  cfg = setup_lib.kernel_for(work.cfg, config, mesh)
  parts = config.micro_batches
  if run.stage == 'reward':
    term = reward.ranking_term(cfg, micro_batches=parts)
    batch = shapes.ranking_batch(config, mesh)
  else:
    term = sft.language_term(run.stage, cfg, micro_batches=parts)
    batch = shapes.text_batch(work.rows, work.tokens, parts, mesh)
  tx = optim.optimizer(setup_lib.optimizer_config(config.optimizer, run.steps))
  state = shapes.train_state(cfg, tx, mesh, head=run.stage == 'reward')
  program = Program(
      call=call,
      mesh=mesh,
      jitted=update.compile_step(state, mesh, terms=(term,), tx=tx),
      args=(state, {term.name: batch}, shapes.key(mesh)),
      reads=('weights', 'optimizer'),
  )
  return Programs(run, mesh, (program,), shapes.split_state(state, ''))


def _ppo(config, mesh, run) -> Programs:
  c = config.ppo
  cfgs = works.networks(config)
  policy_cfg, reward_cfg = [
      setup_lib.kernel_for(cfgs[name], config, mesh)
      for name in ('policy', 'reward')
  ]
  policy_tx, value_tx = ppo_programs.optimizers(config)
  policy = shapes.train_state(
      policy_cfg, policy_tx, mesh, ema=c.ema_decay is not None,
      spread=c.spread.policy,
  )
  value = shapes.train_state(
      reward_cfg, value_tx, mesh, head=True, spread=c.spread.value
  )
  built = ppo_programs.build(
      config, policy_cfg, reward_cfg, mesh,
      # Which token stops a response does not change the program.
      sampling=sampling.SamplingConfig(
          config.data.response_tokens, (0,), temperature=config.temperature
      ),
      policy=policy,
      value=value,
  )
  frozen = {
      'reference': shapes.frozen(
          policy.params, policy_cfg, mesh, c.spread.reference
      ),
      'reward': shapes.frozen(value.params, reward_cfg, mesh, c.spread.reward),
  }
  rollout = shapes.frozen(
      policy.params, policy_cfg, built.rollout_mesh, ('tensor',)
  )
  networks = experience_lib.Networks(
      policy.params, frozen['reference'], frozen['reward'], value.params
  )
  return Programs(
      run,
      mesh,
      (
          *_rollout(config, run, built, mesh, policy.params, rollout, networks),
          *_updates(config, run, built, mesh, policy, value),
      ),
      shapes.split_state(policy, 'policy ')
      | shapes.split_state(value, 'value ')
      | frozen,
  )


def _call(run, name) -> works.Call:
  return next(call for call in run.calls if call.name == name)


def _rollout(config, run, built, mesh, policy, rollout, networks):
  """The programs that make experience."""
  c, data = config.ppo, config.data

  def prompts(rows, mesh):
    shape = (rows, data.prompt_tokens)
    ids = shapes.rows_of(shape, jnp.int32, mesh)
    return ids, shapes.rows_of(shape, bool, mesh)

  rollout_mesh = built.rollout_mesh
  generate_args = (
      rollout,
      *prompts(c.rollout_rows or c.batch, rollout_mesh),
      shapes.key(rollout_mesh),
  )
  score_args = (
      networks,
      *prompts(c.batch, mesh),
      shapes.samples(c.batch, data.response_tokens, mesh),
      shapes.leaf((), jnp.float32, sharding.replicated(mesh)),
  )
  return (
      Program(
          works.Call('lay_out', ()), mesh, built.lay_out, (policy,),
          ('policy weights',),
      ),
      Program(
          _call(run, 'generate'), rollout_mesh, built.generate, generate_args,
          (),
      ),
      Program(
          _call(run, 'score'), mesh, built.score, score_args,
          ('policy weights', 'value weights', 'reference', 'reward'),
      ),
  )


def _updates(config, run, built, mesh, policy, value):
  """The programs that learn from it."""
  c = config.ppo
  minibatch = shapes.experience(config, mesh)
  batch: dict[str, Any] = {'policy': minibatch}
  if ppo_programs.ptx_rows(config):
    batch['ptx'] = shapes.text_batch(
        ppo_programs.ptx_rows(config),
        config.data.ptx_row_tokens,
        c.ptx_micro_batches or c.micro_batches,
        mesh,
    )
  key = shapes.key(mesh)
  return (
      Program(
          _call(run, 'policy_step'), mesh, built.policy_step,
          (policy, batch, key), ('policy weights', 'policy optimizer'),
      ),
      Program(
          _call(run, 'value_step'), mesh, built.value_step,
          (value, {'value': minibatch}, key),
          ('value weights', 'value optimizer'),
      ),
  )
