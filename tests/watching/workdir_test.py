# SPDX-License-Identifier: Apache-2.0
"""What a stage leaves in its directory."""

import json
import os
import pathlib
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import hosts
from rlhf.watching import lines, tracking
from rlhf.watching import workdir as workdir_lib
from rlhf.watching.workdir import Workdir

ROW = {'prompt': 'say cät', 'response': 'cat [b]', 'score': 0.5}


def _lines(path):
  # Not splitlines: a response may hold other ends of lines.
  *lines_, end = path.read_text().split('\n')
  assert end == ''
  return [json.loads(line) for line in lines_]


def test_lines_are_appended_by_a_later_run_too(tmp_path):
  for step in (1, 2):
    workdir = Workdir(tmp_path / 'a' / 'run', tensorboard=False)
    workdir.scalars(step, {'loss': jnp.float32(0.25), 'n': np.int64(step)})
    workdir.samples(step, [ROW, ROW | {'score': np.float32(1.5)}])
    workdir.close()
  assert _lines(tmp_path / 'a' / 'run' / 'metrics.jsonl') == [
      {'step': 1, 'loss': 0.25, 'n': 1.0},
      {'step': 2, 'loss': 0.25, 'n': 2.0},
  ]
  samples = _lines(tmp_path / 'a' / 'run' / 'samples.jsonl')
  assert [row['step'] for row in samples] == [1, 1, 2, 2]
  assert samples[0] == {'step': 1} | ROW
  assert samples[1]['score'] == 1.5


def test_json_takes_arrays_and_paths_and_is_written_whole(tmp_path):
  workdir = Workdir(tmp_path, tensorboard=False)
  value = {
      'scalar': np.float32(0.5),
      'array': np.arange(3),
      'device': jnp.ones(2),
      'path': pathlib.Path('runs/x'),
      'nested': {'n': 1, 'list': [1.5, 'a']},
  }
  workdir.write_json('config', value)
  assert workdir.read_json('config') == {
      'scalar': 0.5,
      'array': [0, 1, 2],
      'device': [1.0, 1.0],
      'path': 'runs/x',
      'nested': {'n': 1, 'list': [1.5, 'a']},
  }

  class Unwritable:

    def __str__(self):
      raise KeyboardInterrupt

  # A run that dies while writing leaves the old file as it was.
  with pytest.raises(KeyboardInterrupt):
    workdir.write_json('config', {'a': Unwritable()})
  assert workdir.read_json('config')['scalar'] == 0.5
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_results_make_a_stage_finished(tmp_path):
  workdir = Workdir(tmp_path, tensorboard=False)
  workdir.write_json('config', {})
  assert not workdir.finished
  workdir.write_json('results', {'accuracy': 0.7})
  assert workdir.finished and Workdir(tmp_path).finished


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='results.json'):
    Workdir(tmp_path).read_json('results')


# -- The thread ---------------------------------------------------------------


def test_a_step_does_not_wait_for_the_disk(tmp_path, monkeypatch):
  disk = threading.Event()
  write = lines.Lines.append

  def slowly(file, new):
    assert disk.wait(60)
    write(file, new)

  monkeypatch.setattr(lines.Lines, 'append', slowly)
  workdir = Workdir(tmp_path, tensorboard=False)
  for step in range(1, 4):
    workdir.scalars(step, {'loss': 0.5})
  workdir.samples(3, [ROW])
  assert not list(tmp_path.iterdir())
  disk.set()
  workdir.flush()
  assert _steps(tmp_path, 'metrics') == [1, 2, 3]
  assert _lines(tmp_path / 'samples.jsonl') == [{'step': 3} | ROW]
  workdir.close()


def test_rows_that_wait_are_bounded(tmp_path, monkeypatch):
  """The step that would be one too many waits, and no line is lost."""
  disk = threading.Event()
  write = lines.Lines.append
  monkeypatch.setattr(workdir_lib, 'QUEUE', 2)
  monkeypatch.setattr(
      lines.Lines, 'append', lambda *args: disk.wait(60) and write(*args)
  )
  workdir = Workdir(tmp_path, tensorboard=False)

  def run():
    for step in range(20):
      workdir.scalars(step, {})
    workdir.close()

  runner = threading.Thread(target=run)
  runner.start()
  runner.join(0.2)
  assert runner.is_alive()
  disk.set()
  runner.join(60)
  assert len(_lines(tmp_path / 'metrics.jsonl')) == 20


def test_what_can_not_be_written_is_raised_at_the_next_call(tmp_path):
  workdir = Workdir(tmp_path, tensorboard=False)
  (tmp_path / 'samples.jsonl').mkdir()  # As good as a disk that is full.
  workdir.scalars(1, {'loss': 0.5})
  workdir.samples(1, [ROW])
  with pytest.raises(lines.WriteError, match='samples.jsonl: Is a dir') as info:
    workdir.flush()
  assert '\n' not in str(info.value)
  for call in (
      lambda: workdir.scalars(2, {}),
      lambda: workdir.warn(2, 'a'),
      workdir.flush,
  ):
    with pytest.raises(lines.WriteError, match='samples.jsonl'):
      call()
  workdir.close()  # It was said; an error under way must not be hidden.
  assert [row['step'] for row in _lines(tmp_path / 'metrics.jsonl')] == [1]


def test_an_error_that_nobody_saw_is_raised_by_close(tmp_path):
  workdir = Workdir(tmp_path, tensorboard=False)
  (tmp_path / 'metrics.jsonl').mkdir()
  workdir.scalars(1, {'loss': 0.5})
  with pytest.raises(lines.WriteError, match='metrics.jsonl'):
    workdir.close()


