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
from typing import Any, NoReturn

from rlhf import hosts, resume, sharding, watch
from rlhf.checkpoint import Checkpoints, Restored, leaves
from rlhf.progress import Clock, Progress
from rlhf.resume import NOBODY, Identity
from rlhf.watching import diagnosis
from rlhf.watching.alarms import Alarms
from rlhf.watching.display import Display, say
from rlhf.watching.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """Intervals, in steps; 0 is never. A config's `loop` section.

  Attributes:
    log_every: lines in metrics.jsonl.
    evaluate_every: calls of the stage's `evaluate`, besides the one at the end.
    save_every: checkpoints, besides the one at the end.
    keep: newest checkpoints that are kept.
    keep_every: every checkpoint of a step that this divides is kept too.
    best: a metric of `evaluate`. The checkpoint of its highest value is kept,
      and its state is the one that the stage hands on, not the last one.
      '-NAME': of its lowest.
    tensorboard: write event files as well.
    wandb: a project of Weights & Biases; '' is none.
    step_timeout: seconds; on several hosts a process that completes no step
      (nor an evaluation) for as long ends the run. The first step compiles.
    nonfinite: when a metric is not finite. 'stop': ends the run, with a report.
      'skip': goes on without the update (`update.train_step` leaves it out).
      'rollback': goes on from the newest checkpoint's state, with the batches
      after those that it has seen since.
    nonfinite_bound: how often, at most, before the run ends all the same.
  """

  log_every: int = 10
  evaluate_every: int = 0
  save_every: int = 0
  keep: int = 2
  keep_every: int = 0
  best: str = ''
  tensorboard: bool = True
  wandb: str = ''
  step_timeout: float = 1800
  nonfinite: str = 'stop'
  nonfinite_bound: int = 10


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a stage's `evaluate(state, step)` returns.

  Attributes:
    metrics: numbers, logged under their names.
    samples: rows of {prompt, response, score} to show, may be empty.
  """

  metrics: Mapping[str, float]
  samples: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
  """What the loop has to know of a stage.

  Attributes:
    title: for the reader.
    step: one step, `(state, index) -> (state, metrics)`; the index counts from
      0 over the whole run, and the state is given up to it.
    steps: in all.
    headline: metrics to show in the terminal.
    evaluate: called with the state and the number of completed steps.
    position: completed steps -> where each data stream is, JSON-able.
    batch: step's index -> the arrays that it learnt from, for a report.
    samples: () -> rows of what was sampled last, for warnings.
    tokens: that a step reads.
    waits: a step is over when it returns, so its metrics are read at once.
    alarms: that look at each step's metrics.
  """

  title: str
  step: Callable[[Any, int], tuple[Any, Mapping[str, Any]]]
  steps: int
  headline: Sequence[str] = ()
  evaluate: Callable[[Any, int], Evaluation] | None = None
  position: Callable[[int], dict[str, Any]] = lambda done: {}
  batch: Callable[[int], Any] | None = None
  samples: Callable[[], Sequence[Mapping[str, Any]]] = lambda: ()
  tokens: int = 0
  waits: bool = False
  alarms: Alarms | None = None


class NonFiniteError(Exception):
  """The run met numbers that are not finite; the message is the report."""


def run(
    stage: Stage,
    state: Any,
    *,
    config: LoopConfig,
    workdir: Workdir,
    identity: Identity = NOBODY,
) -> tuple[Any, dict[str, Any]]:
  """Runs a stage from its newest checkpoint, or from `state`, to its end.

  Args:
    stage: what to run.
    state: before the first step.
    config: intervals.
    workdir: where everything goes.
    identity: what a checkpoint must agree with.

  Returns:
    The state to hand on: the best one if `config.best` names a metric, else the
    last; and facts about it: its 'step', and if it is the best its metrics.

  Raises:
    NonFiniteError: see `LoopConfig.nonfinite`.
    ResumeError, CheckpointError: the newest checkpoint is of another run; none
      is whole; one can't be written.
    StoppedError: when SIGTERM or Ctrl-C asked the run to save and end.
  """
  hosts.check_shared(workdir.path)
  checkpoints = Checkpoints(
      workdir.path / 'checkpoints',
      keep=config.keep,
      keep_every=config.keep_every,
  )
  going = _Run(stage, config, workdir, identity, checkpoints)
  with (
      # Whatever stops a run, what it has saved so far gets to the disk.
      contextlib.closing(checkpoints),
      contextlib.closing(workdir),
  ):
    state = going.resume(state)
    workdir.rewind(going.done)
    if identity.config:
      workdir.write_json('config', identity.config)
    with (
        watch.describing(going.where),
        watch.Watchdog(config.step_timeout) as watchdog,
        Display(
            stage.title, stage.steps, stage.headline, first=going.done
        ) as display,
        watchdog.closing_after_an_error(),
    ):
      return going.walk(state, display, watchdog)


class _Run:
  """A stage under way: how far it is, and what has not been read of it yet."""

  def __init__(self, stage, config, workdir, identity, checkpoints):
    self.stage, self.config, self.workdir = stage, config, workdir
    self.identity, self.checkpoints = identity, checkpoints
    self.done = 0
    self.progress = Progress()
    self.clock = Clock(0.0)
    self.unread: list[tuple[int, Mapping[str, Any]]] = []
    self.recent: list[dict[str, float]] = []  # Logged steps.

  def where(self) -> str:
    return f' at step {self.done + 1}; {self.checkpoints.newest()}'

  def resume(self, state: Any) -> Any:
    """The newest checkpoint's state, or `state` if there is none."""
    title, identity = self.stage.title, self.identity
    notes: list[str] = []
    # Leaves that a checkpoint may lack are the state's own.
    template = state if identity.missing else leaves.shapes(state)

    def check(step, facts, path):
      data = self.stage.position(step)
      notes.extend(resume.compare(facts, identity, data, path))
      if not identity.missing:
        leaves.free(state)

    restored = self.checkpoints.restore(
        template,
        check=check,
        missing=identity.missing,
        left_over=identity.left_over,
    )
    if restored is None:
      return state
    for line in restored.damaged:
      say(f'warning: {title}: damaged checkpoint, not used: {line}')
    for line in notes:
      say(f'note: {title}: {line}')
    self.done = restored.step
    self.progress = Progress(**restored.facts['progress'])
    self.clock = Clock(self.progress.seconds)
    if self.stage.alarms:
      self.stage.alarms.restore(self.progress.alarms)
    say(
        f'{title}: goes on from step {self.done} of {self.stage.steps}: all of'
        f' {restored.path}{restored.exceptions()}'
    )
    return restored.state

  def walk(
      self, state: Any, display: Display, watchdog: watch.Watchdog
  ) -> tuple[Any, dict[str, Any]]:
    """All steps that are left; see `run`."""
    self.display, self.watchdog = display, watchdog
    stage, config = self.stage, self.config
    if not self.done and config.nonfinite == 'rollback':
      self._save(state)
    while self.done < stage.steps:
      if hosts.stopping():
        self._stop(state)
      state, metrics = stage.step(state, self.done)
      trouble = self._read()
      self.done += 1
      if trouble is None:
        self.unread.append((self.done, metrics))
        evaluating = stage.evaluate and self._due(
            self.done, config.evaluate_every
        )
        saving = self._due(self.done, config.save_every)
        if stage.waits or evaluating or saving:
          # Only a state whose own metrics are finite is worth going on from.
          trouble = self._read()
      if trouble is not None:
        state = self._recover(state, *trouble)
        continue
      if evaluating:
        saving = self._evaluate(state) or saving
      if saving:
        self._save(state)
      self.checkpoints.check()
    return self._best(state)

  def _due(self, done: int, every: int) -> bool:
    return done == self.stage.steps or (every > 0 and done % every == 0)

  def _read(self) -> tuple[int, dict[str, float]] | None:
    """Metrics that were not read yet; what is wrong with them, or None."""
    while self.unread:
      step, metrics = self.unread.pop()
      numbers = {k: float(v) for k, v in sharding.fetch(metrics).items()}
      self.watchdog.beat()
      self.clock.step()
      finite = all(map(math.isfinite, numbers.values()))
      if not finite and not self._skips(step):
        return step, numbers
      if self._due(step, self.config.log_every) or not finite:
        numbers |= self.clock.numbers(self.stage.tokens)
        self.workdir.scalars(step, numbers)
        self.recent = [*self.recent[-7:], {'step': step, **numbers}]
      self.display.update(step, numbers)
      self._alarm(step, numbers)
    return None

  def _skips(self, step: int) -> bool:
    """Whether the run goes on without the update of this step."""
    if self.config.nonfinite != 'skip' or not self._bear(step):
      return False
    self.display.note(
        f'warning: step {step} was not finite: its update is left out'
        f' ({self._count()})'
    )
    return True

  def _bear(self, step: int) -> bool:
    self.progress.setbacks.append(step)
    return len(self.progress.setbacks) <= self.config.nonfinite_bound

  def _count(self) -> str:
    setbacks, bound = self.progress.setbacks, self.config.nonfinite_bound
    return f'{len(setbacks)} of at most {bound}, loop.nonfinite_bound'

  def _alarm(self, step: int, numbers: Mapping[str, float]) -> None:
    if not self.stage.alarms:
      return
    for message in self.stage.alarms.look(step, numbers):
      rows = self.stage.samples()
      self.display.warn(message, rows)
      self.workdir.warn(step, message, rows)

  def _recover(self, state: Any, step: int, numbers: dict[str, float]) -> Any:
    """The state to go on from after numbers that are not finite."""
    if self.config.nonfinite != 'rollback' or not self._bear(step):
      self._give_up(state, step, numbers)
    restored = self._read_back(state)
    self.display.note(
        f'warning: step {step} was not finite: back to the state of step'
        f' {restored.step}, past the batches up to step {self.done}'
        f' ({self._count()})'
    )
    return restored.state

  def _give_up(
      self, state: Any, step: int, numbers: Mapping[str, float]
  ) -> NoReturn:
    """Saves what is needed to find out why, and ends the run."""
    folder = diagnosis.folder(self.workdir.path, step)
    batch = self.stage.batch(step - 1) if self.stage.batch else {}
    with contextlib.closing(Checkpoints(folder / 'state')) as checkpoints:
      checkpoints.save(step - 1, state, self._facts())
    text = diagnosis.report(
        title=self.stage.title,
        step=step,
        numbers=numbers,
        history=self.recent,
        headline=self.stage.headline,
        state=state,
        batch=batch,
        samples=self.stage.samples(),
        saved_in=folder,
        policy=self.config.nonfinite,
    )
    diagnosis.save(
        self.workdir.path, step=step, numbers=numbers, batch=batch, text=text
    )
    raise NonFiniteError(text)

  def _evaluate(self, state: Any) -> bool:
    """Evaluates; True if no state before was as good."""
    with self.clock.paused():
      found = self.stage.evaluate(state, self.done)
    self.watchdog.beat()
    numbers = {k: float(v) for k, v in found.metrics.items()}
    if not all(map(math.isfinite, numbers.values())):
      self._give_up(state, self.done, numbers)
    if numbers:
      self.workdir.scalars(self.done, numbers)
    self.workdir.samples(self.done, found.samples)
    self.display.update(self.done, numbers)
    self.display.samples(found.samples)
    return self.progress.improves(self.done, numbers, self.config.best)

  def _facts(self) -> dict[str, Any]:
    self.progress.seconds = self.clock.seconds()
    if self.stage.alarms:
      self.progress.alarms = self.stage.alarms.state()
    return {
        'title': self.stage.title,
        'step': self.done,
        'saved': time.strftime('%Y-%m-%d %H:%M:%S %z'),
        'data': self.stage.position(self.done),
        'progress': dataclasses.asdict(self.progress),
        **self.identity.facts(),
    }

  def _save(self, state: Any) -> None:
    with self.clock.paused():
      # Lines up to a checkpoint's step are there before the checkpoint is: a
      # run that goes on from it writes those that follow.
      self.workdir.flush()
      best = self.progress.best
      self.checkpoints.save(
          self.done, state, self._facts(), best=best['step'] if best else None
      )
    self.watchdog.beat()

  def _stop(self, state: Any) -> NoReturn:
    trouble = self._read()
    if trouble is not None:
      state = self._recover(state, *trouble)
    self._save(state)
    raise watch.StoppedError(
        f'told to stop: saved step {self.done} in {self.workdir.path}'
    )

  def _read_back(self, state: Any, step: int | None = None) -> Restored:
    """A checkpoint, by default the newest, in the memory of `state`."""
    template = leaves.shapes(state)
    leaves.free(state)
    restored = self.checkpoints.restore(template, step=step)
    assert restored is not None, 'one has been saved'
    return restored

  def _best(self, state: Any) -> tuple[Any, dict[str, Any]]:
    """What the stage hands on; see `run`."""
    best = self.progress.best
    if best is None:
      return state, {'step': self.done}
    if best['step'] != self.done:
      state = self._read_back(state, best['step']).state
    return state, {'step': best['step'], **best['metrics']}
