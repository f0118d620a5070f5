# SPDX-License-Identifier: Apache-2.0
"""The mesh, and two ordered tables: where weights lie, where activations do.

  data       copies of the model, each with rows of its own; slices of a pod
             that are joined by a network lie on it
  fsdp       copies that share the storage of the weights
  tensor     one layer's products split over devices
  sequence   the tokens of a row split over devices

Tensors carry the dimension letters of rlhf/dims.py. A mesh axis that does not
divide a dimension is moved or dropped, never padded, so that the same program
runs on one device and on a pod.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ('data', 'fsdp', 'tensor', 'sequence')
# Rows of a batch are split over copies of the model.
ROWS = ('data', 'fsdp')
# Copies that share the storage of weights: those of `sequence` would otherwise
# hold the same ones.
STORE = ('fsdp', 'sequence')
# What weights are spread over in training. A network may have its own choice:
# the rollout's weights lie on ('tensor',) alone, so that no token gathers them.
SPREAD = ('fsdp', 'tensor', 'sequence')

# First match wins; searched anywhere in the path, so that the optimizer's
# moments and the EMA follow the parameters they belong to.
RULES: tuple[tuple[str, P], ...] = (
    (r'embed/tokens/table$', P('tensor', STORE)),
    (r'embed/positions/table$', P(None, STORE)),
    (r'attention/(query|key|value)/kernel$', P(None, STORE, 'tensor', None)),
    (r'attention/(query|key|value)/bias$', P(None, 'tensor', None)),
    (r'attention/out/kernel$', P(None, 'tensor', None, STORE)),
    (r'attention/out/bias$', P()),
    (r'mlp/up/kernel$', P(None, STORE, 'tensor')),
    (r'mlp/up/bias$', P(None, 'tensor')),
    (r'mlp/down/kernel$', P(None, 'tensor', STORE)),
    (r'mlp/down/bias$', P()),
    (r'_norm/(scale|bias)$', P()),
    (r'scalar_head/', P()),
)

# Where activations are pinned; between these places the compiler chooses.
ACTIVATIONS: dict[str, P] = {
    # Between blocks `tensor` splits tokens too: nothing is stored twice
    # (Korthikanti et al. 2022).
    'residual_BTD': P(ROWS, ('sequence', 'tensor'), None),
    # Into a block's products, and into the heads.
    'hidden_BTD': P(ROWS, 'sequence', None),
    'queries_BTHE': P(ROWS, 'sequence', 'tensor', None),
    # A token looks at the keys of the whole row.
    'keys_BSHE': P(ROWS, None, 'tensor', None),
    'mlp_BTF': P(ROWS, 'sequence', 'tensor'),
    'logits_BTV': P(ROWS, 'sequence', 'tensor'),
    'logits_BV': P(ROWS, 'tensor'),
    # The same with the rows cut into shares G, one for each copy of the model.
    'hidden_GBTD': P(ROWS, None, 'sequence', None),
    'logits_GBTV': P(ROWS, None, 'sequence', 'tensor'),
    # For a draw each device has whole rows of a share of the batch.
    'draw_BV': P(('data', 'fsdp', 'tensor'), None),
    'cache_NBSHE': P(None, ROWS, None, 'tensor', None),
    # The token table as the head uses it: gathered from storage once.
    'table_VD': P('tensor', None),
    'tables_GVD': P(ROWS, 'tensor', None),
}


def make_mesh(sizes: Mapping[str, int], devices: Any = None) -> Mesh:
  """A mesh of the axes `AXES`.

  Args:
    sizes: size of each axis; a missing one is 1, and one may be -1: all that
      is left.
    devices: by default all. TPU slices of their own (`slice_index`) are laid
      along `data`.

  Raises:
    ValueError: for an unknown axis, or sizes that don't make up the devices.
  """
  devices = jax.devices() if devices is None else list(devices)
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
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if shape[0] % slices:
    raise ValueError(
        f'mesh.data={shape[0]} on {slices} slices: slices are joined along'
        f' `data`, so it must be a multiple of {slices}'
    )
  # Splitting an axis of the torus is slower than not; it happens only where the
  # mesh fits in no other way (8 x 8 on 4x4x4).
  split = dict(allow_split_physical_axes=True)
  if slices > 1:
    grid = mesh_utils.create_hybrid_device_mesh(
        (shape[0] // slices, *shape[1:]), (slices, 1, 1, 1), devices, **split
    )
  else:
    grid = mesh_utils.create_device_mesh(shape, devices, **split)
  # Auto: the compiler propagates.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def rollout_mesh(mesh: Mesh, tensor: int = 0) -> Mesh:
  """The same devices for decoding: whole copies, each over `tensor` devices.

  Args:
    mesh: of the training.
    tensor: devices that share one copy of the weights; 0: as many as in
      training.

  Raises:
    ValueError: if it does not divide the devices.
  """
  tensor = tensor or mesh.shape['tensor']
  if mesh.size % tensor:
    raise ValueError(
        f'ppo.rollout_tensor={tensor} does not divide {mesh.size} devices'
    )
  # Neighbours stay neighbours, and the order of devices is kept, so that one
  # program can take arrays of both meshes.
  grid = mesh.devices.reshape(mesh.size // tensor, 1, tensor, 1)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def path_name(path: tuple[Any, ...]) -> str:
  """'embed/tokens/table' for a key path of jax.tree_util."""
  parts = []
  for entry in path:
    for field in ('key', 'name', 'idx'):
      if hasattr(entry, field):
        parts.append(str(getattr(entry, field)))
        break
  return '/'.join(parts)


def spec(
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh,
    spread: Sequence[str] = SPREAD,
) -> P:
  """Where a leaf goes.

  An axis that doesn't divide its dimension moves to one that it divides, the
  largest free one or else one that is split already (never that of the layers,
  which are scanned), or is dropped. (13B needs it: 5140 = 4 x 5 x 257 wide.)

  Args:
    name: path of the leaf.
    shape: its shape.
    mesh: has `AXES`.
    spread: the mesh axes that may be used; it is copied over the others.

  Raises:
    ValueError: if a leaf of rank 1 or more matches no rule.
  """
  if not shape:
    return P()
  rule = next((r for pattern, r in RULES if re.search(pattern, name)), None)
  if rule is None:
    raise ValueError(f'no sharding rule for {name!r}: add one to RULES')
  kept: list[tuple[str, ...]] = [()] * len(shape)
  homeless = []
  for dim, entry in enumerate(rule):
    for axis in _axes(entry):
      if axis not in spread or mesh.shape[axis] == 1:
        continue
      if _divides((*kept[dim], axis), shape[dim], mesh):
        kept[dim] += (axis,)
      else:
        homeless.append(axis)
  first = 1 if 'layers/' in name else 0
  for axis in homeless:
    homes = [
        dim
        for dim in range(first, len(shape))
        if _divides((*kept[dim], axis), shape[dim], mesh)
    ]
    if homes:
      # Better alone than beside another axis.
      home = max(homes, key=lambda dim: (not kept[dim], shape[dim]))
      kept[home] += (axis,)
  return P(*[_entry(axes) for axes in kept])


def shardings(
    tree: Any, mesh: Mesh, spread: Sequence[str] = SPREAD
) -> Any:
  """`NamedSharding` of every leaf of a parameter, optimizer or state tree."""
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: NamedSharding(
          mesh, spec(path_name(path), leaf.shape, mesh, spread)
      ),
      tree,
  )


def under(mesh: Mesh, function: Callable) -> Callable:
  """`function`, traced so that `constrain` sees the mesh. To be jitted."""

  def traced(*args, **kwargs):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  # The program's name in profiles and logs; a partial has none.
  traced.__name__ = getattr(function, 'func', function).__name__
  return traced


def constrain(x: jax.Array, place: str) -> jax.Array:
  """Pins an activation to where `ACTIVATIONS` puts it; a no-op off a mesh.

  Args:
    x: of the rank that `place` spells.
    place: key of `ACTIVATIONS`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  entries = []
  for size, entry in zip(x.shape, ACTIVATIONS[place], strict=True):
    axes = tuple(a for a in _axes(entry) if mesh.shape[a] > 1)
    while not _divides(axes, size, mesh):
      axes = axes[:-1]
    entries.append(_entry(axes))
  return jax.lax.with_sharding_constraint(x, P(*entries))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def move(x: jax.Array, source: str, target: str) -> jax.Array:
  """Brings an activation from one place to another, its gradient back.

  Two constraints would pin the gradient to `target` as well: sums over devices
  would be sent whole to all of them (all-reduce) and not in parts
  (reduce-scatter), and a norm before it be computed everywhere.

  Args:
    x: lies at `source`.
    source, target: keys of `ACTIVATIONS`.
  """
  return constrain(constrain(x, source), target)


