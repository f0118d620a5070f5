# SPDX-License-Identifier: Apache-2.0
"""From flags and environment to who joins whom."""

import pytest

from rlhf import cluster
from rlhf.cluster import Plan
from rlhf.watch import HostsError

SLURM = {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_NODELIST': 'node[1-2]',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '0',
}
OMPI = {'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_RANK': '3'}
ORTE = {'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1:34911'}
JAX = {
    'JAX_COORDINATOR_ADDRESS': 'a:1',
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': '1',
}


def _plan(*flags, workers=1, **environ):
  return cluster.plan(*flags, environ=environ, pod_workers=lambda _: workers)


@pytest.mark.parametrize('environ, workers', [
    ({}, 1),
    (SLURM | {'SLURM_NTASKS': '1'}, 1),
    # The shell of salloc, in which srun has not started anything.
    ({k: v for k, v in SLURM.items() if 'STEP' not in k}, 1),
    ({'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'}, 1),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, 1),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, 4),  # The environment decides.
    ({'MEGASCALE_NUM_SLICES': '1'}, 1),
    # A tool on the CPU of a pod's host.
    ({'TPU_WORKER_HOSTNAMES': 'a,b', 'JAX_PLATFORMS': 'cpu'}, 4),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': '1'}, 1),
])
def test_a_single_host_joins_nobody(environ, workers):
  assert _plan(workers=workers, **environ) is None


@pytest.mark.parametrize('environ, workers, want', [
    (SLURM, 1, Plan('Slurm')),
    (OMPI | ORTE, 1, Plan('Open MPI')),
    # Open MPI 5 tells all but the address.
    (
        OMPI | {'JAX_COORDINATOR_ADDRESS': 'a:1'},
        1,
        Plan('Open MPI', 'a:1', 4, 3),
    ),
    (SLURM | {'JAX_COORDINATOR_ADDRESS': 'a:1'}, 1, Plan('Slurm', 'a:1')),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 1, Plan('a TPU pod')),
    ({'TPU_PROCESS_ADDRESSES': 'a:1,b:1'}, 1, Plan('a TPU pod')),
    (
        {'MEGASCALE_NUM_SLICES': '2', 'TPU_WORKER_HOSTNAMES': 'a'},
        1,
        Plan('TPU slices'),
    ),
    ({'JAX_PLATFORMS': 'tpu,cpu'}, 4, Plan('a TPU pod')),
    (JAX, 1, Plan('flags', 'a:1', 2, 1)),
])
def test_the_environment_tells_who_is_who(environ, workers, want):
  assert _plan(workers=workers, **environ) == want


def test_flags_go_before_the_environment():
  assert _plan('b:2', 4, 0, **JAX) == Plan('flags', 'b:2', 4, 0)
  assert _plan('b:2', 4, 3, **SLURM) == Plan('Slurm', 'b:2', 4, 3)


@pytest.mark.parametrize('flags, environ, message', [
    (('a:1',), {}, 'coordinator_address without --num_processes, --process_id'),
    ((None, 2, 0), {}, 'without --coordinator_address'),
    (('a:1', 2), {}, 'without --process_id'),
    (('a', 2, 0), {}, '--coordinator_address=a is not HOST:PORT'),
    (('a:x', 2, 0), {}, 'is not HOST:PORT'),
    (('a:1', 2, 2), {}, '--process_id=2 of --num_processes=2.*0 to 1'),
    (('a:1', 2, -1), {}, '--process_id=-1'),
    (('a:1', 0, 0), {}, '--num_processes=0'),
    ((), OMPI, 'Open MPI 5.*--coordinator_address=HOST:PORT'),
    ((), JAX | {'JAX_PROCESS_ID': 'x'}, "JAX_PROCESS_ID='x'.*not a number"),
])
def test_what_does_not_fit_together_is_named(flags, environ, message):
  with pytest.raises(HostsError, match=message) as caught:
    _plan(*flags, **environ)
  assert '\n' not in str(caught.value)


def test_jax_detects_nothing_where_all_is_said():
  said = Plan('flags', 'a:1', 2, 1).arguments()
  assert said == {
      'coordinator_address': 'a:1',
      'num_processes': 2,
      'process_id': 1,
      'cluster_detection_method': 'deactivate',
  }
  # Slurm knows which of its GPUs are this process's.
  for plan in (Plan('Slurm'), Plan('Slurm', 'a:1', 2, 1), Plan('a TPU pod')):
    assert 'cluster_detection_method' not in plan.arguments()
