# SPDX-License-Identifier: Apache-2.0
"""How a run on several hosts ends when one of them is lost: soon, saying why.

  killed, crashed, unplugged   the coordination service of jax.distributed, in
                   the first process, misses its heartbeat (30 s; the first
                   process itself is missed at once). It aborts every other
                   process from C++: no exception, no exit handler. `_guard`
                   catches the abort.
  a collective fails first     gloo or NCCL raises in the step. `fail` waits for
                   the service to tell which host it was, or ends without.
  slow, hung       its heartbeat goes on. `Watchdog` ends a process that has
                   not completed a step in `loop.step_timeout` seconds.
  told to stop     SIGTERM or Ctrl-C on any host: the loop finishes its step,
                   saves and ends (`hosts.stopping`); a second one ends the
                   process at once (rlhf/signals.py).

Each prints one line that starts with `error:`, and ends the process at once by
os._exit, because Python's ordinary exit waits for the other hosts. The exit
codes are for whatever starts the processes, and tell a stop from a failure:

  75  `STOPPED`: told to stop, and saved
  76  `LOST`: another host is lost
  130, 143  a second Ctrl-C or SIGTERM: what came after the newest checkpoint
      is lost

After each of them the same command, on all hosts, goes on from the newest
checkpoint; after 75 nothing is done again. 75 and 130 to 143 are a single
host's too.
"""

import contextlib
import ctypes
import faulthandler
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

STOPPED = 75  # Told to stop, and saved.
LOST = 76  # Another host is lost.

# For what is being written when a run ends by an error.
CLOSING_SECONDS = 300


class HostsError(Exception):
  """The hosts can't be joined, or can't work, as they were described."""


class LostHostError(Exception):
  """Another host did not come, or its connection broke."""


class StoppedError(Exception):
  """The run was told to stop, and has saved what it needs to go on."""


class _Run:
  """What the last words tell. One a process, as jax.distributed is.

  Attributes:
    phase: 'alone', 'starting', 'running' or 'ending'.
    describe: where the run is, for the end of a sentence.
  """

  def __init__(self):
    self.phase = 'alone'
    self.index, self.count = 0, 1
    self.address: str | None = None
    self.start_seconds = self.heartbeat_seconds = 0.0
    self.describe: Callable[[], str] = lambda: ''
    self.ending = threading.Lock()


_run = _Run()


def begin(
    address: str | None, start_seconds: float, heartbeat_seconds: float
) -> None:
  """Before the process joins the others."""
  _run.phase, _run.address = 'starting', address
  _run.start_seconds = start_seconds
  _run.heartbeat_seconds = heartbeat_seconds
  guard()


def joined(index: int, count: int) -> None:
  """Once it has."""
  _run.phase, _run.index, _run.count = 'running', index, count


def ending() -> None:
  """Before it leaves them."""
  _run.phase = 'ending'


def over() -> None:
  """Once it has left."""
  _run.__init__()
  signal.signal(signal.SIGABRT, signal.SIG_DFL)


def label() -> str:
  return f'host {_run.index} of {_run.count}' if _run.count > 1 else ''


@contextlib.contextmanager
def describing(describe: Callable[[], str]) -> Iterator[None]:
  """Sets what last words say of where the run is."""
  before, _run.describe = _run.describe, describe
  try:
    yield
  finally:
    _run.describe = before


def end(
    why: str,
    *,
    code: int = LOST,
    then: str = 'start {} again with the same command',
    patience: float = 10,
) -> NoReturn:
  """Says why, and ends the process at once.

  Args:
    why: the sentence's beginning; where the run is follows.
    code: the exit code.
    then: what to do; '{}' stands for all hosts, where there are several.
    patience: seconds for saying so.
  """
  if not _run.ending.acquire(blocking=False):
    time.sleep(120)  # Another thread is at it.
  # In a thread, bounded: files may hang, and a lock be held by what was
  # interrupted.
  words = threading.Thread(target=_last_words, args=(why, then), daemon=True)
  with contextlib.suppress(RuntimeError):  # Python's own exit starts none.
    words.start()
    words.join(patience)
  os._exit(code)


def _last_words(why: str, then: str) -> None:
  where = ''
  with contextlib.suppress(Exception):
    where = _run.describe()
  who = f'{label()}: ' if label() else ''
  if sys.stdout.isatty():
    sys.stdout.write('\x1b[?25h\n')  # The display hides the cursor.
  sys.stdout.flush()
  sys.stderr.flush()
  then = then.format('it' if _run.phase == 'alone' else 'all hosts')
  # In one piece, and past Python's buffers.
  os.write(2, f'{who}error: {why}{where}; {then}\n'.encode())


