# SPDX-License-Identifier: Apache-2.0
"""One run at a time: on a disk by real processes, in gs:// by objects."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlhf import hosts, lock, watch
from tests import conftest
from tests.object_store_test import bucket  # noqa: F401

_HOLD = """
import sys, time
from rlhf import lock
try:
  with lock.hold(sys.argv[1]):
    print('held', flush=True)
    time.sleep(100)
except lock.HeldError as error:
  print(error, flush=True)
"""


@contextlib.contextmanager
def _other(directory):
  """Another process that holds, or tries to; and what it says of it."""
  process = subprocess.Popen(
      [sys.executable, '-c', _HOLD, str(directory)],
      cwd=conftest.ROOT,
      stdout=subprocess.PIPE,
      text=True,
  )
  try:
    yield process, process.stdout.readline().strip()
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
  run = tmp_path / 'new' / 'run'
  with _other(run) as (holder, said):
    assert said == 'held'
    with pytest.raises(lock.HeldError) as refused:
      with lock.hold(run):
        pass
    words = str(refused.value)
    assert words.startswith(f'{run} is in use by process {holder.pid} on host')
    assert 'since 2' in words and 'another --config.root=' in words
    # The refused one took nothing away.
    with pytest.raises(lock.HeldError, match=f'process {holder.pid} '):
      with lock.hold(run):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.hold(run):
      with _other(run) as (_, said):
        assert f'in use by process {os.getpid()} on host' in said
  with lock.hold(run):  # Given back, the file stays.
    pass


def test_one_process_may_hold_several_directories(tmp_path):
  with lock.hold(tmp_path / 'a'), lock.hold(str(tmp_path / 'b')):
    pass
  with pytest.raises(KeyError):
    with lock.hold(tmp_path / 'a'):
      raise KeyError
  with lock.hold(tmp_path / 'a'):
    pass


def test_a_directory_that_can_not_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(lock.HeldError, match='can not write to the work dir'):
    with lock.hold(tmp_path / 'file' / 'run'):
      pass


def test_all_hosts_fail_for_what_the_first_one_found(tmp_path, monkeypatch):
  # This one is not the first: it has not looked.
  monkeypatch.setattr(hosts, 'told', lambda name, look: f'{name}? no')
  with pytest.raises(lock.HeldError, match='free\\? no'):
    with lock.hold(tmp_path / 'run'):
      pass
  assert not (tmp_path / 'run').exists()


# -- gs:// --------------------------------------------------------------------


@pytest.fixture
def quick(bucket, monkeypatch):  # noqa: F811
  """A lease is renewed after 0.05 seconds, and dead after 0.6."""
  monkeypatch.setattr(lock, 'BEAT_SECONDS', 0.05)
  monkeypatch.setattr(lock, 'DEAD_SECONDS', 0.6)
  monkeypatch.setattr(lock, 'SETTLE_SECONDS', 0.02)
  before = threading.active_count()
  yield lock.epath.Path('gs://bucket/run')
  assert threading.active_count() == before  # No lease outlives its run.


def _lease_of_another():
  return json.dumps({
      'process': 7, 'host': 'far', 'since': 'noon', 'token': 'x', 'beat': 3
  })


def test_a_lease_is_renewed_and_given_back(quick):
  path = quick / 'lock'
  with lock.hold(quick):
    first = json.loads(path.read_text())
    assert first['process'] == os.getpid()
    end = time.monotonic() + 10
    while json.loads(path.read_text())['beat'] < first['beat'] + 2:
      assert time.monotonic() < end
      time.sleep(0.01)
  assert not path.exists()


def test_a_lease_that_lives_refuses(quick):
  with lock.hold(quick):
    with pytest.raises(lock.HeldError) as refused:
      with lock.hold(quick):
        pass
  said = f'gs://bucket/run is in use by process {os.getpid()} on host '
  assert str(refused.value).startswith(said)


def test_a_dead_lease_is_taken_over_after_a_while(quick, caplog):
  (quick / 'lock').write_text(_lease_of_another())
  start = time.monotonic()
  with caplog.at_level(logging.INFO, logger='absl'):
    with lock.hold(quick):
      assert time.monotonic() - start >= 0.6
      assert json.loads((quick / 'lock').read_text())['process'] == os.getpid()
  assert 'in use by process 7 on host far since noon: waiting 0.6' in (
      caplog.text
  )
  assert 'it is dead' in caplog.text


def test_a_lease_that_is_given_back_is_not_waited_for(quick, monkeypatch):
  monkeypatch.setattr(lock, 'DEAD_SECONDS', 18.0)
  (quick / 'lock').write_text(_lease_of_another())
  giving = threading.Timer(0.2, (quick / 'lock').unlink)
  giving.start()
  start = time.monotonic()
  with lock.hold(quick):
    assert time.monotonic() - start < 9
  giving.join()


def test_of_two_that_come_at_once_the_last_writer_has_it(quick, monkeypatch):
  sleep = time.sleep

  def slept(seconds):
    # Meanwhile the other, who has seen no lease either, writes its own.
    (quick / 'lock').write_text(_lease_of_another())
    sleep(seconds)

  monkeypatch.setattr(lock.time, 'sleep', slept)
  with pytest.raises(lock.HeldError, match='in use by process 7 on host far'):
    with lock.hold(quick):
      pass
  assert json.loads((quick / 'lock').read_text())['process'] == 7


def test_a_run_that_was_taken_for_dead_ends(quick, monkeypatch):
  ended = threading.Event()
  said = []

  def end(why, *, code, then):
    said.append((why, code, then))
    ended.set()
    raise OSError  # For os._exit, of which there is nothing after.

  monkeypatch.setattr(watch, 'end', end)
  with lock.hold(quick):
    (quick / 'lock').write_text(_lease_of_another())
    assert ended.wait(10)
  assert said[0][0].startswith('gs://bucket/run is in use by process 7 on host')
  assert said[0][1] == 1
  # What is another's now is left alone.
  assert (quick / 'lock').read_text() == _lease_of_another()


def test_a_lease_is_renewed_after_an_error(quick, monkeypatch, caplog):
  read, failures = lock._read, []

  def fails_once(path):
    if threading.current_thread().name.startswith('lease') and not failures:
      failures.append(path)
      raise OSError('unreachable')
    return read(path)

  monkeypatch.setattr(lock, '_read', fails_once)
  with lock.hold(quick):
    end = time.monotonic() + 10
    while json.loads((quick / 'lock').read_text())['beat'] < 3:
      assert time.monotonic() < end
      time.sleep(0.01)
  assert 'could not renew the lease: unreachable' in caplog.text
