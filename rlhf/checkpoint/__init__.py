# SPDX-License-Identifier: Apache-2.0
"""The whole of a run, on the disk and back.

  checkpoints   saving, restoring, what is kept
  files         the directories, and the facts beside the arrays
  reading       arrays, of files that may be damaged
  leaves        a state as arrays with names, and whether a saved one fits
  fingerprints  of arrays, where they lie

Networks that stages hand on are in rlhf/networks.py.
"""

from rlhf.checkpoint.checkpoints import CheckpointError, Checkpoints, Restored

__all__ = ['CheckpointError', 'Checkpoints', 'Restored']
