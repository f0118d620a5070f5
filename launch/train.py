# SPDX-License-Identifier: Apache-2.0
"""Runs one stage of the method, and before it whatever it needs.

  python launch/train.py --config=configs/ppo_ptx.py
  python launch/train.py --config=configs/ppo_ptx.py:1.3b \
      --config.data.vocabulary=... --config.data.prompts=...
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

from launch import pipeline

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  pipeline.quiet_libraries()
  pipeline.keep_compiled_programs()
  try:
    pipeline.run(_CONFIG.value)
  except pipeline.MissingStageError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main)
