# SPDX-License-Identifier: Apache-2.0
"""Runs in progress, to the disk and back."""

import errno
import json
import os
import shutil
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rlhf import networks, optim, update
from rlhf.checkpoint import CheckpointError, Checkpoints
from rlhf.stages.ppo import PPOState
from tests import tiny

FACTS = {'step': 3, 'accuracy': {'mean': 0.5}, 'note': 'as it was'}


def ppo_state(seed):
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


def _save(directory, *steps, **options):
  """A checkpoint {'x': [step, step]} for each step."""
  writer = Checkpoints(directory, **options)
  for step in steps:
    writer.save(step, {'x': jnp.full(2, step)}, {'n': step})
  writer.close()


def _restore(directory, **options) -> Any:
  return Checkpoints(directory).restore({'x': jnp.zeros(2, int)}, **options)


def _steps(directory):
  return sorted(int(path.name) for path in directory.iterdir())


def test_a_run_round_trip_has_everything(tmp_path):
  state = ppo_state(3)
  writer = Checkpoints(tmp_path)
  writer.save(7, state, FACTS)
  writer.close()
  restored = Checkpoints(tmp_path).restore(ppo_state(5))
  assert restored is not None
  assert restored.step == 7 and restored.facts == FACTS
  assert restored.path == str(tmp_path / '7')
  assert not (restored.damaged or restored.missing or restored.left_over)
  got = restored.state
  tiny.assert_same(got, state)
  assert got.policy.step == 3 and got.policy.opt_state[1].count == 3
  assert got.policy.ema is not None and got.value.ema is None
  np.testing.assert_allclose(got.kl_coefficient, 3.3, rtol=1e-6)


def test_what_is_restored_may_be_donated(tmp_path):
  _save(tmp_path, 5)
  double = jax.jit(lambda s: {'x': 2 * s['x']}, donate_argnums=0)
  state = _restore(tmp_path).state
  for _ in range(2):
    state = double(state)
  np.testing.assert_array_equal(state['x'], 20)
  np.testing.assert_array_equal(_restore(tmp_path).state['x'], 5)


def test_without_a_checkpoint_there_is_nothing(tmp_path):
  assert _restore(tmp_path / 'none') is None
  assert not (tmp_path / 'none').exists()
  (tmp_path / '5.orbax-checkpoint-tmp').mkdir()
  assert _restore(tmp_path) is None
  assert Checkpoints(tmp_path).newest().startswith('no checkpoint is in')


def test_the_newest_is_restored_and_the_oldest_are_dropped(tmp_path):
  _save(tmp_path, 2, 4, 10, keep=2)
  restored = _restore(tmp_path)
  assert restored.step == 10
  np.testing.assert_array_equal(restored.state['x'], [10, 10])
  assert _steps(tmp_path) == [4, 10]
  words = f'the newest checkpoint is step 10 in {tmp_path}'
  assert Checkpoints(tmp_path).newest() == words


def test_what_is_kept_beside_the_newest(tmp_path):
  writer = Checkpoints(tmp_path, keep=1, keep_every=4)
  for step, best in ((2, 2), (3, 2), (4, 2), (5, 5), (6, 5), (7, 5)):
    writer.save(step, {'x': jnp.zeros(2)}, {}, best=best)
    if step == 5:
      # Once the new best is on the disk, the old one goes.
      writer.restore({'x': jnp.zeros(2)})
      assert _steps(tmp_path) == [4, 5]
  writer.close()
  assert _steps(tmp_path) == [4, 5, 7]


def test_saving_does_not_wait_nor_see_later_changes(tmp_path, monkeypatch):
  """The state is donated to the next step while it is being written."""
  go, finalize = threading.Event(), ocp.CompositeCheckpointHandler.finalize

  def late(self, *args):
    assert go.wait(60)
    return finalize(self, *args)

  monkeypatch.setattr(ocp.CompositeCheckpointHandler, 'finalize', late)
  writer = Checkpoints(tmp_path)
  state = {'x': jnp.zeros(1000)}
  writer.save(1, state, {})
  add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  for _ in range(3):
    state = add(state)
    writer.check()
  assert not (tmp_path / '1').exists()
  go.set()
  writer.close()
  restored = Checkpoints(tmp_path).restore(state)
  assert restored is not None
  np.testing.assert_array_equal(restored.state['x'], 0.0)


def test_one_of_several_steps_can_be_asked_for(tmp_path):
  _save(tmp_path, 2, 4, 10, keep=3)
  assert _restore(tmp_path, step=4).state['x'][0] == 4
  with pytest.raises(CheckpointError, match='step 5 .* there are: 2, 4, 10'):
    _restore(tmp_path, step=5)


def test_a_run_that_went_back_goes_on_from_where_it_is(tmp_path):
  """Steps after it would be of a run that was given up."""
  _save(tmp_path, 2, 4, 6, 8, keep=4)
  writer = Checkpoints(tmp_path, keep=4)
  restored = writer.restore({'x': jnp.zeros(2, int)}, step=4)
  assert restored is not None
  writer.save(6, {'x': restored.state['x'] + 1}, {})
  writer.close()
  assert _steps(tmp_path) == [2, 4, 6]
  np.testing.assert_array_equal(_restore(tmp_path).state['x'], 5)


