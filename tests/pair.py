# SPDX-License-Identifier: Apache-2.0
"""Two processes on this machine that play two hosts, with fake devices."""

import contextlib
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from tests import conftest


class Pair:
  """Both processes; what they print goes to files in `folder`."""

  def __init__(
      self,
      arguments: Callable[[int, int], Sequence[str]],
      folder: pathlib.Path,
      devices: int,
  ):
    """Starts them: `arguments(port, index)` follow `python`."""
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    self._logs = [folder / f'log{index}' for index in range(2)]
    self.processes = []
    for index, path in enumerate(self._logs):
      with open(path, 'wb') as log:
        self.processes.append(
            subprocess.Popen(
                [sys.executable, *arguments(port, index)],
                cwd=conftest.ROOT,
                env=conftest.with_devices(devices),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )

  def wait(self, index: int, seconds: float) -> tuple[int, str]:
    """Exit code of a process that ends within some seconds, and its log."""
    try:
      code = self.processes[index].wait(seconds)
    except subprocess.TimeoutExpired:
      raise AssertionError(
          f'host {index} still runs after {seconds} s:\n{self.log(index)}'
      ) from None
    return code, self.log(index)

  def log(self, index: int) -> str:
    return self._logs[index].read_text(errors='replace')

  def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
    """Waits, while both run."""
    end = time.monotonic() + seconds
    while not ready():
      ended = [p.poll() for p in self.processes] != [None, None]
      assert not ended and time.monotonic() < end, (
          f'not ready: {self.log(0)}\n\n{self.log(1)}'
      )
      time.sleep(0.1)


@contextlib.contextmanager
def pair(
    arguments: Callable[[int, int], Sequence[str]],
    folder: pathlib.Path,
    *,
    devices: int = 2,
) -> Iterator[Pair]:
  """A `Pair` that does not outlive the test, of `devices` each."""
  both = Pair(arguments, folder, devices)
  try:
    yield both
  finally:
    for process in both.processes:
      process.kill()
      process.wait()


def last_words(log: str) -> str:
  """The last line that starts as an error does."""
  return [line for line in log.splitlines() if ': error: ' in line][-1]
