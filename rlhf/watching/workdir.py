# SPDX-License-Identifier: Apache-2.0
"""Where a stage writes what it is and what it sees.

  config.json     the config it ran with
  metrics.jsonl   one line a logged step; TensorBoard files hold the same
  samples.jsonl   prompts and completions with their rewards, at intervals
  warnings.jsonl  what the run found alarming, and samples that show it
  results.json    what the stage found out, once, at its end
  checkpoints/    see rlhf/checkpoint/checkpoints.py
  model/          the network it hands on

The directory may be one of an object store (gs://). Of several hosts the first
one writes; all read. Lines are written by a thread, so that no step waits for a
disk; docs/metrics.md says what stands in them.
"""

import functools
import json
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from rlhf import hosts
from rlhf.watching import lines, tracking

METRICS, SAMPLES = 'metrics.jsonl', 'samples.jsonl'
WARNINGS = 'warnings.jsonl'

# So much may wait for a disk that is slow. What comes then waits too: a lost
# line would be worse.
QUEUE = 10_000


class Workdir:
  """A stage's directory. Lines are appended; only `rewind` takes any away."""

  def __init__(
      self,
      path: str | os.PathLike,
      *,
      tensorboard: bool = True,
      wandb: str = '',
  ):
    """Makes the directory.

    Args:
      path: of it.
      tensorboard: write event files as well.
      wandb: project on Weights & Biases to log to as well; '': none.

    Raises:
      tracking.TrackingError: if the package wandb is asked for and missing.
    """
    self.path = epath.Path(path)
    self._first = hosts.is_first()
    self._thread = _Thread()
    self._files: dict[str, lines.Lines] = {}
    self._wandb: tracking.WandB | None = None
    self._trackers: list[tracking.TensorBoard | tracking.WandB] = []
    if not self._first:
      return
    if wandb:
      self._wandb = tracking.WandB(self.path, wandb)
      self._trackers.append(self._wandb)
    if tensorboard:
      self._trackers.append(tracking.TensorBoard(self.path))
    self.path.mkdir(parents=True, exist_ok=True)

  @property
  def finished(self) -> bool:
    """True once the stage has written its results."""
    return (self.path / 'results.json').exists()

  def write_json(self, name: str, value: Any) -> None:
    """Writes `name`.json whole: through a new file, so never half of it."""
    if not self._first:
      return
    path = self.path / f'{name}.json'
    new = path.with_suffix('.json.new')
    new.write_text(json.dumps(value, indent=2, default=lines.plain) + '\n')
    new.replace(path)
    if name == 'config' and self._wandb in self._trackers:
      self._track(self._wandb, 'configure', value)

  def read_json(self, name: str) -> Any:
    """Reads `name`.json.

    Raises:
      FileNotFoundError: naming the file.
    """
    return json.loads((self.path / f'{name}.json').read_text())

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one line of metrics. Returns at once.

    Args:
      step: completed steps.
      values: numbers on the host.

    Raises:
      lines.WriteError: if what was handed over earlier could not be written.
    """
    numbers = {k: float(v) for k, v in values.items()}
    # JSON has no word for what is not finite.
    known = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    line = {'step': step} | known
    self._hand_over(METRICS, [line], 'scalars', step, numbers)

  def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends completions, rows of {prompt, response, score}; as `scalars`."""
    if rows:
      new = [{'step': step, **row} for row in rows]
      self._hand_over(SAMPLES, new, 'samples', step, rows)

  def warn(
      self, step: int, text: str, rows: Sequence[Mapping[str, Any]] = ()
  ) -> None:
    """Appends a warning and the samples that show it; as `scalars`."""
    line = {'step': step, 'text': text, 'rows': list(rows)}
    self._hand_over(WARNINGS, [line], 'warn', step, text, rows)

  def rewind(self, step: int) -> None:
    """Forgets what is written of later steps: the run is about to do them.

    To be called once at a run's start, before its first line.

    Args:
      step: that the run goes on from. 0 removes all, of step 0 too: it is of
        an attempt that left no checkpoint.

    Raises:
      lines.WriteError: if a file could not be written.
    """
    if not self._first:
      return
    self.flush()
    self._files.clear()
    for name in (METRICS, SAMPLES, WARNINGS):
      lines.rewind(self.path / name, step)
    # Not in the thread: it may ask who the user is.
    if self._wandb in self._trackers:
      self._track(self._wandb, 'begin', step)
    self._thread.put(functools.partial(self._track_all, 'rewind', step))

  def flush(self) -> None:
    """Waits until all that was handed over is in the files.

    Raises:
      lines.WriteError: if something could not be written.
    """
    if self._first:
      self._thread.put(self._flush)
      self._thread.wait()

  def close(self) -> None:
    """`flush`, and ends what writes. What comes later starts it again."""
    failed = sys.exc_info()[0] is not None
    try:
      self._thread.close(self._flush)
    finally:
      self._track_all('close', failed)

  def _hand_over(self, name, new, method, *tracked):
    def write():
      if name not in self._files:
        self._files[name] = lines.Lines(self.path / name)
      self._files[name].append(new)
      self._track_all(method, *tracked)

    if self._first:
      self._thread.put(write)

  def _flush(self):
    for file in self._files.values():
      file.flush()
    self._track_all('flush')

  def _track_all(self, method, *args):
    for tracker in tuple(self._trackers):
      self._track(tracker, method, *args)

  def _track(self, tracker, method, *args):
    """Calls one; what shows a run must not end it."""
    try:
      getattr(tracker, method)(*args)
    except Exception as error:
      self._trackers.remove(tracker)
      logging.warning(
          '%s is off from here on; %s goes on. %s: %s',
          tracker.name,
          self.path / METRICS,
          type(error).__name__,
          lines.in_a_line(error),
      )


class _Thread:
  """Does jobs in their order, behind the caller's back.

  After an error it does no more, and each call raises the error.
  """

  def __init__(self):
    self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE)
    self._thread: threading.Thread | None = None
    self._error: Exception | None = None
    self._told = False

  def put(self, job: Callable[[], None]) -> None:
    """Hands over a job."""
    self._raise()
    if self._thread is None:
      # A daemon: it must not keep a process that fails elsewhere.
      self._thread = threading.Thread(
          target=self._work, name='workdir', daemon=True
      )
      self._thread.start()
    self._jobs.put(job)

  def wait(self) -> None:
    """Until all jobs are done."""
    self._jobs.join()
    self._raise()

  def close(self, last: Callable[[], None]) -> None:
    """Does all jobs, and a last one; raises only what no call has raised."""
    if self._thread is None:
      return
    self._jobs.put(last)
    self._jobs.put(None)
    self._thread.join()
    self._thread = None
    if not self._told:
      self._raise()

  def _raise(self):
    if self._error is not None:
      self._told = True
      raise self._error

  def _work(self):
    while True:
      job = self._jobs.get()
      try:
        if job is None:
          return
        if self._error is None:
          job()
      except Exception as error:
        self._error = error
      finally:
        self._jobs.task_done()