def _move_forward(x, source, target):
  return move(x, source, target), None


def _move_backward(source, target, _, gradient):
  del target
  return (constrain(gradient, source),)


move.defvjp(_move_forward, _move_backward)


def constrain_rows(batch: Any, *, stacked: bool = False) -> Any:
  """Pins the rows of a batch to where `put_batch` would put them."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return batch
  return jax.tree.map(
      lambda x: jax.lax.with_sharding_constraint(
          x, batch_spec(x.shape, mesh, stacked=stacked)
      ),
      batch,
  )


def everywhere(x: jax.Array) -> jax.Array:
  """Copies `x` to each device of the mesh; a no-op off a mesh.

  A key needs it that was made on another mesh of the same devices: jax 0.10
  draws nothing where meshes are mixed.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, P())


def mesh_of(tree: Any) -> Mesh | None:
  """The mesh that a tree of arrays lies on; None if it is on none."""
  where = getattr(jax.tree.leaves(tree)[0], 'sharding', None)
  mesh = where.mesh if isinstance(where, NamedSharding) else None
  return mesh if isinstance(mesh, Mesh) else None


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def put_batch(batch: Any, mesh: Mesh, *, stacked: bool = False) -> Any:
  """Places a host batch on the mesh, its rows over `data` and `fsdp`.

  Every process has a batch of the global shape, and sends its own devices
  theirs: it is asked for no rows but those of `hosts.local_rows`.

  Args:
    batch: pytree of arrays. Leaves whose batch axis does not divide are
      replicated (the last, short batch of an evaluation).
    mesh: from `make_mesh`.
    stacked: the batch axis is the second: axis 0 counts micro-batches.
  """

  def put(x):
    where = batch_sharding(x.shape, mesh, stacked=stacked)
    if where.is_fully_addressable:
      return jax.device_put(x, where)
    return jax.make_array_from_callback(x.shape, where, lambda i: x[i])

  return jax.tree.map(put, batch)


