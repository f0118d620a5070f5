# SPDX-License-Identifier: Apache-2.0
"""The losses against double loops in numpy and numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import losses

LN2 = np.log(2.0)

# Jitted once, because op by op every new shape compiles every op.
scored = jax.jit(losses.token_log_probs)
ranking_loss = jax.jit(losses.pairwise_ranking_loss)
policy_loss = jax.jit(functools.partial(losses.clipped_policy_loss, clip=0.2))
value_loss = jax.jit(functools.partial(losses.clipped_value_loss, clip=0.2))


@jax.jit
def language_loss(logits_BTV, tokens_BT, mask_BT):
  """From logits, so that a wrong shift would show."""
  scores = losses.token_log_probs(logits_BTV, losses.next_tokens(tokens_BT))
  return losses.language_loss(*scores, mask_BT)


def token_log_probs(logits_BTV, tokens_BT):
  return scored(logits_BTV, tokens_BT)[0]


def _f32(x):
  return np.asarray(x, np.float32)


def _with_gradient(loss_fn):
  """`((loss, metrics), gradient with respect to the first argument)`."""
  return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))


language_grad = _with_gradient(language_loss)
ranking_grad = _with_gradient(ranking_loss)
policy_grad = _with_gradient(policy_loss)
value_grad = _with_gradient(value_loss)


def _softplus(x):
  """-log sigmoid(-x), in numpy."""
  return np.logaddexp(0.0, x)


# -- Token log-probabilities and the language loss ----------------------------


def _log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def _text(seed, b=3, t=6, v=7):
  rng = np.random.default_rng(seed)
  logits_BTV = rng.normal(size=(b, t, v)).astype(np.float32)
  tokens_BT = rng.integers(0, v, (b, t)).astype(np.int32)
  return logits_BTV, tokens_BT, rng.random((b, t)) < 0.6


def test_token_log_probs_are_the_picked_log_softmax():
  logits_BTV, tokens_BT, _ = _text(0)
  got_BT = np.asarray(token_log_probs(logits_BTV, tokens_BT))
  want_BTV = _log_softmax(logits_BTV)
  for b, t in np.ndindex(tokens_BT.shape):
    np.testing.assert_allclose(
        got_BT[b, t], want_BTV[b, t, tokens_BT[b, t]], rtol=1e-5
    )


def test_token_log_probs_are_f32_and_invariant_to_the_scale():
  logits_BTV, tokens_BT, _ = _text(1)
  got_BT = token_log_probs(logits_BTV.astype(jnp.bfloat16), tokens_BT)
  assert got_BT.dtype == jnp.float32
  np.testing.assert_allclose(
      token_log_probs(logits_BTV + 500.0, tokens_BT),
      token_log_probs(logits_BTV, tokens_BT),
      atol=1e-4,
  )


def test_a_token_is_hit_where_none_is_likelier():
  logits_BTV, tokens_BT, _ = _text(2, b=5, t=40)
  logits_BTV[0, 0] = 1.0  # All are the likeliest.
  _, hits_BT = scored(logits_BTV, tokens_BT)
  assert hits_BT.dtype == bool and hits_BT[0, 0]
  # Elsewhere no two are equal, so the likeliest is that of argmax.
  want_BT = np.argmax(logits_BTV, axis=-1) == tokens_BT
  assert 0 < want_BT[1:].sum() < want_BT[1:].size
  np.testing.assert_array_equal(hits_BT[1:], want_BT[1:])


def test_token_log_probs_gradient_is_onehot_minus_softmax():
  logits_BTV, tokens_BT, _ = _text(3)

  @jax.jit
  @jax.grad
  def gradient(logits_BTV):
    return jnp.sum(losses.token_log_probs(logits_BTV, tokens_BT)[0])

  grad_BTV = gradient(logits_BTV)
  want_BTV = np.eye(7)[tokens_BT] - np.exp(_log_softmax(logits_BTV))
  np.testing.assert_allclose(grad_BTV, want_BTV, atol=1e-6)


def _language_loop(logits_BTV, tokens_BT, mask_BT):
  log_probs_BTV = _log_softmax(logits_BTV)
  total, hits, count = 0.0, 0, 0
  for b in range(tokens_BT.shape[0]):
    for t in range(1, tokens_BT.shape[1]):  # Nothing precedes the first.
      if mask_BT[b, t]:
        total -= log_probs_BTV[b, t - 1, tokens_BT[b, t]]
        hits += np.argmax(log_probs_BTV[b, t - 1]) == tokens_BT[b, t]
        count += 1
  return total / count, hits / count, count


@pytest.mark.parametrize('seed', range(4))
def test_language_loss_equals_the_loop(seed):
  logits_BTV, tokens_BT, mask_BT = _text(seed)
  loss, metrics = language_loss(logits_BTV, tokens_BT, mask_BT)
  want, accuracy, count = _language_loop(logits_BTV, tokens_BT, mask_BT)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(metrics['accuracy'], accuracy, rtol=1e-6)
  assert metrics['loss'] == loss
  assert metrics['weight'] == count


def test_language_loss_of_uniform_logits_is_log_v():
  _, tokens_BT, mask_BT = _text(0)
  loss, _ = language_loss(_f32(np.zeros((3, 6, 7))), tokens_BT, mask_BT)
  np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)


def test_the_first_token_is_never_a_target():
  logits_BTV, tokens_BT, mask_BT = _text(2)
  asked_BT, not_asked_BT = mask_BT.copy(), mask_BT.copy()
  asked_BT[:, 0], not_asked_BT[:, 0] = True, False
  loss, metrics = language_loss(logits_BTV, tokens_BT, asked_BT)
  want, wanted = language_loss(logits_BTV, tokens_BT, not_asked_BT)
  assert loss == want
  assert metrics['weight'] == wanted['weight'] == not_asked_BT.sum()


def test_language_gradient_is_zero_where_nothing_is_predicted():
  logits_BTV, tokens_BT, mask_BT = _text(3)
  _, grad_BTV = language_grad(logits_BTV, tokens_BT, mask_BT)
  grad_BTV = np.asarray(grad_BTV)
  # Position t predicts t + 1; the last predicts nothing.
  predicts_BT = np.append(mask_BT[:, 1:], np.zeros((3, 1), bool), axis=1)
  np.testing.assert_array_equal(grad_BTV[~predicts_BT], 0.0)
  # softmax - onehot over the number of targets elsewhere.
  count = mask_BT[:, 1:].sum()
  for b, t in np.argwhere(predicts_BT):
    want = np.exp(_log_softmax(logits_BTV[b, t]))
    want[tokens_BT[b, t + 1]] -= 1.0
    np.testing.assert_allclose(grad_BTV[b, t], want / count, atol=1e-6)


def test_language_loss_without_targets_is_zero():
  logits_BTV, tokens_BT, mask_BT = _text(0)
  loss, metrics = language_loss(logits_BTV, tokens_BT, np.zeros_like(mask_BT))
  assert loss == 0.0
  assert metrics['weight'] == 0.0


# -- Pairwise ranking ---------------------------------------------------------


def _rankings(k, seed=0, prompts=5, width=9):
  """Prompts of up to k responses with ties, padded to `width`."""
  rng = np.random.default_rng([k, seed])
  rewards_BK = rng.normal(size=(prompts, width)).astype(np.float32)
  # Ranks from fewer levels than responses make ties.
  ranks_BK = rng.integers(1, max(2, k - 1) + 1, (prompts, width))
  real = rng.integers(2, k + 1, prompts)
  real[0] = k  # One prompt at least has all of them.
  ranks_BK[0, :2] = 1, 2  # And a strict preference.
  mask_BK = np.arange(width)[None] < real[:, None]
  # Padding holds what would be the most visible if it were read.
  rewards_BK = np.where(mask_BK, rewards_BK, 50.0).astype(np.float32)
  ranks_BK = np.where(mask_BK, ranks_BK, 0).astype(np.int32)
  return rewards_BK, ranks_BK, mask_BK


def _pairs(ranks, mask):
  """Explicit list of (preferred, other)."""
  real = np.flatnonzero(mask)
  return [(i, j) for i in real for j in real if ranks[i] < ranks[j]]


def _ranking_loop(rewards_BK, ranks_BK, mask_BK):
  by_prompt, right, count = [], 0, 0
  for rewards, ranks, mask in zip(rewards_BK, ranks_BK, mask_BK, strict=True):
    pairs = _pairs(ranks, mask)
    if not pairs:
      continue
    margins = [float(rewards[i]) - float(rewards[j]) for i, j in pairs]
    by_prompt.append(np.mean([_softplus(-margin) for margin in margins]))
    right += sum(margin > 0 for margin in margins)
    count += len(pairs)
  return np.mean(by_prompt), right / count, count, len(by_prompt)


@pytest.mark.parametrize('k', range(2, 10))
@pytest.mark.parametrize('width', [9, 12])
def test_ranking_loss_equals_the_double_loop(k, width):
  batch = _rankings(k, width=width)
  loss, metrics = ranking_loss(*batch)
  want, accuracy, pairs, prompts = _ranking_loop(*batch)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(metrics['accuracy'], accuracy, rtol=1e-5)
  assert metrics['loss'] == loss
  assert metrics['weight'] == prompts
  assert metrics['pairs'] == pairs


@pytest.mark.parametrize('k', range(2, 10))
def test_ranking_gradient_equals_that_of_explicit_pairs(k):
  rewards_BK, ranks_BK, mask_BK = _rankings(k, seed=1)
  # d/dr_i of softplus(r_j - r_i) is -sigmoid(r_j - r_i), and its negative for
  # r_j: pair by pair, over the pairs of the prompt and the prompts.
  want_BK = np.zeros(rewards_BK.shape)
  *_, prompts = _ranking_loop(rewards_BK, ranks_BK, mask_BK)
  for b, rewards in enumerate(rewards_BK.astype(np.float64)):
    pairs = _pairs(ranks_BK[b], mask_BK[b])
    for i, j in pairs:
      slope = 1.0 / (1.0 + np.exp(rewards[i] - rewards[j]))
      want_BK[b, i] -= slope / len(pairs) / prompts
      want_BK[b, j] += slope / len(pairs) / prompts
  _, got_BK = ranking_grad(rewards_BK, ranks_BK, mask_BK)
  got_BK = np.asarray(got_BK)
  np.testing.assert_allclose(got_BK, want_BK, atol=1e-6)
  np.testing.assert_array_equal(got_BK[~mask_BK], 0.0)


def test_ranking_gradient_equals_finite_differences():
  rewards_BK, ranks_BK, mask_BK = _rankings(4, seed=2, prompts=2)
  _, got_BK = ranking_grad(rewards_BK, ranks_BK, mask_BK)
  got_BK = np.asarray(got_BK)
  for b, k in np.argwhere(mask_BK):
    up_BK, down_BK = rewards_BK.astype(float), rewards_BK.astype(float)
    up_BK[b, k] += 1e-4
    down_BK[b, k] -= 1e-4
    # Differences of the double loop, in f64.
    want = _ranking_loop(up_BK, ranks_BK, mask_BK)[0]
    want -= _ranking_loop(down_BK, ranks_BK, mask_BK)[0]
    np.testing.assert_allclose(got_BK[b, k], want / 2e-4, atol=1e-6)


def test_ranking_loss_by_hand():
  # Ranks 1 < 2 = 2 < 3: pairs (a, b), (a, c), (a, d), (b, d), (c, d); b and c
  # tie. Margins 1, 2, 3, 2, 1.
  rewards_BK = _f32([[3, 2, 1, 0]])
  ranks_BK = np.array([[1, 2, 2, 3]])
  mask_BK = np.ones((1, 4), bool)
  loss, metrics = ranking_loss(rewards_BK, ranks_BK, mask_BK)
  want = (2 * _softplus(-1) + 2 * _softplus(-2) + _softplus(-3)) / 5
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  np.testing.assert_allclose(metrics['margin'], (1 + 2 + 3 + 2 + 1) / 5)
  assert metrics['accuracy'] == 1.0
  assert metrics['pairs'] == 5
  # Labelled the other way round: the mirror image, everything wrong.
  loss, metrics = ranking_loss(-rewards_BK, ranks_BK, mask_BK)
  want = (2 * _softplus(1) + 2 * _softplus(2) + _softplus(3)) / 5
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  assert metrics['accuracy'] == 0.0


@pytest.mark.parametrize('k', [2, 5, 9])
def test_ranking_loss_is_ln_2_at_equal_rewards(k):
  _, ranks_BK, mask_BK = _rankings(k)
  rewards_BK = np.full(mask_BK.shape, 0.7, np.float32)
  loss, metrics = ranking_loss(rewards_BK, ranks_BK, mask_BK)
  np.testing.assert_allclose(loss, LN2, rtol=1e-6)
  assert metrics['accuracy'] == 0.0  # Equal is not right.


def test_ranking_loss_is_invariant_to_a_shift_of_each_prompt():
  rewards_BK, ranks_BK, mask_BK = _rankings(6)
  shift_B1 = np.linspace(-3, 3, len(rewards_BK), dtype=np.float32)[:, None]
  np.testing.assert_allclose(
      ranking_loss(rewards_BK + shift_B1, ranks_BK, mask_BK)[0],
      ranking_loss(rewards_BK, ranks_BK, mask_BK)[0],
      rtol=1e-5,
  )


def test_ranking_loss_is_invariant_to_the_order_of_responses_and_prompts():
  batch = _rankings(7)
  rng = np.random.default_rng(0)
  columns, rows = rng.permutation(9), rng.permutation(5)
  np.testing.assert_allclose(
      ranking_loss(*(x[rows][:, columns] for x in batch))[0],
      ranking_loss(*batch)[0],
      rtol=1e-6,
  )


def test_ranking_loss_reads_the_order_of_ranks_only():
  rewards_BK, ranks_BK, mask_BK = _rankings(5)
  np.testing.assert_array_equal(
      ranking_loss(rewards_BK, 10 * ranks_BK - 3, mask_BK)[0],
      ranking_loss(rewards_BK, ranks_BK, mask_BK)[0],
  )


@pytest.mark.parametrize('empty', ['tied', 'one response', 'none'])
def test_a_prompt_without_comparisons_contributes_nothing(empty):
  rewards_BK, ranks_BK, mask_BK = _rankings(5)
  want, wanted = ranking_loss(rewards_BK, ranks_BK, mask_BK)
  kept = {'tied': 9, 'one response': 1, 'none': 0}[empty]
  ranks = np.full(9, 2) if empty == 'tied' else np.arange(9)
  batch = (
      np.vstack([rewards_BK, np.arange(9, dtype=np.float32)[None]]),
      np.vstack([ranks_BK, ranks[None]]),
      np.vstack([mask_BK, np.arange(9)[None] < kept]),
  )
  loss, metrics = ranking_loss(*batch)
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  for name in metrics:
    np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-6)
  _, grad_BK = ranking_grad(*batch)
  np.testing.assert_array_equal(grad_BK[-1], 0.0)
  assert np.isfinite(grad_BK).all()


def test_a_batch_without_comparisons_is_zero():
  rewards_BK, _, mask_BK = _rankings(9)
  loss, metrics = ranking_loss(rewards_BK, np.ones((5, 9), int), mask_BK)
  assert loss == 0.0
  assert metrics['weight'] == 0.0


def test_each_prompt_weighs_the_same_whatever_its_k():
  # K = 2, margin 1, right: softplus(-1). K = 9, all rewards equal, 36 pairs:
  # ln 2. Mean over prompts; a mean over the 37 pairs would be close to ln 2.
  rewards_BK = np.zeros((2, 9), np.float32)
  rewards_BK[0, 0] = 1.0
  ranks_BK = np.tile(np.arange(9), (2, 1))
  mask_BK = np.ones((2, 9), bool)
  mask_BK[0, 2:] = False
  loss, _ = ranking_loss(rewards_BK, ranks_BK, mask_BK)
  np.testing.assert_allclose(loss, (_softplus(-1.0) + LN2) / 2, rtol=1e-6)


def test_ranking_loss_of_huge_margins_stays_finite():
  rewards_BK, ranks_BK = _f32([[1e4, -1e4]]), np.array([[2, 1]])
  mask_BK = np.ones((1, 2), bool)
  (loss, _), grad_BK = ranking_grad(rewards_BK, ranks_BK, mask_BK)
  # Ordered wrongly by 2e4: softplus(2e4) = 2e4, slope 1.
  np.testing.assert_allclose(loss, 2e4)
  np.testing.assert_allclose(grad_BK, [[1.0, -1.0]])


# -- Clipped policy loss ------------------------------------------------------

# Each: ratio, advantage, loss, gradient with respect to the log-probability.
# loss = max(-A rho, -A clip(rho, 0.8, 1.2)); d/dlogp (-A rho) = -A rho.
ONE = np.ones((1, 1), bool)
POLICY_CASES = {
    'inside, A > 0': (1.1, 2.0, -2.2, -2.2),
    'inside, A < 0': (0.9, -2.0, 1.8, 1.8),
    # Gone far enough in the right direction: no more gradient.
    'above, A > 0': (1.5, 2.0, -2.4, 0.0),
    'below, A < 0': (0.5, -2.0, 1.6, 0.0),
    # Gone in the wrong direction: the full gradient back.
    'above, A < 0': (1.5, -2.0, 3.0, 3.0),
    'below, A > 0': (0.5, 2.0, -1.0, -1.0),
}


@pytest.mark.parametrize('case', POLICY_CASES)
def test_policy_loss_by_hand(case):
  ratio, advantage, want, slope = POLICY_CASES[case]
  old_BR = _f32([[-1.3]])
  (loss, metrics), grad_BR = policy_grad(
      _f32(old_BR + np.log(ratio)), old_BR, _f32([[advantage]]), ONE
  )
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(grad_BR, [[slope]], rtol=1e-5, atol=1e-12)
  np.testing.assert_allclose(metrics['ratio'], ratio, rtol=1e-5)
  np.testing.assert_allclose(
      metrics['approx_kl'], np.log(ratio) ** 2 / 2, rtol=1e-5
  )
  # It bites exactly where the gradient is gone.
  assert metrics['clip_fraction'] == (slope == 0.0)


def _rollout(seed, b=4, r=6):
  rng = np.random.default_rng(seed)
  old_BR = rng.normal(-2, 1, (b, r)).astype(np.float32)
  new_BR = (old_BR + rng.normal(0, 0.3, (b, r))).astype(np.float32)
  advantages_BR = rng.normal(size=(b, r)).astype(np.float32)
  lengths = rng.integers(1, r + 1, b)
  mask_BR = np.arange(r)[None] < lengths[:, None]
  return new_BR, old_BR, advantages_BR, mask_BR


@pytest.mark.parametrize('seed', range(3))
def test_policy_loss_equals_the_loop(seed):
  new_BR, old_BR, advantages_BR, mask_BR = _rollout(seed)
  terms, clips = [], []
  for b, r in np.argwhere(mask_BR):
    ratio = np.exp(float(new_BR[b, r]) - float(old_BR[b, r]))
    plain = -advantages_BR[b, r] * ratio
    limited = -advantages_BR[b, r] * min(max(ratio, 0.8), 1.2)
    terms.append(max(plain, limited))
    clips.append(limited > plain)
  loss, metrics = policy_loss(new_BR, old_BR, advantages_BR, mask_BR)
  # One mean over the tokens of the minibatch, not a mean of rows' means.
  np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)
  np.testing.assert_allclose(metrics['clip_fraction'], np.mean(clips))
  assert metrics['weight'] == mask_BR.sum()


def test_before_the_first_update_the_gradient_is_the_policy_gradient():
  log_probs_BR, _, advantages_BR, mask_BR = _rollout(0)
  (loss, metrics), grad_BR = policy_grad(
      log_probs_BR, log_probs_BR, advantages_BR, mask_BR
  )
  # d/dtheta of -E[A log pi], without ratio or clip.
  want_BR = np.where(mask_BR, -advantages_BR, 0.0) / mask_BR.sum()
  np.testing.assert_allclose(grad_BR, want_BR, rtol=1e-6)
  np.testing.assert_allclose(loss, want_BR.sum(), rtol=1e-5)
  assert metrics['ratio'] == 1.0
  assert metrics['approx_kl'] == 0.0
  assert metrics['clip_fraction'] == 0.0


@pytest.mark.parametrize('bad', [1e4, -1e4, np.inf])
def test_policy_padding_has_no_gradient_and_cannot_overflow(bad):
  new_BR, old_BR, advantages_BR, mask_BR = _rollout(1)
  poisoned_BR = np.where(mask_BR, new_BR, bad).astype(np.float32)
  wild_BR = np.where(mask_BR, advantages_BR, -1e30).astype(np.float32)
  (loss, metrics), grad_BR = policy_grad(poisoned_BR, old_BR, wild_BR, mask_BR)
  (want, wanted), want_BR = policy_grad(new_BR, old_BR, advantages_BR, mask_BR)
  assert loss == want
  assert metrics == wanted
  np.testing.assert_array_equal(grad_BR, want_BR)
  np.testing.assert_array_equal(grad_BR[~mask_BR], 0.0)


# -- Clipped value loss -------------------------------------------------------

# Each: value, return, loss, gradient; the old value is 1, clip 0.2.
VALUE_CASES = {
    # (1.1 - 3)^2 / 2 = 1.805; slope 1.1 - 3.
    'inside': (1.1, 3.0, 1.805, -1.9),
    # Towards the return by more than the clip: near = 1.2, 1.8^2 / 2 = 1.62,
    # more than 1^2 / 2, and constant in v.
    'above, towards': (2.0, 3.0, 1.62, 0.0),
    'below, towards': (0.0, -1.0, 1.62, 0.0),
    # Away from it: (2 + 1)^2 / 2 = 4.5 against (1.2 + 1)^2 / 2 = 2.42.
    'above, away': (2.0, -1.0, 4.5, 3.0),
    'below, away': (0.0, 3.0, 4.5, -3.0),
}


@pytest.mark.parametrize('case', VALUE_CASES)
def test_value_loss_by_hand(case):
  value, target, want, slope = VALUE_CASES[case]
  (loss, metrics), grad_BR = value_grad(
      _f32([[value]]), _f32([[1.0]]), _f32([[target]]), ONE
  )
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(grad_BR, [[slope]], rtol=1e-5, atol=1e-12)
  np.testing.assert_allclose(metrics['error'], abs(value - target), rtol=1e-5)
  assert metrics['clip_fraction'] == (slope == 0.0)


@pytest.mark.parametrize('seed', range(3))
def test_value_loss_equals_the_loop(seed):
  values_BR, old_BR, returns_BR, mask_BR = _rollout(seed)
  terms = []
  for b, r in np.argwhere(mask_BR):
    value, old, target = values_BR[b, r], old_BR[b, r], returns_BR[b, r]
    near = old + min(max(value - old, -0.2), 0.2)
    terms.append(0.5 * max((value - target) ** 2, (near - target) ** 2))
  loss, metrics = value_loss(values_BR, old_BR, returns_BR, mask_BR)
  np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)
  assert metrics['weight'] == mask_BR.sum()


def test_value_padding_has_no_gradient():
  values_BR, old_BR, returns_BR, mask_BR = _rollout(2)
  # Squared, this is infinite in f32.
  poisoned_BR = np.where(mask_BR, values_BR, 1e30).astype(np.float32)
  (loss, _), grad_BR = value_grad(poisoned_BR, old_BR, returns_BR, mask_BR)
  (want, _), want_BR = value_grad(values_BR, old_BR, returns_BR, mask_BR)
  assert loss == want
  np.testing.assert_array_equal(grad_BR, want_BR)
  np.testing.assert_array_equal(grad_BR[~mask_BR], 0.0)


def test_sequence_log_prob_sums_each_row_under_its_mask():
  log_probs_BR = jnp.array([[-1.0, -2.0, -4.0], [-8.0, -16.0, jnp.nan]])
  mask_BR = jnp.array([[True, True, True], [True, False, False]])
  np.testing.assert_array_equal(
      losses.sequence_log_prob(log_probs_BR, mask_BR), [-7.0, -8.0]
  )


# -- All of them --------------------------------------------------------------


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_losses_and_metrics_are_f32_scalars(dtype):
  logits_BTV, tokens_BT, mask_BT = _text(0)
  rewards_BK, *ranking = _rankings(4)
  rollout_BR = [jnp.asarray(x, dtype) for x in _rollout(0)[:3]]
  mask_BR = _rollout(0)[3]
  with jax.numpy_dtype_promotion(
      'strict' if dtype == jnp.float32 else 'standard'
  ):
    results = [
        language_loss(jnp.asarray(logits_BTV, dtype), tokens_BT, mask_BT),
        ranking_loss(jnp.asarray(rewards_BK, dtype), *ranking),
        policy_loss(*rollout_BR, mask_BR),
        value_loss(*rollout_BR, mask_BR),
    ]
  for loss, metrics in results:
    assert {'loss', 'weight'} <= set(metrics)
    for value in (loss, *metrics.values()):
      assert value.dtype == jnp.float32
      assert value.shape == ()
