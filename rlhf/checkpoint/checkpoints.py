# SPDX-License-Identifier: Apache-2.0
"""Runs in progress, to the disk and back, and never silently wrong.

A stage's directory holds

  checkpoints/<step>/state/   every array of the run by its name (orbax)
  checkpoints/<step>/facts/   JSON: the stage's own facts; shape, dtype and
                              fingerprint of each array; a SHA-256 of it all

What is read back has the fingerprints it was saved with, or is called damaged,
and an older step is taken. Nothing old is deleted before what is newer has been
found on the disk.

Orbax's `AsyncCheckpointer` writes, and its `PyTreeCheckpointHandler` reads. Not
its `CheckpointManager`: that takes what it finds on the disk for whole, and
deletes the old for the new without a look at it. And reading has no barrier, as
the manager's would: a host that can't read its part tells the others.

Paths may be gs://. On several hosts every host calls these functions, in the
same order: each writes its part of the arrays, and the first one the rest.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from rlhf import hosts, networks
from rlhf.checkpoint import files, leaves, reading
from rlhf.checkpoint.files import DamagedError
from rlhf.checkpoint.fingerprints import fingerprints
from rlhf.checkpoint.reading import reason


class CheckpointError(Exception):
  """A checkpoint can't be written, or none can be read; fit to be printed."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """What `Checkpoints.restore` found.

  Attributes:
    step: completed steps.
    state: like the template, with arrays that may be donated.
    facts: as they were handed to `save`.
    path: the directory.
    damaged: of each newer step that was passed over, 'step 40: why'.
    missing: leaves that the checkpoint lacks: the template's own.
    left_over: leaves of the checkpoint that the template lacks.
  """

  step: int
  state: Any
  facts: dict[str, Any]
  path: str
  damaged: list[str]
  missing: list[str]
  left_over: list[str]

  def exceptions(self) -> str:
    """What was not there or not taken, for the end of a sentence."""
    kinds = (
        ('new, for they are not there', self.missing),
        ('dropped', self.left_over),
    )
    return ''.join(
        f'; {words}: {", ".join(names)}' for words, names in kinds if names
    )


class Checkpoints:
  """The checkpoints of a run.

  Kept are the newest `keep` whole ones, those whose step is a multiple of
  `keep_every`, and the best one (see `save`). Readers
  that never save delete nothing.
  """

  def __init__(
      self,
      directory: str | os.PathLike,
      *,
      keep: int = 2,
      keep_every: int = 0,
  ):
    """Args:
      directory: may not exist yet.
      keep: how many of the newest; one at least.
      keep_every: steps; 0: none are kept for that.
    """
    self._directory = networks.absolute(directory)
    self._keep, self._keep_every = keep, keep_every
    # Names of damaged steps: a later save replaces them.
    self._damaged: set[str] = set()
    self._cleaned = False
    self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._write: concurrent.futures.Future | None = None

  def save(
      self,
      step: int,
      state: Any,
      facts: Mapping[str, Any],
      *,
      best: int | None = None,
  ) -> None:
    """Saves a step; returns before it is on disk. Replaces one that is there.

    Once it is on disk and found there, what need not be kept is deleted; so are
    the steps after it, which a run has left behind that went back.

    Args:
      step: completed steps.
      state: pytree of arrays on one mesh or device; may be donated at once.
      facts: JSON-able.
      best: a step never to be deleted; this one may be.

    Raises:
      CheckpointError: if it can't be written, or the one before it was not.
    """
    self._wait()
    arrays = {
        name: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        for name, leaf in leaves.named(state).items()
    }
    described = {
        name: [*leaves.kind(arrays[name]), fingerprint]
        for name, fingerprint in fingerprints(arrays).items()
    }
    document = files.seal(
        {'step': step, 'facts': dict(facts), 'leaves': described}
    )
    try:
      if hosts.is_first():
        self._make_room(step)
      self._writer.save(
          self._directory / str(step),
          args=ocp.args.Composite(
              state=ocp.args.PyTreeSave(arrays),
              facts=ocp.args.JsonSave(document),
          ),
      )
    except jax.errors.JaxRuntimeError:
      raise  # A device's, or the connection's to another host.
    except Exception as error:
      raise self._failed(step, error) from error
    self._write = self._thread.submit(self._settle, step, document, best)

  def check(self) -> None:
    """Raises what went wrong in writing, if something has; never waits.

    Raises:
      CheckpointError: once for a write.
    """
    if self._write is not None and self._write.done():
      self._wait()

  def restore(
      self,
      template: Any,
      *,
      step: int | None = None,
      check: Callable[[int, dict[str, Any], str], None] | None = None,
      missing: Sequence[str] = (),
      left_over: Sequence[str] = (),
  ) -> Restored | None:
    """The newest checkpoint that is whole; None if there is none of any kind.

    Args:
      template: a state of the same structure, of arrays or of
        `jax.ShapeDtypeStruct` with shardings: those of the result. The mesh may
        be another than the one that was saved on.
      step: this one and no other.
      check: called with a step, its facts and its path, once these are known to
        be whole and before anything is compared or read; what it raises passes.
      missing: patterns (as of files) of leaves that the checkpoint may lack.
        They are the template's own, so arrays have to be there.
      left_over: patterns of leaves of the checkpoint that are dropped.

    Raises:
      CheckpointError: if there are checkpoints but none is whole; if the
        newest whole one has other leaves than the template, naming them; or if
        `step` is none of them.
    """
    self._wait()
    found = hosts.told(f'the checkpoints in {self._directory}', self._list)
    wanted = [(n, name) for n, name in found if step is None or n == step]
    if not wanted and step is None:
      return None
    if not wanted:
      there = ', '.join(str(n) for n, _ in reversed(found)) or 'none'
      raise CheckpointError(
          f'no checkpoint of step {step} is in {self._directory}; there'
          f' are: {there}'
      )
    damaged = []
    for number, name in wanted:
      path = self._directory / name
      try:
        state, document, fit = self._read(
            number, path, template, check, missing, left_over
        )
      except DamagedError as error:
        damaged.append(f'step {number}: {error}')
        self._damaged.add(name)
        logging.warning('%s is damaged: %s', path, error)
        continue
      return Restored(
          number, state, document['facts'], os.fspath(path), damaged, *fit
      )
    lines = ''.join(f'\n  {line}' for line in damaged)
    raise CheckpointError(
        f'no checkpoint in {self._directory} is whole'
        f'{"" if step is None else f" (asked for: step {step})"}:{lines}\n'
        'Put back a copy of one of them, or start again from nothing in another'
        ' directory'
    )

  def newest(self) -> str:
    """Words for the newest checkpoint."""
    found = self._list()
    if not found:
      return f'no checkpoint is in {self._directory} yet'
    return f'the newest checkpoint is step {found[0][0]} in {self._directory}'

  def close(self) -> None:
    """Waits until everything is on disk.

    Raises:
      CheckpointError: if it does not get there.
    """
    try:
      self._wait()
    finally:
      self._thread.shutdown()
      self._writer.close()

  def _list(self) -> list:
    """`[step, name]` of each checkpoint, newest first."""
    try:
      found = files.steps(self._directory)
    except OSError as error:
      raise CheckpointError(
          f'{self._directory} can not be read: {reason(error)}'
      ) from error
    return [[step, path.name] for step, path in found]

  def _wait(self) -> None:
    """Until the last save is settled, or raises why it is not."""
    write, self._write = self._write, None
    if write is not None:
      write.result()

  def _make_room(self, step: int) -> None:
    """On the first host: for a step that is to be written."""
    self._directory.mkdir(parents=True, exist_ok=True)
    if not self._cleaned:
      files.clean(self._directory)
      self._cleaned = True
    files.move_aside(self._directory / str(step))

  def _settle(self, step: int, document: dict, best: int | None) -> None:
    """In a thread: waits for a write, finds it, and deletes what is old."""
    try:
      self._writer.wait_until_finished()
      if not hosts.is_first():
        return
      path = self._directory / str(step)
      try:
        there = files.read(path, step)
        if there['sha256'] != document['sha256']:
          raise DamagedError('its facts are those of another checkpoint')
      except DamagedError as error:
        raise DamagedError(
            f'it was written, and is not there ({error})'
        ) from error
    except jax.errors.JaxRuntimeError:
      raise
    except Exception as error:
      raise self._failed(step, error) from error
    files.delete_old(
        self._directory,
        step,
        keep=self._keep,
        keep_every=self._keep_every,
        best=best,
        damaged=self._damaged,
    )
    self._damaged.clear()

  def _failed(self, step: int, error: Exception) -> CheckpointError:
    self._cleaned = False
    try:
      whole = [
          f'step {n}'
          for n, path in files.steps(self._directory)
          if not files.problem(path, n)
      ]
      newest = whole[0] if whole else 'none'
    except OSError:
      newest = 'not to be seen'
    return CheckpointError(
        f'could not write the checkpoint of step {step} in {self._directory}:'
        f' {reason(error)}; the newest whole one is {newest}. Free some space,'
        ' or see to the directory, and start again with the same command: it'
        ' goes on from there'
    )

  def _read(self, step, path, template, check, missing, left_over):
    """`(state, document, (missing, left over))`; raises DamagedError."""
    document, why = hosts.told(
        f'the facts of {path}', lambda: files.look(path, step)
    )
    if document is None:
      raise DamagedError(why)
    if check is not None:
      check(step, document['facts'], os.fspath(path))
    saved, wanted = document['leaves'], leaves.named(template)
    *fit, lines = leaves.compare(saved, wanted, missing, left_over)
    if lines:
      text = f'the checkpoint {path} is not of this run as it is configured:'
      raise CheckpointError('\n'.join([text, *lines]))
    arrays, why = reading.read(
        path / 'state',
        {name: leaf for name, leaf in wanted.items() if name in saved},
    )
    why = _any_host(why)
    if why:
      raise DamagedError(f'its arrays can not be read ({why})')
    for name, fingerprint in fingerprints(arrays).items():
      was = saved[name][2]
      if fingerprint != was:
        raise DamagedError(
            f'{name} is not what was saved: its fingerprint was {was}, and is'
            f' {fingerprint}'
        )
    state = jax.tree.unflatten(
        jax.tree.structure(template),
        [arrays.get(name, leaf) for name, leaf in wanted.items()],
    )
    return state, document, fit


def _any_host(why: str) -> str:
  """The first host's reason that has one; '' if none has."""
  if not hosts.several():
    return why
  row = np.zeros(512, np.uint8)
  text = np.frombuffer(why.encode()[: row.size], np.uint8)
  row[: text.size] = text
  rows = multihost_utils.process_allgather(row)
  words = (bytes(r).rstrip(b'\0').decode(errors='replace') for r in rows)
  return next(filter(None, words), '')
