# SPDX-License-Identifier: Apache-2.0
"""Figures are written; what they draw is read and smoothed rightly."""

import json

import numpy as np

from rlhf.evaluation import figures


def _curves(seed: int, iterations: int = 30) -> figures.Curves:
  rng = np.random.default_rng(seed)
  steps = np.arange(1, iterations + 1)
  return {
      f'rollout/{name}': (steps, rng.normal(size=iterations).cumsum())
      for name in ('score', 'gold', 'kl', 'length')
  }


def _is_picture(path) -> bool:
  content = path.read_bytes()
  return content.startswith(b'\x89PNG') and len(content) > 20_000


def test_findings_figure(make_results, tmp_path):
  path = tmp_path / 'report.png'
  curves = {
      'ppo': [_curves(0), _curves(1)], 'ppo_ptx': [_curves(2), _curves(3)]
  }
  figures.findings_figure(make_results(), curves, path)
  assert _is_picture(path)


def test_overoptimisation_figure(tmp_path):
  path = tmp_path / 'hacked.png'
  figures.overoptimisation_figure({'a': _curves(0), 'b': _curves(1)}, path)
  assert _is_picture(path)


def test_real_figure_of_what_there_is(tmp_path):
  steps = np.arange(1, 30)
  line = (steps, 1 / steps)
  stages = {
      'pretrain': {'pretrain/loss': line, 'validation/loss': (steps[-1:], [1])},
      'ppo_ptx': _curves(1) | {'ptx/loss': line},
  }
  figures.real_figure(stages, tmp_path / 'real.png')
  assert _is_picture(tmp_path / 'real.png')


def test_read_curves_takes_the_later_of_two_starts(tmp_path):
  rows = [
      {'step': 1, 'rollout/kl': 0.5, 'opt/loss': 9.0},
      {'step': 2, 'rollout/kl': 0.6},
      {'step': 1, 'rollout/kl': 0.1},
      {'step': 2, 'validation/loss': 1.0},
  ]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'metrics.jsonl').write_text(lines)
  curves = figures.read_curves(tmp_path)
  assert set(curves) == {'rollout/kl'}
  steps, values = curves['rollout/kl']
  assert steps.tolist() == [1, 2]
  assert values.tolist() == [0.1, 0.6]


def test_smoothed_is_a_centred_mean_of_what_there_is():
  values = np.array([0.0, 3.0, 6.0, 12.0])
  assert figures.smoothed(values, 3).tolist() == [1.5, 3.0, 7.0, 9.0]
  assert figures.smoothed(values, 1).tolist() == values.tolist()
  assert figures.smoothed(values, 99).tolist() == [5.25] * 4


def test_ends():
  steps = np.arange(1, 41)
  ends = figures.ends({'rollout/kl': (steps, steps.astype(float))}, count=10)
  assert ends == {'rollout/kl': (5.5, 35.5)}
