# SPDX-License-Identifier: Apache-2.0
"""The sampler against whole forward passes, and against what chance allows."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlhf import model as lm
from rlhf import sampling

PAD, EOS = 0, 1
KEY = jax.random.key(5)
CFG = lm.ModelConfig(
    layers=2,
    width=16,
    heads=2,
    head_size=6,
    context=32,
    vocab_size=12,
    pad_id=PAD,
    attention='alternating',
    band=3,
    dtype='float32',
    remat='none',
)
# Left-padded prompts of unequal length, each four times.
PROMPTS_BP = np.tile(
    np.array([[5, 6, 7, 8, 9], [0, 0, 10, 11, 2], [0, 0, 0, 0, 3]]), (4, 1)
)
# Two of eleven words end a response: some rows stop soon, some are cut at R.
CONFIG = sampling.SamplingConfig(max_tokens=8, stop_tokens=(EOS, 4))

generate = jax.jit(sampling.generate, static_argnames=('cfg', 'sampling'))
draw = jax.jit(sampling.draw, static_argnums=2)


@pytest.fixture(scope='module')
def params():
  """Random, and large enough that predictions are far from uniform."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda key: lm.init(key, CFG), jax.random.key(0))
  return jax.tree.map(
      lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32), shapes
  )


def _generate(params, prompts_BP=PROMPTS_BP, key=KEY, how=CONFIG, **changes):
  how = dataclasses.replace(how, **changes)
  return generate(
      params, prompts_BP, prompts_BP > 0, key, cfg=CFG, sampling=how
  )


@jax.jit
def _logits(params, tokens_BT, segments_BT):
  x_BTD = lm.forward(params, tokens_BT, segments_BT, CFG)
  return lm.lm_logits(params, x_BTD, CFG)


def _log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def _full_log_probs(params, prompts_BP, samples, temperature):
  """log p of each response token, by one forward pass over everything."""
  tokens_BT = np.append(prompts_BP, samples.tokens_BR, axis=1)
  real_BT = np.append(prompts_BP > 0, samples.mask_BR, axis=1)
  logits_BTV = _logits(params, tokens_BT, real_BT.astype(np.int32))
  log_probs_BTV = _log_softmax(np.asarray(logits_BTV) / temperature)
  prompt = prompts_BP.shape[1]
  picked_BR1 = np.take_along_axis(
      # The token at t is predicted at t - 1.
      log_probs_BTV[:, prompt - 1 : -1],
      np.asarray(samples.tokens_BR)[..., None],
      axis=-1,
  )
  return np.where(samples.mask_BR, picked_BR1[..., 0], 0.0)


def _assert_frequencies(counts, probs):
  """Chi-square at a false alarm rate of 1 in 1000 (the seed is fixed)."""
  counts, probs = np.asarray(counts), np.asarray(probs)
  assert not counts[probs == 0].any(), 'drew what has no probability'
  expected = probs * counts.sum()
  # Cells that expect less than five are counted together.
  rare = expected < 5
  counts = np.append(counts[~rare], counts[rare].sum())
  expected = np.append(expected[~rare], expected[rare].sum())
  counts, expected = counts[expected > 0], expected[expected > 0]
  if len(counts) == 1:
    return
  statistic = np.sum((counts - expected) ** 2 / expected)
  limit = stats.chi2.ppf(0.999, len(counts) - 1)
  assert statistic < limit, f'{statistic:.1f} >= {limit:.1f}'


# -- One draw -----------------------------------------------------------------

LOGITS_V = np.array(
    [1.0, -1.0, 0.5, 2.0, -3.0, 0.0, 0.7, -1e9, 1.5, -0.2], np.float32
)


def _numpy_probs(temperature=1.0, top_k=0, top_p=1.0):
  probs_V = np.exp(_log_softmax(LOGITS_V.astype(np.float64) / temperature))
  order = np.argsort(-probs_V)
  if top_k:
    probs_V[order[top_k:]] = 0.0
    probs_V /= probs_V.sum()
  kept, held = [], 0.0
  for v in order:
    if held >= top_p:
      break
    kept.append(v)
    held += probs_V[v]
  only_V = np.zeros_like(probs_V)
  only_V[kept] = probs_V[kept]
  return only_V / only_V.sum()


