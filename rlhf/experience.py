# SPDX-License-Identifier: Apache-2.0
"""What PPO learns from: responses, scored by four networks and made advantages.

Rows are left-padded prompts followed by responses, so the response is always
the last R columns and everything about it is an array BR, aligned with its
tokens: `log_probs_BR[b, t]` is of the token t itself, `values_BR[b, t]` of the
state *before* it (detail 32 in docs/details.md).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlhf import advantages as adv
from rlhf import model as lm
from rlhf import sharding
from rlhf.dims import Metrics, Params
from rlhf.likelihood import log_probs_of
from rlhf.masking import last_index, masked_mean, masked_var, whiten
from rlhf.sampling import Samples
from rlhf.update import split_batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
  """A batch of scored responses; minibatches are rows of it.

  Attributes:
    tokens_BT, segment_ids_BT: prompt and response; T = P + R.
    mask_BR: bool, response tokens up to and including the EOS.
    log_probs_BR: of the policy that sampled, recomputed by the training
      forward, so that the first ratio is 1 exactly.
    values_BR, advantages_BR, returns_BR: reward units; 0 outside the mask.
  """

  tokens_BT: jax.Array
  segment_ids_BT: jax.Array
  mask_BR: jax.Array
  log_probs_BR: jax.Array
  values_BR: jax.Array
  advantages_BR: jax.Array
  returns_BR: jax.Array


@dataclasses.dataclass(frozen=True)
class ExperienceConfig:
  """How responses become advantages; static under jit.

  Attributes:
    temperature: of the sampling; divides the logits of policy and reference.
    gamma, lam: of GAE.
    whiten_rewards: scale token rewards to unit variance (mean kept).
    missing_eos_score: what replaces the score of a response that was cut.
    rows: responses that go through a network at a time; 0 is all. Bounds the
      memory of scoring, changes nothing else.
  """

  temperature: float = 1.0
  gamma: float = 1.0
  lam: float = 0.95
  whiten_rewards: bool = False
  missing_eos_score: float | None = None
  rows: int = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Networks:
  """The four parameter sets of PPO."""

  policy: Params
  reference: Params
  reward: Params
  value: Params


def response_log_probs(
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    cfg: lm.ModelConfig,
    response_tokens: int,
    temperature: float,
) -> jax.Array:
  """log pi of each response token, nats, f32 BR; no meaning off the mask."""
  x_BTD = lm.forward(params, tokens_BT, segment_ids_BT, cfg)
  # The state before the first response token is that of the prompt's last.
  x_BRD = x_BTD[:, -response_tokens - 1 : -1]
  log_probs_BR, _ = log_probs_of(
      params,
      x_BRD,
      tokens_BT[:, -response_tokens:],
      cfg,
      temperature=temperature,
  )
  return log_probs_BR


def response_scalars(
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    mask_BR: jax.Array,
    *,
    cfg: lm.ModelConfig,
) -> jax.Array:
  """The scalar head over whole rows, f32 BT."""
  x_BTD = lm.forward(params, tokens_BT, segment_ids_BT, cfg)
  prompt_tokens = tokens_BT.shape[1] - mask_BR.shape[1]
  response_mask_BT = jnp.pad(mask_BR, ((0, 0), (prompt_tokens, 0)))
  return lm.scalars(params, x_BTD, segment_ids_BT, response_mask_BT)


def response_values(
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    mask_BR: jax.Array,
    *,
    cfg: lm.ModelConfig,
) -> jax.Array:
  """Value of the state before each response token, f32 BR."""
  scalars_BT = response_scalars(
      params, tokens_BT, segment_ids_BT, mask_BR, cfg=cfg
  )
  return scalars_BT[:, -mask_BR.shape[1] - 1 : -1]


def response_scores(
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    mask_BR: jax.Array,
    *,
    cfg: lm.ModelConfig,
) -> jax.Array:
  """The reward model's score: the scalar at the last token, f32 [B]."""
  scalars_BT = response_scalars(
      params, tokens_BT, segment_ids_BT, mask_BR, cfg=cfg
  )
  scalars_BR = scalars_BT[:, -mask_BR.shape[1] :]
  rows = jnp.arange(mask_BR.shape[0])
  return scalars_BR[rows, last_index(mask_BR)]


def make_experience(
    networks: Networks,
    prompts_BP: jax.Array,
    prompt_mask_BP: jax.Array,
    samples: Samples,
    kl_coefficient: jax.Array,
    *,
    policy_cfg: lm.ModelConfig,
    reward_cfg: lm.ModelConfig,
    config: ExperienceConfig,
) -> tuple[Experience, jax.Array, Metrics]:
  """Scores responses with all four networks.

  Args:
    networks: their parameters.
    prompts_BP, prompt_mask_BP: left-padded prompts.
    samples: the policy's responses to them.
    kl_coefficient: beta.
    policy_cfg: of policy and reference.
    reward_cfg: of reward model and value function.
    config: how.

  Returns:
    The experience; the reward model's scores [B] (before any replacement for a
    missing EOS); metrics of the rollout: 'kl' per response and 'entropy' per
    token in nats, 'score', 'length' in tokens, 'finished' and 'empty' (nothing
    but an EOS) as fractions, means and standard deviations,
    'explained_variance', 'sampler_gap' (largest difference between the
    sampler's log-probs and the training forward's, nats).
  """
  mask_BR = samples.mask_BR
  tokens_BT = jnp.concatenate([prompts_BP, samples.tokens_BR], axis=1)
  segment_ids_BT = jnp.concatenate([prompt_mask_BP, mask_BR], axis=1)
  segment_ids_BT = segment_ids_BT.astype(jnp.int32)
  read = functools.partial(
      _read, networks, policy_cfg, reward_cfg, config.temperature
  )
  *by_token, scores = in_parts(
      read, (tokens_BT, segment_ids_BT, mask_BR), config.rows
  )
  log_probs_BR, reference_BR, values_BR = [
      jnp.where(mask_BR, x_BR, 0.0) for x_BR in by_token
  ]

  rewards_BR = adv.token_rewards(
      adv.missing_eos_scores(
          scores, samples.finished, config.missing_eos_score
      ),
      log_probs_BR,
      reference_BR,
      mask_BR,
      kl_coefficient,
  )
  if config.whiten_rewards:
    rewards_BR = whiten(rewards_BR, mask_BR, shift_mean=False)
  advantages_BR, returns_BR = adv.gae(
      rewards_BR, values_BR, mask_BR, gamma=config.gamma, lam=config.lam
  )
  experience = Experience(
      tokens_BT=tokens_BT,
      segment_ids_BT=segment_ids_BT,
      mask_BR=mask_BR,
      log_probs_BR=log_probs_BR,
      values_BR=values_BR,
      advantages_BR=advantages_BR,
      returns_BR=returns_BR,
  )
  experience = sharding.constrain_rows(experience)
  metrics = _rollout_metrics(experience, samples, scores, reference_BR)
  return experience, scores, metrics