def test_a_step_saved_again_is_the_new_one(tmp_path):
  _save(tmp_path, 3)
  writer = Checkpoints(tmp_path)
  writer.save(3, {'x': jnp.full(2, 33)}, {'n': 'again'})
  writer.close()
  assert _steps(tmp_path) == [3]
  restored = _restore(tmp_path)
  assert restored.facts == {'n': 'again'} and restored.state['x'][0] == 33


def test_a_checkpoint_that_does_not_fit_stops_the_run(tmp_path):
  writer = Checkpoints(tmp_path)
  state = {'params': {'a': jnp.zeros(3), 'b': jnp.ones(2)}, 'old': jnp.ones(1)}
  writer.save(1, state, {})
  writer.close()
  template = {
      'params': {'a': jnp.zeros(3), 'b': jnp.ones(2, jnp.bfloat16)},
      'ema': {'deep': {'a': jnp.zeros(3), 'b': jnp.zeros(2)}},
  }
  with pytest.raises(CheckpointError) as caught:
    writer.restore(template)
  lines = str(caught.value).splitlines()
  assert str(tmp_path / '1') in lines[0]
  assert lines[1:5] == [
      '  it lacks ema/deep/a',
      '  it lacks ema/deep/b',
      '  only it has old',
      '  another shape or dtype: params/b: float32[2] there, bfloat16[2] here',
  ]
  template['params']['b'] = jnp.zeros(2)
  with pytest.raises(CheckpointError) as caught:
    writer.restore(template)
  text = str(caught.value)
  assert "--config.resume.missing=\"('ema/deep/*',)\"" in text
  assert "--config.resume.left_over=\"('old',)\"" in text


def test_leaves_may_be_missing_or_left_over_where_that_is_allowed(tmp_path):
  writer = Checkpoints(tmp_path)
  old = {'params': {'a': jnp.arange(3.0)}, 'old': {'x': jnp.ones(1)}}
  writer.save(1, old, {})
  writer.close()
  template = {'params': {'a': jnp.zeros(3)}, 'ema': {'a': jnp.full(3, 7.0)}}
  restored = writer.restore(template, missing=['ema/*'], left_over=['old/*'])
  assert restored is not None
  assert restored.missing == ['ema/a'] and restored.left_over == ['old/x']
  tiny.assert_same(
      restored.state, {'params': old['params'], 'ema': template['ema']}
  )


def test_an_old_form_is_no_silent_start_from_nothing(tmp_path):
  """Of orbax's manager: no fingerprints, so nobody can tell."""
  with ocp.StandardCheckpointer() as writer:
    writer.save(tmp_path / '4' / 'state', {'x': jnp.zeros(2)})
  with pytest.raises(CheckpointError, match='step 4: its facts can not be'):
    _restore(tmp_path)


def test_a_killed_run_leaves_nothing_for_good(tmp_path):
  _save(tmp_path, 2)
  half = tmp_path / '4.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / '2', half)
  assert _restore(tmp_path).step == 2
  assert half.exists()  # Whoever only reads may read beside a run.
  _save(tmp_path, 4)
  assert sorted(os.listdir(tmp_path)) == ['2', '4']
  assert _restore(tmp_path).step == 4


def _full(monkeypatch, step):
  """The disk is full when this step is written."""
  finalize = ocp.CompositeCheckpointHandler.finalize

  def fails(self, directory):
    if f'{step}.' in directory.name:
      raise OSError(errno.ENOSPC, 'No space left on device', str(directory))
    return finalize(self, directory)

  monkeypatch.setattr(ocp.CompositeCheckpointHandler, 'finalize', fails)


@pytest.mark.parametrize('when', ['check', 'save', 'close'])
def test_a_full_disk_is_told_and_costs_nothing(tmp_path, monkeypatch, when):
  _full(monkeypatch, 40)
  writer = Checkpoints(tmp_path, keep=1)
  writer.save(30, {'x': jnp.full(2, 30)}, {})
  writer.save(40, {'x': jnp.full(2, 40)}, {})
  with pytest.raises(CheckpointError) as caught:
    if when == 'check':
      # Nothing waits for the write here, so a while of polls.
      for _ in range(600):
        writer.check()
        time.sleep(0.1)
    if when == 'save':
      writer.save(50, {'x': jnp.zeros(2, int)}, {})
    writer.close()
  assert str(caught.value) == (
      f'could not write the checkpoint of step 40 in {tmp_path}: No space left'
      ' on device; the newest whole one is step 30. Free some space, or see to'
      ' the directory, and start again with the same command: it goes on from'
      ' there'
  )
  # It is told once: what closes after an error does not hide it.
  if when != 'close':
    writer.close()
  assert _restore(tmp_path).step == 30
  # With space again, the next run cleans up.
  _save(tmp_path, 41, keep=2)
  assert sorted(os.listdir(tmp_path)) == ['30', '41']


