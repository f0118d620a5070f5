# SPDX-License-Identifier: Apache-2.0
"""Runs in progress, to the disk and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import networks, optim, update
from rlhf.checkpoint import Checkpoints
from rlhf.stages.ppo import PPOState
from tests import tiny

FACTS = {'step': 3, 'accuracy': {'mean': 0.5}, 'note': 'as it was'}


def _state(seed):
  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=1.0))
  params, _ = tiny.network(seed)
  value, _ = tiny.network(seed + 1, head='last')
  state = PPOState(
      policy=update.new_state(params, tx, ema=True),
      value=update.new_state(value, tx),
      kl_coefficient=jnp.float32(0.1 * seed),
  )
  # Moments that are not all zero, and an average of its own.
  return jax.tree.map(lambda x: x + jnp.asarray(seed, x.dtype), state)


def test_a_run_round_trip_has_everything(tmp_path):
  state = _state(3)
  writer = Checkpoints(tmp_path)
  writer.save(7, state, {'title': 'ppo'})
  writer.close()
  restored = Checkpoints(tmp_path).restore(_state(5))
  assert restored is not None
  step, got, extra = restored
  assert step == 7 and extra == {'title': 'ppo'}
  tiny.assert_same(got, state)
  assert got.policy.step == 3 and got.policy.opt_state[1].count == 3
  assert got.policy.ema is not None and got.value.ema is None
  np.testing.assert_allclose(got.kl_coefficient, 3.3, rtol=1e-6)


def test_the_newest_is_restored_and_the_oldest_are_dropped(tmp_path):
  writer = Checkpoints(tmp_path, keep=2)
  assert writer.restore({'x': jnp.zeros(2)}) is None
  for step in (2, 4, 10):
    writer.save(step, {'x': jnp.full(2, step)}, {})
  writer.close()
  step, state, _ = Checkpoints(tmp_path).restore({'x': jnp.zeros(2, int)})
  assert step == 10
  np.testing.assert_array_equal(state['x'], [10, 10])
  kept = sorted(int(path.name) for path in tmp_path.iterdir())
  assert kept == [4, 10]


def test_saving_does_not_wait_nor_see_later_changes(tmp_path):
  """The state is donated to the next step while it is being written."""
  writer = Checkpoints(tmp_path)
  state = {'x': jnp.zeros(1000)}
  writer.save(1, state, {})
  add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  for _ in range(3):
    state = add(state)
  writer.close()
  _, restored, _ = Checkpoints(tmp_path).restore(state)
  np.testing.assert_array_equal(restored['x'], 0.0)


def test_a_checkpoint_that_lacks_something_stops_the_run(tmp_path):
  writer = Checkpoints(tmp_path)
  writer.save(1, {'params': jnp.zeros(3)}, {})
  writer.close()
  template = {'params': jnp.zeros(3), 'ema': jnp.zeros(3)}
  with pytest.raises(ValueError, match='ema'):
    Checkpoints(tmp_path).restore(template)


def test_nothing_on_disk_is_a_pickle(tmp_path):
  writer = Checkpoints(tmp_path / 'checkpoints')
  writer.save(1, _state(1), {'title': 'x'})
  writer.close()
  networks.save_model(tmp_path / 'model', *tiny.network(1), FACTS)
  files = [path for path in tmp_path.rglob('*') if path.is_file()]
  assert files
  for path in files:
    assert path.suffix not in ('.pkl', '.pickle', '.npy', '.npz')
    head = path.read_bytes()[:2]
    # 'PROTO n' opens every pickle since Python 2.3.
    assert not (head[:1] == b'\x80' and head[1:2] in b'\x02\x03\x04\x05'), path
  assert json.loads((tmp_path / 'model' / 'model.json').read_text())