def _read(networks, policy_cfg, reward_cfg, temperature, rows):
  """What the four networks say of some rows: 3 arrays BR, and scores [B]."""
  tokens_BT, segment_ids_BT, mask_BR = rows
  by_policy, by_reference = [
      response_log_probs(
          params,
          tokens_BT,
          segment_ids_BT,
          cfg=policy_cfg,
          response_tokens=mask_BR.shape[1],
          temperature=temperature,
      )
      for params in (networks.policy, networks.reference)
  ]
  scores = response_scores(networks.reward, *rows, cfg=reward_cfg)
  values_BR = response_values(networks.value, *rows, cfg=reward_cfg)
  return by_policy, by_reference, values_BR, scores


def in_parts(function: Callable, rows: Any, size: int) -> Any:
  """`function(rows)`, for `size` of the rows at a time.

  Args:
    function: of a tree of arrays to one; rows don't see each other.
    rows: arrays with a leading batch axis.
    size: 0, or rows a part, as many as there are being all.

  Raises:
    ValueError: if it does not divide the batch.
  """
  batch = jax.tree.leaves(rows)[0].shape[0]
  if not size or size == batch:
    return function(rows)
  if batch % size:
    raise ValueError(
        f'ppo.score_rows={size} does not divide a batch of {batch} rows'
    )

  def split(x):
    # Every n-th row, so that a part has rows of every device.
    return jnp.moveaxis(x.reshape(size, -1, *x.shape[1:]), 1, 0)

  def join(parts):
    return jnp.moveaxis(parts, 0, 1).reshape(batch, *parts.shape[2:])

  return jax.tree.map(join, jax.lax.map(function, jax.tree.map(split, rows)))


def _rollout_metrics(experience, samples, scores, reference_BR) -> Metrics:
  mask_BR, log_probs_BR = experience.mask_BR, experience.log_probs_BR
  values_BR, returns_BR = experience.values_BR, experience.returns_BR
  gap_BR = jnp.where(mask_BR, log_probs_BR - samples.log_probs_BR, 0.0)
  return {
      'kl': adv.kl_per_response(log_probs_BR, reference_BR, mask_BR),
      'entropy': adv.entropy_of_samples(log_probs_BR, mask_BR),
      'score': jnp.mean(scores),
      'score_std': jnp.std(scores),
      'length': jnp.mean(jnp.sum(mask_BR, axis=1, dtype=jnp.float32)),
      'empty': jnp.mean(
          (samples.finished & (jnp.sum(mask_BR, axis=1) <= 1)).astype(
              jnp.float32
          )
      ),
      'finished': jnp.mean(samples.finished.astype(jnp.float32)),
      'advantage': masked_mean(experience.advantages_BR, mask_BR),
      'advantage_std': jnp.sqrt(masked_var(experience.advantages_BR, mask_BR)),
      'return': masked_mean(returns_BR, mask_BR),
      'return_std': jnp.sqrt(masked_var(returns_BR, mask_BR)),
      'explained_variance': adv.explained_variance(
          values_BR, returns_BR, mask_BR
      ),
      'sampler_gap': jnp.max(jnp.abs(gap_BR)),
  }


def minibatches(
    experience: Experience,
    key: jax.Array,
    *,
    count: int,
    micro_batches: int = 1,
    whiten_advantages: bool = True,
) -> list[Experience]:
  """Shuffles the rows of a batch and cuts them into equal minibatches.

  Advantages are whitened inside each minibatch, after the shuffle, as in
  OpenAI's code (detail 29), and before any split into micro-batches, so that
  accumulation does not change them.

  Args:
    experience: a batch; its size must be a multiple of count * micro_batches.
    key: of the shuffle.
    count: minibatches, one optimizer step each.
    micro_batches: above 1, each leaf gets this leading axis.
    whiten_advantages: False leaves them as they are.

  Returns:
    `count` experiences.
  """
  order = jax.random.permutation(key, experience.tokens_BT.shape[0])
  shuffled = jax.tree.map(
      lambda x: x[order].reshape(count, -1, *x.shape[1:]), experience
  )
  parts = []
  for index in range(count):
    part = jax.tree.map(lambda x, i=index: x[i], shuffled)
    if whiten_advantages:
      white_BR = whiten(part.advantages_BR, part.mask_BR)
      part = dataclasses.replace(part, advantages_BR=white_BR)
    part = split_batch(part, micro_batches)
    parts.append(sharding.constrain_rows(part, stacked=micro_batches > 1))
  return parts
