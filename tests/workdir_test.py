# SPDX-License-Identifier: Apache-2.0
"""What a stage leaves in its directory."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf.workdir import Workdir

ROW = {'prompt': 'say cät', 'response': 'cat [b]', 'score': 0.5}


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


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


def test_tensorboard_gets_the_same_numbers(tmp_path):
  workdir = Workdir(tmp_path)
  # TensorFlow is imported when there is something to write, not before.
  assert not list(tmp_path.iterdir())
  workdir.scalars(3, {'sft/loss': 0.25})
  workdir.samples(3, [ROW])
  workdir.close()
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  events = event_accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  (scalar,) = events.Tensors('sft/loss')
  assert scalar.step == 3
  assert tensor_util.make_ndarray(scalar.tensor_proto) == 0.25
  (text,) = events.Tensors('samples')
  shown = tensor_util.make_ndarray(text.tensor_proto).item().decode()
  assert 'say cät' in shown and 'cat [b]' in shown and '0.5' in shown
