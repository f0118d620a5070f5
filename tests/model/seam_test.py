# SPDX-License-Identifier: Apache-2.0
"""The functions of rlhf.model: every way to read a text gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm

T = 12
# 0 is the padding id.
TEXTS = [[5, 6, 7, 8, 9], [12, 13, 14], [15, 16, 17, 18]]
DENSE = dict()
# Scanned and unrolled, so that both are seen.
ALTERNATING = dict(attention='alternating', band=3, unroll=True)


def _left_padded(texts):
  tokens_BT = np.zeros((len(texts), T), np.int32)
  for b, text in enumerate(texts):
    tokens_BT[b, T - len(text) :] = text
  return tokens_BT, (tokens_BT > 0).astype(np.int32)


def _alone(forward, params, cfg):
  """The states of each text in a row of its own that begins with it."""
  tokens_BT = np.zeros((len(TEXTS), T), np.int32)
  for b, text in enumerate(TEXTS):
    tokens_BT[b, : len(text)] = text
  x_BTD = forward(params, tokens_BT, (tokens_BT > 0).astype(np.int32), cfg)
  return [np.asarray(x_BTD[b, : len(text)]) for b, text in enumerate(TEXTS)]


# -- Padding, packing, positions ----------------------------------------------


@pytest.mark.parametrize(
    'attention', [DENSE, ALTERNATING], ids=['dense', 'alternating']
)
def test_left_padding_changes_nothing(
    make_cfg, make_params, forward, attention
):
  cfg = make_cfg(**attention)
  params = make_params(cfg)
  x_BTD = forward(params, *_left_padded(TEXTS), cfg)
  for b, want_TD in enumerate(_alone(forward, params, cfg)):
    got_TD = x_BTD[b, T - len(TEXTS[b]) :]
    np.testing.assert_allclose(got_TD, want_TD, atol=1e-5)


@pytest.mark.parametrize(
    'attention', [DENSE, ALTERNATING], ids=['dense', 'alternating']
)
def test_packing_changes_nothing(make_cfg, make_params, forward, attention):
  cfg = make_cfg(**attention)
  params = make_params(cfg)
  # All of them in each of two rows, numbered at will; two with padding before,
  # between and after them. `rows[r][i]` is (where text i begins, its number).
  rows = [
      {0: (0, 1), 1: (5, 2), 2: (8, 3)},
      {2: (0, 7), 0: (4, 3), 1: (9, 4)},
      {1: (1, 1), 2: (6, 2)},
  ]
  tokens_BT, segments_BT = np.zeros((2, 3, T), np.int32)
  for b, row in enumerate(rows):
    for i, (start, number) in row.items():
      tokens_BT[b, start : start + len(TEXTS[i])] = TEXTS[i]
      segments_BT[b, start : start + len(TEXTS[i])] = number
  x_BTD = forward(params, tokens_BT, segments_BT, cfg)
  want = _alone(forward, params, cfg)
  for b, row in enumerate(rows):
    for i, (start, _) in row.items():
      got_TD = x_BTD[b, start : start + len(TEXTS[i])]
      np.testing.assert_allclose(got_TD, want[i], atol=1e-5)


def test_positions_count_from_the_first_real_token(make_cfg, make_params):
  """By gradient: which rows of the position table an output depends on."""
  cfg = make_cfg()
  params = make_params(cfg)
  segments_T = np.array([0, 0, 1, 1, 1, 2, 2, 3, 0], np.int32)
  tokens_T = np.arange(5, 14)

  @jax.jit
  @jax.jacrev
  def jacobian(table_CD):
    embed = params['embed'] | {'positions': {'table': table_CD}}
    x_1TD = lm.forward(
        params | {'embed': embed}, tokens_T[None], segments_T[None], cfg
    )
    return x_1TD[0] @ np.arange(cfg.width, dtype=np.float32)

  influence_TC = np.abs(jacobian(params['embed']['positions']['table']))
  reads_TC = influence_TC.sum(axis=-1) > 0
  # Each token sees its own position and those before it in its segment.
  last_T = np.array([2, 2, 0, 1, 2, 0, 1, 0, 2])
  want_TC = np.arange(cfg.context)[None] <= last_T[:, None]
  real_T = segments_T > 0
  np.testing.assert_array_equal(reads_TC[real_T], want_TC[real_T])


def test_a_scalar_head_beside_the_decoder_is_ignored(make_cfg, make_params):
  cfg = make_cfg()
  params = make_params(cfg)
  args = _left_padded(TEXTS)
  lower = jax.jit(lm.forward, static_argnums=3).lower
  with_head = params | {'scalar_head': {'bias': np.float32(0)}}
  # The same program: what isn't read isn't even an argument of it.
  assert (
      lower(with_head, *args, cfg).as_text()
      == lower(params, *args, cfg).as_text()
  )


# -- The cache ----------------------------------------------------------------

prefill = jax.jit(lm.prefill, static_argnames=('cfg', 'slots'))
decode_step = jax.jit(lm.decode_step, static_argnames='cfg')


@pytest.mark.parametrize(
    'changes, tolerance',
    [
        (DENSE, 1e-5),
        (ALTERNATING, 1e-5),
        # A few roundings to 8 bits of states of about 1.
        (dict(dtype='bfloat16'), 0.15),
    ],
    ids=['dense', 'alternating', 'bf16'],
)
def test_cached_decode_equals_forward(
    make_cfg, make_params, forward, changes, tolerance
):
  """At every position of left-padded rows of unequal length."""
  cfg = make_cfg(**changes)
  params = make_params(cfg)
  prompt, slots = 6, 14
  rng = np.random.default_rng(0)
  texts = [list(rng.integers(1, 40, length)) for length in (12, 9, 7)]
  tokens_BT, segments_BT = _left_padded(texts)
  want_BTD = np.asarray(forward(params, tokens_BT, segments_BT, cfg))
  # What the padding holds must not matter.
  prompts_BP = np.where(segments_BT > 0, tokens_BT, 33)[:, :prompt]
  mask_BP = segments_BT[:, :prompt] > 0
  x_BD, cache = prefill(params, prompts_BP, mask_BP, cfg=cfg, slots=slots)
  assert cache.k_NBSHE.shape == cache.v_NBSHE.shape == (2, 3, slots, 2, 6)
  assert cache.k_NBSHE.dtype == cfg.dtype
  for t in range(prompt, T + 1):
    assert cache.length == t
    np.testing.assert_allclose(
        x_BD.astype(jnp.float32),
        want_BTD[:, t - 1].astype(np.float32),
        atol=tolerance,
    )
    if t < T:
      x_BD, cache = decode_step(params, cache, tokens_BT[:, t], cfg=cfg)
  np.testing.assert_array_equal(cache.real_BS[:, :T], segments_BT > 0)
  assert not np.any(cache.real_BS[:, T:])


# -- Limits -------------------------------------------------------------------


def test_rows_longer_than_the_context_are_refused(make_cfg, make_params):
  cfg = make_cfg()  # Its context is 32.
  params = make_params(cfg)

  def shape_of(function, length, **kwargs):
    tokens_BT = np.ones((1, length), np.int32)
    return jax.eval_shape(
        lambda: function(params, tokens_BT, tokens_BT, cfg, **kwargs)
    )

  assert shape_of(lm.forward, 32).shape == (1, 32, 16)
  with pytest.raises(ValueError, match='33 tokens .* context of 32'):
    shape_of(lm.forward, 33)
  shape_of(lm.prefill, 20, slots=32)
  with pytest.raises(ValueError, match='33 tokens .* context of 32'):
    shape_of(lm.prefill, 20, slots=33)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_padding_never_gets_probability(make_cfg, make_params, dtype):
  cfg = make_cfg(dtype=dtype, pad_id=7)
  params = make_params(cfg)
  x_BTD = np.random.default_rng(0).normal(size=(2, 3, cfg.width))
  # Even where the hidden state asks for nothing else.
  x_BTD[1] = 100 * params['embed']['tokens']['table'][7]
  logits_BTV = lm.lm_logits(params, jnp.asarray(x_BTD, cfg.dtype), cfg)
  assert logits_BTV.dtype == jnp.float32
  probs_BTV = np.asarray(jax.nn.softmax(logits_BTV))
  np.testing.assert_array_equal(probs_BTV[..., 7], 0.0)
  np.testing.assert_allclose(probs_BTV.sum(axis=-1), 1.0, rtol=1e-5)
