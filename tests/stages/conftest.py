# SPDX-License-Identifier: Apache-2.0
"""Data, a policy and a reward model, all tiny, that the stages start from."""

import pathlib

import pytest

from tests import tiny


@pytest.fixture(scope='session')
def root(tmp_path_factory) -> pathlib.Path:
  """A root as `tiny.make_root` fills it; each run in it has its own name."""
  return tiny.make_root(tmp_path_factory.mktemp('root'))


@pytest.fixture(scope='module', autouse=True)
def quick_compilation():
  with tiny.quick_compilation():
    yield
