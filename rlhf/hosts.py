# SPDX-License-Identifier: Apache-2.0
"""Several hosts: one process on each, joined by jax.distributed.

Every process runs the same program with the same config, and JAX makes one
mesh of the devices of all. How they find each other: rlhf/cluster.py.

The work directory has to be one that every host sees: a shared file system, or
gs://. Only the first host writes to it, except for the arrays of checkpoints,
of which each host writes its own. What becomes of a run that loses a host is
told in rlhf/watch.py.
"""

import collections
import contextlib
import json
import logging as stdlib_logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from rlhf import cluster, sharding, signals, watch
from rlhf.watch import HostsError

# A host is lost when it has not been heard for as long.
HEARTBEAT_SECONDS = 30
# For all to start (a pod's machines don't boot at once), and for all to end.
START_SECONDS = 300
END_SECONDS = 60
# For all to come to the same point of the program.
BARRIER_SECONDS = 600

_Answer = TypeVar('_Answer')


def start(
    address: str | None = None,
    processes: int | None = None,
    index: int | None = None,
    *,
    start_seconds: int = START_SECONDS,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> bool:
  """Joins the other hosts, if there are any; before JAX's first computation.

  Args:
    address, processes, index: see `cluster.plan`.
    start_seconds: how long the others may take to come.
    heartbeat_seconds: after which a silent host is lost.

  Returns:
    Whether there are others.

  Raises:
    HostsError: if they can't be joined. (If they don't come in time, the
      process ends with `watch.LOST`.)
  """
  found = cluster.plan(address, processes, index)
  if found is None:
    return False
  # Without effect on TPUs and GPUs.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  watch.begin(found.address, start_seconds, heartbeat_seconds)
  try:
    jax.distributed.initialize(
        initialization_timeout=start_seconds,
        heartbeat_timeout_seconds=heartbeat_seconds,
        shutdown_timeout_seconds=END_SECONDS,
        **found.arguments(),
    )
  except (RuntimeError, ValueError, OSError) as error:
    raise HostsError(
        f'could not join the other hosts ({found.source}):'
        f' {str(error).splitlines()[0]}'
    ) from error
  if jax.process_count() == 1:
    watch.over()
    return False
  watch.joined(jax.process_index(), jax.process_count())
  _visits.clear()
  _stop_agreed.clear()
  handler = logging.get_absl_handler()
  handler.setFormatter(_Labelled())
  logging.info('joined through %s', found.source)
  return True


class _Labelled(logging.PythonFormatter):
  """absl's lines, with the host: launchers mix the logs of all."""

  def format(self, record: stdlib_logging.LogRecord) -> str:
    return f'{label()}: {super().format(record)}'


@contextlib.contextmanager
def joined(*flags, **options) -> Iterator[None]:
  """Joins the other hosts for the length of a program; see `start`.

  On several hosts an exception ends the process here, with its traceback: what
  Python does at its exit waits for hosts that may never come. On one host it
  goes on as ever. On both, SIGTERM and Ctrl-C have the run save and end
  (`stopping`), and a second one ends it at once.

  Raises:
    HostsError: if the hosts can't be joined.
  """
  if not start(*flags, **options):
    try:
      with signals.caught():
        yield
    except watch.StoppedError as error:
      line = f'error: {error}; start it again with the same command'
      print(line, file=sys.stderr)
      sys.exit(watch.STOPPED)
    return
  with signals.caught(by_jax=_preemption_service()):
    try:
      yield
      barrier('the end of the program')
      watch.ending()
      jax.distributed.shutdown()
      watch.over()
    except BaseException as error:
      watch.fail(error, together=lambda: barrier('an error', seconds=5))


def several() -> bool:
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
  """Whether this is the host that writes; True on a single one."""
  # Not jax.process_index() alone: it would start the devices.
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def label() -> str:
  """'host 1 of 2', or '' on a single host."""
  return watch.label()


_visits: collections.Counter[str] = collections.Counter()


def barrier(name: str, *, seconds: float = BARRIER_SECONDS) -> None:
  """Waits until all hosts are here. Nothing on a single host.

  Raises:
    watch.LostHostError: if some did not come in time, with the names that the
      runtime tells.
  """
  if not several():
    return
  # Late: orbax takes a second to import, and one host needs none of it here.
  from orbax.checkpoint import multihost

  # A name serves once; all hosts pass the same barriers in the same order.
  _visits[name] += 1
  key = f'rlhf/{name}/{_visits[name]}'
  try:
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=int(seconds * 1000))
  except jax.errors.JaxRuntimeError as error:
    if 'timed out' not in str(error):
      raise  # The service has missed a host, and is about to say so.
    # The runtime's numbers of some of them stand alone on a line each.
    _, _, listed = str(error).partition('timed out task names:')
    absent = re.findall(r'^\s*(\d+)\s*$', listed, re.MULTILINE)
    who = ', '.join(f'host {index}' for index in absent) or 'some host'
    raise watch.LostHostError(
        f'{who} of {jax.process_count()} did not come to {name!r} within'
        f' {seconds:g} seconds'
    ) from error