def fail(
    error: BaseException, *, together: Callable[[], None] = lambda: None
) -> NoReturn:
  """Ends this process of several for an exception.

  Args:
    error: 1 is the exit code, or that of a SystemExit, for what is this host's
      own; `LOST` for what another did.
    together: waits a little for the others, who may be about to say the same.
  """
  if isinstance(error, StoppedError):
    with contextlib.suppress(Exception):
      together()
    end(str(error), code=STOPPED)
  if isinstance(error, LostHostError):
    end(str(error))
  if isinstance(error, HostsError):
    error = SystemExit(f'error: {error}')
  if is_lost(error):
    wait_for_verdict(error)
  code = 1
  if isinstance(error, SystemExit):
    code = error.code if isinstance(error.code, int) else 1
    text = error.code if isinstance(error.code, str) else ''
  else:
    text = ''.join(traceback.format_exception(error))
  who = f'{label()}: ' if label() else ''
  sys.stdout.flush()
  if text:
    print(f'{who}{text}', file=sys.stderr, flush=True)
  with contextlib.suppress(Exception):
    together()
  os._exit(code)


# How collectives and the coordination service put it.
_LOST = re.compile(
    r'gloo|nccl|connection (closed|reset|refused)|socket closed|heartbeat|'
    r'coordination service|UNAVAILABLE|DEADLINE_EXCEEDED|barrier',
    re.IGNORECASE,
)


def is_lost(error: BaseException | None) -> bool:
  """Whether an error tells of another host's death, on several hosts."""
  while error is not None and _run.phase != 'alone':
    if isinstance(error, jax.errors.JaxRuntimeError):
      if _LOST.search(str(error)):
        return True
    error = error.__cause__ or error.__context__
  return False


def wait_for_verdict(error: BaseException) -> NoReturn:
  """Ends the process once it is known which host is lost, or nobody tells."""
  # The service's abort (see `guard`) comes meanwhile, if a host died.
  time.sleep(_run.heartbeat_seconds + 5)
  first = str(error).splitlines()[0]
  end(f'the connection with another host of {_run.count} failed ({first})')


_abort_handler = None


def guard() -> None:
  """Puts a sentence and an exit code in place of the service's abort.

  The service's client ends the process by a C++ LOG(FATAL). JAX offers no
  say in that: `jax.distributed.initialize` takes no callback, and the private
  client's `missed_heartbeat_callback` fails with std::bad_cast in jax 0.10 to
  0.12. So the signal of abort() itself is handled, through libc: Python's own
  handlers run too late. The handler waits for the GIL like any callback.

  To be called again once devices are up: libtpu installs handlers too.
  """
  global _abort_handler
  if os.name != 'posix' or _run.phase == 'alone':
    return
  if _abort_handler is None:
    # Kept: libc does not.
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted)
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  libc.signal(int(signal.SIGABRT), _abort_handler)


def _aborted(number: int) -> None:
  del number
  end(_verdict())


def _verdict() -> str:
  """What is known of the reason of the abort; the rest stands above it."""
  if _run.phase == 'starting':
    at = f' at {_run.address}' if _run.address else ''
    return (
        f'the hosts did not come together{at} within {_run.start_seconds:g}'
        ' seconds: some were not started, or the address can not be reached'
    )
  if _run.phase == 'ending':
    return f'another host of {_run.count} did not come to the end'
  others = [i for i in range(_run.count) if i != _run.index]
  if len(others) == 1 or (_run.index and not _answers(_run.address)):
    return (
        f'host {others[0]} of {_run.count} is gone (its heartbeat stopped or'
        ' its connection was closed)'
    )
  return (
      f'a host of {_run.count} is gone (its heartbeat stopped; its number'
      ' stands above, under "unhealthy")'
  )


def _answers(address: str | None) -> bool:
  if address is None:
    return True
  host, _, port = address.rpartition(':')
  try:
    with socket.create_connection((host.strip('[]'), int(port)), timeout=3):
      return True
  except OSError:
    return False


class Watchdog:
  """Ends the process when nothing is completed for some seconds.

  A context manager around a loop; `beat` after each step. Nothing on a single
  host, where a debugger or a slow disk may take its time, and with 0 seconds.
  """

  def __init__(self, seconds: float):
    self._seconds = seconds if _run.phase == 'running' else 0
    self._last = time.monotonic()
    self._reason = ''
    self._done = threading.Event()

  def __enter__(self):
    guard()
    if self._seconds:
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._done.set()

  def beat(self) -> None:
    self._last = time.monotonic()

  @contextlib.contextmanager
  def closing_after_an_error(self) -> Iterator[None]:
    """Bounds what is still written when an error leaves the loop."""
    try:
      yield
    except BaseException as error:
      if is_lost(error):
        wait_for_verdict(error)
      if not isinstance(error, StoppedError):
        self._reason = f'{type(error).__name__}: {error}'
        self._seconds = min(self._seconds, CLOSING_SECONDS)
      self.beat()
      raise

  def _watch(self):
    while not self._done.wait(min(self._seconds / 10, 5)):
      if time.monotonic() - self._last > self._seconds:
        faulthandler.dump_traceback()
        os.write(2, _HINT.encode())
        end(
            self._reason
            or f'no step was completed in {self._seconds:g} seconds'
            ' (loop.step_timeout)'
        )


_HINT = (
    'This host waits where the traceback says; one whose traceback is another'
    ' may be what it waits for.\n'
)
