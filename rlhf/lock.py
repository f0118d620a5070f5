# SPDX-License-Identifier: Apache-2.0
"""One run at a time in a work directory.

Two would write the same files and delete each other's checkpoints, as happens
when a scheduler starts a job again whose first process still lives.

  on a disk   an flock of DIR/lock, which the kernel releases when the process
              ends, however it ends. The file stays; it says who had it.
  gs://       a lease: an object that its holder writes anew every 30 seconds.
              A lease that is found is watched. If it changes, its holder lives,
              and this run is refused; one that has not changed in 90 seconds is
              dead, and is taken over.
"""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from absl import logging
from etils import epath

from rlhf import hosts, watch

BEAT_SECONDS = 30.0
DEAD_SECONDS = 90.0
# Between writing a lease and reading it back: of two that come at the same time
# the last to write has it. Longer than a write takes.
SETTLE_SECONDS = 3.0


class HeldError(Exception):
  """Another run is at work there; the message is fit to be printed alone."""


@contextlib.contextmanager
def hold(directory: os.PathLike | str) -> Iterator[None]:
  """Holds a work directory, which is made if it is not there.

  Of several hosts the first one holds it, and all learn if it can't.

  Args:
    directory: on a disk, or gs://. One process may hold several.

  Raises:
    HeldError: if another run is at work there, naming it.
  """
  directory = epath.Path(directory)
  remote = '://' in os.fspath(directory)
  with contextlib.ExitStack() as held:

    def take() -> str:
      try:
        held.enter_context(
            _lease(directory) if remote else _locked(directory)
        )
      except HeldError as error:
        return str(error)
      except OSError as error:
        return f'can not write to the work directory {directory}: {error}'
      return ''

    refused = hosts.told(f'is {directory} free', take)
    if refused:
      raise HeldError(refused)
    yield


@contextlib.contextmanager
def _locked(directory: epath.Path) -> Iterator[None]:
  directory.mkdir(parents=True, exist_ok=True)
  # 'a+': what the holder wrote stays until the lock is ours.
  with open(directory / 'lock', 'a+', encoding='utf-8') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      f.seek(0)
      raise HeldError(_words(directory, f.read())) from None
    except OSError as error:
      logging.warning(
          '%s: this file system has no locks (%s), so nothing keeps a second'
          ' run out',
          directory,
          error,
      )
    f.truncate(0)
    f.write(json.dumps(_me()) + '\n')
    f.flush()
    yield


@contextlib.contextmanager
def _lease(directory: epath.Path) -> Iterator[None]:
  path = directory / 'lock'
  me = _me() | {'token': uuid.uuid4().hex}
  found = _read(path)
  if found:
    _wait_until_dead(directory, path, found)
  path.write_text(json.dumps(me | {'beat': 0}))
  time.sleep(SETTLE_SECONDS)
  found = _read(path)
  if me['token'] not in found:
    raise HeldError(_words(directory, found))
  done = threading.Event()
  thread = threading.Thread(
      target=_renew, args=(directory, path, me, done), daemon=True,
      name=f'lease of {directory}',
  )
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    with contextlib.suppress(OSError):
      if me['token'] in _read(path):
        path.unlink(missing_ok=True)


def _wait_until_dead(
    directory: epath.Path, path: epath.Path, found: str
) -> None:
  """Returns once a lease is given back or dead; HeldError if it lives."""
  logging.info(
      '%s: waiting %g seconds to see whether it is alive',
      _words(directory, found, advice=False),
      DEAD_SECONDS,
  )
  end = time.monotonic() + DEAD_SECONDS
  while time.monotonic() < end:
    time.sleep(DEAD_SECONDS / 18)
    now = _read(path)
    if not now:
      return
    if now != found:
      raise HeldError(_words(directory, now))
  logging.info('%s: it is dead; this run goes on in its place', directory)


def _renew(
    directory: epath.Path,
    path: epath.Path,
    me: dict,
    done: threading.Event,
) -> None:
  beat = 0
  while not done.wait(BEAT_SECONDS):
    beat += 1
    try:
      found = _read(path)
      if found and me['token'] not in found:
        # This process slept for so long that it was taken for dead. To go on
        # would be to write into another's files.
        watch.end(
            _words(directory, found, advice=False)
            + ', which has taken it over from this one',
            code=1,
            then='this one saves nothing more',
        )
      path.write_text(json.dumps(me | {'beat': beat}))
    except OSError as error:
      logging.warning('%s: could not renew the lease: %s', directory, error)


def _read(path: epath.Path) -> str:
  try:
    return path.read_text()
  except FileNotFoundError:
    return ''


def _me() -> dict:
  now = datetime.datetime.now().astimezone()
  return {
      'process': os.getpid(),
      'host': socket.gethostname(),
      'since': now.isoformat(' ', 'seconds'),
  }


def _words(directory: epath.Path, text: str, *, advice: bool = True) -> str:
  try:
    holder = json.loads(text)
    who = (
        f'process {holder["process"]} on host {holder["host"]} since'
        f' {holder["since"]}'
    )
  except (ValueError, KeyError, TypeError):
    who = 'another process'  # Which has not written its name yet.
  said = f'{directory} is in use by {who}'
  if advice:
    said += ': wait for it, stop it, or give another --config.root='
  return said
