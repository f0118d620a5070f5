# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: the first asks the run to stop, a second one ends it.

  the first        sets `asked`; the loop finishes its step, saves, and ends
                   with watch.STOPPED. On several hosts, any of them may be
                   told: JAX's preemption service finds a step for all
                   (`hosts.stopping`).
  a second         ends this process at once: one line, and the exit code that
                   shells give to that signal (130, 143).

Both are a thread's work, which `signal.set_wakeup_fd` wakes: a handler of
Python's own waits until the main thread is back from what it is doing, which is
minutes in a large step, and for ever in a collective that has lost a host.
"""

import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from rlhf import watch

_NAMES = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}

# Launchers pass on a signal that the process group has had as well: a second
# one that comes as soon as this is the first.
REPEAT_SECONDS = 1.0


class _Asked:
  """What has been heard; one a process, as its signals are.

  Attributes:
    by: 'Ctrl-C', 'SIGTERM', or '' until then.
    heard: when, by time.monotonic.
  """

  def __init__(self):
    self.by, self.heard = '', 0.0


_asked = _Asked()


def asked() -> str:
  """What has asked this process to stop: 'Ctrl-C', 'SIGTERM', or ''."""
  return _asked.by


@contextlib.contextmanager
def caught(*, by_jax: bool = False) -> Iterator[None]:
  """Has the first signal set `asked` meanwhile, and the second end the process.

  Without effect outside the main thread, where Python takes no handlers.

  Args:
    by_jax: this is one of several hosts: SIGTERM is JAX's to catch, and is
      passed on to it, as Ctrl-C is. If JAX does not catch it (its preemption
      service is off), the signals do what they ever did.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  pass_on = _handler_of_jax() if by_jax else _nobody
  if pass_on is None:
    yield
    return
  _asked.__init__()
  ours, theirs = socket.socketpair()
  theirs.setblocking(False)  # As `set_wakeup_fd` wants it.
  before = {number: signal.signal(number, _note) for number in _NAMES}
  woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
  listener = threading.Thread(
      target=_listen, args=(ours, pass_on), name='signals', daemon=True
  )
  listener.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(woken)
    for number, handler in before.items():
      # What Python knows of: JAX's handler has done its work.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    theirs.close()  # Ends the thread.
    listener.join()
    ours.close()
    _asked.__init__()


def _note(number, frame):
  """The main thread knows at once what the listener is about to say."""
  del frame
  _asked.by = _asked.by or _NAMES[number]


def _listen(ours: socket.socket, pass_on: Callable[[int], None]) -> None:
  while numbers := ours.recv(16):
    for number in numbers:
      if number in _NAMES:
        _hear(number, pass_on)


def _hear(number: int, pass_on: Callable[[int], None]) -> None:
  name, now = _NAMES[signal.Signals(number)], time.monotonic()
  if not _asked.heard:
    _asked.by, _asked.heard = _asked.by or name, now
    again = f'press {name} again' if number == signal.SIGINT else 'send another'
    who = f'{watch.label()}: ' if watch.label() else ''
    line = f'{who}{name}: stopping after this step; {again} to exit now\n'
    os.write(2, line.encode())
    pass_on(signal.SIGTERM)
  elif now - _asked.heard > REPEAT_SECONDS:
    why = f'ended at once by a second {name}'
    watch.end(why, code=128 + number, patience=3)


def _nobody(number: int) -> None:
  del number


def _handler_of_jax() -> Callable[[int], None] | None:
  """The C++ handler that `jax.distributed.initialize` has put in place.

  It only sets a flag that its own thread looks at, so that it may be called
  like any function. Python's handler takes its place, or a second signal would
  be lost in it.
  """
  # Python's own table, which knows nothing of JAX's.
  if os.name != 'posix' or callable(signal.getsignal(signal.SIGTERM)):
    return None
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  found = libc.signal(int(signal.SIGTERM), None)
  if found in (None, 1):  # The default, or ignored.
    return None
  return ctypes.CFUNCTYPE(None, ctypes.c_int)(found)


def _forget_in_child() -> None:
  """A forked process must not wake its parent: its signals are its own."""
  if signal.getsignal(signal.SIGTERM) is _note:
    signal.set_wakeup_fd(-1)
    for number in _NAMES:
      signal.signal(number, signal.SIG_DFL)


if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=_forget_in_child)