def told(name: str, look: Callable[[], _Answer]) -> _Answer:
  """What the first host finds, for all: they may not see the same files yet.

  Args:
    name: of the question, for errors.
    look: called on the first host only; returns something JSON-able.

  Raises:
    watch.LostHostError: if a host did not come to ask.
  """
  if not several():
    return look()
  text = json.dumps(look() if is_first() else None).encode()
  # First the barrier, which is bounded; what is sent is not.
  barrier(name)
  size = multihost_utils.broadcast_one_to_all(np.int32(len(text)))
  sent = np.zeros(int(size), np.int32)
  if is_first():
    sent[:] = np.frombuffer(text, np.uint8)
  got = np.asarray(multihost_utils.broadcast_one_to_all(sent))
  return json.loads(got.astype(np.uint8).tobytes())


def agree(name: str, look: Callable[[], bool]) -> bool:
  """`told`, of a yes or no."""
  return told(name, lambda: bool(look()))


def check_shared(path) -> None:
  """Refuses a work directory that only the first host sees.

  Args:
    path: of something that the first host has written (an epath.Path).

  Raises:
    HostsError: on the hosts that can't see it.
  """
  if not several():
    return
  barrier(f'{path} is written')
  # Network file systems remember for a while that something was not there.
  end = time.monotonic() + 60
  while not path.exists():
    if time.monotonic() > end:
      raise HostsError(
          f'{label()} does not see {path}, which host 0 has written: give'
          ' --config.root= on a disk that all hosts share, or gs://'
      )
    time.sleep(1)


def local_rows(
    rows: int, mesh: jax.sharding.Mesh, *, micro_batches: int = 1
) -> np.ndarray | None:
  """Which rows of a host batch `sharding.put_batch` reads on this host.

  Args:
    rows: of the batch.
    mesh: from `sharding.make_mesh`.
    micro_batches: that the batch is cut into (`update.split_batch`).

  Returns:
    bool [rows]; None if all, as on a single host.
  """
  if micro_batches > 1:
    shape = micro_batches, rows // micro_batches
  else:
    shape = (rows,)
  where = sharding.batch_sharding(shape, mesh, stacked=micro_batches > 1)
  if where.is_fully_addressable:
    return None
  local = np.zeros(shape, bool)
  for index in where.addressable_devices_indices_map(shape).values():
    local[index] = True
  return None if local.all() else local.reshape(-1)


_stop_agreed = threading.Event()


def _preemption_service() -> bool:
  return getattr(jax.config, 'jax_enable_preemption_service', True)


def stopping() -> bool:
  """Whether all hosts are to save and end now, for SIGTERM or Ctrl-C.

  To be asked after each step, by all hosts as often: JAX catches the signal on
  any of them, and finds a question that none has asked yet, at which all get
  the same answer (`jax_enable_preemption_service`). May be asked before the
  first step and between stages as well. Once true it stays so.

  Nobody else in the process may ask JAX: orbax's CheckpointManager would, with
  the numbers of steps, and its answers are lost to all others.
  """
  if not several():
    return bool(signals.asked())
  if _stop_agreed.is_set():
    return True
  if not _preemption_service():
    return False
  # A number that never goes back, as a stage's own steps would.
  _visits['stopping'] += 1
  if multihost_utils.reached_preemption_sync_point(_visits['stopping']):
    _stop_agreed.set()
  return _stop_agreed.is_set()
