# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM, once and twice, in processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlhf import hosts, signals, watch
from tests import conftest

# Says what it is at, and goes on until it has been asked to stop.
_RUN = """
import sys, time
from rlhf import hosts, watch
with hosts.joined(), watch.describing(lambda: ' at step 3'):
  print('running', flush=True)
  while not hosts.stopping():
    time.sleep(0.01)
  print('asked', flush=True)
  {then}
  raise watch.StoppedError('told to stop')
"""
# The main thread waits in C, as in a collective, and no signal brings it back.
_STUCK = """
  import ctypes
  lock = ctypes.CDLL(None).pthread_mutex_lock
  mutex = ctypes.create_string_buffer(64)
  lock(mutex), lock(mutex)
"""


@contextlib.contextmanager
def _running(then='pass'):
  process = subprocess.Popen(
      [sys.executable, '-c', _RUN.format(then=then)],
      cwd=conftest.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
  )
  try:
    assert process.stdout.readline() == 'running\n'
    yield process
  finally:
    process.kill()
    process.communicate()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_asks_and_says_so(number):
  with _running() as process:
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
  assert process.returncode == watch.STOPPED and out == 'asked\n'
  name = 'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'
  first, last = err.splitlines()
  assert first.startswith(f'{name}: stopping after this step; ')
  assert first.endswith(' to exit now')
  assert last == (
      'error: told to stop; start it again with the same command'
  )


@pytest.mark.parametrize(
    'number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_the_second_ends_at_once_whatever_python_does(number, code):
  with _running(then=_STUCK) as process:
    process.send_signal(number)
    assert process.stdout.readline() == 'asked\n'
    time.sleep(signals.REPEAT_SECONDS + 0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
  assert process.returncode == code, err
  name = 'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'
  assert err.splitlines()[1:] == [
      f'error: ended at once by a second {name} at step 3; start it again with'
      ' the same command'
  ]


def test_what_comes_with_the_first_is_the_first():
  """As `timeout` sends it: to the process, and to its group."""
  with _running(then='time.sleep(0.5)') as process:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
      process.send_signal(number)
      time.sleep(0.05)
    process.communicate(timeout=20)
  assert process.returncode == watch.STOPPED


def test_what_was_before_comes_back():
  before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
  threads = threading.active_count()
  with hosts.joined():
    os.kill(os.getpid(), signal.SIGINT)  # No KeyboardInterrupt.
    assert hosts.stopping() and signals.asked() == 'Ctrl-C'
  assert not hosts.stopping() and signals.asked() == ''
  after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
  assert after == before and threading.active_count() == threads
  with pytest.raises(KeyboardInterrupt):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)


def test_a_thread_takes_no_signals():
  seen = []

  def work():
    with signals.caught():
      seen.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]


def test_a_forked_process_keeps_its_signals_to_itself():
  code = """
import os, signal, time
from rlhf import signals
ready, say = os.pipe()
with signals.caught():
  child = os.fork()
  if not child:
    os.write(say, b'.')
    time.sleep(30)
    os._exit(1)
  os.read(ready, 1)
  os.kill(child, signal.SIGTERM)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
  time.sleep(0.2)
  print(repr(signals.asked()))
"""
  done = subprocess.run(
      [sys.executable, '-W', 'ignore', '-c', code],
      cwd=conftest.ROOT,
      capture_output=True,
      text=True,
      timeout=60,
  )
  assert done.stdout == "-15\n''\n", done.stderr
