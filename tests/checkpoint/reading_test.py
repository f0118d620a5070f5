# SPDX-License-Identifier: Apache-2.0
"""Reading arrays that may be damaged, and what is said of them."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from rlhf.checkpoint import reading
from rlhf.checkpoint.reading import reason

ARRAYS = {'a/b': jnp.arange(6.0).reshape(2, 3), 'c': jnp.int32(7)}


@pytest.fixture
def path(tmp_path):
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(tmp_path / 'state', ARRAYS)
  return epath.Path(tmp_path / 'state')


def test_some_of_the_arrays_are_read(path):
  got, why = reading.read(path, {'a/b': jnp.ones((2, 3))})
  assert not why and list(got) == ['a/b']
  np.testing.assert_array_equal(got['a/b'], ARRAYS['a/b'])
  assert reading.read(path, {}) == ({}, '')


@pytest.mark.parametrize(
    'name, shape', [('a/b', (3, 2)), ('c', (1,)), ('d', ())]
)
def test_other_arrays_are_no_arrays(path, name, shape):
  wanted = {'a/b': ARRAYS['a/b'], name: jax.ShapeDtypeStruct(shape, 'int32')}
  got, why = reading.read(path, wanted)
  assert got == {} and why and '\n' not in why


def test_an_array_that_fails_leaves_nothing_behind(path, caplog):
  """Reads of other arrays that are under way would be told of by Python."""
  shutil.rmtree(path / 'd')
  for folder in path.glob('ocdbt.process_*'):
    shutil.rmtree(folder)
  got, why = reading.read(path, ARRAYS)
  assert got == {} and why
  assert not [r for r in caplog.records if r.name == 'asyncio']


def test_a_reason_is_a_line():
  assert reason(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/x')) == (
      'No space left on device'
  )
  text = 'OUT_OF_RANGE: Error writing "x/0": Failed to write 20 bytes to file'
  text += f" 4: No space left on device [os_error_code='{errno.ENOSPC}']"
  assert reason(ValueError(text)) == 'No space left on device'
  spec = "DATA_LOSS: bad sum [tensorstore_spec='{...}'] [source locations='x']"
  assert reason(ValueError(spec)) == 'DATA_LOSS: bad sum'
  assert reason(ValueError('first\nsecond')) == 'first'
  assert reason(KeyError()) == 'KeyError'
  assert reason(ValueError('x' * 999 + 'end')).endswith('xend')
  assert len(reason(ValueError('x' * 999))) < 300
