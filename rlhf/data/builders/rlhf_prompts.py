# SPDX-License-Identifier: Apache-2.0
"""Files of prompts as the TFDS data set rlhf_prompts: `base`."""

from rlhf.data.builders import base


class RlhfPrompts(base.RowsBuilder):
  """Prompts to be answered."""

  KIND = 'prompts'
