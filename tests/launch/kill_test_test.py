# SPDX-License-Identifier: Apache-2.0
"""benchmarks/kill_test.py, with a few kills."""

import json
import subprocess
import sys

import pytest

from tests import conftest, kills


@pytest.mark.slow
@pytest.mark.parametrize('hosts, count', [(1, 3), (2, 1)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, hosts, count):
  done = subprocess.run(
      [
          sys.executable,
          'benchmarks/kill_test.py',
          '--stage=sft',
          f'--kills={count}',
          f'--hosts={hosts}',
          f'--root={tmp_path}',
      ],
      cwd=conftest.ROOT,
      capture_output=True,
      text=True,
      timeout=900,
  )
  assert done.returncode == 0, done.stdout + done.stderr[-3000:]
  result = json.loads(done.stdout.splitlines()[-1])
  assert result['stage'] == 'sft' and result['hosts'] == hosts
  assert result['identical'] == result['kills'] == count
  assert sum(result['killed_in'].values()) == count
  # What was the same is removed.
  (folder,) = tmp_path.iterdir()
  left = [path.name for path in folder.iterdir()]
  assert 'unbroken' in left and not any('trial' in name for name in left)


def test_every_fourth_trial_is_killed_three_times():
  assert kills.counts(7) == [1, 1, 1, 3, 1]
  assert kills.counts(5) == [1, 1, 1, 2]
  assert [sum(kills.counts(n)) for n in range(30)] == list(range(30))
