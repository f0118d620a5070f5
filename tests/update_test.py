# SPDX-License-Identifier: Apache-2.0
"""The generic update, on a model small enough to differentiate by eye."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf import losses, optim, update

KEY = jax.random.key(7)
# With a rate of 1, gradient descent moves by minus the gradient.
SGD = optax.sgd(1.0)
GAMMA = 27.8
VOCAB = 7


def _params(seed=0):
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(VOCAB, 4)).astype(np.float32)
  kernel = rng.normal(size=(4, VOCAB)).astype(np.float32)
  return {'table': jnp.asarray(table), 'kernel': jnp.asarray(kernel)}


def _bigram_loss(params, batch, key):
  """The language loss of a bigram model."""
  del key
  logits_BTV = params['table'][batch['tokens_BT']] @ params['kernel']
  scores = losses.token_log_probs(
      logits_BTV, losses.next_tokens(batch['tokens_BT'])
  )
  return losses.language_loss(*scores, batch['mask_BT'])


def _linear_ranking_loss(params, batch, key):
  del key
  rewards_BK = batch['features_BKV'] @ params['table'][:, 0]
  return losses.pairwise_ranking_loss(
      rewards_BK, batch['ranks_BK'], batch['mask_BK']
  )


def _noise_loss(params, batch, key):
  """Its gradient is the noise that a dropout mask would be."""
  noise = jax.random.normal(key, params['table'].shape)
  loss = jnp.sum(params['table'] * noise)
  return loss, {'loss': loss, 'weight': jnp.sum(batch)}


def _text(seed=0, b=6, t=5):
  rng = np.random.default_rng(seed)
  # Unequal on purpose: 4 targets in the first rows and at most 1 in others.
  lengths = np.array([5, 5, 2, 1, 1, 2])[:b]
  return {
      'tokens_BT': rng.integers(0, VOCAB, (b, t)).astype(np.int32),
      'mask_BT': np.arange(t)[None] < lengths[:, None],
  }


def _rankings(seed=0):
  rng = np.random.default_rng(seed)
  real = np.array([9, 4, 2, 2, 5, 3])
  ranks_BK = rng.integers(0, 3, (6, 9)).astype(np.int32)
  ranks_BK[:, :2] = [0, 1]
  ranks_BK[2] = 1  # All tied: no comparison, and no weight.
  return {
      'features_BKV': rng.normal(size=(6, 9, VOCAB)).astype(np.float32),
      'ranks_BK': ranks_BK,
      'mask_BK': np.arange(9)[None] < real[:, None],
  }


def _split(batch, n):
  """A leading axis of micro-batches."""
  return jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), batch)


@functools.cache
def _step(terms, tx, **kwargs):
  return jax.jit(
      functools.partial(update.train_step, terms=terms, tx=tx, **kwargs)
  )


@functools.cache
def _gradient_of(term):
  # Jitted once, because op by op every new shape compiles every op.
  return jax.jit(functools.partial(update.gradient, term))


def _gradient(term, params, batch):
  return _gradient_of(term)(params, batch, KEY)


def _assert_trees_close(got, want, **tolerance):
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want
  )


# -- The pretraining mix ------------------------------------------------------


@pytest.mark.parametrize('gamma', [1.0, GAMMA])
def test_ptx_adds_exactly_gamma_times_the_pretraining_gradient(gamma):
  params = _params()
  ppo = update.Term('rl', _linear_ranking_loss)
  ptx = update.Term('ptx', _bigram_loss, coefficient=gamma)
  batch = {'rl': _rankings(), 'ptx': _text()}
  state = update.new_state(params, SGD)
  without, _ = _step((ppo,), SGD)(state, batch, KEY)
  with_ptx, _ = _step((ppo, ptx), SGD)(state, batch, KEY)

  def pretraining_loss(params):
    return _bigram_loss(params, batch['ptx'], KEY)[0]

  want = jax.jit(jax.grad(pretraining_loss))(params)
  got = jax.tree.map(
      lambda a, b: (np.asarray(a) - np.asarray(b)) / gamma,
      without.params,
      with_ptx.params,
  )
  _assert_trees_close(got, want, atol=2e-6)


def test_two_terms_are_one_optimizer_step():
  params = _params()
  terms = (
      update.Term('rl', _linear_ranking_loss),
      update.Term('ptx', _bigram_loss, coefficient=GAMMA),
  )
  batch = {'rl': _rankings(), 'ptx': _text()}
  tx = optax.adam(0.1)
  state, _ = _step(terms, tx)(update.new_state(params, tx), batch, KEY)
  assert state.step == 1
  assert state.opt_state[0].count == 1

  def objective(params):
    rl, _ = _linear_ranking_loss(params, batch['rl'], KEY)
    return rl + GAMMA * _bigram_loss(params, batch['ptx'], KEY)[0]

  @jax.jit
  def by_hand(params):
    grads = jax.grad(objective)(params)
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)

  joint = by_hand(params)
  _assert_trees_close(state.params, joint, rtol=1e-3, atol=1e-5)

  # Two steps are another algorithm: Adam would not even notice gamma.
  two = update.new_state(params, tx)
  for term in terms:
    two, _ = _step((term,), tx)(two, batch, KEY)
  assert two.opt_state[0].count == 2
  assert np.abs(two.params['table'] - joint['table']).max() > 0.05


# -- Gradient accumulation ----------------------------------------------------


@pytest.mark.parametrize(
    'loss_fn, batch',
    [(_bigram_loss, _text()), (_linear_ranking_loss, _rankings())],
    ids=['language', 'ranking'],
)
@pytest.mark.parametrize('n', [2, 3, 6])
def test_accumulation_with_unequal_masks_is_one_big_batch(loss_fn, batch, n):
  params = _params()
  whole, wanted = _gradient(update.Term('x', loss_fn), params, batch)
  term = update.Term('x', loss_fn, micro_batches=n)
  got, metrics = _gradient(term, params, _split(batch, n))
  _assert_trees_close(got, whole, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics['loss'], wanted['loss'], rtol=1e-5)
  assert metrics['weight'] == wanted['weight']
  assert set(metrics) == set(wanted)

  # The usual mistake, the mean of the micro-batches' means, would show here.
  micro = [
      jax.tree.map(lambda x, i=i: x[i], _split(batch, n)) for i in range(n)
  ]
  part = update.Term('x', loss_fn)
  means = [_gradient(part, params, m)[0]['table'] for m in micro]
  assert np.abs(sum(means) / n - whole['table']).max() > 1e-3


def test_accumulated_accuracy_is_that_of_one_big_batch():
  params, batch = _params(), _text()
  _, wanted = _gradient(update.Term('x', _bigram_loss), params, batch)
  term = update.Term('x', _bigram_loss, micro_batches=3)
  _, metrics = _gradient(term, params, _split(batch, 3))
  np.testing.assert_allclose(metrics['accuracy'], wanted['accuracy'], rtol=1e-5)


def test_an_empty_micro_batch_changes_nothing():
  params, batch = _params(), _text()
  empty = jax.tree.map(np.zeros_like, batch)
  both = jax.tree.map(lambda a, b: np.stack([a, b]), batch, empty)
  whole, wanted = _gradient(update.Term('x', _bigram_loss), params, batch)
  term = update.Term('x', _bigram_loss, micro_batches=2)
  got, metrics = _gradient(term, params, both)
  _assert_trees_close(got, whole, rtol=1e-5, atol=1e-7)
  _assert_trees_close(metrics, wanted, rtol=1e-5)


def test_nothing_to_learn_from_is_a_zero_gradient():
  empty = jax.tree.map(np.zeros_like, _split(_text(), 2))
  term = update.Term('x', _bigram_loss, micro_batches=2)
  grads, metrics = _gradient(term, _params(), empty)
  _assert_trees_close(grads, jax.tree.map(np.zeros_like, grads))
  assert metrics['loss'] == 0.0


# -- Moving average -----------------------------------------------------------


@pytest.mark.parametrize('micro_batches', [1, 3])
def test_ema_moves_once_an_optimizer_step(micro_batches):
  batch = _text()
  if micro_batches > 1:
    batch = _split(batch, micro_batches)
  terms = (update.Term('x', _bigram_loss, micro_batches=micro_batches),)
  tx = optax.sgd(0.5)
  step = _step(terms, tx, ema_decay=0.9)
  state = update.new_state(_params(), tx, ema=True)
  _assert_trees_close(state.ema, state.params)
  want = np.asarray(state.params['table'])
  for _ in range(3):
    state, _ = step(state, {'x': batch}, KEY)
    # It follows the parameters *after* the step.
    want = 0.9 * want + 0.1 * np.asarray(state.params['table'])
    np.testing.assert_allclose(state.ema['table'], want, rtol=1e-5, atol=1e-6)
  assert state.step == 3


def test_no_ema_unless_asked():
  tx = optax.sgd(0.5)
  state = update.new_state(_params(), tx)
  assert state.ema is None
  terms = (update.Term('x', _bigram_loss),)
  state, _ = _step(terms, tx)(state, {'x': _text()}, KEY)
  assert state.ema is None


def test_state_can_be_donated():
  """JAX refuses to donate one buffer twice: the average must be a copy."""
  terms = (update.Term('x', _bigram_loss),)
  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=1e-3))
  step = functools.partial(
      update.train_step, terms=terms, tx=tx, ema_decay=0.992
  )
  state = update.new_state(_params(), tx, ema=True)
  old = state.params['table']
  state, _ = jax.jit(step, donate_argnums=0)(state, {'x': _text()}, KEY)
  assert old.is_deleted()
  assert np.isfinite(state.ema['table']).all()


# -- Random numbers -----------------------------------------------------------


NOISE = update.Term('x', _noise_loss)


def _noise(state, key=KEY, terms=(NOISE,)):
  """What one step subtracts from the parameters."""
  batch = {term.name: jnp.ones((term.micro_batches, 1)) for term in terms}
  after, _ = _step(terms, SGD)(state, batch, key)
  return np.asarray(state.params['table'] - after.params['table'])


def _at_step(step):
  state = update.new_state(_params(), SGD)
  return dataclasses.replace(state, step=jnp.int32(step))


def test_noise_hangs_on_the_key_and_the_step_only():
  here = _noise(_at_step(3))
  np.testing.assert_array_equal(_noise(_at_step(3)), here)
  assert np.abs(_noise(_at_step(4)) - here).max() > 0.1
  assert np.abs(_noise(_at_step(3), jax.random.key(8)) - here).max() > 0.1


def test_terms_and_micro_batches_draw_noise_of_their_own():
  both = (NOISE, update.Term('y', _noise_loss))
  # The sum of two draws; twice the first if they shared a key.
  first, total = _noise(_at_step(0)), _noise(_at_step(0), terms=both)
  assert np.abs(total - 2 * first).max() > 0.1
  # The mean of 400 independent draws has a standard deviation of 1/20.
  many = (update.Term('x', _noise_loss, micro_batches=400),)
  mean = _noise(_at_step(0), terms=many)
  assert 0.025 < np.std(mean) < 0.1


def test_a_resumed_run_draws_the_numbers_of_an_unbroken_one():
  terms = (
      update.Term('x', _bigram_loss),
      update.Term('n', _noise_loss, coefficient=0.1),
  )
  batch = {'x': _text(), 'n': jnp.ones(1)}
  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=1e-2))
  step = _step(terms, tx, ema_decay=0.9)
  state = update.new_state(_params(), tx, ema=True)
  for number in range(4):
    if number == 2:
      saved = jax.tree.map(np.asarray, state)  # What a checkpoint holds.
    state, _ = step(state, batch, KEY)
  again = jax.tree.map(jnp.asarray, saved)
  for _ in range(2):
    again, _ = step(again, batch, KEY)
  jax.tree.map(np.testing.assert_array_equal, again, state)


# -- Updates that are not finite ----------------------------------------------


def _scaled_loss(params, batch, key):
  """A loss that a batch of NaN or infinity spoils."""
  del key
  loss = jnp.sum(params['table'] * batch)
  return loss, {'loss': loss, 'weight': jnp.float32(1)}


_ADAM = optim.optimizer(optim.OptimizerConfig(learning_rate=0.1))


def _walk(batches, *, freeze):
  """States before the first and after each of some steps, and metrics."""
  step = _step(
      (update.Term('x', _scaled_loss),), _ADAM, ema_decay=0.5, freeze=freeze
  )
  states = [update.new_state(_params(), _ADAM, ema=True)]
  seen = []
  for batch in batches:
    state, metrics = step(states[-1], {'x': jnp.float32(batch)}, KEY)
    states.append(state)
    seen.append(metrics)
  return states, seen


def _same(a, b):
  jax.tree.map(
      np.testing.assert_array_equal,
      dataclasses.replace(a, skipped=b.skipped),
      b,
  )


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e38])
def test_an_update_that_is_not_finite_is_left_out(bad):
  """1e38: the loss is finite still, the norm of its gradient is not."""
  states, seen = _walk([1.0, bad, 2.0], freeze=False)
  _same(states[2], states[1])
  assert [int(m['opt/skipped']) for m in seen] == [0, 1, 1]
  # And the next is what it would be, had there been no such batch.
  _same(states[3], _walk([1.0, 2.0], freeze=False)[0][-1])
  assert states[3].step == 2 and states[3].opt_state[1].count == 2


def test_a_frozen_state_stays_what_it_was():
  states, seen = _walk([1.0, np.nan, 2.0, 3.0], freeze=True)
  for state in states[2:]:
    _same(state, states[1])
  assert [int(m['opt/skipped']) for m in seen] == [0, 1, 2, 3]


def test_new_values_that_are_not_finite_are_left_out():
  """The gradient is fine, the learning rate is not."""
  tx = optax.sgd(np.inf)
  state = update.new_state(_params(), tx)
  step = _step((update.Term('x', _scaled_loss),), tx)
  after, metrics = step(state, {'x': jnp.float32(1)}, KEY)
  assert np.isfinite(metrics['opt/grad_norm'])
  _same(after, state)


def test_the_learning_rate_is_that_of_the_update():
  config = optim.OptimizerConfig(
      learning_rate=1.0, schedule='linear', warmup_steps=2, total_steps=6
  )
  tx = optim.optimizer(config)
  step = _step((update.Term('x', _scaled_loss),), tx)
  state = update.new_state(_params(), tx)
  rates = []
  for _ in range(4):
    state, metrics = step(state, {'x': jnp.float32(1)}, KEY)
    rates.append(float(metrics['opt/learning_rate']))
  # Up to 1 in two updates, then down to a tenth over four: 0.9 / 4 each.
  np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.775])


# -- Metrics and purity -------------------------------------------------------


def test_metrics_are_named_after_their_terms():
  tx = optax.sgd(0.5)
  one = update.Term('rm', _linear_ranking_loss)
  two = update.Term('ptx', _bigram_loss, coefficient=GAMMA)
  batch = {'rm': _rankings(), 'ptx': _text()}
  state = update.new_state(_params(), tx)
  _, metrics = _step((one,), tx)(state, batch, KEY)
  assert set(metrics) == {
      'rm/loss',
      'rm/accuracy',
      'rm/margin',
      'rm/pairs',
      'rm/weight',
      'opt/grad_norm',
      'opt/update_norm',
      'opt/skipped',
  }
  np.testing.assert_allclose(
      metrics['opt/update_norm'], 0.5 * metrics['opt/grad_norm'], rtol=1e-5
  )
  _, metrics = _step((one, two), tx)(state, batch, KEY)
  assert {'rm/grad_norm', 'ptx/grad_norm', 'ptx/loss'} <= set(metrics)
  plain = update.Term('ptx', _bigram_loss)
  grads, _ = _gradient(plain, state.params, batch['ptx'])
  squares = sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads))
  # Of the scaled gradient: what the term brings to the sum.
  np.testing.assert_allclose(
      metrics['ptx/grad_norm'], GAMMA * np.sqrt(squares), rtol=1e-4
  )


def test_step_is_pure_and_needs_no_jit():
  state = update.new_state(_params(), SGD, ema=True)
  before = jax.tree.map(np.array, state)
  terms, batch = (NOISE,), {'x': np.ones(1, np.float32)}
  after, _ = update.train_step(
      state, batch, KEY, terms=terms, tx=SGD, ema_decay=0.9
  )
  jax.tree.map(np.testing.assert_array_equal, before, state)
  jitted, _ = _step(terms, SGD, ema_decay=0.9)(state, batch, KEY)
  _assert_trees_close(jitted, after, rtol=1e-5, atol=1e-6)
  assert not np.array_equal(after.params['table'], state.params['table'])


def test_the_loss_falls():
  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=0.05))
  step = _step((update.Term('x', _bigram_loss),), tx)
  state = update.new_state(_params(), tx)
  history = []
  for _ in range(40):
    state, metrics = step(state, {'x': _text()}, KEY)
    history.append(float(metrics['x/loss']))
  assert history[-1] < 0.5 * history[0]


def test_ratio_is_one_at_the_first_minibatch_and_not_at_the_second():
  """PPO in small: the old log-probs stay, the policy moves."""
  rng = np.random.default_rng(0)
  tokens_BT = _text()['tokens_BT']
  advantages_BR = rng.normal(size=tokens_BT.shape).astype(np.float32)
  mask_BR = _text()['mask_BT']

  def log_probs(params):
    logits_BTV = params['table'][tokens_BT] @ params['kernel']
    next_BT = losses.next_tokens(tokens_BT)
    return losses.token_log_probs(logits_BTV, next_BT)[0]

  def ppo_loss(params, old_BR, key):
    del key
    return losses.clipped_policy_loss(
        log_probs(params), old_BR, advantages_BR, mask_BR, clip=0.2
    )

  tx = optax.sgd(0.1)
  step = _step((update.Term('ppo', ppo_loss),), tx)
  state = update.new_state(_params(), tx)
  batch = {'ppo': jax.jit(log_probs)(state.params)}
  state, first = step(state, batch, KEY)
  np.testing.assert_allclose(first['ppo/ratio'], 1.0, rtol=1e-6)
  np.testing.assert_allclose(first['ppo/approx_kl'], 0.0, atol=1e-10)
  _, second = step(state, batch, KEY)
  assert second['ppo/approx_kl'] > 1e-5
  assert abs(second['ppo/ratio'] - 1.0) > 1e-4