@pytest.mark.parametrize(
    'changes, support',
    [
        (dict(), 9),
        (dict(temperature=0.7), 9),
        (dict(top_k=3), 3),
        # Sorted: .361 .219 .133 .098 ...; the first three hold .712 of it.
        (dict(top_p=0.7), 3),
        (dict(top_p=0.72), 4),
        (dict(top_p=0.01), 1),
        (dict(top_k=4, top_p=0.8, temperature=1.5), 3),
    ],
    ids=str,
)
def test_drawn_as_often_as_the_softmax_says(changes, support):
  how = dataclasses.replace(CONFIG, **changes)
  n = 40_000
  logits_BV = np.broadcast_to(LOGITS_V, (n, len(LOGITS_V)))
  tokens_B, log_probs_B = draw(logits_BV, KEY, how)
  probs_V = _numpy_probs(**changes)
  assert np.sum(probs_V > 1e-12) == support
  counts_V = np.bincount(tokens_B, minlength=len(LOGITS_V))
  _assert_frequencies(counts_V, probs_V)
  # And it says what it did.
  np.testing.assert_allclose(
      log_probs_B, np.log(probs_V[np.asarray(tokens_B)]), atol=1e-5
  )


def test_rows_are_drawn_from_their_own_logits():
  # Each row has one possible token.
  logits_BV = np.where(np.eye(10, dtype=bool), 0.0, -np.inf)
  tokens_B, log_probs_B = draw(logits_BV.astype(np.float32), KEY, CONFIG)
  np.testing.assert_array_equal(tokens_B, np.arange(10))
  np.testing.assert_array_equal(log_probs_B, 0.0)


def test_temperature_zero_takes_the_most_likely():
  logits_BV = np.random.default_rng(0).normal(size=(50, 10))
  how = dataclasses.replace(CONFIG, temperature=0.0)
  tokens_B, log_probs_B = draw(logits_BV.astype(np.float32), KEY, how)
  np.testing.assert_array_equal(tokens_B, logits_BV.argmax(axis=1))
  np.testing.assert_array_equal(log_probs_B, 0.0)


def test_a_vocabulary_of_50k_is_drawn_from_end_to_end():
  """The rounding of an f32 CDF must not favour one end of a long tail."""
  n, v = 400, 50_257
  tokens_B, _ = draw(jnp.zeros((n, v)), KEY, CONFIG)
  assert stats.kstest(np.asarray(tokens_B) / v, 'uniform').pvalue > 0.001


# -- Whole responses ----------------------------------------------------------


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_log_probs_are_those_of_a_forward_pass(params, temperature):
  samples = _generate(params, temperature=temperature)
  want_BR = _full_log_probs(params, PROMPTS_BP, samples, temperature)
  np.testing.assert_allclose(samples.log_probs_BR, want_BR, atol=2e-5)


def test_responses_come_as_often_as_their_probability(params):
  """All of two tokens: the second is drawn after reading the first."""
  n = 20_000
  prompt = [5, 6, 7]
  samples = _generate(params, np.tile(prompt, (n, 1)), max_tokens=2)
  real = range(1, CFG.vocab_size)
  pairs = list(itertools.product(real, real))
  tokens_BT = np.array([[*prompt, a, b] for a, b in pairs])
  logits_BTV = _logits(params, tokens_BT, np.ones_like(tokens_BT))
  log_probs_BTV = _log_softmax(logits_BTV)
  probs, counts = {}, {}
  for (a, b), log_probs_TV in zip(pairs, log_probs_BTV, strict=True):
    # After a stop token comes padding, whatever the model says.
    first, second = log_probs_TV[2, a], log_probs_TV[3, b]
    stops = a in CONFIG.stop_tokens
    pair, log_prob = ((a, PAD), first) if stops else ((a, b), first + second)
    probs[pair], counts[pair] = np.exp(log_prob), 0
  np.testing.assert_allclose(sum(probs.values()), 1.0, rtol=1e-5)
  for pair in np.asarray(samples.tokens_BR).tolist():
    counts[tuple(pair)] += 1
  _assert_frequencies(list(counts.values()), list(probs.values()))


def _greedy_loop(params, prompts_BP, steps):
  """One forward pass over everything for each token."""
  prompt = prompts_BP.shape[1]
  tokens_BT = np.pad(prompts_BP, ((0, 0), (0, steps)))
  real_BT = tokens_BT > 0
  for t in range(prompt, prompt + steps):
    logits_BTV = _logits(params, tokens_BT, real_BT.astype(np.int32))
    tokens_BT[:, t] = np.argmax(logits_BTV[:, t - 1], axis=-1)
    real_BT[:, t] = True
  return tokens_BT[:, prompt:]


def _stop_loop(tokens_BR, stop_tokens):
  tokens_BR, mask_BR = tokens_BR.copy(), np.zeros(tokens_BR.shape, bool)
  finished = []
  for b, row in enumerate(tokens_BR):
    stops = [r for r, token in enumerate(row) if token in stop_tokens]
    length = stops[0] + 1 if stops else len(row)
    mask_BR[b, :length] = True
    tokens_BR[b, length:] = PAD
    finished.append(bool(stops))
  return tokens_BR, mask_BR, finished


