# SPDX-License-Identifier: Apache-2.0
"""The decoder against plain numpy, and what depends on what, by gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm
from rlhf.model import attention, transformer

T = 9
# Every token is another one, so that the gradient with respect to a token's row
# of the table is the gradient with respect to its position in the text.
TOKENS_T = np.arange(5, 5 + T)
ONE_T = np.ones(T, np.int32)


def _key(seed):
  # Half of these tests' time went into compiling the default generator.
  return jax.random.key(seed, impl='unsafe_rbg')


# -- Against numpy ------------------------------------------------------------


def _normalise(x, norm):
  x = x - x.mean(axis=-1, keepdims=True)
  x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5)
  return x * norm['scale'] + norm['bias']


def _attend(x_TD, p, band):
  q_THE, k_THE, v_THE = (
      np.einsum('td,dhe->the', x_TD, p[name]['kernel']) + p[name]['bias']
      for name in ('query', 'key', 'value')
  )
  y_THE = np.zeros_like(q_THE)
  length, heads, size = q_THE.shape
  for t in range(length):
    seen = range(max(0, t - band + 1), t + 1)
    for h in range(heads):
      logits = [q_THE[t, h] @ k_THE[s, h] / np.sqrt(size) for s in seen]
      weights = np.exp(logits) / np.sum(np.exp(logits))
      y_THE[t, h] = weights @ v_THE[list(seen), h]
  return np.einsum('the,hed->td', y_THE, p['out']['kernel']) + p['out']['bias']


def _mlp(x_TD, p):
  x_TF = x_TD @ p['up']['kernel'] + p['up']['bias']
  # GPT's GELU, in its tanh form (Hendrycks and Gimpel 2016).
  inner_TF = np.sqrt(2 / np.pi) * (x_TF + 0.044715 * x_TF**3)
  x_TF = 0.5 * x_TF * (1 + np.tanh(inner_TF))
  return x_TF @ p['down']['kernel'] + p['down']['bias']


def _numpy_decoder(params, tokens_T, cfg):
  """One row without padding; Radford et al. 2019, section 2.3."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  embed = params['embed']
  x_TD = embed['tokens']['table'][tokens_T]
  x_TD = x_TD + embed['positions']['table'][: len(tokens_T)]
  for n in range(cfg.layers):
    p = jax.tree.map(lambda x, n=n: x[n], params['layers'])
    # Brown et al. 2020, 2.1: dense and locally banded layers alternate.
    banded = cfg.attention == 'alternating' and n % 2 == 1
    band = cfg.band if banded else len(tokens_T)
    normed_TD = _normalise(x_TD, p['attention_norm'])
    x_TD = x_TD + _attend(normed_TD, p['attention'], band)
    x_TD = x_TD + _mlp(_normalise(x_TD, p['mlp_norm']), p['mlp'])
  return _normalise(x_TD, params['final_norm'])


@pytest.mark.parametrize(
    'changes',
    [
        dict(),
        dict(attention='alternating'),
        dict(attention='alternating', layers=3, heads=3, head_size=8, band=1),
    ],
    ids=['dense', 'alternating', 'another shape'],
)
def test_forward_equals_numpy(make_cfg, make_params, forward, changes):
  cfg = make_cfg(**changes)
  params = make_params(cfg)
  got_BTD = forward(params, TOKENS_T[None], ONE_T[None], cfg)
  assert got_BTD.dtype == jnp.float32
  want_TD = _numpy_decoder(params, TOKENS_T, cfg)
  np.testing.assert_allclose(got_BTD[0], want_TD, atol=2e-5)


# -- What depends on what -----------------------------------------------------


@functools.partial(jax.jit, static_argnums=3)
def _influence(params, tokens_T, segments_T, cfg):
  """|d output at t / d input token at s|, summed over a random projection."""
  probe_D = jax.random.normal(jax.random.key(3), (cfg.width,))

  def outputs(table_VD):
    embed = params['embed'] | {'tokens': {'table': table_VD}}
    x_1TD = lm.forward(
        params | {'embed': embed}, tokens_T[None], segments_T[None], cfg
    )
    return x_1TD[0] @ probe_D

  jacobian_TVD = jax.jacrev(outputs)(params['embed']['tokens']['table'])
  return jnp.abs(jacobian_TVD[:, tokens_T]).sum(axis=-1)


def _assert_sees(influence_TT, sees_TT):
  """Exactly these: a masked influence is zero, not only small."""
  influence_TT = np.asarray(influence_TT)
  np.testing.assert_array_equal(influence_TT[~sees_TT], 0.0)
  assert influence_TT[sees_TT].min() > 1e-6


