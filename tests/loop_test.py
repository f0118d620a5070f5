# SPDX-License-Identifier: Apache-2.0
"""The outer loop around a step that only counts."""

import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import hosts, loop, resume, watch
from rlhf.checkpoint import Checkpoints
from rlhf.loop import Evaluation, LoopConfig, Stage
from rlhf.watching import diagnosis
from rlhf.watching.workdir import Workdir


def _count(state, index):
  """Its metric says which step it was."""
  return {'n': state['n'] + 1}, {'index': jnp.float32(index)}


def _run(path, step=_count, *, steps=7, identity=resume.NOBODY, more=None,
         evaluate=None, **config):
  config = LoopConfig(tensorboard=False, **{'log_every': 1} | config)
  state, _ = loop.run(
      Stage(
          'counting',
          step,
          steps=steps,
          headline=('index',),
          evaluate=evaluate,
          **more or {},
      ),
      {'n': jnp.zeros((), jnp.int32)},
      config=config,
      workdir=Workdir(path, tensorboard=False),
      identity=identity,
  )
  return state


def _saved(path):
  """The newest checkpoint: step, state."""
  found = Checkpoints(path / 'checkpoints').restore(
      {'n': jnp.zeros((), jnp.int32)}
  )
  return found.step, found.state


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


# -- Numbers that are not finite ----------------------------------------------


def _spoiled(*bad, value=np.nan):
  """Counts, but for the steps of these indices, whose metric is not finite.

  Like `update.train_step`: such a step leaves the state as it was.
  """

  def step(state, index):
    spoilt = index in bad
    state = {'n': state['n'] + (not spoilt)}
    return state, {'rm/loss': jnp.float32(value if spoilt else index)}

  return step


def _frozen(*bad):
  """The same, but after such a step the state stands still."""
  spoilt = False

  def step(state, index):
    nonlocal spoilt
    spoilt = spoilt or index in bad
    value = np.nan if index in bad else index
    return {'n': state['n'] + (not spoilt)}, {'rm/loss': jnp.float32(value)}

  return step


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_metric_that_is_not_finite_stops_the_run_with_a_report(
    tmp_path, value
):
  batch = {'x': jnp.arange(3.0)}
  asked = []

  def batch_of(index):
    asked.append(index)
    return batch

  with pytest.raises(loop.NonFiniteError, match='rm/loss') as error:
    _run(
        tmp_path,
        _spoiled(3, value=value),
        save_every=1,
        more={'batch': batch_of},
    )
  assert 'counting' in str(error.value) and 'step 4' in str(error.value)
  # What there is to go on from is older than the accident.
  step, state = _saved(tmp_path)
  assert step == 3 and state['n'] == 3
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 3]
  # The batch of that step, and the state it met.
  assert asked == [3]
  folder = tmp_path / 'nonfinite_step_4'
  saved = diagnosis.load_batch(folder)
  np.testing.assert_array_equal(saved['x'], batch['x'])
  found = Checkpoints(folder / 'state').restore({'n': jnp.zeros((), jnp.int32)})
  assert found.state['n'] == 3
  assert (folder / 'report.txt').read_text().strip() == str(error.value).strip()


def test_an_evaluation_that_is_not_finite_stops_the_run(tmp_path):
  def evaluate(state, done):
    return Evaluation({'validation/loss': np.nan if done == 4 else 1.0})

  with pytest.raises(loop.NonFiniteError, match='validation/loss'):
    _run(tmp_path, evaluate=evaluate, evaluate_every=2)


def test_skipping_goes_on_without_the_step(tmp_path, capsys):
  state = _run(tmp_path, _spoiled(2, 5), nonfinite='skip')
  assert state['n'] == 5
  lines = _lines(tmp_path)
  assert [line['step'] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
  assert [line['rm/loss'] for line in lines] == [0, 1, None, 3, 4, None, 6]
  said = capsys.readouterr().out
  assert 'step 3 was not finite' in said and '2 of at most 10' in said


def test_skipping_has_a_bound_that_counts_over_all_starts(tmp_path):
  settings = dict(nonfinite='skip', nonfinite_bound=2, save_every=1)
  _run(tmp_path, _spoiled(0, 1), steps=3, **settings)
  with pytest.raises(loop.NonFiniteError, match='step 5'):
    _run(tmp_path, _spoiled(4), **settings)


def test_rolling_back_goes_on_from_the_checkpoint_with_new_batches(
    tmp_path, capsys
):
  seen = []
  spoiled = _spoiled(4)

  def step(state, index):
    seen.append((index, int(state['n'])))
    return spoiled(state, index)

  state = _run(tmp_path, step, steps=9, nonfinite='rollback', save_every=2)
  # Step 5 (index 4) is found out when its metrics are read, which is during
  # the next; both are thrown away, and the run goes on at index 6 with the
  # state of the checkpoint at 4.
  assert seen == [(i, i) for i in range(5)] + [(5, 4), (6, 4), (7, 5), (8, 6)]
  assert state['n'] == 7
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 3, 4, 7, 8, 9]
  assert 'back to the state of step 4' in capsys.readouterr().out


def test_rolling_back_needs_no_checkpoint_of_its_own(tmp_path):
  assert _run(tmp_path, _frozen(), nonfinite='rollback')['n'] == 7
  state = _run(tmp_path / 'b', _spoiled(1), nonfinite='rollback')
  assert state['n'] == 4  # From scratch at index 3.


def test_rolling_back_has_a_bound(tmp_path):
  with pytest.raises(loop.NonFiniteError, match='step 5'):
    _run(
        tmp_path,
        _spoiled(0, 2, 4, 6),
        nonfinite='rollback',
        nonfinite_bound=2,
        save_every=1,
    )


