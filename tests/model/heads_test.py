# SPDX-License-Identifier: Apache-2.0
"""The tied head, and the scalar head of reward model and value function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm
from rlhf.model import heads

WIDTH = 16
scalars = jax.jit(lm.scalars)


def _states(b, t, seed=0):
  x_BTD = np.random.default_rng(seed).normal(size=(b, t, WIDTH))
  return x_BTD.astype(np.float32)


def _head(pooled):
  rng = np.random.default_rng(1)
  names = ['last', 'mean'] if pooled else ['last']
  kernels = {
      name: {'kernel': rng.normal(size=WIDTH).astype(np.float32)}
      for name in names
  }
  return {'scalar_head': kernels | {'bias': np.float32(0.7)}}


# -- Logits -------------------------------------------------------------------


@pytest.mark.parametrize('leading', [(2,), (2, 3), (2, 3, 4)])
def test_logits_are_products_with_the_token_table(
    make_cfg, make_params, leading
):
  cfg = make_cfg(pad_id=9)
  params = make_params(cfg)
  x = np.random.default_rng(0).normal(size=(*leading, WIDTH))
  logits = np.asarray(lm.lm_logits(params, jnp.asarray(x, jnp.float32), cfg))
  want = x @ params['embed']['tokens']['table'].T
  real = np.arange(cfg.vocab_size) != 9
  np.testing.assert_allclose(logits[..., real], want[..., real], atol=1e-4)
  assert (logits[..., 9] < -1e8).all()


def test_padding_row_of_the_table_has_no_gradient(make_cfg, make_params):
  cfg = make_cfg()
  params = make_params(cfg)

  @jax.jit
  @jax.grad
  def gradient(params):
    logits_BTV = lm.lm_logits(params, jnp.asarray(_states(2, 3)), cfg)
    return jnp.sum(jax.nn.logsumexp(logits_BTV, axis=-1))

  table_VD = np.asarray(gradient(params)['embed']['tokens']['table'])
  np.testing.assert_array_equal(table_VD[cfg.pad_id], 0.0)
  assert np.abs(table_VD[cfg.pad_id + 1 :]).min(axis=0).max() > 0


# -- Scalars ------------------------------------------------------------------


def _scalars_loop(params, x_BTD, segments_BT, response_BT):
  head = params['scalar_head']
  want_BT = np.zeros(segments_BT.shape)
  for b, t in np.ndindex(segments_BT.shape):
    want_BT[b, t] = x_BTD[b, t] @ head['last']['kernel'] + head['bias']
    if 'mean' not in head:
      continue
    said = [
        x_BTD[b, s]
        for s in range(t + 1)
        if segments_BT[b, s] == segments_BT[b, t] and response_BT[b, s]
    ]
    if said:
      want_BT[b, t] += np.mean(said, axis=0) @ head['mean']['kernel']
  return want_BT


# Two texts in a row and padding, the second a response from its first token;
# a left-padded row; a row of one text that goes on after its response.
SEGMENTS_BT = np.array(
    [
        [1, 1, 1, 1, 2, 2, 2, 2, 2, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)
RESPONSE_BT = np.array(
    [
        [0, 0, 1, 1, 1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 1, 0, 0, 0, 0],
    ],
    bool,
)


@pytest.mark.parametrize('pooled', [False, True])
def test_scalars_equal_the_loop(pooled):
  params, x_BTD = _head(pooled), _states(3, 10)
  got_BT = scalars(params, x_BTD, SEGMENTS_BT, RESPONSE_BT)
  want_BT = _scalars_loop(params, x_BTD, SEGMENTS_BT, RESPONSE_BT)
  assert got_BT.dtype == jnp.float32
  real_BT = SEGMENTS_BT > 0
  np.testing.assert_allclose(got_BT[real_BT], want_BT[real_BT], atol=1e-5)
  assert np.isfinite(got_BT).all()


def test_scalars_read_bf16_states_in_f32():
  params, x_BTD = _head(True), jnp.asarray(_states(3, 10), jnp.bfloat16)
  got_BT = scalars(params, x_BTD, SEGMENTS_BT, RESPONSE_BT)
  assert got_BT.dtype == jnp.float32
  exact_BT = scalars(
      params, x_BTD.astype(jnp.float32), SEGMENTS_BT, RESPONSE_BT
  )
  np.testing.assert_allclose(got_BT, exact_BT, atol=1e-5)


@pytest.mark.parametrize('pooled', [False, True])
def test_scalars_are_causal(pooled):
  """The value of a state can't read what is said after it."""
  params, x_BTD = _head(pooled), _states(3, 10)
  changed_BTD = x_BTD.copy()
  changed_BTD[:, 7:] = 100.0
  np.testing.assert_array_equal(
      scalars(params, changed_BTD, SEGMENTS_BT, RESPONSE_BT)[:, :7],
      scalars(params, x_BTD, SEGMENTS_BT, RESPONSE_BT)[:, :7],
  )