def batch_sharding(
    shape: tuple[int, ...], mesh: Mesh, *, stacked: bool = False
) -> NamedSharding:
  """Where a batch's leaf of this shape lies."""
  return NamedSharding(mesh, batch_spec(shape, mesh, stacked=stacked))


def batch_spec(shape: tuple[int, ...], mesh: Any, *, stacked: bool) -> P:
  """The spec of `batch_sharding`."""
  axis = 1 if stacked else 0
  if len(shape) <= axis or not _divides(ROWS, shape[axis], mesh):
    return P()
  return P(*[None] * axis, ROWS)


def row_shares(rows: int) -> int:
  """Into how many shares the mesh splits a batch of `rows` rows; 1 off one."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or not _divides(ROWS, rows, mesh):
    return 1
  return mesh.shape['data'] * mesh.shape['fsdp']


def batch_axes(rows: int, mesh: Any) -> tuple[str, ...] | None:
  """The mesh axes that split a batch of `rows` rows; None if they don't."""
  return ROWS if _divides(ROWS, rows, mesh) else None


def fetch(tree: Any) -> Any:
  """Numpy copies of global arrays, whole, in every process.

  Every process has to call it: parts that lie with others are sent.
  """

  def get(x):
    if not isinstance(x, jax.Array):
      return x
    if x.is_fully_addressable or x.is_fully_replicated:
      return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(get, tree)


def _axes(entry: Any) -> tuple[str, ...]:
  """An entry of a spec as a tuple."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def _entry(axes: tuple[str, ...]) -> Any:
  """A tuple of axes as an entry of a spec."""
  if not axes:
    return None
  return axes[0] if len(axes) == 1 else axes


def _divides(axes: Sequence[str], size: int, mesh: Any) -> bool:
  return size % int(np.prod([mesh.shape[a] for a in axes], dtype=int)) == 0