def _within(reach):
  t, s = np.arange(T)[:, None], np.arange(T)[None]
  return (s <= t) & (t - s < reach)


def _without_attention(params, layers):
  """Those layers' attention adds nothing to the residual stream."""
  out = params['layers']['attention']['out']
  kernel = np.array(out['kernel'])
  kernel[list(layers)] = 0.0
  attention = params['layers']['attention'] | {'out': out | {'kernel': kernel}}
  return params | {'layers': params['layers'] | {'attention': attention}}


@pytest.mark.parametrize('attention', ['dense', 'alternating'])
def test_output_depends_on_the_past_and_on_nothing_else(
    make_cfg, make_params, attention
):
  # With two layers the first, dense one reaches everything.
  cfg = make_cfg(attention=attention)
  influence_TT = _influence(make_params(cfg), TOKENS_T, ONE_T, cfg)
  _assert_sees(influence_TT, _within(T))


@pytest.mark.parametrize(
    'layers, silent, reach',
    [
        # The second layer alone sees its token and the two before.
        (2, [0], 3),
        # The first alone is dense.
        (2, [1], T),
        # Two banded layers, the second and the fourth: 1 + 2 + 2.
        (4, [0, 2], 5),
        # No attention: each token for itself.
        (2, [0, 1], 1),
    ],
)
def test_reach_of_banded_layers(make_cfg, make_params, layers, silent, reach):
  cfg = make_cfg(attention='alternating', layers=layers, band=3)
  params = _without_attention(make_params(cfg), silent)
  _assert_sees(_influence(params, TOKENS_T, ONE_T, cfg), _within(reach))


@pytest.mark.parametrize('attention', ['dense', 'alternating'])
@pytest.mark.parametrize(
    'segments',
    [[1, 1, 1, 2, 2, 2, 2, 3, 3], [0, 0, 0, 1, 1, 1, 2, 2, 0]],
    ids=['packed', 'padded'],
)
def test_no_influence_across_segments(
    make_cfg, make_params, attention, segments
):
  cfg = make_cfg(attention=attention)
  segments_T = np.array(segments, np.int32)
  influence_TT = _influence(make_params(cfg), TOKENS_T, segments_T, cfg)
  same_TT = segments_T[:, None] == segments_T[None]
  real_T = segments_T > 0  # What comes out at padding means nothing.
  _assert_sees(influence_TT[real_T], (same_TT & _within(T))[real_T])


def test_rows_do_not_see_each_other(make_cfg, make_params, forward):
  cfg = make_cfg()
  params = make_params(cfg)
  tokens_BT = np.stack([TOKENS_T, TOKENS_T + 10])
  other_BT = np.stack([TOKENS_T, TOKENS_T[::-1]])
  segments_BT = np.ones((2, T), np.int32)
  np.testing.assert_array_equal(
      forward(params, tokens_BT, segments_BT, cfg)[0],
      forward(params, other_BT, segments_BT, cfg)[0],
  )


# -- Dropout ------------------------------------------------------------------


def _silence(params, layer, name):
  part = params['layers'][layer]
  last = jax.tree.map(np.zeros_like, part[name])
  return params | {'layers': params['layers'] | {layer: part | {name: last}}}


def test_dropout_is_off_without_a_key(make_cfg, make_params, forward):
  cfg, plain = make_cfg(dropout=0.5), make_cfg()
  args = make_params(cfg), TOKENS_T[None], ONE_T[None]
  np.testing.assert_array_equal(forward(*args, cfg), forward(*args, plain))


def test_dropout_follows_its_key(make_cfg, make_params, forward):
  cfg = make_cfg(dropout=0.5)
  args = make_params(cfg), TOKENS_T[None], ONE_T[None], cfg

  def dropped(seed):
    return np.asarray(forward(*args, dropout_key=_key(seed)))

  np.testing.assert_array_equal(dropped(0), dropped(0))
  assert np.abs(dropped(0) - dropped(1)).max() > 0.1
  assert np.abs(dropped(0) - forward(*args)).max() > 0.1
  # At rate 0 a key changes nothing.
  cfg = make_cfg(dropout=0.0)
  np.testing.assert_array_equal(
      forward(*args[:3], cfg, dropout_key=_key(0)),
      forward(*args[:3], cfg),
  )


