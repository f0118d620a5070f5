# SPDX-License-Identifier: Apache-2.0
"""The demo and the study from end to end, at a size that means nothing."""

import json
import math
import os
import subprocess
import sys

import pytest

from launch import pipeline

_MODELS = {'base', 'prompted', 'sft', 'ppo', 'ppo_ptx'}
_FIGURES = {
    'win_rate/training_labelers',
    'win_rate/heldout_labelers',
    'gold_utility',
    'rubric/follows',
    'pretrain_loss',
    'fact_cloze',
    'invention_rate',
    'rude_rate/plain',
    'rude_rate/respectful',
    'kl_from_sft',
    'length',
    'rm_score',
}


def _run(*arguments: str) -> subprocess.CompletedProcess:
  """Runs a command as a user would: without the tests' strictness."""
  return subprocess.run(
      [sys.executable, *arguments],
      cwd=pipeline.REPOSITORY,
      env={**os.environ, 'JAX_NUMPY_RANK_PROMOTION': 'allow'},
      capture_output=True,
      text=True,
      timeout=900,
  )


def _study(root) -> str:
  """Runs launch/study.py, which runs launch/demo.py; returns what it says."""
  done = _run('launch/study.py', '--smoke', '--seeds=3', f'--root={root}')
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout + done.stderr


@pytest.mark.slow
def test_from_end_to_end(tmp_path):
  """One test, so that workers don't each run it all."""
  _study(tmp_path)
  seed3 = tmp_path / 'seed3'
  _check_results(json.loads((seed3 / 'results.json').read_text()))
  _check_weak_reward_model(seed3)
  for name in (
      'seed3/report.md',
      'seed3/report.png',
      'miniature.md',
      'miniature_findings.png',
      'miniature_overoptimisation.png',
  ):
    assert (tmp_path / name).stat().st_size > 1000, name

  before = (seed3 / 'seconds.json').read_text()
  said = _study(tmp_path)
  assert 'finished before' in said
  assert 'was examined before' in said
  assert (seed3 / 'seconds.json').read_text() == before

  other = _run('launch/demo.py', '--smoke', '--seed=4', f'--root={seed3}')
  assert other.returncode != 0
  assert "was begun as {'seed': 3" in other.stderr


def _check_results(results):
  assert set(results['models']) == _MODELS
  for model, found in results['models'].items():
    assert set(found) >= _FIGURES, model
    for name, figure in found.items():
      numbers = [figure[k] for k in ('mean', 'low', 'high', 'n')]
      assert all(map(math.isfinite, numbers)), (model, name)
  for name in ('accuracy', 'accuracy_held_out', 'agreement', 'ceiling'):
    assert 0 <= results['reward_model'][name]['mean'] <= 1
  assert {'clean_writer', 'demonstrator', 'ppo_ptx_vs_ppo'} <= set(results)
  seconds = results['seconds']
  stages = ['sft', 'comparisons', 'rm', 'ppo', 'ppo_ptx']
  assert seconds['training'] == pytest.approx(sum(seconds[k] for k in stages))
  assert seconds['total'] == seconds['training'] + seconds['evaluation']
  assert results['seed'] == 3
  assert {'jax', 'flax', 'python'} <= set(results['versions'])
  assert results['config']['ppo']['ppo']['batch'] > 0
  # SFT against itself, by the same weights: exactly nothing.
  assert results['models']['sft']['kl_from_sft']['mean'] == pytest.approx(0)
  # The prompted base has the base's weights.
  assert (
      results['models']['prompted']['pretrain_loss']
      == results['models']['base']['pretrain_loss']
  )


def _check_weak_reward_model(root):
  lines = (root / 'ppo_weak_beta002' / 'metrics.jsonl').read_text()
  rows = [json.loads(line) for line in lines.splitlines()]
  gold = [row['rollout/gold'] for row in rows if 'rollout/gold' in row]
  assert len(gold) == 4
  assert all(map(math.isfinite, gold))
  weak = json.loads((root / 'weak.json').read_text())
  assert 5 <= weak['rankings'] <= 10  # A tenth of at most 100.
