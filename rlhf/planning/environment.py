# SPDX-License-Identifier: Apache-2.0
"""Environment variables for compiling for TPUs that aren't there.

Jax and libtpu read them once, when they are loaded; so this file imports
neither, and is to be called before either is imported.
"""

import os


def environment(cpu_devices: int = 0) -> dict[str, str]:
  """What to put into `os.environ` before jax is imported.

    os.environ.update(environment())
    import jax

  Args:
    cpu_devices: fake CPU devices to have (for `cpu:8`); 0: as they are.

  Returns:
    Variables and values; flags that `XLA_FLAGS` has already are kept.
  """
  variables = {
      # Only the compiler is wanted: libtpu isn't asked for devices to run on.
      'JAX_PLATFORMS': 'cpu',
      # Else libtpu asks a cloud machine's metadata server, and waits for it.
      'TPU_SKIP_MDS_QUERY': '1',
      # Else two compilations at a time fail over libtpu's lock file.
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
      # What the metadata server would have said. Without them libtpu prints
      # warnings; topologies are the same with and without.
      'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
      'TPU_WORKER_HOSTNAMES': 'localhost',
      'TPU_WORKER_ID': '0',
  }
  if cpu_devices:
    flag = f'--xla_force_host_platform_device_count={cpu_devices}'
    # Of flags given twice XLA takes the last.
    variables['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()
  return variables