def test_dropout_is_on_the_residuals_only(make_cfg, make_params, forward):
  """Where the blocks add nothing there is nothing to drop: not embeddings."""
  cfg = make_cfg(dropout=0.5)
  params = _silence(make_params(cfg), 'attention', 'out')
  params = _silence(params, 'mlp', 'down')
  args = params, TOKENS_T[None], ONE_T[None], cfg
  np.testing.assert_array_equal(
      forward(*args, dropout_key=_key(0)), forward(*args)
  )


@functools.cache
def _block(cfg, deterministic):
  block = transformer.Block(cfg, deterministic, keep_cache=False)
  return jax.jit(block.apply)


@pytest.mark.parametrize('silent', ['attention', 'mlp'])
def test_dropout_keeps_the_mean(make_cfg, make_params, silent):
  """Of one block with one of its two sums silenced: 0 or y / (1 - rate)."""
  cfg = make_cfg(dropout=0.2)
  last = {'attention': 'out', 'mlp': 'down'}[silent]
  params = _silence(make_params(cfg), silent, last)
  params = jax.tree.map(lambda x: x[0], params['layers'])
  x_BTD = np.random.default_rng(0).normal(size=(30, T, cfg.width))
  x_BTD = x_BTD.astype(np.float32)
  visible_BTS = jnp.asarray(_within(T))[None]
  view = attention.View(visible_BTS, visible_BTS, jnp.asarray(ONE_T)[None])

  def added(deterministic):
    y_BTD, _ = _block(cfg, deterministic)(
        {'params': params},
        x_BTD,
        view,
        False,
        None,
        rngs={'dropout': _key(1)},
    )
    return np.asarray(y_BTD) - x_BTD

  full_BTD, dropped_BTD = added(True), added(False)
  kept_BTD = np.abs(dropped_BTD) > 1e-5
  np.testing.assert_allclose(
      dropped_BTD[kept_BTD], full_BTD[kept_BTD] / 0.8, atol=1e-5
  )
  # 4320 entries: five standard errors of a share of 0.8 are 0.03.
  assert abs(kept_BTD.mean() - 0.8) < 0.03


# -- Ways to run the same thing -----------------------------------------------


def test_remat_and_unrolling_change_nothing(make_cfg, make_params):
  """Small models are unrolled and stored, large ones scanned and recomputed."""
  params = make_params(make_cfg())
  # The second row is padding throughout: it must not bring a NaN.
  tokens_BT = np.stack([TOKENS_T, np.zeros_like(TOKENS_T)])
  segments_BT = np.stack([ONE_T, 0 * ONE_T])

  def run(**changes):
    cfg = make_cfg(attention='alternating', dropout=0.3, **changes)

    def loss(params):
      # With dropout: what the forward pass dropped, the backward pass must.
      x_BTD = lm.forward(
          params, tokens_BT, segments_BT, cfg, dropout_key=_key(2)
      )
      return jnp.sum(jnp.sin(x_BTD)), x_BTD

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  got, want = run(unroll=True), run(remat='full')
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      got,
      want,
  )


def test_bf16_is_close_to_f32(make_cfg, make_params, forward):
  cfg, exact = make_cfg(dtype='bfloat16'), make_cfg()
  params = make_params(cfg)
  got_BTD = forward(params, TOKENS_T[None], ONE_T[None], cfg)
  want_BTD = forward(params, TOKENS_T[None], ONE_T[None], exact)
  assert got_BTD.dtype == jnp.bfloat16
  # bf16 has 8 bits: 0.4 % a rounding, some tens of them on the way.
  error = np.abs(np.asarray(got_BTD, np.float32) - want_BTD)
  assert error.max() < 0.15
  assert error.mean() < 0.02


def test_gradients_of_a_bf16_forward_are_f32(make_cfg, make_params):
  cfg = make_cfg(dtype='bfloat16')

  def loss(params):
    x_BTD = lm.forward(params, TOKENS_T[None], ONE_T[None], cfg)
    return jnp.sum(x_BTD.astype(jnp.float32))

  for leaf in jax.tree.leaves(jax.eval_shape(jax.grad(loss), make_params(cfg))):
    assert leaf.dtype == jnp.float32


# -- Parameters ---------------------------------------------------------------


def _paths(tree):
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {'/'.join(k.key for k in path): leaf for path, leaf in leaves}


