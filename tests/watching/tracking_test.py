# SPDX-License-Identifier: Apache-2.0
"""TensorBoard, by its own reader of event files, and a stand-in for W&B."""

import json
import re
import sys
import types

import pytest
from tensorboard.backend.event_processing import (
    event_accumulator,
    plugin_event_accumulator,
)
from tensorboard.util import tensor_util

from rlhf.watching import tracking
from rlhf.watching.workdir import Workdir

ROW = {'prompt': 'say cät', 'response': 'cat [b]', 'score': 0.5}


def _read(path):
  """What someone who reads event files finds."""
  events = event_accumulator.EventAccumulator(
      str(path), purge_orphaned_data=True
  )
  return events.Reload()


def _shown(path):
  """What TensorBoard itself shows."""
  events = plugin_event_accumulator.EventAccumulator(
      str(path), purge_orphaned_data=True
  )
  return events.Reload()


def _steps(path):
  """Steps of numbers and samples, after all that was forgotten."""
  steps = [event.step for event in _read(path).Scalars('sft/loss')]
  assert steps == [event.step for event in _shown(path).Tensors('sft/loss')]
  return steps, [event.step for event in _shown(path).Tensors('samples')]


def _run(path, first, last):
  """A run that goes on from step `first` and dies after step `last`."""
  workdir = Workdir(path)
  workdir.rewind(first)
  for step in range(first + 1, last + 1):
    workdir.scalars(step, {'sft/loss': step / 8})
  workdir.samples(last, [ROW])
  workdir.close()


# -- TensorBoard --------------------------------------------------------------


def test_tensorboard_gets_the_same_numbers(tmp_path):
  workdir = Workdir(tmp_path)
  # It is imported when there is something to write, not before.
  assert not list(tmp_path.iterdir())
  workdir.scalars(3, {'sft/loss': 0.25, 'seconds': float('inf')})
  workdir.samples(3, [ROW])
  workdir.warn(4, 'too far | gone', [ROW])
  workdir.flush()  # It is there before the run ends.
  events = _read(tmp_path)
  (scalar,) = events.Scalars('sft/loss')
  assert scalar.step == 3 and scalar.value == 0.25
  (scalar,) = events.Scalars('seconds')
  assert scalar.value == float('inf')
  for tag, step in (('samples', 3), ('warnings', 4)):
    (text,) = events.Tensors(tag)
    assert text.step == step
    shown = tensor_util.make_ndarray(text.tensor_proto).item().decode()
    assert 'say cät' in shown and 'cat \\[b\\]' in shown and '0.5' in shown
  assert shown.startswith('too far \\| gone\n\n|')
  workdir.close()


def test_tensorboard_knows_what_kind_they_are(tmp_path):
  """By the reader that TensorBoard itself serves its pages from."""
  _run(tmp_path, 0, 2)
  events = _shown(tmp_path)
  assert set(events.PluginTagToContent('scalars')) == {'sft/loss'}
  assert set(events.PluginTagToContent('text')) == {'samples'}


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path):
  _run(tmp_path, 0, 7)
  assert _steps(tmp_path) == ([1, 2, 3, 4, 5, 6, 7], [7])
  _run(tmp_path, 4, 6)
  assert _steps(tmp_path) == ([1, 2, 3, 4, 5, 6], [6])
  _run(tmp_path, 4, 5)
  assert _steps(tmp_path) == ([1, 2, 3, 4, 5], [5])
  # One that left no checkpoint is forgotten whole.
  _run(tmp_path, 0, 2)
  assert _steps(tmp_path) == ([1, 2], [2])
  assert len(list(tmp_path.glob('*tfevents*'))) == 4


def test_a_first_run_tells_tensorboard_nothing(tmp_path):
  workdir = Workdir(tmp_path)
  workdir.rewind(0)
  workdir.close()
  assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_samples_are_a_table_that_shows_them_as_they_are():
  from tensorboard import plugin_util  # Late: its own imports warn.

  rows = [
      {'prompt': 'a | b\nc', 'response': '<b>*x*</b> `y` _z_', 'score': 1.25},
      {'prompt': '[l](http://x) \\| \\', 'response': '', 'score': None},
      {'prompt': '', 'response': '\r\n|'},
  ]
  page = plugin_util.markdown_to_safe_html(tracking.table(rows))
  found = [
      re.findall(r'<td[^>]*>(.*?)</td>', row, re.DOTALL)
      for row in re.findall(r'<tr>(.*?)</tr>', page, re.DOTALL)
  ]
  assert found == [
      [],
      ['a | b<br>c', '&lt;b&gt;*x*&lt;/b&gt; `y` _z_', '1.25'],
      ['[l](http://x) \\| \\', '', ''],
      ['', '<br>|', ''],
  ]


# -- W&B ----------------------------------------------------------------------


