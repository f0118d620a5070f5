# SPDX-License-Identifier: Apache-2.0
"""To a mesh and back, on one host or several; and where things lie on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf import sharding, update


def place(params: Any, mesh: Mesh) -> Any:
  """Host arrays on a mesh, spread out as weights are, on any host."""
  where = sharding.shardings(params, mesh)
  return jax.tree.map(
      lambda x, s: jax.make_array_from_callback(
          x.shape, s, lambda i: np.asarray(x)[i]
      ),
      params,
      where,
  )


def key(seed: int, mesh: Mesh) -> jax.Array:
  """A key as a stage makes its own."""
  where = sharding.replicated(mesh)
  return jax.jit(lambda: jax.random.key(seed), out_shardings=where)()


def put(batch: Any, mesh: Mesh, micro_batches: int = 1) -> Any:
  """A host batch on the mesh, of whose rows each copy has a share."""
  batch = update.split_batch(batch, micro_batches)
  placed = sharding.put_batch(batch, mesh, stacked=micro_batches > 1)
  assert_rows_are_split(placed, mesh, stacked=micro_batches > 1)
  return placed


def whole(tree: Any, mesh: Mesh) -> Any:
  """Numpy copies of whole arrays, by one program for all leaves.

  `sharding.fetch` has one for each, which spares memory and takes compiling.
  """
  if jax.process_count() > 1:
    where = sharding.replicated(mesh)
    tree = jax.jit(lambda x: x, out_shardings=where)(tree)
  return sharding.fetch(tree)


def assert_rows_are_split(
    batch: Any, mesh: Mesh, *, stacked: bool = False
) -> None:
  """Each copy of the model has an equal share of the rows."""
  copies = mesh.shape['data'] * mesh.shape['fsdp']
  axis = 1 if stacked else 0
  for x in jax.tree.leaves(batch):
    shape = list(x.shape)
    shape[axis] //= copies
    assert shape[axis] * copies == x.shape[axis]
    assert x.sharding.shard_shape(x.shape) == tuple(shape)


def assert_spread_out(
    tree: Any, mesh: Mesh, spread: tuple[str, ...] = sharding.SPREAD
) -> None:
  """Kernels, and moments and averages of them, lie in equal parts."""
  parts = int(np.prod([mesh.shape[axis] for axis in spread], dtype=int))
  seen = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = sharding.path_name(path)
    if leaf.ndim > 1 and ('kernel' in name or 'tokens/table' in name):
      sizes = {shard.data.size for shard in leaf.addressable_shards}
      assert sizes == {leaf.size // parts}, name
      seen += 1
  assert seen >= 7, seen
