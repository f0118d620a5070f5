# SPDX-License-Identifier: Apache-2.0
"""Chunked log-likelihoods: against float64 loops, and what they never hold."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from rlhf import model as lm
from rlhf.likelihood import log_probs_of

B, T, PAD = 3, 10, 0
# 37 tokens in 40 rows: the last three only round the table up.
CFG = lm.ModelConfig(
    layers=1,
    width=8,
    heads=1,
    head_size=8,
    context=64,
    vocab_size=37,
    pad_id=PAD,
    vocab_multiple=8,
    dtype='float32',
    remat='none',
)
# Parts that divide the row, that don't, of one position, and longer than it.
CHUNKS = [0, 5, 3, 4, 1, 10, 99]


def _chunked(chunk, **changes):
  return dataclasses.replace(CFG, loss_chunk=chunk, **changes)


@functools.cache
def _problem(length=T, seed=0):
  """Parameters, hidden states and tokens (some of them likely ones)."""
  rng = np.random.default_rng(seed)
  table_VD = rng.normal(size=(CFG.vocab_rows, CFG.width)).astype(np.float32)
  x_BTD = rng.normal(size=(B, length, CFG.width)).astype(np.float32)
  tokens_BT = rng.integers(1, CFG.vocab_size, (B, length)).astype(np.int32)
  best_BT = np.argmax(x_BTD @ table_VD[1 : CFG.vocab_size].T, axis=-1) + 1
  tokens_BT = np.where(rng.random((B, length)) < 0.4, best_BT, tokens_BT)
  params = {'embed': {'tokens': {'table': table_VD}}}
  return params, x_BTD, tokens_BT.astype(np.int32)


@functools.cache
def _scored(cfg, temperature=1.0):
  return jax.jit(
      functools.partial(log_probs_of, cfg=cfg, temperature=temperature)
  )


def _loop(params, x_BTD, tokens_BT, temperature=1.0):
  """log p, hits and d log p / d logits, position by position, float64."""
  table_VD = np.float64(params['embed']['tokens']['table'])
  shape = tokens_BT.shape
  log_probs_BT, hits_BT = np.zeros(shape), np.zeros(shape, bool)
  slopes_BTV = np.zeros((*shape, len(table_VD)))
  for b, t in np.ndindex(shape):
    logits = {
        v: table_VD[v] @ np.float64(x_BTD[b, t]) / temperature
        for v in range(1, CFG.vocab_size)
    }
    total = sum(np.exp(logit) for logit in logits.values())
    token = tokens_BT[b, t]
    log_probs_BT[b, t] = logits[token] - np.log(total)
    hits_BT[b, t] = token == max(logits, key=logits.__getitem__)
    for v, logit in logits.items():
      slopes_BTV[b, t, v] = ((v == token) - np.exp(logit) / total) / temperature
  return log_probs_BT, hits_BT, slopes_BTV


# -- Values and gradients -----------------------------------------------------


@pytest.mark.parametrize('chunk', CHUNKS)
@pytest.mark.parametrize('temperature', [1.0, 0.6])
def test_log_probs_and_hits_are_those_of_the_loop(chunk, temperature):
  params, x_BTD, tokens_BT = _problem()
  got_BT, hits_BT = _scored(_chunked(chunk), temperature)(
      params, x_BTD, tokens_BT
  )
  want_BT, wanted_BT, _ = _loop(params, x_BTD, tokens_BT, temperature)
  assert got_BT.dtype == jnp.float32 and hits_BT.dtype == bool
  np.testing.assert_allclose(got_BT, want_BT, rtol=1e-5, atol=1e-5)
  assert 0.3 < wanted_BT.mean() < 0.9
  np.testing.assert_array_equal(hits_BT, wanted_BT)


@pytest.mark.parametrize('chunk', [0, 5, 3, 4])
@pytest.mark.parametrize('temperature', [1.0, 0.6])
def test_gradients_are_those_of_the_loop(chunk, temperature):
  params, x_BTD, tokens_BT = _problem()
  weights_BT = np.random.default_rng(1).normal(size=(B, T)).astype(np.float32)

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def gradients(params, x_BTD):
    log_probs_BT, _ = log_probs_of(
        params, x_BTD, tokens_BT, _chunked(chunk), temperature=temperature
    )
    return jnp.sum(weights_BT * log_probs_BT)

  got, got_BTD = gradients(params, x_BTD)
  *_, slopes_BTV = _loop(params, x_BTD, tokens_BT, temperature)
  slopes_BTV *= weights_BT[:, :, None]
  table_VD = params['embed']['tokens']['table']
  want_BTD = np.einsum('btv,vd->btd', slopes_BTV, table_VD)
  want_VD = np.einsum('btv,btd->vd', slopes_BTV, x_BTD)
  got_VD = np.asarray(got['embed']['tokens']['table'])
  np.testing.assert_allclose(got_BTD, want_BTD, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got_VD, want_VD, rtol=1e-4, atol=1e-5)
  # Rows that are never predicted learn nothing.
  np.testing.assert_array_equal(got_VD[[PAD, 37, 38, 39]], 0.0)


def test_a_greedy_policy_is_sure_of_its_best_token():
  params, x_BTD, tokens_BT = _problem()
  _, hits_BT, _ = _loop(params, x_BTD, tokens_BT)
  for chunk in (0, 3):
    got_BT, _ = _scored(_chunked(chunk), 0.0)(params, x_BTD, tokens_BT)
    np.testing.assert_array_equal(got_BT, np.where(hits_BT, 0.0, -np.inf))


def test_a_row_may_have_any_length():
  """What fills the last chunk up is cut again."""
  for length in (1, 2, 7, 11):
    params, x_BTD, tokens_BT = _problem(length)
    got_BT, _ = _scored(_chunked(4))(params, x_BTD, tokens_BT)
    assert got_BT.shape == (B, length)
    want_BT, *_ = _loop(params, x_BTD, tokens_BT)
    np.testing.assert_allclose(got_BT, want_BT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('chunk', [0, 4])
def test_rows_that_round_the_table_up_have_no_probability(chunk):
  params, x_BTD, tokens_BT = _problem()
  # Were they counted, they would be all there is.
  table_VD = params['embed']['tokens']['table'].copy()
  table_VD[CFG.vocab_size :] = 50.0 * x_BTD[0, :3]
  loud = {'embed': {'tokens': {'table': table_VD}}}
  scored = _scored(_chunked(chunk))
  got, want = [scored(p, x_BTD, tokens_BT) for p in (loud, params)]
  jax.tree.map(np.testing.assert_array_equal, got, want)
  # And a token of theirs, or the padding, is as good as impossible.
  for never in (PAD, *range(CFG.vocab_size, CFG.vocab_rows)):
    got_BT, hits_BT = scored(params, x_BTD, np.full_like(tokens_BT, never))
    assert np.all(np.asarray(got_BT) < -1e8) and not np.any(hits_BT)
  # The others share all of it.
  rows = [
      scored(params, x_BTD, np.full_like(tokens_BT, v))[0]
      for v in range(1, CFG.vocab_size)
  ]
  np.testing.assert_allclose(np.sum(np.exp(rows), axis=0), 1.0, rtol=1e-5)


def test_chunks_of_bf16_states_are_as_the_whole():
  params, x_BTD, tokens_BT = _problem()
  x_BTD = jnp.asarray(x_BTD, jnp.bfloat16)
  want = _scored(_chunked(0, dtype='bfloat16'))(params, x_BTD, tokens_BT)
  got = _scored(_chunked(3, dtype='bfloat16'))(params, x_BTD, tokens_BT)
  assert got[0].dtype == jnp.float32
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(got[1], want[1])


# -- Memory -------------------------------------------------------------------

_BIG_B, _BIG_T = 2, 64
_BIG = dataclasses.replace(CFG, vocab_size=5000, vocab_multiple=128)


def _inside(value):
  """The jaxprs that a parameter of an equation holds."""
  if isinstance(value, core.ClosedJaxpr):
    return [value.jaxpr]
  if isinstance(value, core.Jaxpr):
    return [value]
  if isinstance(value, tuple | list):
    return [jaxpr for part in value for jaxpr in _inside(part)]
  return []


def _largest(jaxpr):
  """Elements of the largest array in a program, its loops included."""
  sizes = [0]
  for eqn in jaxpr.eqns:
    sizes += [int(np.prod(out.aval.shape)) for out in eqn.outvars]
    for value in eqn.params.values():
      sizes += [_largest(inner) for inner in _inside(value)]
  return max(sizes)


def _program(chunk):
  """Of the gradient: the backward pass is where logits would be kept."""
  cfg = dataclasses.replace(_BIG, loss_chunk=chunk)

  def loss(params, x_BTD, tokens_BT):
    log_probs_BT, hits_BT = log_probs_of(params, x_BTD, tokens_BT, cfg)
    return jnp.mean(log_probs_BT), hits_BT

  shapes = (
      {'embed': {'tokens': {'table': jax.ShapeDtypeStruct(
          (cfg.vocab_rows, cfg.width), jnp.float32)}}},
      jax.ShapeDtypeStruct((_BIG_B, _BIG_T, cfg.width), jnp.float32),
      jax.ShapeDtypeStruct((_BIG_B, _BIG_T), jnp.int32),
  )
  return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True)), shapes


def test_no_array_is_as_large_as_the_batches_logits():
  logits = _BIG_B * _BIG_T * _BIG.vocab_rows
  for chunk, parts in ((0, 1), (32, 2), (16, 4), (10, 7)):
    program, shapes = _program(chunk)
    largest = _largest(jax.make_jaxpr(program)(*shapes).jaxpr)
    # 7 chunks of a row of 64 are 10 positions long.
    positions = -(-_BIG_T // parts)
    assert largest == _BIG_B * positions * _BIG.vocab_rows
    assert (largest == logits) == (parts == 1)


def test_memory_falls_with_the_chunk():
  """As XLA counts it, for values and gradients."""

  def used(chunk):
    program, shapes = _program(chunk)
    analysis = program.lower(*shapes).compile().memory_analysis()
    return analysis.temp_size_in_bytes

  # 2.6 MB of f32 logits, of which some copies exist at a time.
  logits = 4 * _BIG_B * _BIG_T * _BIG.vocab_rows
  whole, some, few = used(0), used(16), used(4)
  assert whole > logits
  # The copies are of a chunk's: a quarter of the chunk, a quarter of them.
  assert few < 0.3 * some
  assert few < 0.5 * logits