class _Run:
  """A stand-in for a run of W&B; keeps what it is told."""

  def __init__(self, options, step):
    self.options, self.step = options, step
    self.logged, self.alerts, self.ended = [], [], []
    self.config = types.SimpleNamespace(update=self._update)

  def _update(self, config, allow_val_change):
    assert allow_val_change
    self.options['config'] = self.options['config'] | config

  def log(self, values, step):
    self.logged.append((step, values))

  def alert(self, title, text, level):
    assert level == 'WARN'
    self.alerts.append((title, text))

  def finish(self, exit_code):
    self.ended.append(exit_code)


@pytest.fixture
def runs(monkeypatch):
  """Runs that were started on a stand-in for the package."""
  started = []

  def init(**options):
    resumed = options['resume'] == 'allow' and started
    started.append(_Run(options, started[-1].last if resumed else 0))
    return started[-1]

  def table(columns, data):
    assert all(len(row) == len(columns) for row in data)
    return columns, data

  module = types.ModuleType('wandb')
  vars(module).update(init=init, Table=table, Settings=lambda **kv: kv)
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return started


def test_wandb_gets_config_numbers_samples_and_warnings(tmp_path, runs):
  workdir = Workdir(tmp_path / 'mini' / 'sft', tensorboard=False, wandb='exp')
  workdir.rewind(0)
  workdir.write_json('config', {'seed': 3})
  workdir.scalars(1, {'loss': 0.25})
  workdir.samples(1, [ROW, ROW | {'score': None}])
  workdir.warn(1, 'too far', [ROW])
  workdir.close()
  (run,) = runs
  assert run.options['project'] == 'exp' and run.options['name'] == 'mini/sft'
  assert run.options['config'] == {'seed': 3}
  assert run.options['resume'] is None  # Whatever is there is overwritten.
  columns = ['prompt', 'response', 'score']
  texts = [ROW['prompt'], ROW['response']]
  assert run.logged == [
      (1, {'loss': 0.25}),
      (1, {'samples': (columns, [[*texts, 0.5], [*texts, None]])}),
      (1, {'warnings': (columns, [[*texts, 0.5]])}),
  ]
  assert run.alerts == [('step 1', 'too far')]
  assert run.ended == [0]


def test_wandb_is_told_neither_code_nor_output(tmp_path, runs, monkeypatch):
  monkeypatch.setenv('SOME_API_KEY', 'very-secret')
  workdir = Workdir(tmp_path, tensorboard=False, wandb='exp')
  workdir.scalars(1, {'loss': 0.25})
  workdir.close()
  assert 'very-secret' not in str(runs[0].options)
  settings = runs[0].options['settings']
  assert settings['console'] == 'off' and settings['disable_code']


def test_a_resumed_run_goes_on_with_its_wandb_run(tmp_path, runs):
  for first, last, written in (
      (0, 5, [1, 2, 3, 4, 5]),
      # W&B has step 5 and can't go back: what it has, it keeps.
      (3, 7, [6, 7]),
      (0, 2, [1, 2]),
  ):
    workdir = Workdir(tmp_path, tensorboard=False, wandb='exp')
    workdir.write_json('config', {'seed': 3})
    workdir.rewind(first)
    for step in range(first + 1, last + 1):
      workdir.scalars(step, {'loss': 0.5})
    workdir.close()
    runs[-1].last = last + 1
    assert [step for step, _ in runs[-1].logged] == written
  first, second, third = [run.options for run in runs]
  assert first['id'] == second['id'] == third['id']
  assert [o['resume'] for o in (first, second, third)] == [None, 'allow', None]
  assert second['config'] == {'seed': 3}
  other = Workdir(tmp_path / 'other', tensorboard=False, wandb='exp')
  other.rewind(0)
  other.close()
  assert runs[-1].options['id'] != first['id']


def test_an_error_ends_the_wandb_run_as_failed(tmp_path, runs):
  workdir = Workdir(tmp_path, tensorboard=False, wandb='exp')
  workdir.rewind(0)
  try:
    raise FloatingPointError
  except FloatingPointError:
    workdir.close()
  assert runs[0].ended == [1]


def test_wandb_that_is_not_installed_is_refused_at_start(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(tracking.TrackingError) as info:
    Workdir(tmp_path / 'run', wandb='exp')
  assert "pip install 'rlhf[wandb]'" in str(info.value)
  assert '--config.loop.wandb=' in str(info.value)
  assert '\n' not in str(info.value)


def test_wandb_that_is_down_is_left_alone(tmp_path, monkeypatch):
  def init(**_):
    raise ConnectionError('api.wandb.ai')

  module = types.ModuleType('wandb')
  vars(module).update(init=init, Settings=lambda **kv: kv)
  monkeypatch.setitem(sys.modules, 'wandb', module)
  workdir = Workdir(tmp_path, tensorboard=False, wandb='exp')
  workdir.rewind(0)
  workdir.scalars(1, {'loss': 0.5})
  workdir.close()
  line = json.loads((tmp_path / 'metrics.jsonl').read_text())
  assert line == {'step': 1, 'loss': 0.5}