@pytest.mark.parametrize('pooled', [False, True])
def test_the_last_value_is_the_score(make_cfg, make_params, forward, pooled):
  """Left-padded (as the value reads it), packed or alone (as the RM does)."""
  cfg = make_cfg()
  decoder = make_params(cfg)
  params = decoder | _head(pooled)
  # A prompt and its response, in letters: AAaaa is alone in a row, then Bb;
  # then both are packed into one; then each is padded on the left.
  rows = ['AAaaa...', 'Bb......', '.AAaaaBb', '...AAaaa', '......Bb']
  tokens_BT, segments_BT, response_BT = np.zeros((3, 5, 8), np.int32)
  for b, row in enumerate(rows):
    for t, letter in enumerate(row):
      if letter != '.':
        segments_BT[b, t] = 1 + (letter in 'Bb')
        response_BT[b, t] = letter.islower()
        # Other tokens for other places in a text.
        in_text = row[:t].lower().count(letter.lower())
        tokens_BT[b, t] = 10 * segments_BT[b, t] + in_text
  x_BTD = forward(decoder, tokens_BT, segments_BT, cfg)
  scores_BT = np.asarray(scalars(params, x_BTD, segments_BT, response_BT > 0))
  a, b = scores_BT[0, 4], scores_BT[1, 1]
  assert abs(a - b) > 0.1
  np.testing.assert_allclose(scores_BT[2, [5, 7]], [a, b], atol=1e-5)
  np.testing.assert_allclose(scores_BT[[3, 4], [7, 7]], [a, b], atol=1e-5)


def test_segment_starts():
  got_BT = heads.segment_starts(jnp.asarray(SEGMENTS_BT))
  np.testing.assert_array_equal(
      got_BT,
      [
          [0, 0, 0, 0, 4, 4, 4, 4, 4, 9],
          [0, 0, 0, 3, 3, 3, 3, 3, 3, 3],
          [0] * 10,
      ],
  )


@pytest.mark.parametrize('pooling', ['last', 'last_and_mean'])
def test_head_starts_at_one_over_the_root_of_d_plus_one(make_cfg, pooling):
  width = 4096
  cfg = make_cfg(width=width, reward_pooling=pooling)
  head = lm.init_scalar_head(jax.random.key(0), cfg)
  kernels = [head['last']['kernel']]
  if pooling == 'last_and_mean':
    kernels.append(head['mean']['kernel'])
    assert np.abs(kernels[0] - kernels[1]).max() > 0
  assert set(head) == {'bias', *['last', 'mean'][: len(kernels)]}
  assert head['bias'] == 0.0
  for kernel in kernels:
    assert kernel.shape == (width,)
    assert kernel.dtype == jnp.float32
    # The standard error of a standard deviation is 1 / sqrt(2 n) = 1.1 %.
    assert np.std(kernel) == pytest.approx((width + 1) ** -0.5, rel=0.05)


def test_a_new_head_scores_new_states_with_unit_variance(make_cfg):
  """What the scale is for: states after a norm have |x|^2 = D."""
  cfg = make_cfg(width=WIDTH)
  x_BTD = _states(1, 4000)
  x_BTD /= np.sqrt(np.mean(x_BTD**2, axis=-1, keepdims=True))
  ones_BT = np.ones((1, 4000), np.int32)
  # Over many heads, since one head has few weights.
  stds = []
  for seed in range(30):
    head = lm.init_scalar_head(jax.random.key(seed), cfg)
    stds.append(np.std(scalars({'scalar_head': head}, x_BTD, ones_BT, ones_BT)))
  assert np.sqrt(np.mean(np.square(stds))) == pytest.approx(1.0, abs=0.15)
