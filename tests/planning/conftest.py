# SPDX-License-Identifier: Apache-2.0
"""Libtpu, without a TPU and beside other processes that have it."""

import os

from rlhf.planning.environment import environment

# What it can't do without, before a test describes a topology: libtpu reads
# its variables when it is loaded.
for _name in ('TPU_SKIP_MDS_QUERY', 'ALLOW_MULTIPLE_LIBTPU_LOAD'):
  os.environ[_name] = environment()[_name]