def test_names_and_shapes_are_those_documented(make_cfg):
  """They are an interface: sharding, decay, checkpoints, importers."""
  cfg = make_cfg()
  params = jax.eval_shape(lambda key: lm.init(key, cfg), jax.random.key(0))
  n, d, h, e, f = 2, 16, 2, 6, 64
  assert {path: leaf.shape for path, leaf in _paths(params).items()} == {
      'embed/tokens/table': (40, d),
      'embed/positions/table': (32, d),
      'layers/attention_norm/scale': (n, d),
      'layers/attention_norm/bias': (n, d),
      'layers/attention/query/kernel': (n, d, h, e),
      'layers/attention/query/bias': (n, h, e),
      'layers/attention/key/kernel': (n, d, h, e),
      'layers/attention/key/bias': (n, h, e),
      'layers/attention/value/kernel': (n, d, h, e),
      'layers/attention/value/bias': (n, h, e),
      'layers/attention/out/kernel': (n, h, e, d),
      'layers/attention/out/bias': (n, d),
      'layers/mlp_norm/scale': (n, d),
      'layers/mlp_norm/bias': (n, d),
      'layers/mlp/up/kernel': (n, d, f),
      'layers/mlp/up/bias': (n, f),
      'layers/mlp/down/kernel': (n, f, d),
      'layers/mlp/down/bias': (n, d),
      'final_norm/scale': (d,),
      'final_norm/bias': (d,),
  }
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
      jnp.dtype('float32')
  }


@functools.cache
def _init(cfg):
  return jax.jit(lm.init, static_argnums=1)(_key(0), cfg)


def _assert_scales(params, want, tolerance):
  for path, leaf in _paths(params).items():
    if path in want:
      assert np.std(leaf) == pytest.approx(want[path], rel=tolerance), path
      assert abs(np.mean(leaf)) < 5 * want[path] / leaf.size**0.5, path
    else:
      np.testing.assert_array_equal(leaf, float(path.endswith('scale')))


def test_initial_scales(make_cfg):
  # Radford et al. 2019, 2.3: what is added to the residual stream starts
  # smaller by the square root of the number of such layers, 2 * 2. The
  # standard error of a standard deviation is 1 / sqrt(2 n), here up to 4 %.
  _assert_scales(
      _init(make_cfg(init_std=0.02)),
      {
          'embed/tokens/table': 0.02,
          'embed/positions/table': 0.01,
          'layers/attention/query/kernel': 0.02,
          'layers/attention/key/kernel': 0.02,
          'layers/attention/value/kernel': 0.02,
          'layers/attention/out/kernel': 0.01,
          'layers/mlp/up/kernel': 0.02,
          'layers/mlp/down/kernel': 0.01,
      },
      0.15,
  )


def test_scales_follow_the_fan_in_and_nothing_else_changes(make_cfg):
  """One key makes one network, however it is run; only scales are options."""
  want = {
      'embed/tokens/table': 1 / 4,
      'embed/positions/table': 1 / 8,
      'layers/attention/query/kernel': 1 / 4,
      'layers/attention/key/kernel': 1 / 4,
      'layers/attention/value/kernel': 1 / 4,
      'layers/attention/out/kernel': 1 / 8,
      'layers/mlp/up/kernel': 1 / 4,
      # 1 / sqrt(4 * 16), and half of it.
      'layers/mlp/down/kernel': 1 / 16,
  }
  fixed = _paths(_init(make_cfg(init_std=0.02)))
  other = make_cfg(init_std=None, remat='full', unroll=True, dtype='bfloat16')
  for path, leaf in _paths(_init(other)).items():
    if path in want:
      halved = path.endswith(('positions/table', 'out/kernel', 'down/kernel'))
      std = 0.01 if halved else 0.02
      np.testing.assert_allclose(
          leaf / want[path], fixed[path] / std, rtol=1e-5, err_msg=path
      )
    else:
      np.testing.assert_array_equal(leaf, fixed[path])


def test_layers_start_different(make_cfg):
  layers = _paths(_init(make_cfg())['layers'])
  for path, leaf in layers.items():
    if path.endswith('kernel'):
      assert np.abs(leaf[0] - leaf[1]).max() > 0, path
  # And so do the projections of one layer.
  query, key = layers['attention/query/kernel'], layers['attention/key/kernel']
  assert np.abs(query - key).max() > 0


def test_initial_predictions_are_near_uniform(make_cfg, forward):
  """A new network knows nothing: about ln V nats a token."""
  cfg = make_cfg()
  params = _init(cfg)
  x_BTD = forward(params, TOKENS_T[None], ONE_T[None], cfg)
  logits_TV = np.asarray(lm.lm_logits(params, x_BTD, cfg))[0]
  log_probs_TV = logits_TV - np.logaddexp.reduce(logits_TV, axis=1)[:, None]
  # All but the padding id.
  np.testing.assert_allclose(log_probs_TV[:, 1:].mean(), -np.log(39), rtol=0.01)
