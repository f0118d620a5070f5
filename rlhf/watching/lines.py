# SPDX-License-Identifier: Apache-2.0
"""Files of JSON lines with a step each, on a disk or in an object store."""

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

# An object store has no appending: what has come since is kept for so long, and
# then written with all that is there. A run that is killed loses it; it is of
# steps that the run does again, or the end of them.
UPLOAD_SECONDS = 30


class WriteError(Exception):
  """A file could not be written; a message fit to be printed alone."""


class Lines:
  """A file that lines are appended to; each method may raise a WriteError."""

  def __init__(self, path: epath.Path):
    """Of a path; nothing is written yet."""
    self._path = path
    self._remote = '://' in os.fspath(path)
    self._text: list[str] = []
    if self._remote and path.exists():
      self._text.append(path.read_text())
    self._written, self._waiting = time.monotonic(), False

  def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
    """Appends lines: to the file, or to what will be uploaded."""
    text = ''.join(
        json.dumps(line, default=plain, ensure_ascii=False) + '\n'
        for line in lines
    )
    if not self._remote:
      _naming(self._path, functools.partial(_append, self._path, text))
      return
    self._text.append(text)
    self._waiting = True
    if time.monotonic() - self._written >= UPLOAD_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Uploads what waits for it."""
    if self._waiting:
      # Whole: a reader sees the old object or the new one.
      text = ''.join(self._text)
      _naming(self._path, lambda: self._path.write_text(text))
      self._written, self._waiting = time.monotonic(), False


def rewind(path: epath.Path, step: int) -> None:
  """Drops the lines of later steps, and what is no line; step 0: the file.

  Raises:
    WriteError: if it can't be done.
  """
  if path.exists():
    _naming(path, functools.partial(_rewind, path, step))


def plain(value: Any) -> Any:
  """JSON for numpy numbers, arrays and paths."""
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  if hasattr(value, 'tolist'):
    return np.asarray(value).tolist()
  return str(value)


def in_a_line(error: Exception) -> str:
  """What an error says, for the middle of a sentence."""
  text = getattr(error, 'strerror', None) or str(error) or repr(error)
  return text.splitlines()[0]


def _append(path, text):
  with open(path, 'a', encoding='utf-8') as f:
    f.write(text)


def _rewind(path, step):
  if step == 0:
    path.unlink()
    return
  # Not splitlines: a sample may hold other ends of lines. A run that was killed
  # while it wrote leaves half a line, perhaps one that lacks its end alone.
  *lines, torn = path.read_bytes().split(b'\n')
  kept = [line for line in lines if _is_of(line, step)]
  if len(kept) == len(lines) and not torn:
    return
  # Whole, through a new file: a run that dies here loses nothing.
  new = path.with_name(f'{path.name}.new')
  new.write_bytes(b''.join(line + b'\n' for line in kept))
  new.replace(path)


def _is_of(line: bytes, step: int) -> bool:
  try:
    return json.loads(line)['step'] <= step
  except (ValueError, KeyError, TypeError):
    return False


def _naming(path: epath.Path, write: Callable[[], Any]) -> None:
  """Calls `write`; what it raises names the file."""
  try:
    write()
  except Exception as error:
    raise WriteError(
        f'could not write {path}: {in_a_line(error)}. Once that is possible'
        ' (room on the disk, the right to write there), the same command goes'
        ' on from the newest checkpoint'
    ) from error
