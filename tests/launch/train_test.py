# SPDX-License-Identifier: Apache-2.0
"""The command line: what it refuses, and how."""

import subprocess
import sys

from launch import pipeline


def _train(*flags: str) -> subprocess.CompletedProcess:
  return subprocess.run(
      [sys.executable, 'launch/train.py', *flags],
      cwd=pipeline.REPOSITORY,
      capture_output=True,
      text=True,
      timeout=300,
  )


def test_an_unknown_field_is_refused_by_name(tmp_path):
  done = _train(
      '--config=configs/sft.py', f'--config.root={tmp_path}', '--config.epoch=1'
  )
  assert done.returncode != 0
  assert 'epoch' in done.stderr and 'Did you mean "epochs"' in done.stderr
  assert not list(tmp_path.iterdir())


def test_a_missing_stage_is_an_error_with_its_command(tmp_path):
  done = _train('--config=configs/ppo_ptx.py:1.3b', f'--config.root={tmp_path}')
  assert done.returncode != 0
  assert 'Traceback' not in done.stderr
  last = done.stderr.strip().splitlines()[-3:]
  assert last[0].startswith('error: ppo_ptx needs')
  assert '--config=configs/rl_init.py:1.3b' in last[1]
  assert not list(tmp_path.iterdir())
