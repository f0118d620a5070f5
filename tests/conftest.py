# SPDX-License-Identifier: Apache-2.0
"""What every test stands on: strict JAX on the CPU, and a few fixtures.

The settings are environment variables, set before anything imports jax, so that
processes that a test starts inherit them and tests without jax stay quick.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).parents[1]

os.environ['JAX_PLATFORMS'] = 'cpu'
# [B] + [B, T] broadcasts in silence, and along the wrong axis when B = T.
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
# Compiled programs outlive the run: compiling is most of what the suite does.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of real data beside the repository, or a skip."""
  folder = ROOT.parent / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip('no folder shared/data beside the repository')
  return folder


def with_devices(count: int) -> dict[str, str]:
  """The environment of a process with so many (fake) CPU devices."""
  flags = f'--xla_force_host_platform_device_count={count}'
  flags = f'{os.environ.get("XLA_FLAGS", "")} {flags}'.strip()
  # A fake device may wait in several collectives at a time, and holds a thread
  # for each. With a thread for each device, XLA's own number of them, all are
  # taken now and then, and the devices wait for ever.
  threads = {'NPROC': '64'} if count > 1 else {}
  return {**os.environ, **threads, 'XLA_FLAGS': flags}


def train(*flags: str) -> subprocess.CompletedProcess:
  """Runs launch/train.py as a user does; what it printed is text."""
  return subprocess.run(
      [sys.executable, 'launch/train.py', *flags],
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=300,
  )


@pytest.fixture(scope='session')
def fresh_python() -> Callable[..., str]:
  """`fresh_python(code, devices=1)` runs code in an interpreter of its own.

  For what one process can't show: which modules an import brings, or a mesh of
  several (fake) CPU devices. Returns what the code printed; fails with its
  errors if it fails.
  """

  def run(code: str, *, devices: int = 1) -> str:
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env=with_devices(devices),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  return run
