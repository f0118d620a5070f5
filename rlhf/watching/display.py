# SPDX-License-Identifier: Apache-2.0
"""The terminal view of a run: bar, ETA, the numbers that matter, samples.

On a terminal it is redrawn in place; elsewhere (a log file, CI) it prints a
line ten times a stage, so that logs stay readable. Warnings and notes stay
above the view. Of several hosts the first one speaks.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlhf import hosts

# Redrawing costs 3 ms of CPU, for which a step may have to wait.
REDRAWS_PER_SECOND = 1

# Shown after the stage's own numbers.
_SPEED = ('tokens_per_second', 'time/step')

Rows = Sequence[Mapping[str, Any]]


class Display:
  """A context manager; `update` after each step, `samples` when there are."""

  def __init__(
      self,
      title: str,
      steps: int,
      headline: Sequence[str],
      first: int = 0,
      *,
      console: Console | None = None,
  ):
    """Sets up a view.

    Args:
      title: of the stage.
      steps: in all.
      headline: names of the metrics to show, in order.
      first: steps that an earlier start of the run has done.
      console: by default the process's.
    """
    self._title, self._steps, self._first = title, steps, first
    self._names = [*headline, *(n for n in _SPEED if n not in headline)]
    self._console = console or _console()
    self._numbers: dict[str, Any] = {}
    self._rows: Rows = ()
    self._step, self._start = first, time.monotonic()
    # The view is built when it is drawn: a step only leaves its numbers.
    self._live = Live(
        console=self._console,
        refresh_per_second=REDRAWS_PER_SECOND,
        get_renderable=self._view,
    )
    self._next_line = 0

  def __enter__(self):
    self._start = time.monotonic()
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_):
    if self._console.is_terminal:
      self._live.stop()

  def update(self, step: int, numbers: Mapping[str, Any]) -> None:
    """Shows the state after `step` steps."""
    shown = {k: numbers[k] for k in self._names if k in numbers}
    # A new dictionary: another thread may be drawing the old one.
    self._numbers, self._step = self._numbers | shown, step
    if self._console.is_terminal:
      return
    if step >= self._next_line or step == self._steps:
      self._next_line = step + max(self._steps // 10, 1)
      line = '  '.join(f'{k} {_number(v)}' for k, v in self._in_order())
      self._print(f'{self._title} {step}/{self._steps}  {line}')

  def samples(self, rows: Rows) -> None:
    """Shows completions: rows of {prompt, response, score}."""
    self._rows = rows
    if not self._console.is_terminal:
      for line in _lines(rows[:2]):
        self._print(line)

  def warn(self, text: str, rows: Rows = ()) -> None:
    """Prints a warning that stays, and up to four samples that show it."""
    if not self._console.is_terminal:
      for line in [*text.splitlines(), *_lines(rows[:4])]:
        self._print(f'warning: {line}')
      return
    parts: list[RenderableType] = [Text(text)]
    if rows:
      parts.append(_table(rows))
    panel = Panel(Group(*parts), title='warning', border_style='yellow')
    self._console.print(panel)

  def note(self, text: str) -> None:
    """Prints a line that stays."""
    self._print(text)

  def _print(self, text: str) -> None:
    # Text, not markup: a sample may hold brackets.
    self._console.print(Text(text), soft_wrap=True)

  def _in_order(self):
    numbers = self._numbers
    return [(name, numbers[name]) for name in self._names if name in numbers]

  def _view(self) -> Group:
    elapsed = time.monotonic() - self._start
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(self._title, style='bold'),
        ProgressBar(self._steps, self._step, width=40),
        Text(f'{self._step}/{self._steps}', style='progress.download'),
        Text(_clock(elapsed), style='progress.elapsed'),
        'eta',
        Text(_clock(self._left(elapsed)), style='progress.remaining'),
    )
    numbers = Table.grid(padding=(0, 2))
    for name, value in self._in_order():
      numbers.add_row(Text(name, style='cyan'), _number(value))
    parts = [bar, numbers] + ([_table(self._rows)] if self._rows else [])
    return Group(*parts)

  def _left(self, elapsed: float) -> float:
    """Seconds to the end, at the pace of this start; NaN before a step."""
    done = self._step - self._first
    if done <= 0:
      return math.nan
    return elapsed / done * max(self._steps - self._step, 0)


def _table(rows: Rows) -> Table:
  table = Table('prompt', 'response', 'score', show_edge=False)
  for row in rows[:4]:
    prompt, response = _texts(row)
    table.add_row(
        Text(prompt[-160:]),
        Text(response[:240]),
        _number(row.get('score')),
    )
  return table


def _lines(rows: Rows) -> list[str]:
  """For a log: a line each, whatever is in the texts."""
  lines = []
  for row in rows:
    prompt, response = [' '.join(text.splitlines()) for text in _texts(row)]
    score = _number(row.get('score'))
    lines.append(f'  | {prompt} -> {response}  [{score}]')
  return lines


def _texts(row: Mapping[str, Any]) -> tuple[str, str]:
  return str(row.get('prompt', '')), str(row.get('response', ''))


def _number(value: Any) -> str:
  try:
    return f'{float(value):.4g}'
  except (TypeError, ValueError):
    return '' if value is None else str(value)


def _clock(seconds: float) -> str:
  """Seconds as 1:02:03."""
  if not math.isfinite(seconds):
    return '-:--:--'
  minutes, second = divmod(int(seconds), 60)
  return f'{minutes // 60}:{minutes % 60:02}:{second:02}'


def say(text: str) -> None:
  """Prints a line of a stage's own news."""
  _console().print(Text(text), soft_wrap=True)


def _console() -> Console:
  return Console(quiet=not hosts.is_first())
