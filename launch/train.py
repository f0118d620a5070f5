# SPDX-License-Identifier: Apache-2.0
"""Runs one stage of the method, and before it whatever it needs.

  python launch/train.py --config=configs/ppo_ptx.py
  python launch/train.py --config=configs/ppo_ptx.py:1.3b \
      --config.data.vocabulary=... --config.data.prompts=...

On several hosts the same command runs on each, with the flags below where no
scheduler tells who is who: see rlhf/hosts.py. Exit codes: 2 the command line or
a config can't be, and nothing was started; 75 the run was told to stop, and has
saved; 76 another host is lost. After the last two the same command goes on from
the newest checkpoint.
"""

import os
import pathlib
import sys

# Before JAX and TensorFlow are imported: on a machine with libtpu installed and
# no TPU, probing for one takes minutes; TensorFlow's greeting helps nobody.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
from ml_collections import config_flags

from launch import arguments, pipeline

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_ADDRESS = flags.DEFINE_string(
    'coordinator_address', None, 'Of several hosts the first, as HOST:PORT.'
)
_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'How many processes run this command.'
)
_INDEX = flags.DEFINE_integer(
    'process_id', None, 'Which of them this one is, from 0.'
)
_START = flags.DEFINE_integer(
    'start_seconds', 300, 'How long to wait for the other hosts to start.'
)
_HEARTBEAT = flags.DEFINE_integer(
    'heartbeat_seconds', 30, 'A host that is silent for as long is lost.'
)


def main(argv):
  del argv  # `arguments.parse` refuses what is no flag.
  pipeline.quiet_libraries()
  pipeline.keep_compiled_programs()
  from rlhf import hosts

  try:
    with hosts.joined(
        _ADDRESS.value,
        _PROCESSES.value,
        _INDEX.value,
        start_seconds=_START.value,
        heartbeat_seconds=_HEARTBEAT.value,
    ):
      _run()
  except hosts.HostsError as error:
    sys.exit(f'error: {error}')


def _run():
  """Runs the stage; an error that explains itself goes without its trace."""
  from rlhf.checkpoint import CheckpointError
  from rlhf.data.rows import DataError, RowError
  from rlhf.lock import HeldError
  from rlhf.loop import NonFiniteError
  from rlhf.problems import ConfigError
  from rlhf.resume import ResumeError
  from rlhf.watching.lines import WriteError
  from rlhf.watching.tracking import TrackingError

  try:
    pipeline.run(_CONFIG.value)
  except ConfigError as error:
    arguments.stop(str(error))
  except (
      CheckpointError,
      DataError,
      HeldError,
      NonFiniteError,
      ResumeError,
      RowError,
      TrackingError,
      WriteError,
  ) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=arguments.parse)
