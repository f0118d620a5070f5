# SPDX-License-Identifier: Apache-2.0
"""The program: what it refuses, and how. More in tests/wrong_configs_test.py"""


import pytest

from tests import conftest


def test_an_unknown_field_is_refused_by_name(tmp_path):
  done = conftest.train(
      '--config=configs/sft.py', f'--config.root={tmp_path}', '--config.epoch=1'
  )
  assert done.returncode == 2
  assert done.stderr.splitlines() == [
      'error: 1 problem with configs/sft.py:',
      '  epoch=1: is no field: did you mean --config.epochs?',
  ]
  assert not list(tmp_path.iterdir())


def test_a_missing_stage_is_an_error_with_its_command(tmp_path):
  rows = tmp_path / 'rows.jsonl'
  rows.write_text('{"prompt": "?", "text": "."}\n')
  root = tmp_path / 'root'
  done = conftest.train(
      '--config=configs/ppo_ptx.py:1.3b',
      f'--config.root={root}',
      '--config.data.vocabulary=bytes',
      f'--config.data.prompts={rows}',
      f'--config.data.text={rows}',
  )
  assert done.returncode != 0
  assert 'Traceback' not in done.stderr
  said = done.stderr[done.stderr.index('error: ') :]
  assert said.startswith('error: 2 problems with ppo_ptx')
  assert '--config=configs/rl_init.py:1.3b' in said
  assert '--config=configs/rm.py:6b' in said
  assert not root.exists()



@pytest.mark.parametrize('flag', ['--help', '--helpshort'])
def test_help_is_there(flag):
  done = conftest.train(flag)
  assert 'coordinator_address' in done.stdout
  assert 'Traceback' not in done.stderr
