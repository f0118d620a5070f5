# SPDX-License-Identifier: Apache-2.0
"""Fingerprints: by another way, under changes, and on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf.checkpoint.fingerprints import combined, fingerprints

_MASK = 2**32 - 1


def _mix(x, first, second, shifts):
  """fmix32 or lowbias32, in Python's unbounded integers."""
  a, b, c = shifts
  x = (x ^ (x >> a)) * first & _MASK
  x = (x ^ (x >> b)) * second & _MASK
  return x ^ (x >> c)


def _alone(array) -> str:
  """The fingerprint, word by word."""
  array = np.asarray(array)
  width = min(array.dtype.itemsize, 4)
  words = np.frombuffer(array.tobytes(), f'<u{width}').tolist()
  one = two = 0
  for i, word in enumerate(words, 1):
    one += _mix(
        (word + i * 0x9E3779B1) & _MASK, 0x85EBCA6B, 0xC2B2AE35, (16, 13, 16)
    )
    two += _mix(
        (word + i * 0xA3D95FA9) & _MASK, 0x7FEB352D, 0x846CA68B, (16, 15, 16)
    )
  return f'{one & _MASK:08x}{two & _MASK:08x}'


def _of(array) -> str:
  return fingerprints({'x': jnp.asarray(array)})['x']


@pytest.mark.parametrize(
    'dtype',
    'bool int8 uint8 int16 uint16 int32 uint32 float32 float16 bfloat16'
    ' float8_e4m3fn'.split(),
)
@pytest.mark.parametrize('shape', [(), (0, 3), (7,), (3, 5), (2, 3, 4)])
def test_it_is_the_sum_of_its_words(dtype, shape):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.integers(-9, 100, size=shape)).astype(dtype)
  assert _of(x) == _alone(x)


def test_64_bits_are_two_words():
  with jax.enable_x64(True):
    for x in (np.array([[1.5, -2.0]]), np.arange(-3, 3)):
      assert x.dtype.itemsize == 8
      assert _of(x) == _alone(x)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8', 'bool'])
def test_any_bit_that_turns_is_seen(dtype):
  x = np.asarray(jnp.arange(6).reshape(2, 3).astype(dtype))
  seen = {_of(x)}
  bits = 1 if dtype == 'bool' else 8 * x.dtype.itemsize
  for element in range(x.size):
    for bit in range(bits):
      raw = bytearray(x.tobytes())
      raw[element * x.dtype.itemsize + bit // 8] ^= 1 << bit % 8
      seen.add(_of(np.frombuffer(bytes(raw), x.dtype).reshape(x.shape)))
  assert len(seen) == 1 + x.size * bits


def test_signs_that_turn_together_are_seen():
  """Products with odd numbers would all change by the same 2^31."""
  x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
  assert len({_of(x), _of(-x), _of(np.abs(x))}) == 3


def test_order_and_zeros_are_seen():
  x = np.arange(12, dtype=np.int32).reshape(3, 4)
  different = [
      x, x[::-1], x[:, ::-1], np.roll(x, 1), x.T.copy().reshape(3, 4),
      np.zeros(12, np.int32), np.zeros(13, np.int32),
      np.array([0.0], np.float32), np.array([-0.0], np.float32),
  ]
  assert len({_of(x) for x in different}) == len(different)
  # Shape is not part of it.
  assert _of(x) == _of(x.reshape(12))


def test_a_dtype_without_words_is_named():
  with pytest.raises(TypeError, match='policy/phase: .* complex64'):
    fingerprints({'policy/phase': jnp.zeros(2, jnp.complex64)})
  assert fingerprints({}) == {}


_SPLIT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from rlhf import sharding
from rlhf.checkpoint import fingerprints

x = np.random.default_rng(0).normal(size=(8, 4, 16)).astype(np.float32)
y = x.astype('bfloat16')
arrays = {'x': jax.numpy.asarray(x), 'y': jax.numpy.asarray(y)}
print(fingerprints.fingerprints(arrays))
for sizes in (dict(data=8), dict(fsdp=4, tensor=2), dict(data=2, tensor=4)):
  mesh = sharding.make_mesh(sizes)
  for spec in (P(), P(('data', 'fsdp')), P(None, 'tensor', ('data', 'fsdp'))):
    put = lambda a: jax.device_put(a, NamedSharding(mesh, spec))
    arrays = {'x': put(x), 'y': put(y)}
    print(fingerprints.fingerprints(arrays))
sums = jax.jit(fingerprints._sums)
text = sums.lower((arrays['x'],)).compile().as_text()
print('all-gather' in text, 'all-reduce' in text)
"""


@pytest.mark.multi_device
def test_it_is_the_same_however_an_array_is_split(fresh_python):
  *lines, gathers = fresh_python(_SPLIT, devices=8).splitlines()
  assert len(lines) == 10 and len(set(lines)) == 1
  # Nothing is brought together but the sums.
  assert gathers == 'False True'


def test_one_fingerprint_for_many_arrays_knows_their_names():
  a, b = jnp.arange(3.0), jnp.arange(4)
  found = combined({'a': a, 'b': b})
  assert len(found) == 16 and found == combined({'b': b, 'a': a})
  others = {'a': b, 'b': a}, {'a': a, 'c': b}, {'a': a}, {'a': a + 1, 'b': b}
  assert len({found, *map(combined, others)}) == 5
