# SPDX-License-Identifier: Apache-2.0
"""The four losses of the paper, as functions of arrays.

None of them sees a model, parameters or a config. Each returns the scalar to
minimise and metrics; the metric 'weight' is the number of things the mean is
over (tokens, or prompts), by which gradient accumulation weighs micro-batches.
"""

import jax
import jax.numpy as jnp

from rlhf.dims import Metrics
from rlhf.masking import masked_mean, masked_sum


def token_log_probs(
    logits_BTV: jax.Array, tokens_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each token under its own logits.

  Args:
    logits_BTV: float, any scale; position t must predict `tokens_BT[:, t]`
      (the caller shifts).
    tokens_BT: int, the tokens to score.

  Returns:
    log_probs_BT in nats, f32, and hits_BT: bool, no token is likelier.
  """
  logits_BTV = logits_BTV.astype(jnp.float32)
  ids_BTV = jax.lax.broadcasted_iota(
      jnp.int32, logits_BTV.shape, logits_BTV.ndim - 1
  )
  # A sum over a mask and not a gather: where V is split over devices each adds
  # what it has, and the gradient is no scatter.
  picked_BT = jnp.sum(
      logits_BTV, axis=-1, where=ids_BTV == tokens_BT[..., None]
  )
  log_probs_BT = picked_BT - jax.nn.logsumexp(logits_BTV, axis=-1)
  return log_probs_BT, picked_BT >= jnp.max(logits_BTV, axis=-1)


def next_tokens(tokens_BT: jax.Array) -> jax.Array:
  """What position t has to predict: the token at t + 1 (the last wraps).

  Rolling and masking the last position, instead of cutting `logits[:, :-1]`,
  keeps the big array whole: cutting it costs a copy of it, forth and back.
  """
  return jnp.roll(tokens_BT, -1, axis=1)


def language_loss(
    log_probs_BT: jax.Array, hits_BT: jax.Array, loss_mask_BT: jax.Array
) -> tuple[jax.Array, Metrics]:
  """Masked next-token cross-entropy: of pretraining, SFT and the ptx term.

    loss = - sum_t m_t log p(x_t | x_<t) / sum_t m_t

  Ouyang et al. 2022, section 3.4 (SFT; the last term of equation 2).

  Args:
    log_probs_BT: float, at position t the log-probability of token t + 1
      (`likelihood.log_probs_of` the `next_tokens`), nats.
    hits_BT: bool, whether that token is the most likely one.
    loss_mask_BT: bool, unshifted: True where *this token* is a target. The
      first token of a row can't be one: nothing precedes it.

  Returns:
    Loss in nats per target token, f32 scalar, and metrics: 'loss', 'accuracy'
    (fraction of targets that are the most likely token), 'weight' (targets).
  """
  mask_BT = next_tokens(loss_mask_BT).at[:, -1].set(False)
  loss = -masked_mean(log_probs_BT, mask_BT)
  return loss, {
      'loss': loss,
      'accuracy': masked_mean(hits_BT, mask_BT),
      'weight': jnp.sum(mask_BT, dtype=jnp.float32),
  }


def pairwise_ranking_loss(
    rewards_BK: jax.Array, ranks_BK: jax.Array, mask_BK: jax.Array
) -> tuple[jax.Array, Metrics]:
  """Mean negative log-likelihood of the labelled order of K responses.

    loss = E_b [ 1/|P_b| * sum_{(i,j) in P_b} -log sigmoid(r_i - r_j) ]

  P_b holds every ordered pair of prompt b in which i is strictly preferred to
  j: K-choose-2 pairs when there are no ties, fewer with ties or padding. Each
  *prompt* weighs the same whatever its K, because its pairs are correlated and
  are seen in one gradient step. Ouyang et al. 2022, section 3.4, equation 1.

  Args:
    rewards_BK: float, scalar reward of each response (arbitrary zero point).
    ranks_BK: int, labeler's rank, lower is better; equal ranks are ties.
    mask_BK: bool, False where there is no response.

  Returns:
    Loss in nats per comparison (ln 2 at chance), f32 scalar, and metrics:
    'accuracy' is the fraction of comparisons ordered correctly, 'pairs' their
    number, 'margin' the mean r_i - r_j, 'weight' the prompts that have one.
  """
  # win_BKK[b, i, j]: response i strictly preferred to response j, both real.
  win_BKK = ranks_BK[:, :, None] < ranks_BK[:, None, :]
  win_BKK &= mask_BK[:, :, None] & mask_BK[:, None, :]
  rewards_BK = rewards_BK.astype(jnp.float32)
  margin_BKK = rewards_BK[:, :, None] - rewards_BK[:, None, :]

  pairs_B = jnp.sum(win_BKK, axis=(1, 2), dtype=jnp.float32)
  nll_B = jnp.sum(-jax.nn.log_sigmoid(margin_BKK), axis=(1, 2), where=win_BKK)
  prompts = jnp.sum(pairs_B > 0, dtype=jnp.float32)
  loss = jnp.sum(nll_B / jnp.maximum(pairs_B, 1.0)) / jnp.maximum(prompts, 1.0)
  return loss, {
      'loss': loss,
      'accuracy': masked_mean(margin_BKK > 0, win_BKK),
      'margin': masked_mean(margin_BKK, win_BKK),
      'pairs': jnp.sum(pairs_B),
      'weight': prompts,
  }


def clipped_policy_loss(
    log_probs_BR: jax.Array,
    old_log_probs_BR: jax.Array,
    advantages_BR: jax.Array,
    mask_BR: jax.Array,
    *,
    clip: float,
) -> tuple[jax.Array, Metrics]:
  """PPO's clipped surrogate, to be minimised.

    loss = E_t max( -A_t rho_t, -A_t clip(rho_t, 1 - clip, 1 + clip) ),
    rho_t = pi(a_t | s_t) / pi_old(a_t | s_t)

  Schulman et al. 2017, equation 7; mean over the response tokens of the whole
  minibatch, not of each row.

  Args:
    log_probs_BR: float, of the policy that is trained.
    old_log_probs_BR: float, of the policy that sampled.
    advantages_BR: float, already whitened if it is to be.
    mask_BR: bool, response tokens, the EOS included.
    clip: the paper's 0.2.

  Returns:
    Loss (a mean advantage, so no unit), f32 scalar, and metrics: 'ratio' (mean
    of rho), 'clip_fraction', 'approx_kl' (k2: mean of log(rho)^2 / 2, nats per
    token), 'weight' (tokens).
  """
  # Outside the mask the difference is set to 0, so rho is 1 and can't overflow.
  log_ratio_BR = jnp.where(mask_BR, log_probs_BR - old_log_probs_BR, 0.0)
  ratio_BR = jnp.exp(log_ratio_BR)
  clipped_BR = jnp.clip(ratio_BR, 1.0 - clip, 1.0 + clip)
  plain_BR = -advantages_BR * ratio_BR
  limited_BR = -advantages_BR * clipped_BR
  loss = masked_mean(jnp.maximum(plain_BR, limited_BR), mask_BR)
  return loss, {
      'loss': loss,
      'ratio': masked_mean(ratio_BR, mask_BR),
      'clip_fraction': masked_mean(limited_BR > plain_BR, mask_BR),
      'approx_kl': 0.5 * masked_mean(jnp.square(log_ratio_BR), mask_BR),
      'weight': jnp.sum(mask_BR, dtype=jnp.float32),
  }


def clipped_value_loss(
    values_BR: jax.Array,
    old_values_BR: jax.Array,
    returns_BR: jax.Array,
    mask_BR: jax.Array,
    *,
    clip: float,
) -> tuple[jax.Array, Metrics]:
  """Half the squared error of the value function, clipped around the old one.

    loss = E_t 1/2 max( (v_t - G_t)^2, (v_old + clip(v_t - v_old) - G_t)^2 )

  As in OpenAI's `lm-human-preferences`, `train_policy.py`.

  Args:
    values_BR: float, value of the state before each response token.
    old_values_BR: float, the same at rollout time.
    returns_BR: float, GAE returns.
    mask_BR: bool, response tokens, the EOS included.
    clip: how far a value may move before its gradient stops, in reward units.

  Returns:
    Loss in squared reward units, f32 scalar, and metrics: 'clip_fraction',
    'error' (root mean squared error), 'weight' (tokens).
  """
  near_BR = old_values_BR + jnp.clip(values_BR - old_values_BR, -clip, clip)
  plain_BR = jnp.square(values_BR - returns_BR)
  limited_BR = jnp.square(near_BR - returns_BR)
  loss = 0.5 * masked_mean(jnp.maximum(plain_BR, limited_BR), mask_BR)
  return loss, {
      'loss': loss,
      'clip_fraction': masked_mean(limited_BR > plain_BR, mask_BR),
      'error': jnp.sqrt(masked_mean(plain_BR, mask_BR)),
      'weight': jnp.sum(mask_BR, dtype=jnp.float32),
  }


def sequence_log_prob(log_probs_BR: jax.Array, mask_BR: jax.Array) -> jax.Array:
  """Log-probability of each whole response, nats, f32 [B]."""
  return jax.vmap(masked_sum)(log_probs_BR, mask_BR)
