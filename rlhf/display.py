# SPDX-License-Identifier: Apache-2.0
"""The terminal view of a run: bar, ETA, the numbers that matter, samples.

On a terminal it is redrawn in place; elsewhere (a log file, CI) it prints a
line ten times a stage, so that logs stay readable. Of several hosts the first
one speaks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rlhf import hosts


class Display:
  """A context manager; `update` after each step, `samples` when there are."""

  def __init__(
      self,
      title: str,
      steps: int,
      headline: Sequence[str],
      *,
      console: Console | None = None,
  ):
    """Sets up a view.

    Args:
      title: of the stage.
      steps: in all.
      headline: names of the metrics to show, in order.
      console: by default the process's.
    """
    self._title, self._steps, self._headline = title, steps, headline
    self._console = console or _console()
    self._progress = Progress(
        TextColumn('[bold]{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('eta'),
        TimeRemainingColumn(),
        console=self._console,
    )
    self._task = self._progress.add_task(title, total=steps)
    self._numbers: dict[str, float] = {}
    self._rows: Sequence[Mapping[str, Any]] = ()
    self._live = Live(console=self._console, refresh_per_second=4)
    self._next_line = 0

  def __enter__(self):
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_):
    if self._console.is_terminal:
      self._live.update(self._view())
      self._live.stop()

  def update(self, step: int, numbers: Mapping[str, float]) -> None:
    """Shows the state after `step` steps."""
    self._numbers |= {k: numbers[k] for k in self._headline if k in numbers}
    self._progress.update(self._task, completed=step)
    if self._console.is_terminal:
      self._live.update(self._view())
    elif step >= self._next_line or step == self._steps:
      self._next_line = step + max(self._steps // 10, 1)
      shown = '  '.join(f'{k} {v:.4g}' for k, v in self._numbers.items())
      self._print(f'{self._title} {step}/{self._steps}  {shown}')

  def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Shows completions: rows of {prompt, response, score}."""
    self._rows = rows
    if not self._console.is_terminal:
      for row in rows[:2]:
        self._print(
            f'  | {row["prompt"]} -> {row["response"]}'
            f'  [{_number(row.get("score"))}]'
        )

  def note(self, text: str) -> None:
    """Prints a line that stays."""
    self._print(text)

  def _print(self, text: str) -> None:
    # Text, not markup: a sample may hold brackets.
    self._console.print(Text(text), soft_wrap=True)

  def _view(self) -> Group:
    numbers = Table.grid(padding=(0, 2))
    for name, value in self._numbers.items():
      numbers.add_row(Text(name, style='cyan'), _number(value))
    samples = Table('prompt', 'response', 'score', show_edge=False)
    for row in self._rows[:4]:
      samples.add_row(
          Text(row['prompt'][-160:]),
          Text(row['response'][:240]),
          _number(row.get('score')),
      )
    parts = [self._progress, numbers] + ([samples] if self._rows else [])
    return Group(*parts)


def _number(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, int | float) else ''


def say(text: str) -> None:
  """Prints a line of a stage's own news."""
  _console().print(Text(text), soft_wrap=True)


def _console() -> Console:
  return Console(quiet=not hosts.is_first())
