# SPDX-License-Identifier: Apache-2.0
"""From one score a response to an advantage a token.

The environment is a bandit: the reward model speaks once, at the end. The KL
penalty against the SFT policy is paid token by token, and GAE (gamma = 1)
spreads both over the response. Ouyang et al. 2022, section 3.4.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rlhf.masking import last_index, masked_mean, masked_var


def token_rewards(
    scores: jax.Array,
    log_probs_BR: jax.Array,
    reference_log_probs_BR: jax.Array,
    mask_BR: jax.Array,
    kl_coefficient: jax.Array | float,
) -> jax.Array:
  """Per-token reward: the KL penalty everywhere, the score on the last token.

    r_t = -beta (log pi(a_t|s_t) - log pi_SFT(a_t|s_t)) + [t is last] score

  The penalty is the signed log-ratio (k1), not clipped at 0: its mean over
  samples of pi is the KL divergence, and its gradient through the reward is
  the KL's. Ouyang et al. 2022, equation 2.

  Args:
    scores: float [B], reward model's score of each whole response.
    log_probs_BR: float, of the policy that sampled, nats.
    reference_log_probs_BR: float, of the SFT policy, nats.
    mask_BR: bool, response tokens up to and including the EOS.
    kl_coefficient: beta.

  Returns:
    rewards_BR, f32; 0 outside the mask.
  """
  kl_BR = jnp.where(mask_BR, log_probs_BR - reference_log_probs_BR, 0.0)
  rewards_BR = -kl_coefficient * kl_BR.astype(jnp.float32)
  rows = jnp.arange(scores.shape[0])
  earned = jnp.where(jnp.any(mask_BR, axis=1), scores, 0.0)
  return rewards_BR.at[rows, last_index(mask_BR)].add(earned)


def gae(
    rewards_BR: jax.Array,
    values_BR: jax.Array,
    mask_BR: jax.Array,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimation over the tokens of a response.

    delta_t = r_t + gamma v_{t+1} - v_t,   v after the last token = 0
    A_t = delta_t + gamma lam A_{t+1},     G_t = A_t + v_t

  Schulman et al. 2016, equation 16. The paper uses gamma = 1 (appendix C.4).

  Args:
    rewards_BR: float, 0 outside the mask.
    values_BR: float, value of the state *before* each response token.
    mask_BR: bool, response tokens, contiguous from the first.
    gamma: discount.
    lam: the bias/variance trade-off; not printed in the paper, 0.95 is ours.

  Returns:
    advantages_BR and returns_BR, f32, 0 outside the mask; advantages are not
    whitened yet.
  """
  rewards_BR = jnp.where(mask_BR, rewards_BR, 0.0).astype(jnp.float32)
  values_BR = jnp.where(mask_BR, values_BR, 0.0).astype(jnp.float32)
  next_values_BR = jnp.pad(values_BR[:, 1:], ((0, 0), (0, 1)))
  deltas_BR = rewards_BR + gamma * next_values_BR - values_BR

  def backwards(advantage, delta):
    advantage = delta + gamma * lam * advantage
    return advantage, advantage

  start = jnp.zeros(deltas_BR.shape[0], jnp.float32)
  _, advantages_RB = jax.lax.scan(backwards, start, deltas_BR.T, reverse=True)
  advantages_BR = jnp.where(mask_BR, advantages_RB.T, 0.0)
  return advantages_BR, jnp.where(mask_BR, advantages_BR + values_BR, 0.0)


def explained_variance(
    values_BR: jax.Array, returns_BR: jax.Array, mask_BR: jax.Array
) -> jax.Array:
  """1 - Var[G - v] / Var[G] over response tokens; 1 is a perfect critic."""
  residual = masked_var(returns_BR - values_BR, mask_BR)
  return 1.0 - residual / jnp.maximum(masked_var(returns_BR, mask_BR), 1e-8)


def missing_eos_scores(
    scores: jax.Array, finished: jax.Array, penalty: float | None
) -> jax.Array:
  """Scores with those of unfinished responses *replaced* by `penalty`.

  Replaced, not shifted: an unfinished response is worth the same whatever it
  says (Stiennon et al. 2020; detail 25 in docs/details.md). Not in the paper:
  `None`, the default of every config of ours at paper scale, changes nothing.

  Args:
    scores: float [B].
    finished: bool [B], the response holds a stop token.
    penalty: reward units, or None.

  Returns:
    float [B].
  """
  return scores if penalty is None else jnp.where(finished, scores, penalty)


@dataclasses.dataclass(frozen=True)
class AdaptiveKL:
  """Controller of beta towards a target KL (Ziegler et al. 2019, eq. 4).

  InstructGPT holds beta fixed; this is the option of its predecessor.

  Attributes:
    target: KL per response to steer to, nats.
    horizon: episodes over which an error of 100 % moves beta by 100 %.
  """

  target: float
  horizon: float

  def __call__(
      self, beta: jax.Array, kl: jax.Array, episodes: int
  ) -> jax.Array:
    """Next beta from the mean KL per response (nats) of `episodes`."""
    error = jnp.clip(kl / self.target - 1.0, -0.2, 0.2)
    return beta * (1.0 + error * episodes / self.horizon)


def kl_per_response(
    log_probs_BR: jax.Array,
    reference_log_probs_BR: jax.Array,
    mask_BR: jax.Array,
) -> jax.Array:
  """Mean over responses of the summed log-ratio (k1), nats, scalar."""
  kl_BR = jnp.where(mask_BR, log_probs_BR - reference_log_probs_BR, 0.0)
  return jnp.mean(jnp.sum(kl_BR, axis=1))


def entropy_of_samples(
    log_probs_BR: jax.Array, mask_BR: jax.Array
) -> jax.Array:
  """Monte-Carlo entropy: mean of -log pi over sampled tokens, nats/token."""
  return -masked_mean(log_probs_BR, mask_BR)
