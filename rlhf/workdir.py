# SPDX-License-Identifier: Apache-2.0
"""Where a stage writes what it is and what it sees.

  config.json     the config it ran with
  metrics.jsonl   one line a logged step; TensorBoard files hold the same
  samples.jsonl   prompts and completions with their rewards, at intervals
  results.json    what the stage found out, once, at its end
  checkpoints/    see rlhf/checkpoint.py
  model/          the network it hands on

The directory may be one of an object store (gs://). Of several hosts the first
one writes; all read.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from rlhf import hosts

# An object store has no appending: what has come since is kept for so long, and
# then written with all that is there. A run that is killed loses it; it is of
# steps that the run does again, or the end of them.
UPLOAD_SECONDS = 30


class Workdir:
  """A stage's directory. Lines are appended; nothing is rewritten."""

  def __init__(self, path: str | os.PathLike, *, tensorboard: bool = True):
    self.path = epath.Path(path)
    self._first = hosts.is_first()
    if self._first:
      self.path.mkdir(parents=True, exist_ok=True)
    self._tensorboard = tensorboard
    self._writer: Any = None
    self._lines: dict[str, _Lines] = {}

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
    new.write_text(json.dumps(value, indent=2, default=_plain) + '\n')
    new.replace(path)

  def read_json(self, name: str) -> Any:
    """Reads `name`.json.

    Raises:
      FileNotFoundError: naming the file.
    """
    return json.loads((self.path / f'{name}.json').read_text())

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one line of metrics."""
    if not self._first:
      return
    line = {'step': step} | {k: float(v) for k, v in values.items()}
    self._append('metrics.jsonl', line)
    if self._tensorboard:
      self._summaries().write_scalars(step, dict(values))

  def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends sampled completions: rows of {prompt, response, score, ...}."""
    if not self._first:
      return
    for row in rows:
      self._append('samples.jsonl', {'step': step, **row})
    if self._tensorboard and rows:
      text = '\n\n'.join(
          f'**{row["prompt"]}**\n\n{row["response"]}\n\n`{row.get("score")}`'
          for row in rows
      )
      self._summaries().write_texts(step, {'samples': text})

  def close(self) -> None:
    for lines in self._lines.values():
      lines.close()
    self._lines.clear()
    if self._writer is not None:
      self._writer.flush()
      self._writer.close()
      self._writer = None

  def _append(self, name: str, line: Mapping[str, Any]) -> None:
    if name not in self._lines:
      self._lines[name] = _Lines(self.path / name)
    self._lines[name].append(
        json.dumps(line, default=_plain, ensure_ascii=False) + '\n'
    )

  def _summaries(self):
    if self._writer is None:
      # Late: it imports TensorFlow.
      from clu import metric_writers  # noqa: PLC0415

      self._writer = metric_writers.AsyncWriter(
          metric_writers.SummaryWriter(str(self.path))
      )
    return self._writer


class _Lines:
  """A file that lines are appended to, on a disk or in an object store."""

  def __init__(self, path: epath.Path):
    self._path = path
    self._remote = '://' in os.fspath(path)
    self._text: list[str] = []
    if self._remote and path.exists():
      self._text.append(path.read_text())
    self._written = time.monotonic()

  def append(self, line: str) -> None:
    if not self._remote:
      with open(self._path, 'a', encoding='utf-8') as f:
        f.write(line)
      return
    self._text.append(line)
    if time.monotonic() - self._written >= UPLOAD_SECONDS:
      self.close()

  def close(self) -> None:
    if self._remote:
      # Whole: a reader sees the old object or the new one.
      self._path.write_text(''.join(self._text))
      self._written = time.monotonic()


def _plain(value: Any) -> Any:
  """JSON for numpy numbers, arrays and paths."""
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  if hasattr(value, 'tolist'):
    return np.asarray(value).tolist()
  return str(value)
