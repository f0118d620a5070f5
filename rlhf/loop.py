# SPDX-License-Identifier: Apache-2.0
"""The outer loop that every stage shares.

It knows nothing of losses: a stage gives it `step(state, index) -> (state,
metrics)`. Metrics are read one step late, after the next step is dispatched, so
that reading them never holds up the device (and never more than one step is in
flight, without which meshes of fake CPU devices dead-lock).

On several hosts all run the loop, and the first one writes what comes of it.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from rlhf import hosts, sharding, watch
from rlhf.checkpoint import Checkpoints
from rlhf.display import Display
from rlhf.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """Intervals, in steps; 0 is never. A config's `loop` section.

  Attributes:
    log_every: lines in metrics.jsonl.
    evaluate_every: calls of the stage's `evaluate`, besides the one at the end.
    save_every: checkpoints, besides the one at the end.
    keep: checkpoints kept.
    tensorboard: write event files as well.
    step_timeout: seconds; on several hosts a process that completes no step
      (nor an evaluation) for as long ends the run. The first step compiles.
  """

  log_every: int = 10
  evaluate_every: int = 0
  save_every: int = 0
  keep: int = 2
  tensorboard: bool = True
  step_timeout: float = 1800


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a stage's `evaluate(state, step)` returns.

  Attributes:
    metrics: numbers, logged under their names.
    samples: rows of {prompt, response, score} to show, may be empty.
  """

  metrics: Mapping[str, float]
  samples: Sequence[Mapping[str, Any]] = ()


def run(
    title: str,
    state: Any,
    step: Callable[[Any, int], tuple[Any, Mapping[str, Any]]],
    *,
    steps: int,
    config: LoopConfig,
    workdir: Workdir,
    headline: Sequence[str],
    evaluate: Callable[[Any, int], Evaluation] | None = None,
) -> Any:
  """Runs a stage from its newest checkpoint, or from `state`, to its end.

  Args:
    title: of the stage, for the reader.
    state: before the first step; given up to `step`.
    step: one step; the index counts from 0 over the whole run.
    steps: in all.
    config: intervals.
    workdir: where everything goes.
    headline: metrics to show in the terminal.
    evaluate: called with the state and the number of completed steps.

  Returns:
    The state after the last step.

  Raises:
    FloatingPointError: when a metric is not finite, naming it and the step.
    watch.StoppedError: when SIGTERM asked the run to save and end.
  """
  hosts.check_shared(workdir.path)
  checkpoints = Checkpoints(workdir.path / 'checkpoints', keep=config.keep)
  done, state = _resume(title, state, checkpoints, workdir)
  clock = time.monotonic()
  with (
      watch.describing(lambda: f' at step {done + 1}; {checkpoints.newest()}'),
      watch.Watchdog(config.step_timeout) as watchdog,
      # Whatever stops a run, what it has saved so far gets to the disk.
      contextlib.closing(checkpoints),
      contextlib.closing(workdir),
      Display(title, steps, headline) as display,
      watchdog.closing_after_an_error(),
  ):
    late = []

    def read_late():
      while late:
        index, metrics = late.pop()
        numbers = {k: float(v) for k, v in sharding.fetch(metrics).items()}
        watchdog.beat()
        _check_finite(title, index, numbers)
        numbers['seconds'] = time.monotonic() - clock
        if _due(index, config.log_every, steps):
          workdir.scalars(index, numbers)
        display.update(index, numbers)

    for index in range(done, steps):
      state, metrics = step(state, index)
      read_late()
      done = index + 1
      late.append((done, metrics))
      if evaluate and _due(done, config.evaluate_every, steps):
        _report(evaluate(state, done), done, workdir, display)
        watchdog.beat()
      stop = done < steps and hosts.stopping(done)
      if stop or (config.save_every and _due(done, config.save_every, steps)):
        # Only a state whose own metrics are finite is worth going on from.
        read_late()
        checkpoints.save(done, state, {'title': title})
        watchdog.beat()
      if stop:
        raise watch.StoppedError(
            f'told to stop (SIGTERM): saved step {done} in {workdir.path}'
        )
    read_late()
  return state


def _resume(title, state, checkpoints, workdir):
  """`(completed steps, state)` of the newest checkpoint, or `(0, state)`."""
  restored = checkpoints.restore(state)
  if restored is None:
    return 0, state
  done, state, _ = restored
  logging.info('%s: resumed %s at step %d', title, workdir.path, done)
  return done, state


def _report(evaluation, done, workdir, display):
  workdir.scalars(done, evaluation.metrics)
  workdir.samples(done, evaluation.samples)
  display.update(done - 1, evaluation.metrics)
  display.samples(evaluation.samples)


def _due(done: int, every: int, steps: int) -> bool:
  return done == steps or (every > 0 and done % every == 0)


def _check_finite(title, step, numbers):
  bad = [name for name, value in numbers.items() if not math.isfinite(value)]
  if bad:
    raise FloatingPointError(
        f'{title}: {bad[0]} = {numbers[bad[0]]} at step {step}; the last'
        ' checkpoint is from before it. Lower the learning rate, or look at the'
        ' batch of that step'
    )