def test_greedy_decoding_equals_a_loop_of_forward_passes(params):
  tokens_BR = _greedy_loop(params, PROMPTS_BP, 8)
  samples = _generate(params, temperature=0.0)
  want_BR, mask_BR, finished = _stop_loop(tokens_BR, CONFIG.stop_tokens)
  np.testing.assert_array_equal(samples.tokens_BR, want_BR)
  np.testing.assert_array_equal(samples.mask_BR, mask_BR)
  np.testing.assert_array_equal(samples.finished, finished)


def test_a_stop_token_ends_its_row_and_is_part_of_it(params):
  samples = _generate(params)
  tokens_BR = np.asarray(samples.tokens_BR)
  want_BR, mask_BR, finished = _stop_loop(tokens_BR, CONFIG.stop_tokens)
  np.testing.assert_array_equal(tokens_BR, want_BR)  # Padding afterwards.
  np.testing.assert_array_equal(samples.mask_BR, mask_BR)
  np.testing.assert_array_equal(samples.finished, finished)
  # Rows of several lengths, and some that were cut; else this shows little.
  assert len(set(mask_BR.sum(axis=1))) > 2
  assert 0 < sum(finished) < len(finished)
  log_probs_BR = np.asarray(samples.log_probs_BR)
  np.testing.assert_array_equal(log_probs_BR[~mask_BR], 0.0)
  assert (log_probs_BR[mask_BR] < 0).all()
  # What was drawn is never padding.
  assert (tokens_BR[mask_BR] != PAD).all()


# -- What a row hangs on ------------------------------------------------------


def test_same_key_same_samples(params):
  first, second = _generate(params), _generate(params)
  jax.tree.map(np.testing.assert_array_equal, first, second)
  other = _generate(params, key=jax.random.key(6))
  assert np.any(np.asarray(other.tokens_BR) != first.tokens_BR)


def test_a_row_does_not_hang_on_the_others(params):
  others_BP = PROMPTS_BP[::-1].copy()
  others_BP[0] = PROMPTS_BP[0]
  here, there = _generate(params), _generate(params, others_BP)
  for got, want in zip(
      jax.tree.leaves(there), jax.tree.leaves(here), strict=True
  ):
    np.testing.assert_array_equal(got[0], want[0])


def test_left_padding_changes_nothing(params):
  wide_BP = np.pad(PROMPTS_BP, ((0, 0), (4, 0)))
  want = _generate(params, temperature=0.0)
  got = _generate(params, wide_BP, temperature=0.0)
  np.testing.assert_array_equal(got.tokens_BR, want.tokens_BR)
  np.testing.assert_array_equal(got.mask_BR, want.mask_BR)


# -- Early exit ---------------------------------------------------------------


def test_the_loop_ends_with_the_last_row(params, monkeypatch):
  """Iterations are counted: as many as the longest response has tokens."""
  iterations = []
  decode_step = lm.decode_step

  def counted(*args):
    jax.debug.callback(lambda: iterations.append(1))
    return decode_step(*args)

  monkeypatch.setattr(lm, 'decode_step', counted)
  # A function of its own, so that no program without the count is reused.
  counting = jax.jit(
      lambda *args: sampling.generate(*args, cfg=CFG, sampling=CONFIG)
  )
  prompts_BP = PROMPTS_BP[:2]
  longest = []
  for seed in range(8):
    iterations.clear()
    samples = counting(params, prompts_BP, prompts_BP > 0, jax.random.key(seed))
    jax.block_until_ready(samples)
    jax.effects_barrier()
    longest.append(np.sum(samples.mask_BR, axis=1).max())
    assert len(iterations) == longest[-1]
  assert min(longest) < 8  # Else this shows nothing.


# -- Limits -------------------------------------------------------------------


def test_what_does_not_fit_the_context_is_refused(params):
  with pytest.raises(ValueError, match='33 tokens .* context of 32'):
    _generate(params, max_tokens=28)


@pytest.mark.parametrize(
    'changes',
    [
        dict(max_tokens=0),
        dict(stop_tokens=()),
        dict(temperature=-0.1),
        dict(top_k=-1),
        dict(top_p=0.0),
        dict(top_p=1.1),
    ],
    ids=str,
)
def test_bad_configs_are_refused(changes):
  with pytest.raises(ValueError, match='sampling (needs|wants)'):
    dataclasses.replace(CONFIG, **changes)