# -- Going on -----------------------------------------------------------------


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
  said = f'told to stop: saved step 4 in {tmp_path}'
  assert said in capsys.readouterr().err
  step_saved, state = _saved(tmp_path)
  assert step_saved == 4 and state['n'] == 4
  # The next run is not told to.
  assert _run(tmp_path)['n'] == 7
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_without_an_interval_the_end_is_saved(tmp_path):
  _run(tmp_path)
  assert _kept(tmp_path) == [7]


def _kept(path):
  return sorted(int(p.name) for p in (path / 'checkpoints').iterdir())


def test_only_the_newest_checkpoints_are_kept(tmp_path):
  _run(tmp_path, save_every=1, keep=3)
  assert _kept(tmp_path) == [5, 6, 7]


def test_every_kth_and_the_best_are_kept(tmp_path):
  merits = iter([0.1, 0.9, 0.3, 0.9, 0.2, 0.1, 0.0])

  def evaluate(state, done):
    return Evaluation({'validation/merit': next(merits)})

  settings = dict(
      evaluate_every=1, save_every=1, keep=1, keep_every=3,
      best='validation/merit',
  )
  state = _run(tmp_path, evaluate=evaluate, **settings)
  # 0.9 came first at step 2; as good is not better.
  assert state['n'] == 2
  assert _kept(tmp_path) == [2, 3, 6, 7]


@pytest.mark.parametrize('killed_at', [2, 3, 5, 6])
def test_the_best_so_far_outlives_the_process(tmp_path, killed_at):
  losses = [5.0, 1.0, 3.0, 4.0, 2.0, 6.0, 7.0]

  def evaluate(state, done):
    return Evaluation({'validation/loss': losses[done - 1]})

  def breaks(state, index):
    if index == killed_at:
      raise KeyboardInterrupt
    return _count(state, index)

  settings = dict(evaluate=evaluate, evaluate_every=1, best='-validation/loss')
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path, breaks, **settings)
  assert _run(tmp_path, **settings)['n'] == 2


def test_an_unknown_best_names_those_that_there_are(tmp_path):
  def evaluate(state, done):
    return Evaluation({'validation/loss': 1.0})

  with pytest.raises(ValueError, match="loop.best='los.*validation/loss"):
    _run(tmp_path, evaluate=evaluate, best='loss')


def test_lines_after_the_checkpoint_are_written_anew(tmp_path):
  def breaks(state, index):
    if index == 6:
      raise KeyboardInterrupt
    return _count(state, index)

  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path, breaks, save_every=4)
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 3, 4, 5]
  first = _lines(tmp_path)
  _run(tmp_path, save_every=4)
  lines = _lines(tmp_path)
  assert [line['step'] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
  assert lines[:4] == first[:4]
  # Wall time is that of all starts.
  seconds = [line['seconds'] for line in lines]
  assert seconds == sorted(seconds)


def test_only_one_state_is_in_memory(tmp_path):
  """What the checkpoint replaces is given back before it is read."""
  _run(tmp_path, steps=3)
  first = {'n': jnp.zeros((), jnp.int32)}
  stage = Stage('counting', _count, steps=7)
  state, _ = loop.run(
      stage,
      first,
      config=LoopConfig(tensorboard=False),
      workdir=Workdir(tmp_path, tensorboard=False),
  )
  assert state['n'] == 7 and first['n'].is_deleted()


def test_what_goes_on_is_told_in_a_line(tmp_path, capsys):
  _run(tmp_path, steps=3)
  capsys.readouterr()
  _run(tmp_path)
  said = capsys.readouterr().out
  assert 'counting: goes on from step 3 of 7' in said
  assert str(tmp_path / 'checkpoints' / '3') in said


def test_another_run_is_not_gone_on_with(tmp_path):
  def identity(rate, **allowed):
    return resume.Identity({'optimizer': {'rate': rate}}, 'key', **allowed)

  _run(tmp_path, identity=identity(0.1), steps=3)
  with pytest.raises(resume.ResumeError, match='optimizer.rate: was 0.1, is 0'):
    _run(tmp_path, identity=identity(0.2))
  state = _run(tmp_path, identity=identity(0.2, changed=('optimizer.rate',)))
  assert state['n'] == 7
  written = json.loads((tmp_path / 'config.json').read_text())
  assert written == {'optimizer': {'rate': 0.2}}


def test_changed_data_are_not_gone_on_with(tmp_path):
  def more(data):
    return {'position': lambda done: {'text': {'taken': done, 'data': data}}}

  _run(tmp_path, more=more('abc'), steps=3)
  with pytest.raises(resume.ResumeError, match='stream.text'):
    _run(tmp_path, more=more('abd'))
  assert _run(tmp_path, more=more('abc'))['n'] == 7


class _Alarms:
  """Goes off at every third step, and remembers how often."""

  def __init__(self):
    self.count = 0

  def look(self, step, numbers):
    self.count += step % 3 == 0
    return [f'alarm {self.count}'] if step % 3 == 0 else []

  def state(self):
    return {'count': self.count}

  def restore(self, state):
    self.count = state['count']


def test_alarms_are_seen_with_samples_and_outlive_the_process(
    tmp_path, capsys
):
  rows = [{'prompt': 'p', 'response': 'r', 'score': -1.0}]

  def more():
    return {'alarms': _Alarms(), 'samples': lambda: rows}

  _run(tmp_path, steps=4, more=more())
  _run(tmp_path, more=more())
  warnings = _lines(tmp_path, 'warnings.jsonl')
  assert [line['step'] for line in warnings] == [3, 6]
  assert 'alarm 1' in json.dumps(warnings[0])
  assert 'alarm 2' in json.dumps(warnings[1])
  assert '"response": "r"' in json.dumps(warnings[0])
  assert 'alarm 2' in capsys.readouterr().out
