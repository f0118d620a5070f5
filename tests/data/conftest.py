# SPDX-License-Identifier: Apache-2.0
"""What tests of data share."""

import pytest
from absl import logging


@pytest.fixture
def log(caplog):
  """What absl logs; its logger hands nothing on to the root's."""
  logging.get_absl_logger().addHandler(caplog.handler)
  yield caplog
  logging.get_absl_logger().removeHandler(caplog.handler)
