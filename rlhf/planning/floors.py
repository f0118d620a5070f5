# SPDX-License-Identifier: Apache-2.0
"""Seconds that a program can't be faster than, whatever the compiler does.

Four floors, each from what has to be done and a public peak: arithmetic, memory
traffic, links between chips, links between slices. A program takes at least the
largest of them; that they overlap perfectly, and that each runs at its peak, is
what makes it a bound and not a forecast.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping

from jax.sharding import Mesh

from rlhf.planning.topology import Topology

# On these sizes an axis of the torus has its last chip joined to its first.
_WRAPS = {'v5e': 16, 'v6e': 16}
_WRAPS_3D = 4


@dataclasses.dataclass(frozen=True)
class Floors:
  """Seconds of one call of a program.

  Attributes:
    compute: FLOPs of a device over its peak.
    hbm: bytes from and to its memory, over the memory's bandwidth.
    ici: bytes to other chips of the slice.
    dcn: bytes to other slices.
  """

  compute: float
  hbm: float
  ici: float
  dcn: float

  @property
  def seconds(self) -> float:
    return max(dataclasses.astuple(self))

  @property
  def binding(self) -> str:
    """The floor that is highest."""
    return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes that a device sends, among the devices along some axes of a mesh.

  Attributes:
    axes: of the mesh.
    group_size: devices that take part together.
    wire_bytes: sent by one of them.
    between_slices: whether they leave the slice; None: some may, see `split`.
  """

  axes: tuple[str, ...]
  group_size: int
  wire_bytes: float
  between_slices: bool | None = None


def floors(
    topology: Topology,
    mesh: Mesh,
    *,
    flops: float,
    hbm_bytes: float,
    traffic: Iterable[Traffic],
) -> Floors:
  """The floors of a program.

  Args:
    topology: of the mesh's devices.
    mesh: of the program.
    flops: of one device.
    hbm_bytes: of one device.
    traffic: of one device.
  """
  chip = topology.chip
  along = torus_axes(mesh)
  within: dict[frozenset[int], float] = {}
  between = 0.0
  for one in traffic:
    local, remote = split(one, topology.num_slices)
    between += remote
    used = frozenset[int]().union(*(along[axis] for axis in one.axes))
    within[used] = within.get(used, 0.0) + local
  per_chip = chip.devices_per_chip
  return Floors(
      compute=flops * per_chip / chip.peak_flops,
      hbm=hbm_bytes * per_chip / chip.hbm_bandwidth,
      ici=ici_seconds(within, link_bandwidths(topology)),
      # Of a chip's devices one at least goes over its link.
      dcn=between / chip.dcn_bandwidth,
  )


def split(traffic: Traffic, slices: int) -> tuple[float, float]:
  """Bytes that stay in a slice, and that leave it.

  Slices lie along `data`. Of g devices on s slices each slice reduces (or
  gathers) among its own g/s first, so that every byte leaves it once: a device
  sends its s/g of what a ring of s slices sends. In a ring, volume goes with
  (g-1)/g.
  """
  size, total = traffic.group_size, traffic.wire_bytes
  if traffic.between_slices is not None:
    return (0.0, total) if traffic.between_slices else (total, 0.0)
  if slices == 1 or 'data' not in traffic.axes or size < slices:
    return total, 0.0
  whole = total / ((size - 1) / size)
  inside = size // slices
  remote = whole * (slices - 1) / slices / inside
  return whole * (inside - 1) / inside, remote


def torus_axes(mesh: Mesh) -> dict[str, frozenset[int]]:
  """The axes of the torus along which each axis of the mesh runs.

  Of one slice, since all are alike. Fake CPU devices are all on one axis.
  """
  grid = mesh.devices
  found = {}
  for dim, axis in enumerate(mesh.axis_names):
    used = set()
    for index in itertools.product(
        *(range(size) if i == dim else (0, size - 1) if size > 1 else (0,)
          for i, size in enumerate(grid.shape))
    ):
      first = list(index)
      first[dim] = 0
      ours, theirs = _place(grid[index]), _place(grid[tuple(first)])
      pairs = enumerate(zip(ours, theirs, strict=True))
      used |= {i for i, (a, b) in pairs if a != b}
    found[axis] = frozenset(used)
  return found


def _place(device) -> tuple[int, ...]:
  """Coordinates of a device's chip in its slice."""
  return tuple(getattr(device, 'coords', (device.id,)))


def link_bandwidths(topology: Topology) -> tuple[float, ...]:
  """Bytes/s that a chip sends along each axis of the torus.

  Half where the axis does not wrap around: at its ends there is one link.
  """
  chip = topology.chip
  if chip.generation == 'cpu':
    return (chip.ici_bandwidth,)
  wraps = _WRAPS.get(chip.generation, _WRAPS_3D)
  return tuple(
      chip.ici_bandwidth * (1.0 if size % wraps == 0 else 0.5)
      for size in topology.shape
  )


def ici_seconds(
    within: Mapping[frozenset[int], float], bandwidths: tuple[float, ...]
) -> float:
  """The least time for bytes that may be spread over the links of some axes.

  Everything that runs along a set of axes has their links, and no others:

    max over sets U of axes: (sum of the bytes along axes in U) / (links of U)

  which is reached if all that shares an axis is spread over the axes that it
  has in the best way (Hall's condition, as for any such flow).

  Args:
    within: bytes by the axes of the torus that they may use.
    bandwidths: bytes/s along each axis of the torus.
  """
  axes = range(len(bandwidths))
  worst = 0.0
  for count in range(1, len(bandwidths) + 1):
    for chosen in itertools.combinations(axes, count):
      inside = math.fsum(
          size for used, size in within.items() if used and used <= set(chosen)
      )
      worst = max(worst, inside / math.fsum(bandwidths[i] for i in chosen))
  return worst
