# SPDX-License-Identifier: Apache-2.0
"""launch/train.py on two hosts, and the death of one."""

import subprocess
import sys

import pytest

from rlhf import watch
from tests import conftest, tiny
from tests import pair as pairs

# A stage that would go on for minutes.
_CONFIG = """
import pathlib, sys
sys.path.insert(0, {repository!r})
from tests import tiny

def get_config():
  changes = {{
      'loop.save_every': 2,
      'loop.best': '',
      'epochs': 1000,
      'pretraining_share': 0.0,
  }}
  return tiny.config('sft', pathlib.Path({root!r}), run='new', **changes)
"""


@pytest.mark.slow
def test_a_stage_ends_with_the_host_that_it_lost(tmp_path):
  root = tiny.make_root(tmp_path / 'root')
  config = tmp_path / 'config.py'
  text = _CONFIG.format(repository=str(conftest.ROOT), root=str(root))
  config.write_text(text)

  def arguments(port, index):
    return [
        'launch/train.py',
        f'--config={config}',
        f'--coordinator_address=localhost:{port}',
        '--num_processes=2',
        f'--process_id={index}',
        '--heartbeat_seconds=6',
    ]

  with pairs.pair(arguments, tmp_path) as both:
    both.wait_until((root / 'new' / 'checkpoints' / '4').exists, 240)
    both.processes[1].kill()
    code, log = both.wait(0, 60)
  assert code == watch.LOST, log
  words = pairs.last_words(log)
  assert words.startswith('host 0 of 2: error: host 1 of 2 is gone')
  assert 'the newest checkpoint is step ' in words
  # The first host alone has written, and each line once.
  steps = [line['step'] for line in tiny.metrics(root / 'new')]
  assert steps == list(range(1, len(steps) + 1))


def test_flags_that_do_not_fit_are_one_line():
  done = subprocess.run(
      [
          sys.executable,
          'launch/train.py',
          '--config=configs/sft.py',
          '--num_processes=2',
      ],
      cwd=conftest.ROOT,
      capture_output=True,
      text=True,
      timeout=120,
  )
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1].startswith(
      'error: --num_processes without --coordinator_address, --process_id'
  )
