# SPDX-License-Identifier: Apache-2.0
"""Files of demonstrations as the TFDS data set rlhf_demonstrations: `base`."""

from rlhf.data.builders import base


class RlhfDemonstrations(base.RowsBuilder):
  """Prompts and the responses to imitate."""

  KIND = 'demonstrations'
