# SPDX-License-Identifier: Apache-2.0
"""How far a run is: what a checkpoint keeps of the loop, and its clock."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass
class Progress:
  """What a checkpoint keeps of the loop itself.

  Attributes:
    seconds: of wall time, over all starts of the run.
    best: {'step', 'merit', 'metrics'} of the best evaluation so far.
    setbacks: steps whose update was left out, or that were rolled back.
    alarms: what the alarms remember.
  """

  seconds: float = 0.0
  best: dict[str, Any] | None = None
  setbacks: list[int] = dataclasses.field(default_factory=list)
  alarms: dict[str, Any] = dataclasses.field(default_factory=dict)

  def improves(
      self, step: int, numbers: Mapping[str, float], name: str
  ) -> bool:
    """Takes note of an evaluation; True if none before was as good.

    Args:
      step: completed steps.
      numbers: of the evaluation.
      name: `LoopConfig.best`.

    Raises:
      ValueError: if there is no such metric, naming those that there are.
    """
    if not name:
      return False
    metric = name.removeprefix('-')
    if metric not in numbers:
      raise ValueError(
          f'loop.best={name!r}: this stage evaluates {", ".join(numbers)}'
      )
    merit = -numbers[metric] if name.startswith('-') else numbers[metric]
    if self.best is not None and merit <= self.best['merit']:
      return False
    self.best = {'step': step, 'merit': merit, 'metrics': dict(numbers)}
    return True


class Clock:
  """Wall time of a run over all its starts, and how long a step takes."""

  def __init__(self, seconds: float):
    self._before, self._start = seconds, time.monotonic()
    self._last, self._steps, self._pauses = self._start, 0, 0.0

  def seconds(self) -> float:
    return self._before + time.monotonic() - self._start

  def step(self) -> None:
    self._steps += 1

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Around what is no part of a step: evaluating, saving."""
    start = time.monotonic()
    yield
    self._pauses += time.monotonic() - start

  def numbers(self, tokens: int) -> dict[str, float]:
    """For a line of metrics: means over the steps since the last one."""
    now = time.monotonic()
    each = max((now - self._last - self._pauses) / max(self._steps, 1), 1e-9)
    self._last, self._steps, self._pauses = now, 0, 0.0
    found = {'seconds': self.seconds(), 'time/step': each}
    return found | ({'tokens_per_second': tokens / each} if tokens else {})
