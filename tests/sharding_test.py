# SPDX-License-Identifier: Apache-2.0
"""The rule table against every parameter there is, and 8 devices against 1."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlhf import model as lm
from rlhf import optim, sharding, update
from rlhf.data import batches, packing
from rlhf.experience import Experience
from rlhf.stages import ppo, reward
from rlhf.stages.sft import language_term
from tests import tiny

DEVICES = 8


# -- Rules --------------------------------------------------------------------


def _state(size, **changes):
  """Shapes of a state with all that there can be: head, moments and average."""
  cfg = lm.ModelConfig(**lm.SIZES[size] | changes)
  tx = optim.optimizer(
      optim.OptimizerConfig(learning_rate=1.0, weight_decay=0.1)
  )

  def make(key):
    params = lm.init(key, cfg)
    params |= {'scalar_head': lm.init_scalar_head(key, cfg)}
    return update.new_state(params, tx, ema=True)

  return jax.eval_shape(make, jax.random.key(0))


def _named(tree):
  return {
      sharding.path_name(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize('size', lm.SIZES)
def test_every_parameter_matches_exactly_one_rule(size):
  leaves = _named(_state(size, reward_pooling='last_and_mean'))
  assert 'params/embed/tokens/table' in leaves
  assert any(re.search('opt_state.*/mu/layers/mlp/up', name) for name in leaves)
  assert any(name.startswith('ema/scalar_head') for name in leaves)
  for name, leaf in leaves.items():
    matching = [
        axes for pattern, axes in sharding.RULES if re.search(pattern, name)
    ]
    if leaf.ndim:
      assert len(matching) == 1, name
      # A rule has no more axes than the parameter, and names each mesh axis
      # at most once.
      assert len(matching[0]) <= leaf.ndim, name


@pytest.mark.parametrize('size', ['1.3b', '6b', '175b'])
def test_big_matrices_divide_over_a_pod(size):
  """No rule is silently dropped where it matters: all of it is spread out."""

  @dataclasses.dataclass
  class Mesh:
    shape: dict

  mesh = Mesh({'data': 1, 'fsdp': 16, 'tensor': 8})
  changes = {'vocab_size': 50304, 'pad_id': 50257}
  total = spread = 0
  for name, leaf in _named(_state(size, **changes).params).items():
    axes = sharding.spec(name, leaf.shape, mesh)
    size = leaf.size
    total += size
    spread += size if {'fsdp', 'tensor'} <= set(axes) else 0
  assert spread > 0.98 * total


def test_an_axis_that_does_not_divide_is_dropped():
  mesh = sharding.make_mesh({})
  assert sharding.spec('embed/tokens/table', (31, 16), mesh) == P(
      'tensor', 'fsdp'
  )

  class Wide:
    shape = {'data': 1, 'fsdp': 4, 'tensor': 2}

  assert sharding.spec('embed/tokens/table', (31, 16), Wide()) == P(
      None, 'fsdp'
  )
  assert sharding.spec('step', (), Wide()) == P()


def test_an_unknown_parameter_is_refused_by_name():
  mesh = sharding.make_mesh({})
  with pytest.raises(ValueError, match="'layers/gate/kernel'.*RULES"):
    sharding.shardings({'layers': {'gate': {'kernel': jnp.ones(3)}}}, mesh)


# -- The mesh -----------------------------------------------------------------


def test_mesh_takes_all_devices_where_an_axis_is_minus_one():
  shape = dict(sharding.make_mesh({'data': -1}).shape)
  assert shape == {'data': jax.device_count(), 'fsdp': 1, 'tensor': 1}


@pytest.mark.parametrize(
    'sizes, message',
    [
        ({'model': 1}, "no axis 'model'.*'tensor'"),
        ({'data': 3}, 'does not divide'),
        ({'data': -1, 'tensor': 3}, 'does not divide'),
        ({'data': -1, 'fsdp': -1}, 'does not divide'),
        ({'data': 0}, 'does not divide'),
    ],
)
def test_a_wrong_mesh_is_refused(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(sizes, jax.devices()[:1])


# -- One device and eight -----------------------------------------------------


CFG = dataclasses.replace(tiny.CFG, vocab_size=32, pad_id=31)
_B, _P, _R = 8, 8, 8


def _text(rng, rows=_B):
  tokens = rng.integers(0, 29, (rows, 16)).astype(np.int32)
  lengths = rng.integers(4, 17, (rows, 1))
  real = np.arange(16)[None] < lengths
  return batches.TextBatch(
      np.where(real, tokens, CFG.pad_id),
      real.astype(np.int32),
      real & (np.arange(16) > 0)[None],
  )


def _rankings(rng):
  def ids(low, high):
    return rng.integers(0, 29, rng.integers(low, high)).astype(np.int32)

  rankings = []
  for k in (4, 9, 2, 5):
    responses = [ids(1, 6) for _ in range(k)]
    rankings.append((ids(3, 6), responses, rng.integers(0, 3, k)))
  return packing.pack_rankings(rankings, 16, 24, 4, 9, CFG.pad_id)


def _experience(rng):
  mask_BR = np.arange(_R)[None] < rng.integers(1, _R + 1, (_B, 1))
  prompt_BP = np.arange(_P)[None] >= rng.integers(0, _P - 1, (_B, 1))
  segment_ids_BT = np.concatenate([prompt_BP, mask_BR], axis=1)
  tokens_BT = rng.integers(0, 29, segment_ids_BT.shape)

  def numbers(scale):
    drawn = rng.normal(scale=scale, size=mask_BR.shape)
    return np.where(mask_BR, drawn, 0.0).astype(np.float32)

  return Experience(
      tokens_BT=np.where(segment_ids_BT, tokens_BT, CFG.pad_id),
      segment_ids_BT=segment_ids_BT.astype(np.int32),
      mask_BR=mask_BR,
      log_probs_BR=numbers(0.1) - 3.0 * mask_BR,
      values_BR=numbers(1.0),
      advantages_BR=numbers(1.0),
      returns_BR=numbers(1.0),
  )


def _objectives():
  rng = np.random.default_rng(0)
  reward_cfg = dataclasses.replace(CFG, reward_pooling='last_and_mean')
  policy = (
      ppo.policy_term(CFG, clip=0.2, temperature=1.0),
      language_term('ptx', CFG, coefficient=2.5, dropout=False),
  )
  return {
      'sft': ((language_term('sft', CFG),), {'sft': _text(rng)}),
      'rm': ((reward.ranking_term(reward_cfg),), {'rm': _rankings(rng)}),
      'ppo_ptx': (policy, {'policy': _experience(rng), 'ptx': _text(rng, 64)}),
  }


def three_steps(mesh, terms, batch):
  """The state after three updates on a mesh, made there sharded."""
  params, _ = tiny.network(1, head='last_and_mean', cfg=CFG)
  params = jax.device_put(params, sharding.shardings(params, mesh))
  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=1e-2, eps=1e-3))
  state = update.create_state(params, tx, mesh, ema=True)
  step = update.compile_step(state, mesh, terms=terms, tx=tx, ema_decay=0.9)
  where = jax.tree.map(lambda x: x.sharding, state)
  for _ in range(3):
    placed = sharding.put_batch(batch, mesh)
    state, metrics = step(state, placed, jax.random.key(0))
    # Meshes of fake devices dead-lock when many steps are in flight.
    jax.block_until_ready(state)
  assert jax.tree.map(lambda x: x.sharding, state) == where
  return state, jax.device_get(metrics)


def compare_meshes():
  """Run by the test below where there are eight devices."""
  assert jax.device_count() == DEVICES
  one = sharding.make_mesh({}, jax.devices()[:1])
  eight = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  for name, (terms, batch) in _objectives().items():
    want, wanted = three_steps(one, terms, batch)
    got, metrics = three_steps(eight, terms, batch)
    assert_spread_out(got)
    for path, leaf in jax.tree_util.tree_leaves_with_path(got):
      other = functools.reduce(_child, path, want)
      np.testing.assert_allclose(
          leaf, other, rtol=1e-4, atol=1e-5,
          err_msg=f'{name} {sharding.path_name(path)}',
      )
    for key, value in wanted.items():
      np.testing.assert_allclose(
          metrics[key], value, rtol=1e-3, atol=1e-5, err_msg=f'{name} {key}'
      )
    print(name, 'is the same')
  # A batch that does not divide is copied to all devices, not refused.
  short = sharding.put_batch(np.arange(6).reshape(3, 2), eight)
  assert short.sharding.is_fully_replicated
  stacked = sharding.put_batch(np.zeros((3, 4, 5)), eight, stacked=True)
  assert stacked.sharding.spec == P(None, ('data', 'fsdp'))


def _child(tree, entry):
  if isinstance(entry, jax.tree_util.DictKey):
    return tree[entry.key]
  if isinstance(entry, jax.tree_util.SequenceKey):
    return tree[entry.idx]
  return getattr(tree, entry.name)


def assert_spread_out(state):
  """Weights, moments and average lie on several devices, each a part."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if 'kernel' in sharding.path_name(path) and leaf.ndim > 1:
      parts = [shard.data.size for shard in leaf.addressable_shards]
      assert parts == [leaf.size // 4] * DEVICES, sharding.path_name(path)


@pytest.mark.multi_device
@pytest.mark.slow
def test_eight_devices_train_as_one(fresh_python):
  printed = fresh_python(
      'from tests import sharding_test, tiny\n'
      'with tiny.quick_compilation(): sharding_test.compare_meshes()\n',
      devices=DEVICES,
  )
  assert printed.split('\n')[:3] == [
      f'{name} is the same' for name in ('sft', 'rm', 'ppo_ptx')
  ]
