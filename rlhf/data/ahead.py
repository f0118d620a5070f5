# SPDX-License-Identifier: Apache-2.0
"""The next batch, made on another thread while the device is at this one."""

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent import futures
from typing import Any, Generic, TypeVar

from rlhf.data.rows import DataError

Batch = TypeVar('Batch')

# At the end of a program, for a batch that is being made and that nobody needs:
# reading from a disk that is gone may take for ever.
EXIT_SECONDS = 5.0

# Whose errors are about files, though they have types of their own.
_READERS = ('array_record', 'grain', 'pyarrow', 'tensorflow')


class Ahead(Generic[Batch]):
  """`make(step)`, one step ahead of whoever asks for them in turn.

  Any step may be asked for; only the one after that is there already, unless
  the run is over by then.

  Attributes:
    waited: seconds that the last call took; near 0 unless data are what the
      run waits for.
  """

  def __init__(
      self, make: Callable[[int], Batch], steps: int, name: str = 'the data'
  ):
    """Constructor.

    Args:
      make: makes the batch of a step.
      steps: how many there are.
      name: of what is read, for errors that name no file.
    """
    self.waited = 0.0
    self._make, self._steps, self._name = make, steps, name
    self._jobs = _worker()
    # The thread knows the queue alone, and ends with whoever asks it.
    weakref.finalize(self, self._jobs.put, None)
    self._next: tuple[int, futures.Future] | None = None

  def __call__(self, step: int) -> Batch:
    """What `make(step)` returns, or the error that it raises.

    Raises:
      DataError: what is read can't be any more; names it and the batch.
    """
    start = time.monotonic()
    if self._next is None or self._next[0] != step:
      self._next = step, self._submit(step)
    try:
      batch = self._next[1].result()
    except Exception as error:
      told = _told(error, step, self._name)
      if told is None:
        raise
      raise told from error
    self._next = None
    if step + 1 < self._steps:
      self._next = step + 1, self._submit(step + 1)
    self.waited = time.monotonic() - start
    return batch

  def _submit(self, step: int) -> futures.Future:
    future: futures.Future = futures.Future()
    _unfinished.add(future)
    self._jobs.put((future, self._make, step))
    return future


def _told(error: Exception, step: int, name: str) -> DataError | None:
  """A line on an error of reading; None for one of another kind."""
  if isinstance(error, DataError):  # Names its file.
    return DataError(f'{error} (at batch {step} of {name})')
  of_reader = type(error).__module__.split('.')[0] in _READERS
  if not (of_reader or isinstance(error, OSError | EOFError | IndexError)):
    return None
  what = getattr(error, 'filename', None) or name
  why = getattr(error, 'strerror', None) or str(error).split('\n')[0][:200]
  return DataError(
      f'{what}: could not be read at batch {step} ({type(error).__name__}:'
      f' {why}): is the disk still there, and the file whole? Then start the'
      ' same command again'
  )


def _worker() -> queue.SimpleQueue:
  """The queue of a thread of its own: of jobs, and None at the end.

  A thread that Python does not wait for, unlike those of a ThreadPoolExecutor:
  it would wait for ever for one that hangs.
  """
  jobs: queue.SimpleQueue = queue.SimpleQueue()
  thread = threading.Thread(target=_work, args=(jobs,), name='batches')
  thread.daemon = True
  thread.start()
  return jobs


def _work(jobs: queue.SimpleQueue) -> None:
  while (job := jobs.get()) is not None:
    _do(*job)
    # Held, a job would keep alive whoever waits for the next one.
    del job


def _do(future: futures.Future, make: Callable[[int], Any], step: int) -> None:
  try:
    future.set_result(make(step))
  except BaseException as error:  # Whatever it is belongs to who asks.
    future.set_exception(error)


_unfinished: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _wait() -> None:
  """Python ends badly while a thread comes back from C++, so that batches that
  are being made are waited for, a little."""
  futures.wait(list(_unfinished), timeout=EXIT_SECONDS)
