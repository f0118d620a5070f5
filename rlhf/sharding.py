# SPDX-License-Identifier: Apache-2.0
"""The mesh, one ordered table from parameter path to axes, and batch specs."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# `data`: copies of the model. `fsdp`: copies that share the storage of the
# weights. `tensor`: one layer's products split over devices.
AXES = ('data', 'fsdp', 'tensor')
BATCH = P(('data', 'fsdp'))

# First match wins; searched anywhere in the path, so that the optimizer's
# moments and the EMA follow the parameters they belong to.
RULES: tuple[tuple[str, P], ...] = (
    (r'embed/tokens/table$', P('tensor', 'fsdp')),
    (r'embed/positions/table$', P(None, 'fsdp')),
    (r'attention/(query|key|value)/kernel$', P(None, 'fsdp', 'tensor', None)),
    (r'attention/(query|key|value)/bias$', P(None, 'tensor', None)),
    (r'attention/out/kernel$', P(None, 'tensor', None, 'fsdp')),
    (r'attention/out/bias$', P()),
    (r'mlp/up/kernel$', P(None, 'fsdp', 'tensor')),
    (r'mlp/up/bias$', P(None, 'tensor')),
    (r'mlp/down/kernel$', P(None, 'tensor', 'fsdp')),
    (r'mlp/down/bias$', P()),
    (r'_norm/(scale|bias)$', P()),
    (r'scalar_head/', P()),
)


def make_mesh(sizes: Mapping[str, int], devices=None) -> Mesh:
  """A mesh of the axes `AXES`.

  Args:
    sizes: size of each axis; a missing one is 1, and one may be -1: all that
      is left.
    devices: by default all.

  Raises:
    ValueError: for an unknown axis, or sizes that don't make up the devices.
  """
  devices = jax.devices() if devices is None else devices
  unknown = sorted(set(sizes) - set(AXES))
  if unknown:
    raise ValueError(f'mesh has no axis {unknown[0]!r}: want some of {AXES}')
  shape = [sizes.get(axis, 1) for axis in AXES]
  if shape.count(-1) == 1:
    rest = -int(np.prod(shape))
    shape[shape.index(-1)] = max(len(devices) // rest, 1)
  if min(shape) < 1 or int(np.prod(shape)) != len(devices):
    raise ValueError(
        f'mesh {dict(sizes)} does not divide {len(devices)} devices: the'
        f' product of {AXES} must be their number'
    )
  # Auto: the compiler propagates; make_mesh's own default is Explicit.
  return jax.make_mesh(
      tuple(shape), AXES, devices=devices, axis_types=(AxisType.Auto,) * 3
  )


def path_name(path: tuple[Any, ...]) -> str:
  """'embed/tokens/table' for a key path of jax.tree_util."""
  parts = []
  for entry in path:
    for field in ('key', 'name', 'idx'):
      if hasattr(entry, field):
        parts.append(str(getattr(entry, field)))
        break
  return '/'.join(parts)


def spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """Where a leaf goes. An axis that does not divide its dimension is dropped.

  Raises:
    ValueError: if a leaf of rank 1 or more matches no rule.
  """
  if not shape:
    return P()
  for pattern, axes in RULES:
    if re.search(pattern, name):
      kept = [
          axis if axis and size % mesh.shape[axis] == 0 else None
          for axis, size in zip(axes, shape, strict=False)
      ]
      return P(*kept)
  raise ValueError(f'no sharding rule for {name!r}: add one to RULES')


def shardings(tree: Any, mesh: Mesh) -> Any:
  """`NamedSharding` of every leaf of a parameter, optimizer or state tree."""
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: NamedSharding(
          mesh, spec(path_name(path), leaf.shape, mesh)
      ),
      tree,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Leading axis over `data` and `fsdp`."""
  return NamedSharding(mesh, BATCH)


def put_batch(batch: Any, mesh: Mesh, *, stacked: bool = False) -> Any:
  """Places a host batch on the mesh, its batch axis over `data` and `fsdp`.

  Args:
    batch: pytree of arrays. Leaves whose batch axis does not divide are
      replicated (the last, short batch of an evaluation).
    mesh: from `make_mesh`.
    stacked: the batch axis is the second: axis 0 counts micro-batches.
  """
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  axis = 1 if stacked else 0

  def put(x):
    if x.ndim <= axis or x.shape[axis] % shards:
      return jax.device_put(x, replicated(mesh))
    batch_spec = P(*([None] * axis), ('data', 'fsdp'))
    return jax.device_put(x, NamedSharding(mesh, batch_spec))

  return jax.tree.map(put, batch)
