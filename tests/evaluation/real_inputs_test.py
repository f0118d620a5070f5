# SPDX-License-Identifier: Apache-2.0
"""What a run leaves is read rightly, after interruptions too."""

import json

import pytest

from rlhf.evaluation import real_inputs


def _write(run, rows):
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (run / 'metrics.jsonl').write_text(lines)


def test_seconds_of_a_run_in_one_go(tmp_path):
  _write(
      tmp_path,
      [
          {'step': 1, 'seconds': 5.0},
          {'step': 1, 'validation/loss': 1.0},
          {'step': 10, 'seconds': 30.0},
      ],
  )
  assert real_inputs.seconds(tmp_path) == 30.0


@pytest.mark.parametrize(
    'again, want',
    [
        # From the beginning, with another 30 steps; from step 11; from step 6.
        ([(1, 4.0), (30, 90.0)], 90.0),
        ([(11, 2.0), (20, 25.0)], 65.0),
        ([(6, 2.0), (10, 20.0)], 40.0),
    ],
)
def test_seconds_of_a_run_in_two_goes(tmp_path, again, want):
  first = [(1, 5.0), (5, 20.0), (10, 40.0)]
  _write(tmp_path, [{'step': s, 'seconds': t} for s, t in first + again])
  assert real_inputs.seconds(tmp_path) == want


def test_finished_are_those_with_results(tmp_path):
  for name in ('pretrain', 'sft', 'something'):
    (tmp_path / name).mkdir()
  for name in ('pretrain', 'something'):
    (tmp_path / name / 'results.json').write_text('{"steps": 3}')
  assert real_inputs.finished(tmp_path) == {'pretrain': {'steps': 3}}


def test_settings_are_those_that_a_stage_has(tmp_path):
  (tmp_path / 'ppo').mkdir()
  config = {'seed': 0, 'ppo': {'batch': 16}, 'run_model': None, 'other': 1}
  (tmp_path / 'ppo' / 'config.json').write_text(json.dumps(config))
  assert real_inputs.settings(tmp_path, 'ppo') == {'seed': 0, 'ppo.batch': 16}


def test_curve_ends_are_means_of_fifths(tmp_path):
  _write(
      tmp_path,
      [{'step': s, 'rm/loss': float(s), 'seconds': 1.0} for s in range(1, 11)],
  )
  assert real_inputs.curve_ends(tmp_path) == {'rm/loss': (1.5, 9.5)}
