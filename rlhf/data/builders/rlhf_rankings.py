# SPDX-License-Identifier: Apache-2.0
"""Files of rankings as the TFDS data set rlhf_rankings: `base`."""

from rlhf.data.builders import base


class RlhfRankings(base.RowsBuilder):
  """Prompts, their K responses each, and the ranks of these."""

  KIND = 'rankings'
