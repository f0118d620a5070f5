# SPDX-License-Identifier: Apache-2.0
"""Rewards and advantages against Python loops, closed forms, hand numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import advantages

# Jitted, because op by op every new shape compiles every op.
token_rewards = jax.jit(advantages.token_rewards)
kl_per_response = jax.jit(advantages.kl_per_response)
gae = jax.jit(advantages.gae)
explained_variance = jax.jit(advantages.explained_variance)


def _f32(x):
  return np.asarray(x, np.float32)


def _mask(lengths, r):
  return np.arange(r)[None] < np.asarray(lengths)[:, None]


# -- KL in the reward ---------------------------------------------------------


def test_reward_is_on_the_last_token_and_the_penalty_on_every_one():
  # Row 0 is three tokens, the third its EOS; row 1 an EOS alone; row 2 was cut:
  # five tokens and no EOS.
  mask_BR = _mask([3, 1, 5], 5)
  log_probs_BR = np.full((3, 5), -1.0, np.float32)
  # Log-ratios 0.5, -1, 2 (signed: the second *earns* reward), 1, and zeros.
  reference_BR = log_probs_BR.copy()
  reference_BR[0, :3] -= [0.5, -1.0, 2.0]
  reference_BR[1, 0] -= 1.0
  rewards_BR = token_rewards(
      _f32([10.0, -20.0, 30.0]), log_probs_BR, reference_BR, mask_BR, 0.1
  )
  want_BR = [
      [-0.05, 0.1, 10.0 - 0.2, 0, 0],
      [-20.0 - 0.1, 0, 0, 0, 0],
      [0, 0, 0, 0, 30.0],
  ]
  np.testing.assert_allclose(rewards_BR, want_BR, rtol=1e-6)


def test_padding_is_outside_of_the_reward():
  mask_BR = _mask([2, 4], 6)
  rng = np.random.default_rng(0)
  log_probs_BR, reference_BR = rng.normal(size=(2, 2, 6)).astype(np.float32)
  want_BR = token_rewards(
      np.ones(2, np.float32), log_probs_BR, reference_BR, mask_BR, 0.5
  )
  # Whatever the forward pass says about padding.
  poisoned_BR = np.where(mask_BR, log_probs_BR, np.nan)
  got_BR = token_rewards(
      np.ones(2, np.float32), poisoned_BR, reference_BR, mask_BR, 0.5
  )
  np.testing.assert_array_equal(got_BR, want_BR)
  np.testing.assert_array_equal(got_BR[~mask_BR], 0.0)


def test_a_row_without_tokens_earns_nothing():
  mask_BR = _mask([0, 2], 3)
  zeros_BR = np.zeros((2, 3), np.float32)
  rewards_BR = token_rewards(_f32([7.0, 7.0]), zeros_BR, zeros_BR, mask_BR, 0.1)
  np.testing.assert_array_equal(rewards_BR, [[0, 0, 0], [0, 7, 0]])


def test_the_total_reward_is_the_score_minus_beta_kl():
  rng = np.random.default_rng(1)
  mask_BR = _mask([1, 4, 6], 6)
  scores = rng.normal(size=3).astype(np.float32)
  log_probs_BR, reference_BR = rng.normal(size=(2, 3, 6)).astype(np.float32)
  rewards_BR = token_rewards(scores, log_probs_BR, reference_BR, mask_BR, 0.02)
  kl = np.sum(np.where(mask_BR, log_probs_BR - reference_BR, 0), axis=1)
  np.testing.assert_allclose(
      rewards_BR.sum(axis=1), scores - 0.02 * kl, rtol=1e-5
  )
  np.testing.assert_allclose(
      kl_per_response(log_probs_BR, reference_BR, mask_BR),
      kl.mean(),
      rtol=1e-5,
  )


def test_kl_is_zero_against_oneself():
  mask_BR = _mask([2, 3], 4)
  log_probs_BR = np.random.default_rng(0).normal(size=(2, 4))
  log_probs_BR = log_probs_BR.astype(np.float32)
  kl = kl_per_response(log_probs_BR, log_probs_BR, mask_BR)
  assert kl == 0.0
  rewards_BR = token_rewards(
      _f32([1.0, 2.0]), log_probs_BR, log_probs_BR, mask_BR, 0.1
  )
  np.testing.assert_array_equal(rewards_BR, [[0, 1, 0, 0], [0, 0, 2, 0]])


def test_k1_estimates_the_kl_divergence():
  # Two categorical distributions; the mean of log p(x) - log q(x) over x ~ p
  # is sum p log(p / q) = 0.5 ln 2 + 0.25 ln 0.5 + 0.25 ln 1 = 0.25 ln 2.
  p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
  want = 0.25 * np.log(2)
  n = 20_000
  x = np.random.default_rng(0).choice(3, (n, 1), p=p)
  kl = kl_per_response(
      _f32(np.log(p)[x]), _f32(np.log(q)[x]), np.ones((n, 1), bool)
  )
  # Var[log p/q] = 0.75 (ln 2)^2 - want^2; four standard errors.
  error = np.sqrt((0.75 * np.log(2) ** 2 - want**2) / n)
  assert abs(kl - want) < 4 * error


def test_entropy_of_samples():
  log_probs_BR = _f32([[-1.0, -2.0, -9.0], [-6.0, -9.0, -9.0]])
  mask_BR = _mask([2, 1], 3)
  # (1 + 2 + 6) / 3 tokens.
  assert advantages.entropy_of_samples(log_probs_BR, mask_BR) == 3.0


# -- GAE ----------------------------------------------------------------------


def _episode(seed, lengths=(1, 3, 6, 6), r=6):
  rng = np.random.default_rng(seed)
  mask_BR = _mask(lengths, r)
  rewards_BR, values_BR = rng.normal(size=(2, len(lengths), r))
  rewards_BR = np.where(mask_BR, rewards_BR, 0).astype(np.float32)
  # Values of padding are whatever the network says there.
  return rewards_BR, values_BR.astype(np.float32), mask_BR


def _gae_loop(rewards_BR, values_BR, mask_BR, gamma, lam):
  """Each row on its own, cut to its length: there is no padding to mask."""
  advantages_BR = np.zeros(rewards_BR.shape)
  returns_BR = np.zeros(rewards_BR.shape)
  for b, length in enumerate(mask_BR.sum(axis=1)):
    following = 0.0
    for t in reversed(range(length)):
      next_value = float(values_BR[b, t + 1]) if t + 1 < length else 0.0
      delta = rewards_BR[b, t] + gamma * next_value - values_BR[b, t]
      following = delta + gamma * lam * following
      advantages_BR[b, t] = following
      returns_BR[b, t] = following + values_BR[b, t]
  return advantages_BR, returns_BR


@pytest.mark.parametrize('gamma', [1.0, 0.9])
@pytest.mark.parametrize('lam', [0.0, 0.5, 0.95, 1.0])
def test_gae_equals_the_loop(gamma, lam):
  episode = _episode(0)
  got = gae(*episode, gamma=gamma, lam=lam)
  want = _gae_loop(*episode, gamma, lam)
  for got_BR, want_BR in zip(got, want, strict=True):
    assert got_BR.dtype == jnp.float32
    np.testing.assert_allclose(got_BR, want_BR, rtol=1e-5, atol=1e-6)


def test_gae_defaults_to_no_discount():
  episode = _episode(1)
  for got_BR, want_BR in zip(
      gae(*episode), _gae_loop(*episode, 1.0, 0.95), strict=True
  ):
    np.testing.assert_allclose(got_BR, want_BR, rtol=1e-5, atol=1e-6)


def test_gae_at_lambda_one_is_reward_to_go_minus_value():
  rewards_BR, values_BR, mask_BR = _episode(2)
  advantages_BR, returns_BR = gae(rewards_BR, values_BR, mask_BR, lam=1.0)
  to_go_BR = np.cumsum(rewards_BR[:, ::-1], axis=1)[:, ::-1] * mask_BR
  np.testing.assert_allclose(returns_BR, to_go_BR, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      advantages_BR, (to_go_BR - values_BR) * mask_BR, rtol=1e-5, atol=1e-6
  )


def test_gae_at_lambda_zero_is_the_temporal_difference():
  # One row: rewards 0, 0, 4; values 1, 3, 2. Deltas 3 - 1, 2 - 3, 4 - 2.
  advantages_BR, returns_BR = gae(
      _f32([[0.0, 0.0, 4.0, 0.0]]),
      _f32([[1.0, 3.0, 2.0, 50.0]]),
      _mask([3], 4),
      lam=0.0,
  )
  np.testing.assert_array_equal(advantages_BR, [[2, -1, 2, 0]])
  np.testing.assert_array_equal(returns_BR, [[3, 2, 4, 0]])


def test_gae_of_a_perfect_critic_is_zero():
  # The score is known from the first token on, and so are the values.
  rewards_BR = _f32([[0.0, 0.0, 5.0], [-2.0, 0.0, 0.0]])
  values_BR = _f32([[5.0, 5.0, 5.0], [-2.0, 9.0, 9.0]])
  mask_BR = _mask([3, 1], 3)
  advantages_BR, returns_BR = gae(rewards_BR, values_BR, mask_BR)
  np.testing.assert_array_equal(advantages_BR, np.zeros((2, 3)))
  np.testing.assert_array_equal(returns_BR, [[5, 5, 5], [-2, 0, 0]])


@pytest.mark.parametrize('bad', [1e30, np.nan])
def test_gae_ignores_padding(bad):
  rewards_BR, values_BR, mask_BR = _episode(3)
  want = gae(rewards_BR, values_BR, mask_BR)
  got = gae(
      np.where(mask_BR, rewards_BR, bad),
      np.where(mask_BR, values_BR, bad),
      mask_BR,
  )
  for got_BR, want_BR in zip(got, want, strict=True):
    np.testing.assert_array_equal(got_BR, want_BR)
    np.testing.assert_array_equal(got_BR[~mask_BR], 0.0)


def test_amount_of_padding_changes_nothing():
  rewards_BR, values_BR, mask_BR = _episode(4, lengths=(1, 3))
  for got_BR, want_BR in zip(
      gae(rewards_BR[:, :3], values_BR[:, :3], mask_BR[:, :3]),
      gae(rewards_BR, values_BR, mask_BR),
      strict=True,
  ):
    np.testing.assert_array_equal(got_BR, want_BR[:, :3])


# -- What goes with them ------------------------------------------------------


def test_explained_variance():
  returns_BR = _f32([[0.0, 2.0, 99.0], [4.0, 6.0, -99.0]])
  mask_BR = _mask([2, 2], 3)
  assert explained_variance(returns_BR, returns_BR, mask_BR) == 1.0
  # A constant explains nothing, nor does an offset take anything away.
  assert explained_variance(_f32(np.zeros((2, 3))), returns_BR, mask_BR) == 0.0
  assert explained_variance(returns_BR + 7.0, returns_BR, mask_BR) == 1.0
  # Half of it: residuals are half as large, their variance a quarter.
  assert explained_variance(returns_BR / 2, returns_BR, mask_BR) == 0.75
  # Worse than a constant.
  assert explained_variance(-returns_BR, returns_BR, mask_BR) == -3.0


def test_missing_eos_replaces_the_score():
  scores = _f32([3.0, -4.0, 0.5])
  finished = np.array([True, False, False])
  # Replaced, not subtracted: -4 and 0.5 both become -1.
  np.testing.assert_array_equal(
      advantages.missing_eos_scores(scores, finished, -1.0), [3.0, -1.0, -1.0]
  )
  np.testing.assert_array_equal(
      advantages.missing_eos_scores(scores, finished, 0.0), [3.0, 0.0, 0.0]
  )
  np.testing.assert_array_equal(
      advantages.missing_eos_scores(scores, finished, None), scores
  )


@pytest.mark.parametrize(
    'kl, want',
    [
        # 6.6 / 6 - 1 = 0.1; 0.1 * 512 / 10,000 = 0.00512.
        (6.6, 0.15 * 1.00512),
        (6.0, 0.15),
        (5.4, 0.15 * (1 - 0.00512)),
        # An error over 20 % either way counts as 20 %.
        (60.0, 0.15 * 1.01024),
        (0.0, 0.15 * (1 - 0.01024)),
        (-3.0, 0.15 * (1 - 0.01024)),
    ],
)
def test_adaptive_kl(kl, want):
  # Numbers of Ziegler et al. 2019: target 6 nats, horizon 10,000 episodes.
  controller = advantages.AdaptiveKL(target=6.0, horizon=10_000.0)
  got = controller(jnp.float32(0.15), jnp.float32(kl), 512)
  np.testing.assert_allclose(got, want, rtol=1e-6)
