# SPDX-License-Identifier: Apache-2.0
"""The next batch, made on another thread while the device is at this one."""

import time
from collections.abc import Callable
from concurrent import futures
from typing import Generic, TypeVar

Batch = TypeVar('Batch')


class Ahead(Generic[Batch]):
  """`make(step)`, one step ahead of whoever asks for them in turn.

  Any step may be asked for; only the one after that is there already, unless
  the run is over by then.

  Attributes:
    waited: seconds that the last call took; near 0 unless data are what the
      run waits for.
  """

  def __init__(self, make: Callable[[int], Batch], steps: int):
    """Takes a function of the step, and how many steps there are."""
    self.waited = 0.0
    self._make, self._steps = make, steps
    self._thread = futures.ThreadPoolExecutor(1, 'batches')
    self._next: tuple[int, futures.Future] | None = None

  def __call__(self, step: int) -> Batch:
    """What `make(step)` returns, or the error that it raises."""
    start = time.monotonic()
    if self._next is None or self._next[0] != step:
      self._next = step, self._thread.submit(self._make, step)
    batch, self._next = self._next[1].result(), None
    if step + 1 < self._steps:
      self._next = step + 1, self._thread.submit(self._make, step + 1)
    self.waited = time.monotonic() - start
    return batch
