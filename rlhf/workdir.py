# SPDX-License-Identifier: Apache-2.0
"""Where a stage writes what it is and what it sees.

  config.json     the config it ran with
  metrics.jsonl   one line a logged step; TensorBoard files hold the same
  samples.jsonl   prompts and completions with their rewards, at intervals
  results.json    what the stage found out, once, at its end
  checkpoints/    see rlhf/checkpoint.py
  model/          the network it hands on
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Workdir:
  """A stage's directory. Lines are appended; nothing is rewritten."""

  def __init__(self, path: str | pathlib.Path, *, tensorboard: bool = True):
    self.path = pathlib.Path(path)
    self.path.mkdir(parents=True, exist_ok=True)
    self._tensorboard = tensorboard
    self._writer: Any = None

  @property
  def finished(self) -> bool:
    """True once the stage has written its results."""
    return (self.path / 'results.json').exists()

  def write_json(self, name: str, value: Any) -> None:
    """Writes `name`.json whole: through a new file, so never half of it."""
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
    line = {'step': step} | {k: float(v) for k, v in values.items()}
    self._append('metrics.jsonl', line)
    if self._tensorboard:
      self._summaries().write_scalars(step, dict(values))

  def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends sampled completions: rows of {prompt, response, score, ...}."""
    for row in rows:
      self._append('samples.jsonl', {'step': step, **row})
    if self._tensorboard and rows:
      text = '\n\n'.join(
          f'**{row["prompt"]}**\n\n{row["response"]}\n\n`{row.get("score")}`'
          for row in rows
      )
      self._summaries().write_texts(step, {'samples': text})

  def close(self) -> None:
    if self._writer is not None:
      self._writer.flush()
      self._writer.close()
      self._writer = None

  def _append(self, name: str, line: Mapping[str, Any]) -> None:
    with open(self.path / name, 'a', encoding='utf-8') as f:
      f.write(json.dumps(line, default=_plain, ensure_ascii=False) + '\n')

  def _summaries(self):
    if self._writer is None:
      # Late: it imports TensorFlow.
      from clu import metric_writers  # noqa: PLC0415

      self._writer = metric_writers.AsyncWriter(
          metric_writers.SummaryWriter(str(self.path))
      )
    return self._writer


def _plain(value: Any) -> Any:
  """JSON for numpy numbers, arrays and paths."""
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  if hasattr(value, 'tolist'):
    return np.asarray(value).tolist()
  return str(value)
