# SPDX-License-Identifier: Apache-2.0
"""Where numbers can be looked at while they come: TensorBoard, and W&B.

Both have the same methods, which workdir.py calls in its thread. What they
raise ends neither the run nor the files: it is said once, and the run goes on
without them.
"""

import hashlib
import html
import importlib
import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

Rows = Sequence[Mapping[str, Any]]


class TrackingError(Exception):
  """What was asked for is not installed; a message fit to be printed alone."""


class TensorBoard:
  """Event files, written by TensorBoard's own writer of records.

  Not by tf.summary, which takes 8 ms of CPU for a step of 30 numbers (this:
  0.2), nor can it tell TensorBoard that a run went back.
  """

  name = 'TensorBoard'

  def __init__(self, path: epath.Path):
    """Of a work directory; nothing is written yet."""
    self._path = path
    self._file: Any = None
    self._back: int | None = None

  def rewind(self, step: int) -> None:
    """Has TensorBoard forget what the files hold of steps after `step`.

    Args:
      step: 0: all that they hold.
    """
    self._back = step

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    summary = _protos('summary').Summary()
    for name, value in values.items():
      summary.value.add(tag=name, simple_value=value)
    self._write(step=step, summary=summary)

  def samples(self, step: int, rows: Rows) -> None:
    self._text(step, 'samples', table(rows))

  def warn(self, step: int, text: str, rows: Rows) -> None:
    shown = f'{_escaped(text)}\n\n{table(rows)}' if rows else _escaped(text)
    self._text(step, 'warnings', shown)

  def flush(self) -> None:
    if self._file is not None:
      self._file.flush()

  def close(self, failed: bool) -> None:
    del failed
    if self._file is not None:
      self._file.close()
      self._file = None

  def _text(self, step, tag, text):
    from tensorboard.plugins.text import metadata
    from tensorboard.util import tensor_util

    summary = _protos('summary').Summary()
    summary.value.add(
        tag=tag,
        metadata=metadata.create_summary_metadata('', ''),
        tensor=tensor_util.make_tensor_proto(text),
    )
    self._write(step=step, summary=summary)

  def _write(self, **event):
    # Late: it takes a second to import.
    from tensorboard.summary.writer import record_writer

    if self._file is None:
      # With microseconds: a run may start again within the second, and its
      # files have to come after those that are there.
      name = f'{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}'
      self._file = record_writer.RecordWriter(
          (self._path / f'events.out.tfevents.{name}').open('wb')
      )
      self._write(file_version='brain.Event:2')
      self._start()
    record = _protos('event').Event(wall_time=time.time(), **event)
    self._file.write(record.SerializeToString())

  def _start(self):
    """Tells TensorBoard that a run starts, and from where."""
    if self._back is None:
      return
    log = _protos('event').SessionLog
    # It keeps steps below that of the event; the first start of all it takes
    # for no return.
    step = self._back + 1 if self._back else 0
    self._back = None
    self._write(step=step, session_log=log(status=log.START))


class WandB:
  """A run on Weights & Biases; its id is of the work directory.

  It takes the numbers, the samples, the warnings and config.json: no output of
  the terminal, no code, no environment variable.
  """

  name = 'W&B'

  def __init__(self, path: epath.Path, project: str):
    """Of a work directory; `begin` joins the service.

    Raises:
      TrackingError: if the package wandb is not installed.
    """
    try:
      # Late: few want it. By its name: it is not among the requirements.
      self._wandb = importlib.import_module('wandb')
    except ImportError as error:
      raise TrackingError(
          f'loop.wandb={project!r} needs the package wandb, which is not'
          " installed: pip install 'rlhf[wandb]', or --config.loop.wandb=''"
      ) from error
    self._path, self._project = path, project
    self._run: Any = None
    self._from = 0

  def begin(self, step: int | None = None) -> None:
    """Starts the run, or joins it again.

    Args:
      step: that the run goes on from. At 0 whatever an abandoned attempt has
        left at W&B is overwritten; None: what is there stays.
    """
    remote = '://' in os.fspath(self._path)
    where = str(self._path) if remote else os.path.abspath(self._path)
    config = self._path / 'config.json'
    self._run = self._wandb.init(
        project=self._project,
        id=hashlib.sha256(where.encode()).hexdigest()[:16],
        name='/'.join(re.split(r'[\\/]+', where)[-2:]),
        resume=None if step == 0 else 'allow',
        config=json.loads(config.read_text()) if config.exists() else {},
        dir=None if remote else where,
        settings=self._wandb.Settings(
            console='off',
            disable_code=True,
            disable_git=True,
            init_timeout=60,
            finish_timeout=60,
        ),
    )
    # W&B can't go back: of steps that it has it takes nothing, and says so each
    # time. A resumed run does them again, with the same numbers.
    self._from = int(self._run.step or 0)

  def configure(self, config: Mapping[str, Any]) -> None:
    """Has W&B know the run's config, which may be written after `begin`."""
    if self._run is not None:
      self._run.config.update(dict(config), allow_val_change=True)

  def rewind(self, step: int) -> None:
    """Nothing: see `begin`."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._log(step, dict(values))

  def samples(self, step: int, rows: Rows) -> None:
    self._log(step, {'samples': self._table(rows)})

  def warn(self, step: int, text: str, rows: Rows) -> None:
    self._joined().alert(
        title=f'step {step}', text=text, level='WARN'
    )
    if rows:
      self._log(step, {'warnings': self._table(rows)})

  def flush(self) -> None:
    """Nothing: wandb has a process of its own."""

  def close(self, failed: bool) -> None:
    if self._run is not None:
      self._run.finish(exit_code=int(failed))
      self._run = None

  def _log(self, step, values):
    run = self._joined()
    if step >= self._from:
      run.log(values, step=step)

  def _joined(self) -> Any:
    if self._run is None:
      self.begin()
    return self._run

  def _table(self, rows):
    return self._wandb.Table(
        columns=['prompt', 'response', 'score'],
        data=[[row['prompt'], row['response'], _score(row)] for row in rows],
    )


def _protos(name: str) -> Any:
  return importlib.import_module(f'tensorboard.compat.proto.{name}_pb2')


def table(rows: Rows) -> str:
  """Rows of {prompt, response, score} as a table in Markdown."""
  lines = ['| prompt | response | score |', '| --- | --- | --: |']
  for row in rows:
    score = _score(row)
    cells = (
        _escaped(row['prompt']),
        _escaped(row['response']),
        '' if score is None else f'{score:.4g}',
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def _score(row):
  score = row.get('score')
  return None if score is None else float(score)


def _escaped(text: Any) -> str:
  """Text that Markdown, in a cell of a table, shows as it is."""
  plain = html.escape(str(text), quote=False)
  marked = re.sub(r'([\\`*_\[\]|])', r'\\\1', plain)
  return re.sub(r'\r\n|\r|\n', '<br>', marked)
