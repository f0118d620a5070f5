# SPDX-License-Identifier: Apache-2.0
"""Processes that have imported everything when they start.

Importing TensorFlow, seqio, JAX and orbax takes several seconds, which a test
that starts the same program a hundred times does not want to pay each time. A
server imports them once and forks a child for each start. That is sound because
it starts nothing: no JAX backend, no thread but those of importing, which is
looked at before each fork. The child leads a process group of its own, and ends
as a process of its own would: with its exit handlers, or killed.

  python tests/forks.py MODULE...        # the server, on stdin and stdout
  python tests/forks.py --once JOB       # one job, in this process
"""

import ctypes
import importlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))


class Attempt:
  """A process that was started, and leads a group."""

  def __init__(self, log: pathlib.Path):
    self.log = log
    self.pid = 0
    self.code: int | None = None
    self._changed = threading.Condition()

  def put(self, **fields: int) -> None:
    """Told by the server: `pid`, `code`."""
    with self._changed:
      vars(self).update(fields)
      self._changed.notify_all()

  def started(self) -> 'Attempt':
    with self._changed:
      assert self._changed.wait_for(lambda: self.pid, 120), 'no server'
    return self

  def wait(self, seconds: float) -> int | None:
    """The exit code, -9 if killed; None if it runs on after some seconds."""
    with self._changed:
      self._changed.wait_for(lambda: self.code is not None, seconds)
    return self.code

  def send(self, number: int) -> None:
    """A signal to the process alone."""
    if self.code is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    """kill -9 for its whole group; returns when it is gone."""
    if self.code is None:
      try:
        os.killpg(self.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      assert self.wait(60) is not None, f'process {self.pid} can not be killed'

  def text(self) -> str:
    return self.log.read_text(errors='replace')


class Server:
  """Starts attempts; a context manager that ends them all."""

  def __init__(self, *modules: str, plain: bool = False):
    """Args:
      *modules: that a forked process finds imported.
      plain: fork nothing; each attempt is a new process and imports for itself.
    """
    self._plain = plain
    self._waiting: list[Attempt] = []
    self._running: dict[int, Attempt] = {}
    self._lock = threading.Lock()
    if plain:
      return
    self._process = subprocess.Popen(
        [sys.executable, __file__, *modules],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def __enter__(self) -> 'Server':
    return self

  def __exit__(self, *_) -> None:
    for attempt in list(self._running.values()):
      attempt.kill()
    if not self._plain:
      self._process.stdin.close()
      self._process.wait()
      self._reader.join()
      self._process.stdout.close()

  def start(
      self,
      call: str,
      arguments: Mapping[str, Any],
      *,
      log: pathlib.Path,
      environment: Mapping[str, str] | None = None,
  ) -> Attempt:
    """Starts `module:function(**arguments)`.

    Args:
      call: 'module:function'.
      arguments: JSON-able.
      log: what it prints is appended there.
      environment: variables to set.
    """
    job = json.dumps({
        'call': call,
        'arguments': dict(arguments),
        'log': str(log),
        'environment': dict(environment or {}),
    })
    attempt = Attempt(log)
    if self._plain:
      self._start_plain(attempt, job, environment or {})
    else:
      with self._lock:
        self._waiting.append(attempt)
        self._process.stdin.write(job + '\n')
        self._process.stdin.flush()
    return attempt.started()

  def _start_plain(self, attempt, job, environment):
    process = subprocess.Popen(
        [sys.executable, __file__, '--once', job],
        cwd=_ROOT,
        env=os.environ | dict(environment),
        start_new_session=True,
    )
    self._running[process.pid] = attempt
    attempt.put(pid=process.pid)
    threading.Thread(
        target=lambda: attempt.put(code=process.wait()), daemon=True
    ).start()

  def _read(self):
    for line in self._process.stdout:
      said = json.loads(line)
      if 'code' in said:
        self._running.pop(said['pid']).put(code=said['code'])
        continue
      with self._lock:
        attempt = self._waiting.pop(0)
      self._running[said['pid']] = attempt
      attempt.put(pid=said['pid'])


# -- The server's side --------------------------------------------------------


def _serve(modules: Sequence[str]) -> dict | None:
  """Forks jobs until stdin ends; returns in a child, with its job."""
  say = os.dup(1)  # What a module prints must not get between.
  os.dup2(2, 1)
  for module in modules:
    importlib.import_module(module)
  text, children = b'', set()
  while True:
    ready, _, _ = select.select([0], [], [], 0.02)
    if ready:
      more = os.read(0, 2**16)
      if not more:
        break
      text += more
    while b'\n' in text:
      line, _, text = text.partition(b'\n')
      job = json.loads(line)
      _look_sound()
      pid = os.fork()
      if not pid:
        os.close(say)
        os.setsid()
        _die_with_parent()
        return job
      children.add(pid)
      os.write(say, json.dumps({'pid': pid}).encode() + b'\n')
    for pid in list(children):
      found, status = os.waitpid(pid, os.WNOHANG)
      if found:
        children.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        os.write(say, json.dumps({'pid': pid, 'code': code}).encode() + b'\n')
  for pid in children:
    os.killpg(pid, signal.SIGKILL)
  return None


def _die_with_parent() -> None:
  """Has the kernel kill this process when the server is killed (Linux)."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG.


def _look_sound() -> None:
  """A child has none of its parent's threads, and would wait for them."""
  running = [t.name for t in threading.enumerate()]
  assert len(running) == 1, f'these would be missing in a child: {running}'
  if 'jax' in sys.modules:
    from jax._src import xla_bridge

    assert not xla_bridge.backends_are_initialized(), 'JAX has been started'


def _run(job: dict) -> None:
  os.environ.update(job['environment'])
  log = os.open(job['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
  nothing = os.open(os.devnull, os.O_RDONLY)
  for file, number in ((nothing, 0), (log, 1), (log, 2)):
    os.dup2(file, number)
  os.close(log)
  os.close(nothing)
  module, _, name = job['call'].partition(':')
  getattr(importlib.import_module(module), name)(**job['arguments'])


def wait_for(ready, seconds: float, attempt: Attempt) -> bool:
  """Until `ready()`; False if the attempt ends before, or never gets there."""
  end = time.monotonic() + seconds
  while not ready():
    if attempt.code is not None or time.monotonic() > end:
      return False
    time.sleep(0.001)
  return True


if __name__ == '__main__':
  if sys.argv[1:2] == ['--once']:
    _run(json.loads(sys.argv[2]))
  else:
    todo = _serve(sys.argv[1:])
    if todo is not None:
      _run(todo)
