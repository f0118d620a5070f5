# SPDX-License-Identifier: Apache-2.0
"""The outer loop around a step that only counts."""

import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import hosts, loop, watch
from rlhf.checkpoint import Checkpoints
from rlhf.loop import Evaluation, LoopConfig
from rlhf.workdir import Workdir


def _count(state, index):
  """Its metric says which step it was."""
  return {'n': state['n'] + 1}, {'index': jnp.float32(index)}


def _run(path, step=_count, *, steps=7, evaluate=None, **config):
  config = LoopConfig(tensorboard=False, **{'log_every': 1} | config)
  return loop.run(
      'counting',
      {'n': jnp.zeros((), jnp.int32)},
      step,
      steps=steps,
      config=config,
      workdir=Workdir(path, tensorboard=False),
      headline=('index',),
      evaluate=evaluate,
  )


def _lines(path, name='metrics.jsonl'):
  return [json.loads(line) for line in (path / name).read_text().splitlines()]


def test_every_step_is_recorded_once_and_in_order(tmp_path):
  state = _run(tmp_path)
  assert state['n'] == 7
  lines = _lines(tmp_path)
  assert [line['step'] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
  # The metrics of a step stand beside its own number, though read late.
  assert [line['index'] for line in lines] == [0, 1, 2, 3, 4, 5, 6]
  seconds = [line['seconds'] for line in lines]
  assert seconds == sorted(seconds)


def test_metrics_are_read_after_the_next_step_is_under_way(
    tmp_path, monkeypatch
):
  events = []

  def step(state, index):
    events.append(f'step {index}')
    return _count(state, index)

  scalars = Workdir.scalars
  monkeypatch.setattr(
      Workdir,
      'scalars',
      lambda self, done, values: (
          events.append(f'read {done - 1}'), scalars(self, done, values)
      ),
  )
  _run(tmp_path, step, steps=3)
  assert events == ['step 0', 'step 1', 'read 0', 'step 2', 'read 1', 'read 2']


def test_log_intervals_and_the_last_step(tmp_path):
  _run(tmp_path, log_every=3)
  assert [line['step'] for line in _lines(tmp_path)] == [3, 6, 7]


@pytest.mark.parametrize(
    'every, want', [(0, [7]), (3, [3, 6, 7]), (7, [7]), (10, [7])]
)
def test_evaluation_intervals_and_the_end(tmp_path, every, want):
  asked = []

  def evaluate(state, done):
    assert state['n'] == done
    asked.append(done)
    sample = {'prompt': 'p', 'response': 'r', 'score': 1.0}
    return Evaluation({'validation': 2.0 * done}, [sample])

  _run(tmp_path, evaluate=evaluate, evaluate_every=every)
  assert asked == want
  found = {
      line['step']: line['validation']
      for line in _lines(tmp_path)
      if 'validation' in line
  }
  assert found == {done: 2.0 * done for done in want}
  samples = _lines(tmp_path, 'samples.jsonl')
  assert [row['step'] for row in samples] == want


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_metric_that_is_not_finite_stops_the_run_by_name(tmp_path, value):
  def step(state, index):
    state, metrics = _count(state, index)
    bad = value if index == 3 else 0.5
    return state, metrics | {'rm/loss': jnp.float32(bad)}

  with pytest.raises(FloatingPointError, match='counting: rm/loss.*step 4'):
    _run(tmp_path, step, save_every=1)
  # What there is to go on from is older than the accident.
  step_saved, state, _ = Checkpoints(tmp_path / 'checkpoints').restore(
      {'n': jnp.zeros((), jnp.int32)}
  )
  assert step_saved == 3 and state['n'] == 3
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 3]


def test_an_interrupted_run_goes_on_where_it_was_saved(tmp_path):
  begun = []

  def step(state, index):
    begun.append(index)
    # The state that the index says, or steps were lost or done twice.
    assert state['n'] == index
    return _count(state, index)

  def breaks(state, index):
    if index == 5:
      raise KeyboardInterrupt
    return step(state, index)

  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path, breaks, save_every=2)
  assert begun == [0, 1, 2, 3, 4]
  begun.clear()
  assert _run(tmp_path, step, save_every=2)['n'] == 7
  assert begun == [4, 5, 6]
  # Once it is at its end there is nothing left to do.
  begun.clear()
  assert _run(tmp_path, step, save_every=2)['n'] == 7
  assert begun == []


def test_sigterm_saves_and_ends_after_the_step(tmp_path, capsys):
  def step(state, index):
    if index == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return _count(state, index)

  # As launch/train.py runs it; nothing is due to be saved by itself.
  with pytest.raises(SystemExit) as ended, hosts.joined():
    _run(tmp_path, step)
  assert ended.value.code == watch.STOPPED == 75
  said = f'error: told to stop (SIGTERM): saved step 4 in {tmp_path}'
  assert said in capsys.readouterr().err
  saved, state, _ = Checkpoints(tmp_path / 'checkpoints').restore(
      {'n': jnp.zeros((), jnp.int32)}
  )
  assert saved == 4 and state['n'] == 4
  # The next run is not told to.
  assert _run(tmp_path)['n'] == 7
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_is_saved_unless_asked(tmp_path):
  _run(tmp_path)
  assert not list((tmp_path / 'checkpoints').iterdir())


def test_only_the_newest_checkpoints_are_kept(tmp_path):
  _run(tmp_path, save_every=1, keep=3)
  kept = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  assert kept == [5, 6, 7]
