# SPDX-License-Identifier: Apache-2.0
"""Two processes that play two hosts: what they share, and how they end.

What they do is in host.py.
"""

import json
import os
import signal
import time

import pytest

from rlhf import hosts, lock, signals, watch
from tests import pair as pairs


@pytest.fixture
def pair(tmp_path):
  """`pair(task)`: a context manager of two hosts at work in tmp_path/run."""

  def start(task):
    work = str(tmp_path / 'run')
    return pairs.pair(
        lambda port, index: [
            'tests/host.py', str(port), str(index), task, work
        ],
        tmp_path,
    )

  (tmp_path / 'run').mkdir()
  return start


def test_one_host_is_the_first_and_waits_for_nobody():
  assert not hosts.several() and hosts.is_first() and hosts.label() == ''
  hosts.barrier('nobody')
  assert hosts.agree('a question', lambda: True)
  with hosts.joined():
    pass


def test_the_first_host_writes_and_all_go_on_together(pair, tmp_path):
  run = tmp_path / 'run'
  with lock.hold(run / 'taken'), pair('together') as both:
    ends = [both.wait(index, 90) for index in range(2)]
    assert [code for code, _ in ends] == [0, 0], ends
  logs = [log for _, log in ends]
  late = "host 1 of 2 did not come to 'the party' within 1 seconds"
  assert late in logs[0]
  held = f'refused: {run / "taken"} is in use by process {os.getpid()} on host'
  assert held in logs[0] and held in logs[1]
  # What is said is said once.
  assert 'toy 7/7' in logs[0] and 'said once' in logs[0]
  assert 'toy' not in logs[1] and 'said once' not in logs[1]
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  assert [line['step'] for line in metrics] == [1, 2, 3, 4, 5, 6, 7]
  # 16 numbers on the devices of both, of 1 each before the first step.
  assert [line['total'] for line in metrics] == [16 * n for n in range(1, 8)]
  by = json.loads((run / 'results.json').read_text())['by']
  assert by == both.processes[0].pid
  kept = {path.name for path in (run / 'checkpoints').iterdir()}
  assert kept == {'5', '7'}


@pytest.mark.slow
@pytest.mark.parametrize('victim', [1, 0])
def test_a_killed_host_ends_the_other(pair, tmp_path, victim):
  # Host 0 keeps the heartbeats; without it they end at once.
  run = tmp_path / 'run'
  with pair('train') as both:
    both.wait_until((run / 'checkpoints' / '10').exists, 60)
    both.processes[victim].kill()
    code, log = both.wait(1 - victim, 60)
  assert code == watch.LOST, log
  words = pairs.last_words(log)
  assert words.startswith(f'host {1 - victim} of 2: error: host {victim} of 2')
  assert 'is gone' in words and 'at step ' in words
  assert 'the newest checkpoint is step ' in words
  assert 'start all hosts again with the same command' in words


@pytest.mark.slow
def test_a_host_that_hangs_ends_both(pair):
  with pair('slow') as both:
    ends = [both.wait(index, 90) for index in range(2)]
  for code, log in ends:
    assert code == watch.LOST, log
    assert 'no step was completed in 3 seconds' in pairs.last_words(log)
    assert 'the newest checkpoint is step 5 in' in pairs.last_words(log)
  # Where it hangs is told: host 1 in its step, host 0 with host 1's numbers.
  assert 'host.py", line' in ends[1][1] and 'in step' in ends[1][1]


@pytest.mark.slow
def test_a_bug_of_one_host_is_its_own(pair):
  with pair('breaks') as both:
    code, log = both.wait(1, 60)
    assert code == 1 and 'RuntimeError: a bug of host 1' in log
    code, log = both.wait(0, 60)
    assert code == watch.LOST and 'host 1 of 2 is gone' in log


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_host_saves_and_ends_all(pair, tmp_path, number):
  run = tmp_path / 'run'
  with pair('train_again') as both:
    both.wait_until((run / 'metrics.jsonl').exists, 60)
    both.processes[1].send_signal(number)
    ends = [both.wait(index, 60) for index in range(2)]
  for code, log in ends:
    assert code == watch.STOPPED, log
  assert ': stopping after this step; ' in ends[1][1]
  saved = {
      int(pairs.last_words(log).split('saved step ')[1].split()[0])
      for _, log in ends
  }
  kept = [int(path.name) for path in (run / 'checkpoints').iterdir()]
  assert saved == {max(kept)}


@pytest.mark.slow
def test_a_second_signal_ends_a_host_that_waits_for_another(pair, tmp_path):
  with pair('waits') as both:
    both.wait_until((tmp_path / 'run' / 'waiting').exists, 60)
    for _ in range(2):
      both.processes[0].send_signal(signal.SIGTERM)
      time.sleep(signals.REPEAT_SECONDS + 0.2)
    code, log = both.wait(0, 20)
    assert code == 128 + signal.SIGTERM, log
    words = pairs.last_words(log)
    assert 'host 0 of 2: error: ended at once by a second SIGTERM' in words
    assert both.wait(1, 60)[0] == watch.LOST


@pytest.mark.slow
def test_a_host_that_stays_alone_says_so(tmp_path):
  def arguments(port, index):
    # The other never starts.
    task = ['tests/host.py', str(port), '1', 'alone']
    return task if index else ['-c', '']

  with pairs.pair(arguments, tmp_path) as both:
    code, log = both.wait(1, 60)
  assert code == watch.LOST
  assert 'error: the hosts did not come together at localhost' in log