def test_only_the_first_host_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(hosts, 'is_first', lambda: False)
  before = set(threading.enumerate())
  workdir = Workdir(tmp_path / 'run', wandb='nothing is imported')
  workdir.rewind(0)
  workdir.scalars(1, {'loss': 0.5})
  workdir.samples(1, [ROW])
  workdir.warn(1, 'text', [ROW])
  workdir.flush()
  workdir.close()
  assert not list(tmp_path.iterdir())
  assert set(threading.enumerate()) <= before


# -- A resumed run ------------------------------------------------------------


def _write_steps(path, steps):
  workdir = Workdir(path, tensorboard=False)
  for step in steps:
    workdir.scalars(step, {'loss': step / 10})
    # Other ends of lines than those of a file of lines.
    workdir.samples(step, [ROW | {'response': 'a\u2028b\x85c\rd'}] * 2)
    workdir.warn(step, 'too far', [ROW])
  workdir.close()


def _steps(path, name):
  return [row['step'] for row in _lines(path / f'{name}.jsonl')]


def test_a_resumed_run_forgets_later_steps(tmp_path):
  _write_steps(tmp_path, range(1, 6))
  workdir = Workdir(tmp_path, tensorboard=False)
  workdir.rewind(3)
  assert _steps(tmp_path, 'metrics') == [1, 2, 3]
  assert _steps(tmp_path, 'samples') == [1, 1, 2, 2, 3, 3]
  assert _steps(tmp_path, 'warnings') == [1, 2, 3]
  workdir.scalars(4, {'loss': 9.0})
  workdir.close()
  assert _lines(tmp_path / 'metrics.jsonl')[2:] == [
      {'step': 3, 'loss': 0.3}, {'step': 4, 'loss': 9.0}
  ]
  assert _lines(tmp_path / 'samples.jsonl')[0]['response'] == 'a\u2028b\x85c\rd'
  assert not list(tmp_path.glob('*.new'))


@pytest.mark.parametrize('cut', [1, 2, 9])
def test_half_a_line_is_dropped(tmp_path, cut):
  """Also one that lacks its end alone: what comes would stand behind it."""
  _write_steps(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-cut])
  workdir = Workdir(tmp_path, tensorboard=False)
  workdir.rewind(2)
  workdir.scalars(2, {'loss': 0.2})
  workdir.close()
  assert _steps(tmp_path, 'metrics') == [1, 2]
  assert _steps(tmp_path, 'samples') == [1, 1, 2, 2]


def test_a_file_without_later_steps_is_left_alone(tmp_path):
  _write_steps(tmp_path, [1, 2])
  before = (tmp_path / 'metrics.jsonl').stat().st_ino
  Workdir(tmp_path, tensorboard=False).rewind(2)
  assert (tmp_path / 'metrics.jsonl').stat().st_ino == before
  assert _steps(tmp_path, 'metrics') == [1, 2]


def test_a_run_that_dies_while_it_forgets_loses_nothing(tmp_path, monkeypatch):
  _write_steps(tmp_path, range(1, 6))
  monkeypatch.setattr(os, 'replace', _die)
  monkeypatch.setattr(os, 'rename', _die)
  monkeypatch.setattr(pathlib.Path, 'replace', _die)
  with pytest.raises(KeyboardInterrupt):
    Workdir(tmp_path, tensorboard=False).rewind(2)
  assert _steps(tmp_path, 'metrics') == [1, 2, 3, 4, 5]


def _die(*_):
  raise KeyboardInterrupt


def test_an_abandoned_attempt_is_forgotten_whole(tmp_path):
  workdir = Workdir(tmp_path, tensorboard=False)
  workdir.rewind(0)  # Nothing is there.
  _write_steps(tmp_path, range(0, 3))
  workdir.rewind(0)
  assert not list(tmp_path.iterdir())
  workdir.close()


# -- Warnings -----------------------------------------------------------------


def test_a_warning_keeps_its_samples(tmp_path):
  workdir = Workdir(tmp_path, tensorboard=False)
  workdir.warn(3, 'KL 40 nats', [ROW | {'score': np.float32(1.5)}])
  workdir.warn(4, 'no rows')
  workdir.close()
  assert _lines(tmp_path / 'warnings.jsonl') == [
      {'step': 3, 'text': 'KL 40 nats', 'rows': [ROW | {'score': 1.5}]},
      {'step': 4, 'text': 'no rows', 'rows': []},
  ]


# -- Trackers -----------------------------------------------------------------


class _Broken:
  name = 'Broken'

  def __init__(self):
    self.calls = []

  def __getattr__(self, method):
    def call(*args):
      self.calls.append(method)
      raise ConnectionError('no route\nto host')

    return call


def test_a_run_does_not_die_of_what_shows_it(tmp_path, monkeypatch):
  broken, said = _Broken(), []
  monkeypatch.setattr(tracking, 'TensorBoard', lambda path: broken)
  monkeypatch.setattr(
      workdir_lib.logging, 'warning', lambda *args: said.append(args)
  )
  workdir = Workdir(tmp_path)
  for step in (1, 2):
    workdir.scalars(step, {'loss': 0.5})
  workdir.flush()
  workdir.close()
  assert _steps(tmp_path, 'metrics') == [1, 2]
  assert broken.calls == ['scalars']  # It is off after the first.
  (line,) = [message % tuple(args) for message, *args in said]
  assert line.startswith('Broken is off') and 'no route' in line
  assert '\n' not in line
