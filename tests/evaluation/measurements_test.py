# SPDX-License-Identifier: Apache-2.0
"""Measurements become intervals, and survive a file."""

import json

import numpy as np
import pytest

from rlhf.evaluation import measurements


def test_measurements_come_back_from_a_file(make_measured, tmp_path):
  measured = make_measured()
  measurements.save(tmp_path / 'm.npz', measured)
  loaded = measurements.load(tmp_path / 'm.npz')
  assert loaded.keys() == measured.keys()
  for subject, group in measured.items():
    assert loaded[subject].keys() == group.keys()
    for name, values in group.items():
      np.testing.assert_array_equal(loaded[subject][name], values)


def test_summaries_know_ratios():
  found = measurements.summaries({
      'share': np.array([1.0, 0.0, 1.0, 0.0]),
      'ratio': np.array([[1.0, 4.0], [2.0, 2.0]]),
  })
  assert found['share']['mean'] == 0.5
  assert found['share']['n'] == 4
  assert found['ratio']['mean'] == 0.5  # 3 / 6, not the mean of 1/4 and 1.
  assert found['ratio']['n'] == 2


def test_models_are_under_models(make_measured):
  exam = make_measured()
  results = measurements.summarised([exam])
  assert tuple(results['models']) == measurements.MODELS
  assert set(results) == {'models'} | set(exam) - set(measurements.MODELS)


@pytest.mark.parametrize('count', [1, 3])
def test_every_figure_is_an_interval(make_measured, count):
  """Mean, low, high, n, as plain JSON numbers: the format of results.json."""
  exams = [make_measured(seed) for seed in range(count)]
  results = measurements.summarised(exams)
  groups = [*results.pop('models').values(), *results.values()]
  assert json.loads(json.dumps(groups)) == groups
  for group in groups:
    for name, figure in group.items():
      assert {'mean', 'low', 'high', 'n'} <= set(figure), name
      assert figure['low'] <= figure['high']
      assert ('each' in figure) == (count > 1)
