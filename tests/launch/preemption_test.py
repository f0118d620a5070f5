# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C in the midst of PPO: nothing is lost, nothing differs.

Real processes run what launch/train.py runs; what they do is in preempted.py.
"""

import signal

import pytest

from rlhf import signals, watch
from tests import conftest, forks, runs, tiny

_RUN = 'tests.preempted:run'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tiny.make_root(tmp_path_factory.mktemp('preemption'))


@pytest.fixture(scope='module')
def server():
  modules = ('seqio', 'rlhf.data.loading', 'tests.preempted')
  with forks.Server(*modules) as server:
    yield server


@pytest.fixture(scope='module')
def start(root, server):
  """`start(run, ...)` starts tests/preempted.py on the work dir of a name."""

  def begin(run, **arguments):
    (root / run).mkdir(exist_ok=True)
    return server.start(
        _RUN,
        {'root': str(root), 'run': run, **arguments},
        log=root / run / 'log.txt',
        environment=conftest.with_devices(1),
    )

  return begin


@pytest.fixture(scope='module')
def unbroken(root, start):
  attempt = start('unbroken')
  assert attempt.wait(240) == 0, attempt.text()
  return root / 'unbroken'


def _until_in_phase(folder, attempt):
  there = forks.wait_for((folder / 'in_phase').exists, 240, attempt)
  assert there, attempt.text()


def _saved(folder):
  names = (path.name for path in (folder / 'checkpoints').iterdir())
  return [int(name) for name in names if name.isdigit()]


def _goes_on(start, unbroken, folder):
  resumed = start(folder.name)
  assert resumed.wait(240) == 0, resumed.text()
  assert not runs.differences(unbroken, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    'phase, number, step',
    [
        ('generate', signal.SIGTERM, 2),
        ('score', signal.SIGTERM, 2),
        ('train', signal.SIGTERM, 2),
        ('save', signal.SIGTERM, 3),
        ('train', signal.SIGINT, 2),
    ],
)
def test_a_run_that_is_told_to_stop_loses_nothing(
    root, start, unbroken, phase, number, step
):
  folder = root / f'{phase}-{number.name}'
  attempt = start(folder.name, phase=phase)
  _until_in_phase(folder, attempt)
  attempt.send(number)
  assert attempt.wait(60) == watch.STOPPED, attempt.text()
  # The step it was in is done, and no other.
  assert _saved(folder) == [step]
  assert [line['step'] for line in tiny.metrics(folder)][-1] == step
  assert f'saved step {step} in {folder}' in attempt.text().splitlines()[-1]
  assert 'Traceback' not in attempt.text()
  _goes_on(start, unbroken, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    'number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_the_second_signal_ends_it_at_once(
    root, start, number, code
):
  folder = root / f'twice-{number.name}'
  # It would stay for ever.
  attempt = start(folder.name, phase='train', seconds=1000)
  _until_in_phase(folder, attempt)
  attempt.send(number)
  assert attempt.wait(signals.REPEAT_SECONDS + 0.2) is None
  attempt.send(number)
  assert attempt.wait(30) == code, attempt.text()
  last = attempt.text().splitlines()[-1]
  assert last.startswith('error: ended at once by a second ')
  assert ' at step 2; no checkpoint is in ' in last
  assert 'Traceback' not in attempt.text()
