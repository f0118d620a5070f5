# SPDX-License-Identifier: Apache-2.0
"""Schedules at exact steps; Adam against its formula and against optax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf import model as lm
from rlhf import optim

PEAK = 2e-4


def _config(**changes):
  config = optim.OptimizerConfig(learning_rate=PEAK, clip_norm=0.0)
  return dataclasses.replace(config, **changes)


def _rates(steps, **changes):
  schedule = optim.learning_rate(_config(**changes))
  return [float(schedule(step)) / PEAK for step in steps]


# -- Schedules ----------------------------------------------------------------


def test_constant():
  np.testing.assert_allclose(_rates([0, 1, 10**6]), 1.0, rtol=1e-6)


def test_cosine_falls_to_a_tenth():
  # 0.1 + 0.9 (1 + cos(pi t / 100)) / 2 at 0, 1/4, 1/2, 3/4, 1, and after.
  root = np.sqrt(0.5)
  want = [1, 0.1 + 0.45 * (1 + root), 0.55, 0.1 + 0.45 * (1 - root), 0.1, 0.1]
  got = _rates([0, 25, 50, 75, 100, 1000], schedule='cosine', total_steps=100)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_linear_falls_to_the_final_fraction():
  got = _rates(
      [0, 5, 10, 20], schedule='linear', total_steps=10, final_fraction=0.0
  )
  np.testing.assert_allclose(got, [1, 0.5, 0, 0], atol=1e-6)


def test_warm_up_from_a_tenth_over_ten_updates_then_constant():
  # The paper's PPO: 0.1 at the first update, 0.09 more at each.
  got = _rates([0, 1, 5, 9, 10, 11, 500], warmup_steps=10, warmup_from=0.1)
  np.testing.assert_allclose(
      got, [0.1, 0.19, 0.55, 0.91, 1.0, 1.0, 1.0], rtol=1e-5
  )


def test_cosine_after_warm_up_ends_with_the_run():
  # Up over 20 of 120 updates; the cosine has the remaining 100.
  got = _rates(
      [0, 10, 20, 70, 120], schedule='cosine', warmup_steps=20, total_steps=120
  )
  np.testing.assert_allclose(got, [0, 0.5, 1.0, 0.55, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(schedule='cosin', total_steps=5), "'cosin'.*constant, cosine"),
        (dict(schedule='cosine'), 'total_steps > 0'),
        (dict(schedule='linear', total_steps=0), 'total_steps > 0'),
        (dict(eps_form='torch'), "'torch'.*optax or tensorflow"),
    ],
)
def test_bad_configs_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    optim.optimizer(_config(**changes))


# -- Adam ---------------------------------------------------------------------


def _gradients(n, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, 5)).astype(np.float32) * [1e-6, 1e-4, 1e-2, 1, 99]


def _first_update(tx, gradient):
  @jax.jit
  def update(gradient):
    return tx.update(gradient, tx.init(gradient), gradient)[0]

  return update(gradient)


def _walk(tx, gradients, start=1.0):
  """Parameters after each update."""
  params = {'kernel': jnp.full(5, start)}
  state = tx.init(params)

  @jax.jit
  def step(params, state, gradient):
    updates, state = tx.update({'kernel': gradient}, state, params)
    return optax.apply_updates(params, updates), state

  path = []
  for gradient in gradients:
    params, state = step(params, state, jnp.asarray(gradient, jnp.float32))
    path.append(np.asarray(params['kernel']))
  return np.stack(path)


def _adam_loop(gradients, rate, b1, b2, eps, form):
  """Kingma and Ba 2015, algorithm 1; in f64, from 1."""
  p, m, v = np.ones(5), np.zeros(5), np.zeros(5)
  path = []
  for t, g in enumerate(gradients, 1):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    if form == 'optax':
      p = p - rate * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
    else:
      rate_t = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
      p = p - rate_t * m / (np.sqrt(v) + eps)
    path.append(p)
  return np.stack(path)


@pytest.mark.parametrize('form', ['optax', 'tensorflow'])
@pytest.mark.parametrize('b2', [0.95, 0.999])
def test_adam_equals_its_formula(form, b2):
  gradients = _gradients(8)
  config = _config(learning_rate=0.1, b2=b2, eps=1e-5, eps_form=form)
  np.testing.assert_allclose(
      _walk(optim.optimizer(config), gradients),
      _adam_loop(gradients, 0.1, 0.9, b2, 1e-5, form),
      rtol=1e-4,
  )


def test_the_forms_differ_by_31_6_at_the_first_update():
  # With g far below eps both are g / eps, up to the correction of eps: at
  # t = 1, 1 / sqrt(1 - 0.999) = 31.62 times.
  updates = {}
  for form in ('optax', 'tensorflow'):
    tx = optim.optimizer(_config(b2=0.999, eps=1e-5, eps_form=form))
    updates[form] = float(_first_update(tx, np.float32(1e-9)))
  assert updates['optax'] / updates['tensorflow'] == pytest.approx(
      1000**0.5, rel=1e-3
  )
  # The hand formula: -rate * sqrt(.001) / .1 * (.1 g) / (sqrt(.001) g + eps).
  want = -PEAK * 0.001**0.5 * 1e-9 / (0.001**0.5 * 1e-9 + 1e-5)
  assert updates['tensorflow'] == pytest.approx(want, rel=1e-3)


def test_tensorflow_form_is_optax_with_a_corrected_epsilon():
  gradients = _gradients(1)
  tensorflow = _config(b2=0.999, eps=1e-5, eps_form='tensorflow')
  corrected = _config(b2=0.999, eps=1e-5 / (1 - 0.999) ** 0.5)
  np.testing.assert_allclose(
      _walk(optim.optimizer(tensorflow), gradients, start=0.0),
      _walk(optim.optimizer(corrected), gradients, start=0.0),
      rtol=1e-4,
  )


def test_optimizer_is_optax_adamw():
  gradients = _gradients(5)
  config = _config(
      learning_rate=0.1,
      schedule='cosine',
      total_steps=5,
      weight_decay=0.3,
      clip_norm=1.0,
  )
  adamw = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(
          optax.cosine_decay_schedule(0.1, 5, 0.1),
          b1=0.9,
          b2=0.95,
          eps=1e-8,
          weight_decay=0.3,
      ),
  )
  np.testing.assert_allclose(
      _walk(optim.optimizer(config), gradients),
      _walk(adamw, gradients),
      rtol=1e-6,
  )


@pytest.mark.parametrize(
    'clip_norm, want', [(1.0, [0.6, 0.8]), (0.0, [3, 4]), (9.0, [3, 4])]
)
def test_clipping_scales_the_global_norm(clip_norm, want):
  # Adam with no memory and a huge epsilon is the gradient over epsilon. The
  # norm of (3, 4), over two leaves, is 5.
  config = _config(
      learning_rate=1e6, b1=0.0, b2=0.0, eps=1e6, clip_norm=clip_norm
  )
  tx = optim.optimizer(config)
  gradient = {'a': np.float32(3.0), 'b': np.float32(4.0)}
  updates = _first_update(tx, gradient)
  np.testing.assert_allclose([-updates['a'], -updates['b']], want, rtol=1e-4)


# -- Decay --------------------------------------------------------------------


def _paths(tree):
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {'/'.join(k.key for k in path): leaf for path, leaf in leaves}


def _model_params():
  cfg = lm.ModelConfig(
      layers=2,
      width=16,
      heads=2,
      head_size=8,
      context=8,
      vocab_size=11,
      pad_id=0,
      reward_pooling='last_and_mean',
  )

  def init(key):
    return lm.init(key, cfg) | {'scalar_head': lm.init_scalar_head(key, cfg)}

  shapes = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)


def test_decay_touches_only_products():
  """A zero gradient moves a real model's kernels, by -rate * decay * p."""
  params = _model_params()
  tx = optim.optimizer(_config(weight_decay=0.1))

  @jax.jit
  def update(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return tx.update(zeros, tx.init(params), params)[0]

  updates = update(params)
  moved = set()
  for path, update in _paths(updates).items():
    if np.any(update != 0):
      np.testing.assert_allclose(update, -PEAK * 0.1, rtol=1e-6)
      moved.add(path)
  assert moved == {
      'layers/attention/query/kernel',
      'layers/attention/key/kernel',
      'layers/attention/value/kernel',
      'layers/attention/out/kernel',
      'layers/mlp/up/kernel',
      'layers/mlp/down/kernel',
      'scalar_head/last/kernel',
      'scalar_head/mean/kernel',
  }


# -- Moving average -----------------------------------------------------------


def test_moving_average_of_a_constant():
  # e_n = d^n e_0 + (1 - d^n) p.
  average, params = {'w': jnp.array([1.0, -2.0])}, {'w': jnp.array([5.0, 0.0])}
  for _ in range(20):
    average = optim.move_average(average, params, 0.992)
  want = 0.992**20 * np.array([1, -2]) + (1 - 0.992**20) * np.array([5, 0])
  np.testing.assert_allclose(average['w'], want, rtol=1e-5)


def test_moving_average_of_a_walk():
  # e_n = d^n e_0 + (1 - d) sum_i d^(n - i) p_i.
  walk = np.random.default_rng(0).normal(size=12).astype(np.float32)
  average = {'w': jnp.float32(3.0)}
  for p in walk:
    average = optim.move_average(average, {'w': jnp.asarray(p)}, 0.9)
  weights = 0.1 * 0.9 ** np.arange(12)[::-1]
  np.testing.assert_allclose(
      average['w'], 0.9**12 * 3.0 + weights @ walk, rtol=1e-5
  )
