# SPDX-License-Identifier: Apache-2.0
"""Files of text as the TFDS data set rlhf_text: `base`."""

from rlhf.data.builders import base


class RlhfText(base.RowsBuilder):
  """Plain text, for pretraining."""

  KIND = 'text'
