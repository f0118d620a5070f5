# SPDX-License-Identifier: Apache-2.0
"""What a kill test compares by: it finds what differs, and names it."""

import json
import shutil

import jax.numpy as jnp
import pytest

from rlhf import networks
from rlhf.checkpoint import Checkpoints
from tests import runs, tiny

_METRICS = [
    {'step': 1, 'loss': 0.5, 'seconds': 1.5, 'time/wait': 0.25},
    {'step': 2, 'loss': 0.25, 'seconds': 2.5, 'time/wait': 0.125},
]


def _run(folder, *, scale=1.0, seconds=0.0, metrics=_METRICS):
  """Writes what a run leaves behind."""
  folder.mkdir()
  _write(folder, [line | {'seconds': seconds} for line in metrics])
  (folder / 'samples.jsonl').write_text('{"step": 2, "prompt": "ä"}\n')
  results = {'step': 2, 'seconds': seconds}
  (folder / 'results.json').write_text(json.dumps(results))
  params, cfg = tiny.network(1)
  networks.save_model(folder / 'model', params, cfg, {'step': 2})
  state = {'m': jnp.arange(4.0) * scale, 'n': jnp.int32(2)}
  checkpoints = Checkpoints(folder / 'checkpoints')
  for step in (1, 2):
    facts = {'data': {'text': step}, 'progress': {'seconds': seconds}}
    checkpoints.save(step, state, facts)
  checkpoints.close()
  return folder


def _write(folder, lines):
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  return _run(tmp_path_factory.mktemp('runs') / 'unbroken')


def test_only_clocks_may_differ(unbroken, tmp_path):
  assert runs.differences(unbroken, _run(tmp_path / 'a', seconds=9.0)) == []


def test_a_leaf_that_differs_is_named(unbroken, tmp_path):
  assert runs.differences(unbroken, _run(tmp_path / 'a', scale=1 + 1e-7)) == [
      'checkpoints/2: m differs in 3 of 4 numbers',
  ]


def test_lines_come_once_and_in_order(unbroken, tmp_path):
  copy = tmp_path / 'a'
  shutil.copytree(unbroken, copy)
  for lines, found in (
      ([_METRICS[0], *_METRICS], 'metrics.jsonl, line 2: {"loss": 0.25'),
      (_METRICS[:1], 'metrics.jsonl: 2 lines, now 1'),
      (
          [_METRICS[0], _METRICS[1] | {'loss': 0.3}],
          'metrics.jsonl, line 2: {"loss": 0.25}, now {"loss": 0.3}',
      ),
  ):
    _write(copy, lines)
    (line,) = runs.differences(unbroken, copy)
    assert line.startswith(found)
  _write(copy, _METRICS)
  with open(copy / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 3, "lo')
  assert runs.differences(unbroken, copy) == [
      'metrics.jsonl: 2 lines, now 3'
  ]


def test_what_is_not_there_is_named(unbroken, tmp_path):
  copy = tmp_path / 'a'
  shutil.copytree(unbroken, copy)
  shutil.rmtree(copy / 'model' / 'params')
  (copy / 'samples.jsonl').unlink()
  shutil.rmtree(copy / 'checkpoints' / '2')
  found = '\n'.join(runs.differences(unbroken, copy))
  assert 'samples.jsonl: 1 lines, now 0' in found
  assert f'model: only in {unbroken}' in found
  assert 'the last checkpoint is 2, now 1' in found
