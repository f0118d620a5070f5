# SPDX-License-Identifier: Apache-2.0
"""Starts a run, kills it at a random moment, lets it end: for kill tests.

Where a run is can be seen from its files: the lines of metrics it has written,
a checkpoint under its temporary name, the folder of the network it hands on.
"""

import dataclasses
import os
import pathlib
import random
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests import conftest, forks, runs

PHASES = ('start', 'train', 'save', 'end')

# For any one start of a run, with what it compiles.
ATTEMPT_SECONDS = 900
# For a host to end that has lost another.
LOST_SECONDS = 60
# A kill comes at most so long after a save has begun, and after the end has.
_SAVE_SECONDS, _END_SECONDS = 0.15, 0.3


class FailedError(Exception):
  """A run did not get to its end, or a host did not end."""


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What all trials of a run share.

  Attributes:
    server: starts processes.
    root: each run works in a folder of it.
    call: 'module:function', which does the run; gets the arguments, `run` (the
      folder's name) and of several hosts `hosts`, `index` and `port`.
    arguments: JSON-able.
    hosts: processes of a run, 1 or 2.
    start_seconds: of the unbroken run until its first step.
    train_seconds: from there to its last.
    saves: checkpoints that it wrote.
  """

  server: forks.Server
  root: pathlib.Path
  call: str
  arguments: Mapping[str, Any]
  hosts: int = 1
  start_seconds: float = 10.0
  train_seconds: float = 5.0
  saves: int = 5

  def start(self, run: str) -> list[forks.Attempt]:
    """Starts the processes of a run; their output is appended to logs."""
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    (self.root / run).mkdir(exist_ok=True)
    environment = {'JAX_PLATFORMS': 'cpu'}
    if self.hosts > 1:
      environment |= conftest.with_devices(2)
    return [
        self.server.start(
            self.call,
            {
                **self.arguments,
                'run': run,
                'hosts': self.hosts,
                'index': index,
                'port': port,
            },
            log=self.root / run / f'log{index}.txt',
            environment=environment,
        )
        for index in range(self.hosts)
    ]

  def finish(self, run: str, attempts: list[forks.Attempt] | None = None):
    """Runs to the end.

    Raises:
      FailedError: if it does not get there.
    """
    attempts = attempts or self.start(run)
    codes = [a.wait(ATTEMPT_SECONDS) for a in attempts]
    if codes != [0] * self.hosts:
      for one in attempts:
        one.kill()
      tails = '\n'.join(one.text()[-3000:] for one in attempts)
      raise FailedError(f'{run} ended with exit codes {codes}:\n{tails}')


class Seen:
  """How far a run is, by its files.

  Attributes:
    lines: of metrics that there are.
    steps: of these, how many this attempt has written.
    saving: names of checkpoints that are being written.
    ending: the network is being handed on, or is.
  """

  def __init__(self, folder: pathlib.Path, before: int = 0):
    self.lines = _count(folder / 'metrics.jsonl')
    self.steps = max(0, self.lines - before)
    names = _names(folder / 'checkpoints')
    self.saving = {name for name in names if 'tmp' in name}
    self.ending = any(name.startswith('model') for name in _names(folder))

  def phase(self) -> str:
    if self.saving:
      return 'save'
    if self.ending:
      return 'end'
    return 'train' if self.steps else 'start'


def _count(path: pathlib.Path) -> int:
  try:
    return path.read_bytes().count(b'\n')
  except FileNotFoundError:
    return 0


def _names(path: pathlib.Path) -> list[str]:
  try:
    return os.listdir(path)
  except FileNotFoundError:
    return []


def measured(experiment: Experiment) -> Experiment:
  """The unbroken run, and how long its parts take once all is compiled."""
  for run in ('compiled', 'unbroken'):
    # What is there from an earlier test was made by other code, perhaps.
    shutil.rmtree(experiment.root / run, ignore_errors=True)
  experiment.finish('compiled')
  begun = time.monotonic()
  attempts = experiment.start('unbroken')
  first = last = 0.0
  saves: set[str] = set()
  while any(one.code is None for one in attempts):
    seen = Seen(experiment.root / 'unbroken')
    now = time.monotonic() - begun
    first = first or (now if seen.steps else 0.0)
    last = last or (now if seen.ending else 0.0)
    saves |= seen.saving
    time.sleep(0.002)
  experiment.finish('unbroken', attempts)
  return dataclasses.replace(
      experiment,
      start_seconds=first,
      train_seconds=last - first,
      saves=max(1, len(saves)),
  )


def counts(total: int) -> list[int]:
  """How often each trial is killed: once, and every fourth three times."""
  found: list[int] = []
  while sum(found) < total:
    wanted = 3 if len(found) % 4 == 3 else 1
    found.append(min(wanted, total - sum(found)))
  return found


def trial(
    experiment: Experiment, run: str, kills: int, draw: random.Random
) -> tuple[list[str], list[str]]:
  """Kills a run so often, and lets it end.

  Args:
    experiment: from `measured`.
    run: name of its folder, which is new; removed if nothing differs.
    kills: how often.
    draw: says when, and on which hosts.

  Returns:
    The phases it was killed in, and what differs from the unbroken run.
  """
  phases: list[str] = []
  for _ in range(10):
    shutil.rmtree(experiment.root / run, ignore_errors=True)
    phases.clear()
    try:
      while len(phases) < kills:
        (aim,) = draw.choices(PHASES, (0.12, 0.4, 0.34, 0.14))
        phase = _kill(experiment, run, aim, draw)
        if not phase:
          break
        phases.append(phase)
      if len(phases) < kills:
        continue  # The run was over: once more, at other moments.
      experiment.finish(run)
      folder = experiment.root / run
      found = runs.differences(experiment.root / 'unbroken', folder)
    except Exception as error:  # However a trial fails, it is not the same.
      found = [f'{type(error).__name__}: {error}']
    if not found:
      shutil.rmtree(experiment.root / run)
    return phases, found
  return phases, ['it was over before it was killed, ten times']


def _kill(
    experiment: Experiment, run: str, aim: str, draw: random.Random
) -> str:
  """Starts a run, and kills it at a random moment of a phase.

  Returns:
    The phase it was in; '' if it was over before.

  Raises:
    FailedError: if a host that was not killed does not end.
  """
  folder = experiment.root / run
  before = Seen(folder).lines
  attempts = experiment.start(run)
  try:
    if not _wait(experiment, folder, before, aim, draw, attempts[0]):
      return ''
    phase = Seen(folder, before).phase()
    if any(one.code is not None for one in attempts):
      return ''
    victims = attempts
    if experiment.hosts > 1:
      victims = draw.choice([attempts[:1], attempts[1:], attempts])
    for one in victims:
      one.kill()
    for index, one in enumerate(attempts):
      if one.wait(LOST_SECONDS) is None:
        raise FailedError(
            f'host {index} lives on {LOST_SECONDS} seconds after the other was'
            f' killed:\n{one.text()[-3000:]}'
        )
    return phase
  finally:
    for one in attempts:
      one.kill()


def _wait(
    experiment: Experiment,
    folder: pathlib.Path,
    before: int,
    aim: str,
    draw: random.Random,
    process: forks.Attempt,
) -> bool:
  """Until the moment; False if the process ended before."""

  def after(seconds: float, ready: Callable[[Seen], bool]) -> bool:
    come = forks.wait_for(
        lambda: ready(Seen(folder, before)), ATTEMPT_SECONDS, process
    )
    return come and process.wait(draw.uniform(0, seconds)) is None

  if aim == 'start':
    return after(experiment.start_seconds, lambda seen: True)
  if aim == 'train':
    return after(experiment.train_seconds, lambda seen: seen.steps > 0)
  if aim == 'end':
    return after(_END_SECONDS, lambda seen: seen.ending)
  begun: set[str] = set()
  number = draw.randint(1, experiment.saves)

  def saving(seen: Seen) -> bool:
    begun.update(seen.saving)
    return bool(seen.saving) and len(begun) >= number

  return after(_SAVE_SECONDS, saving)
