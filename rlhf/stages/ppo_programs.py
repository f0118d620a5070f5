# SPDX-License-Identifier: Apache-2.0
"""The programs of PPO, built from a config, two model configs and a mesh.

  lay_out       policy weights, once a rollout, to where decoding wants them
  generate      responses to a batch of prompts, or to a part of it
  join          the parts of a batch
  score         four networks read them; advantages
  minibatches   shuffled, whitened, cut
  policy_step   an optimizer step on PPO's loss (+ gamma times the ptx loss)
  value_step    one of the value function

No data and no weights are needed to build them, so that launch/plan.py compiles
these very programs for devices that nobody has yet.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rlhf import experience as experience_lib
from rlhf import model, optim, sharding, update
from rlhf.experience import Experience
from rlhf.inference import lay_out
from rlhf.losses import clipped_policy_loss, clipped_value_loss
from rlhf.sampling import SamplingConfig, generate
from rlhf.stages import setup as setup_lib
from rlhf.stages.sft import language_term


def policy_term(
    cfg: model.ModelConfig,
    *,
    clip: float,
    temperature: float,
    micro_batches: int = 1,
) -> update.Term:
  """The clipped policy loss of an `Experience`. Dropout is off in PPO."""

  def loss(params, batch: Experience, key):
    del key
    log_probs_BR = experience_lib.response_log_probs(
        params,
        batch.tokens_BT,
        batch.segment_ids_BT,
        cfg=cfg,
        response_tokens=batch.mask_BR.shape[1],
        temperature=temperature,
    )
    return clipped_policy_loss(
        log_probs_BR,
        batch.log_probs_BR,
        batch.advantages_BR,
        batch.mask_BR,
        clip=clip,
    )

  return update.Term('policy', loss, micro_batches=micro_batches)


def value_term(
    cfg: model.ModelConfig,
    *,
    clip: float,
    coefficient: float = 1.0,
    micro_batches: int = 1,
) -> update.Term:
  """The clipped value loss of an `Experience`."""

  def loss(params, batch: Experience, key):
    del key
    values_BR = experience_lib.response_values(
        params, batch.tokens_BT, batch.segment_ids_BT, batch.mask_BR, cfg=cfg
    )
    return clipped_value_loss(
        values_BR, batch.values_BR, batch.returns_BR, batch.mask_BR, clip=clip
    )

  return update.Term('value', loss, coefficient, micro_batches)


def policy_terms(
    config: setup_lib.Config, cfg: model.ModelConfig
) -> tuple[update.Term, ...]:
  """What the policy minimises: the clipped loss, and with gamma the ptx."""
  c = config.ppo
  policy = policy_term(
      cfg,
      clip=c.clip,
      temperature=config.temperature,
      micro_batches=c.micro_batches,
  )
  if not c.ptx_coefficient:
    return (policy,)
  # The mean is over tokens, and so is the policy loss's: gamma compares a
  # token of pretraining text with a token of a response.
  ptx = language_term(
      'ptx',
      cfg,
      coefficient=c.ptx_coefficient,
      micro_batches=c.ptx_micro_batches or c.micro_batches,
      dropout=False,
  )
  # The longer of the two first: where it is accumulated over many micro-batches
  # no other gradient waits beside it in memory.
  return ptx, policy


def _value_term(
    config: setup_lib.Config, cfg: model.ModelConfig
) -> update.Term:
  """What the value function minimises."""
  c = config.ppo
  return value_term(
      cfg,
      clip=c.value_clip,
      coefficient=c.value_coefficient,
      micro_batches=c.micro_batches,
  )


def updates(config: setup_lib.Config) -> int:
  """Optimizer steps of a run."""
  c = config.ppo
  return iterations(config) * c.minibatches * c.inner_epochs


def iterations(config: setup_lib.Config) -> int:
  return -(-config.ppo.episodes // config.ppo.batch)


def ptx_rows(config: setup_lib.Config) -> int:
  """Rows of pretraining text in an update: `ptx_ratio` for each episode."""
  c = config.ppo
  return c.ptx_ratio * c.batch // c.minibatches if c.ptx_coefficient else 0


def optimizers(
    config: setup_lib.Config,
) -> tuple[optim.Optimizer, optim.Optimizer]:
  """Of the policy, and of the value function."""
  policy, value = [
      optim.optimizer(setup_lib.optimizer_config(section, updates(config)))
      for section in (config.optimizer, config.value_optimizer)
  ]
  return policy, value


@dataclasses.dataclass(frozen=True)
class Programs:
  """See the top of this file; `rollout_mesh` is that of `generate`."""

  rollout_mesh: jax.sharding.Mesh
  lay_out: Any
  generate: Any
  join: Any
  score: Any
  minibatches: Any
  policy_step: Any
  value_step: Any


def build(
    config: setup_lib.Config,
    policy_cfg: model.ModelConfig,
    reward_cfg: model.ModelConfig,
    mesh: jax.sharding.Mesh,
    *,
    sampling: SamplingConfig,
    policy: update.TrainState,
    value: update.TrainState,
) -> Programs:
  """Jits the programs; `policy` and `value` may be shapes alone."""
  c = config.ppo
  policy_tx, value_tx = optimizers(config)
  rollout_mesh = sharding.rollout_mesh(mesh, c.rollout_tensor)
  score = functools.partial(
      experience_lib.make_experience,
      policy_cfg=policy_cfg,
      reward_cfg=reward_cfg,
      config=experience_lib.ExperienceConfig(
          temperature=config.temperature,
          gamma=c.gamma,
          lam=c.gae_lambda,
          whiten_rewards=c.whiten_rewards,
          missing_eos_score=c.missing_eos_score,
          rows=c.score_rows,
      ),
  )
  minibatches = functools.partial(
      experience_lib.minibatches,
      count=c.minibatches,
      micro_batches=c.micro_batches,
      whiten_advantages=c.whiten_advantages,
  )
  freeze = setup_lib.freezes(config)
  return Programs(
      rollout_mesh=rollout_mesh,
      lay_out=lay_out(policy.params, policy_cfg, rollout_mesh, ('tensor',)),
      generate=jax.jit(
          sharding.under(
              rollout_mesh,
              functools.partial(
                  generate,
                  # Its own mesh: fewer devices may share a layer's heads.
                  cfg=setup_lib.kernel_for(
                      dataclasses.replace(policy_cfg, kernel='auto'),
                      config,
                      rollout_mesh,
                  ),
                  sampling=sampling,
              ),
          )
      ),
      join=jax.jit(_join),
      score=jax.jit(
          sharding.under(mesh, score),
          # Metrics are read on every host.
          out_shardings=(None, None, sharding.replicated(mesh)),
      ),
      minibatches=jax.jit(sharding.under(mesh, minibatches)),
      policy_step=update.compile_step(
          policy,
          mesh,
          terms=policy_terms(config, policy_cfg),
          tx=policy_tx,
          ema_decay=c.ema_decay,
          freeze=freeze,
          spread=c.spread.policy,
      ),
      value_step=update.compile_step(
          value,
          mesh,
          terms=(_value_term(config, reward_cfg),),
          tx=value_tx,
          freeze=freeze,
          spread=c.spread.value,
      ),
  )


def _join(*parts):
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
