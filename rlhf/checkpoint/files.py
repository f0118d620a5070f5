# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints lie in a directory, whether they are whole, which may go.

  40/                      a checkpoint
  40.replaced/             what it was before it was saved again: a checkpoint
                           as well, until the new one has been found on the disk
  40.deleted/              being deleted
  40.orbax-checkpoint-tmp/ being written, or left by a run that was killed

In an object store, which can't rename, a checkpoint that is being written has
its name already, and no commit_success.txt yet.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection
from typing import Any

import orbax.checkpoint as ocp
from absl import logging
from etils import epath

_STEP = re.compile(r'(\d+)(\.replaced)?')


class DamagedError(Exception):
  """A checkpoint is not what was saved."""


def steps(directory: epath.Path) -> list[tuple[int, epath.Path]]:
  """The checkpoints in a directory, newest first; none if it is not there."""
  if not directory.is_dir():
    return []
  found = []
  for path in directory.iterdir():
    match = _STEP.fullmatch(path.name)
    # On a disk orbax renames a directory when it is complete, so its name says
    # so: one that lacks commit_success.txt has lost it.
    if match and (not _remote(path) or ocp.utils.is_checkpoint_finalized(path)):
      found.append((int(match[1]), match[2] is None, path))
  found.sort(key=lambda entry: entry[:2], reverse=True)
  return [(step, path) for step, _, path in found]


def seal(document: dict[str, Any]) -> dict[str, Any]:
  """What is written for facts: with its SHA-256, and as JSON gives it back."""
  document = json.loads(json.dumps(document))
  return {**document, 'sha256': _digest(document)}


def read(path: epath.Path, step: int) -> dict[str, Any]:
  """The facts of a checkpoint, as they were sealed.

  Raises:
    DamagedError: saying why, if they or the arrays' directory are not there, or
      they are not what was written.
  """
  try:
    document = json.loads((path / 'facts' / 'metadata').read_text())
  except (OSError, ValueError) as error:
    words = getattr(error, 'strerror', None) or str(error)
    raise DamagedError(f'its facts can not be read ({words})') from error
  if not isinstance(document, dict) or _digest(document) != document.get(
      'sha256'
  ):
    raise DamagedError('its facts are not what was written (their SHA-256)')
  if document['step'] != step:
    raise DamagedError(f'it is step {document["step"]} by its facts')
  if not (path / 'state').is_dir():
    raise DamagedError('its arrays are not there')
  return document


def look(path: epath.Path, step: int) -> list:
  """`[facts, '']`, or `[None, what is wrong]`; see `read`."""
  try:
    return [read(path, step), '']
  except DamagedError as error:
    return [None, str(error)]


def problem(path: epath.Path, step: int) -> str:
  """What is wrong with a checkpoint as far as `read` tells, or ''."""
  return look(path, step)[1]


def move_aside(path: epath.Path) -> None:
  """Makes room for a checkpoint that is saved again."""
  if path.exists():
    aside = path.with_name(f'{path.name}.replaced')
    if aside.exists():
      aside.rmtree()
    path.rename(aside)


def clean(directory: epath.Path) -> None:
  """Deletes what killed runs left unfinished."""
  for path in directory.iterdir():
    unfinished = ocp.utils.is_tmp_checkpoint(path)
    if path.name.endswith('.deleted') or unfinished:
      logging.info('deleting %s, which a run left unfinished', path)
      path.rmtree()


def delete_old(
    directory: epath.Path,
    settled: int,
    *,
    keep: int,
    keep_every: int,
    best: int | None,
    damaged: Collection[str],
) -> None:
  """Deletes what need not be kept.

  Args:
    directory: of the checkpoints.
    settled: the step saved last, which has been found on the disk.
    keep: so many of the newest whole ones, that one among them.
    keep_every: as well as the multiples of this, if it is not 0.
    best: as well as this one, even if it is later than `settled`.
    damaged: names of directories that don't count.
  """
  kept = 0
  for step, path in steps(directory):
    if path.name == str(settled):
      kept += 1
      continue
    # After a run has gone back, what came after is not its own.
    stale = step >= settled or path.name in damaged
    if not stale and not problem(path, step):
      kept += 1
      if kept <= keep or (keep_every and step % keep_every == 0):
        continue
    if step != best or step == settled:
      _delete(path)


def _delete(path: epath.Path) -> None:
  """Deletes a checkpoint; half of it never looks whole."""
  try:
    if _remote(path):
      (path / 'facts' / 'metadata').unlink(missing_ok=True)
      path.rmtree()
      return
    gone = path.with_name(f'{path.name}.deleted')
    if gone.exists():
      gone.rmtree()
    path.rename(gone)
    gone.rmtree()
  except OSError as error:
    # The run can go on. It is tried again after the next save.
    logging.warning('could not delete %s: %s', path, error)


def _digest(document: dict[str, Any]) -> str:
  rest = {key: value for key, value in document.items() if key != 'sha256'}
  text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def _remote(path: epath.Path) -> bool:
  return '://' in os.fspath(path)