def test_a_step_that_can_not_be_saved_again_is_what_it_was(
    tmp_path, monkeypatch
):
  _save(tmp_path, 40, keep=1)
  _full(monkeypatch, 40)
  writer = Checkpoints(tmp_path, keep=1)
  writer.save(40, {'x': jnp.full(2, 41)}, {})
  with pytest.raises(CheckpointError, match='newest whole one is step 40'):
    writer.close()
  assert _restore(tmp_path).state['x'][0] == 40


@pytest.mark.skipif(
    not hasattr(os, 'geteuid') or os.geteuid() == 0,
    reason='the superuser may write everywhere',
)
def test_a_directory_without_permission_is_told(tmp_path):
  tmp_path.chmod(0o500)
  try:
    with pytest.raises(CheckpointError, match='ermission'):
      _save(tmp_path, 1)
  finally:
    tmp_path.chmod(0o700)


def test_a_path_that_is_a_file_is_told(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(CheckpointError, match='step 1 in .*: File exists'):
    _save(tmp_path / 'file', 1)


@pytest.mark.parametrize('lost', ['4', '4/facts', '4/state', '.'])
def test_a_write_that_is_lost_is_told_and_deletes_nothing(
    tmp_path, monkeypatch, lost
):
  _save(tmp_path / 'c', 2)
  written = ocp.AsyncCheckpointer.wait_until_finished

  def loses(self):
    written(self)
    if (tmp_path / 'c' / '4').exists():
      shutil.rmtree(tmp_path / 'c' / lost, ignore_errors=True)

  monkeypatch.setattr(ocp.AsyncCheckpointer, 'wait_until_finished', loses)
  writer = Checkpoints(tmp_path / 'c', keep=1)
  writer.save(4, {'x': jnp.zeros(2, int)}, {})
  with pytest.raises(CheckpointError, match='it was written, and is not there'):
    writer.close()
  if lost != '.':
    assert _restore(tmp_path / 'c', step=2).step == 2


def test_a_directory_that_vanishes_meanwhile_is_told(tmp_path, monkeypatch):
  finalize = ocp.CompositeCheckpointHandler.finalize

  def vanishes(self, directory):
    shutil.rmtree(tmp_path / 'c')
    return finalize(self, directory)

  monkeypatch.setattr(ocp.CompositeCheckpointHandler, 'finalize', vanishes)
  with pytest.raises(CheckpointError, match='the newest whole one is none'):
    _save(tmp_path / 'c', 1)


_SMALL_DISK = """
import resource
import jax.numpy as jnp
from rlhf.checkpoint import CheckpointError, Checkpoints

numbers = jnp.arange(1 << 16) * 1.37
writer = Checkpoints({directory!r})
writer.save(1, {{'x': numbers[:9]}}, {{}})
writer.check()
writer.restore({{'x': numbers[:9]}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
writer.save(2, {{'x': numbers}}, {{}})
try:
  writer.close()
except CheckpointError as error:
  print(error)
"""


def test_a_file_that_the_system_refuses_is_told(tmp_path, fresh_python):
  """The real thing, as near to a full disk as a test may go."""
  said = fresh_python(_SMALL_DISK.format(directory=str(tmp_path)))
  assert said.startswith('could not write the checkpoint of step 2 in')
  assert 'File too large' in said
  assert said.count('\n') == 1 and 'the newest whole one is step 1' in said


def test_facts_that_are_no_json_are_refused(tmp_path):
  with pytest.raises(TypeError):
    Checkpoints(tmp_path).save(1, {'x': jnp.zeros(2)}, {'f': object()})


_MESHES = """
import pathlib
import jax, numpy as np
from rlhf import sharding
from rlhf.checkpoint import Checkpoints
from tests import tiny

directory = pathlib.Path({directory!r})
state = jax.device_get(tiny.network(3)[0])
saved = None
for sizes in (dict(fsdp=8), dict(data=2, tensor=2)):
  count = int(np.prod(list(sizes.values())))
  mesh = sharding.make_mesh(sizes, jax.devices()[:count])
  where = sharding.shardings(state, mesh)
  template = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state, where,
  )
  if saved is None:
    writer = Checkpoints(directory)
    writer.save(1, jax.device_put(state, where), {{}})
    writer.close()
    saved = mesh
  got = Checkpoints(directory).restore(template).state
  assert jax.tree.map(lambda x: x.sharding, got) == where
  tiny.assert_same(jax.device_get(got), state)
print('same')
"""


@pytest.mark.multi_device
def test_another_mesh_reads_it(tmp_path, fresh_python):
  code = _MESHES.format(directory=str(tmp_path))
  assert fresh_python(code, devices=8) == 'same\n'
  # And a single device, here.
  restored = Checkpoints(tmp_path).restore(tiny.network(5)[0])
  assert restored is not None
  tiny.assert_same(restored.state, tiny.network(3)[0])


def test_nothing_on_disk_is_a_pickle(tmp_path):
  writer = Checkpoints(tmp_path / 'checkpoints')
  writer.save(1, ppo_state(1), {'title': 'x'})
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
