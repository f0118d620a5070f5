# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of arrays, where they lie.

A checkpoint keeps the fingerprint of each array, and whoever reads it back
computes them again: storage that loses or turns a bit is found out. They are
sums of integers modulo 2^32, which come out the same in any order, so the same
array has the same fingerprint on any number of devices and however it is split,
and no device sends more than two words for it.
"""

import hashlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rlhf import sharding

# Of each of the two sums: the odd number that spreads a word's position, and
# the rounds (shift, odd factor) of a mix. The first mix is MurmurHash3's
# fmix32, the second Wang and Ettinger's lowbias32.
_MIXES = (
    (0x9E3779B1, ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))),
    (0xA3D95FA9, ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1))),
)


def fingerprints(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
  """What each array holds, in 16 hexadecimal digits.

  Two sums of mix(word + position) over the words of an array. For each position
  the mix is one to one, so whatever happens to one word alone (a single bit,
  say) changes the fingerprint; anything else goes unseen with a probability of
  about 2^-64. (Of words that are only multiplied, by odd numbers that depend on
  the position, two signs turned at once would go unseen: each adds 2^31.)

  All hosts have to call it, and get the same. Names, shapes and dtypes are not
  part of it.

  Args:
    arrays: of any shape and of a boolean, integer or floating dtype of up to
      64 bits; all on one mesh, or on one device.

  Raises:
    TypeError: naming an array of another dtype.
  """
  if not arrays:
    return {}
  for name, array in arrays.items():
    kinds = jnp.bool_, jnp.integer, jnp.floating
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
      raise TypeError(f'{name}: no fingerprint of a {array.dtype}')
  meshes = filter(None, map(sharding.mesh_of, arrays.values()))
  mesh = next(meshes, None)
  where = None if mesh is None else sharding.replicated(mesh)
  sums = jax.jit(_sums, out_shardings=where)(tuple(arrays.values()))
  pairs = sharding.fetch(sums).tolist()
  return {
      name: f'{first:08x}{second:08x}'
      for name, (first, second) in zip(arrays, pairs, strict=True)
  }


def combined(arrays: Mapping[str, jax.Array]) -> str:
  """One fingerprint for all of some arrays and their names, 16 digits."""
  found = sorted(fingerprints(arrays).items())
  return hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


def _sums(arrays: tuple[jax.Array, ...]) -> jax.Array:
  """The two sums of each array, uint32 [arrays, 2]."""
  rows = []
  for array in arrays:
    words = _words(array)
    position = _position(words.shape)
    rows.append([_sum(words, position, *mix) for mix in _MIXES])
  return jnp.array(rows, jnp.uint32)


def _sum(words, position, spread, rounds):
  # Added, not multiplied: the mix of the word itself must stay one to one.
  x = words + (position + 1) * np.uint32(spread)
  for shift, factor in rounds:
    x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
  return jnp.sum(x, dtype=jnp.uint32)


def _words(array: jax.Array) -> jax.Array:
  """Each element's bits in a uint32, or in two on a last axis of their own."""
  if array.dtype == jnp.bool_:
    return array.astype(jnp.uint32)
  bits = jnp.finfo if jnp.issubdtype(array.dtype, jnp.floating) else jnp.iinfo
  if bits(array.dtype).bits >= 32:
    return jax.lax.bitcast_convert_type(array, jnp.uint32)
  narrow = jnp.dtype(f'uint{bits(array.dtype).bits}')
  return jax.lax.bitcast_convert_type(array, narrow).astype(jnp.uint32)


def _position(shape: tuple[int, ...]) -> jax.Array:
  """The index in row-major order, modulo 2^32, uint32 of this shape.

  From the index along each axis, so that each device counts its own part; a
  reshape would bring the array together first.
  """
  position, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    position += index * np.uint32(stride % 2**32)
    stride *= shape[axis]
  return position
