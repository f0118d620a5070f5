# SPDX-License-Identifier: Apache-2.0
"""Whether this process is one of several, and how it finds the others.

  a Cloud TPU pod, GKE (JobSet), several TPU slices    nothing to add
  Slurm (srun)                                         nothing to add
  Open MPI         nothing to add up to 4; from 5 on the address
  anything else    --coordinator_address=HOST:PORT --num_processes=N
                   --process_id=I, or in the environment
                   JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID

Here is only decided whether to call `jax.distributed.initialize`, which fails
where there is nothing to join, and with what. Where a scheduler has started the
processes, JAX asks it for the rest.
"""

import dataclasses
import glob
import os
import re
import urllib.request
from collections.abc import Callable, Mapping

from rlhf.watch import HostsError


@dataclasses.dataclass(frozen=True)
class Plan:
  """How this process finds the others; None where JAX asks the scheduler.

  Attributes:
    source: what said that there are others.
    address: of the first process, HOST:PORT.
    processes, index: how many, and which one this is.
  """

  source: str
  address: str | None = None
  processes: int | None = None
  index: int | None = None

  def arguments(self) -> dict:
    """What `jax.distributed.initialize` is given."""
    found = {
        'coordinator_address': self.address,
        'num_processes': self.processes,
        'process_id': self.index,
    }
    # Where all is said nothing is to be detected. Only Slurm is asked still:
    # which of its GPUs belong to this process.
    if None not in found.values() and self.source != 'Slurm':
      found['cluster_detection_method'] = 'deactivate'
    return found


def plan(
    address: str | None = None,
    processes: int | None = None,
    index: int | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    pod_workers: Callable[[Mapping[str, str]], int] | None = None,
) -> Plan | None:
  """How to join the other hosts; None if there are none.

  Args:
    address, processes, index: from flags; else from the environment.
    environ: by default the process's.
    pod_workers: how many hosts the TPU pod has that this one is part of.

  Raises:
    HostsError: for flags that don't fit together.
  """
  environ = os.environ if environ is None else environ
  address = address or environ.get('JAX_COORDINATOR_ADDRESS') or None
  if processes is None:
    processes = _number(environ, 'JAX_NUM_PROCESSES')
  if index is None:
    index = _number(environ, 'JAX_PROCESS_ID')
  source = _scheduler(environ, pod_workers or _pod_workers)
  if source == 'Open MPI' and address:
    processes = _or(processes, _number(environ, 'OMPI_COMM_WORLD_SIZE'))
    index = _or(index, _number(environ, 'OMPI_COMM_WORLD_RANK'))
  given = {
      'coordinator_address': address,
      'num_processes': processes,
      'process_id': index,
  }
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == 3:
    if source == 'Open MPI' and 'OMPI_MCA_orte_hnp_uri' not in environ:
      raise HostsError(
          'Open MPI 5 does not tell where the first process is: add'
          ' --coordinator_address=HOST:PORT, of the first host'
      )
    return Plan(source) if source else None
  _check(address, processes, index)
  if processes == 1:
    return None
  if missing and source is None:
    have = ', '.join(f'--{name}' for name in given if name not in missing)
    want = ', '.join(f'--{name}' for name in missing)
    raise HostsError(
        f'{have} without {want}, and no scheduler (Slurm, Open MPI, a TPU pod)'
        ' that would tell: give all three, or none on a single host'
    )
  return Plan(source or 'flags', address, processes, index)


def _check(
    address: str | None, processes: int | None, index: int | None
) -> None:
  if address is not None and not re.fullmatch(r'\S+:\d+', address):
    raise HostsError(
        f'--coordinator_address={address} is not HOST:PORT, such as'
        ' 10.0.0.1:1234: a port of the first host that is free'
    )
  if processes is not None and processes < 1:
    raise HostsError(f'--num_processes={processes}: must be 1 or more')
  if index is not None and index < 0:
    raise HostsError(f'--process_id={index}: processes count from 0')
  if processes is not None and index is not None and index >= processes:
    raise HostsError(
        f'--process_id={index} of --num_processes={processes}: processes count'
        f' from 0 to {processes - 1}'
    )


def _number(environ: Mapping[str, str], name: str) -> int | None:
  text = environ.get(name, '')
  if not text:
    return None
  if not text.strip().isdigit():
    raise HostsError(f'{name}={text!r} in the environment is not a number')
  return int(text)


def _or(value, other):
  return other if value is None else value


# What `jax.distributed` needs to recognise a process that srun has started; a
# shell of salloc has only some.
_SLURM = (
    'SLURM_JOB_ID',
    'SLURM_STEP_NODELIST',
    'SLURM_NTASKS',
    'SLURM_PROCID',
    'SLURM_LOCALID',
)


def _scheduler(
    environ: Mapping[str, str],
    pod_workers: Callable[[Mapping[str, str]], int],
) -> str | None:
  """Who has started several processes, this one among them."""
  if (_number(environ, 'OMPI_COMM_WORLD_SIZE') or 1) > 1:
    return 'Open MPI'
  if all(name in environ for name in _SLURM):
    if (_number(environ, 'SLURM_NTASKS') or 1) > 1:
      return 'Slurm'
  platforms = environ.get('JAX_PLATFORMS', '')
  if platforms and 'tpu' not in platforms.split(','):
    return None  # A tool on the CPU of a pod's host is alone.
  if (_number(environ, 'MEGASCALE_NUM_SLICES') or 1) > 1:
    return 'TPU slices'
  names = environ.get('TPU_PROCESS_ADDRESSES') or environ.get(
      'TPU_WORKER_HOSTNAMES', ''
  )
  if len([name for name in names.split(',') if name.strip()]) > 1:
    return 'a TPU pod'
  if not names and pod_workers(environ) > 1:
    return 'a TPU pod'
  return None


def _pod_workers(environ: Mapping[str, str]) -> int:
  """Hosts of the Cloud TPU pod that this host is part of, or 1.

  The metadata server is asked only on a host with TPU chips: anywhere else
  waiting for it would cost seconds.
  """
  chips = glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*')
  if not chips or 'TPU_SKIP_MDS_QUERY' in environ:
    return 1
  server = environ.get('GCE_METADATA_IP', 'metadata.google.internal')
  request = urllib.request.Request(
      f'http://{server}/computeMetadata/v1/instance/attributes/'
      'worker-network-endpoints',
      headers={'Metadata-Flavor': 'Google'},
  )
  # No proxy leads to a host's own metadata.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(request, timeout=5) as answer:
      return len(answer.read().decode().split(','))
  except OSError:
    return 1
