# SPDX-License-Identifier: Apache-2.0
"""Which chips there are: public peaks, slices that are sold, their devices.

`v5p:4x4x4` is a slice of 64 TPU v5p chips, `2*v5p:4x4x4` two of them joined by
the data center's network, and `cpu:8` eight fake devices of this machine.
"""

import dataclasses
import functools
import importlib.util
import math
import re
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from rlhf import sharding

_GIB = 2**30
_TERA, _GIGA = 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator. What is public, and what libtpu enforces.

  Attributes:
    name: as people say it.
    generation: as a topology spells it.
    peak_flops: bf16 FLOP/s of a chip.
    hbm_bytes: memory as it is sold.
    hbm_limit_bytes: of which libtpu lets a program have this much; to compile
      one that needs more fails.
    hbm_bandwidth: bytes/s.
    ici_bandwidth: bytes/s that a chip can send to its neighbours in the slice
      along *one* axis of the torus: its two links there, each one way. What a
      ring along one axis gets; a collective that lies on k axes of the torus
      may get k times as much. Axes that don't wrap around (most of those
      shorter than 4, v5e's and v6e's shorter than 16) give half.
    ici_axes: of the torus; `ici_axes * ici_bandwidth` is all that a chip sends.
    dcn_bandwidth: bytes/s to other slices, a chip's share of its host's.
    devices_per_chip: that jax shows.
    max_chips: of one slice.
    nominal: the numbers are made up, to have something to divide by.
  """

  name: str
  generation: str
  peak_flops: float
  hbm_bytes: float
  hbm_limit_bytes: float
  hbm_bandwidth: float
  ici_bandwidth: float
  ici_axes: int
  dcn_bandwidth: float
  devices_per_chip: int
  max_chips: int
  nominal: bool = False


# Sources, read in 2026: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, whose
# tables give peak, memory, and bandwidth. ICI is in those of v5p, v6e and tpu7x
# "bidirectional, per chip", over all links: half of it is one way, and a third
# (3D torus) or half (2D) of that is one axis. v5p: 1200 GB/s -> 200. v6e: 800
# -> 200. tpu7x: 1200 -> 200. v5e: 1600 Gbit/s one way -> 100 GB/s. v4: six
# links of 50 GB/s (Jouppi et al. 2023, arXiv:2304.01433) -> 100.
# DCN: v5p and tpu7x say 50 and 100 Gbit/s a chip; v5e and v6e 6.4 and 25.6
# Tbit/s a pod of 256; of v4 nothing is said, v5p's is assumed.
# Limits: what libtpu 0.0.42 and 0.0.52 name in an out-of-memory error.
CHIPS = {
    chip.generation: chip
    for chip in (
        Chip(
            'TPU v4', 'v4', 275 * _TERA, 32 * _GIB, 30.75 * _GIB, 1200 * _GIGA,
            100 * _GIGA, 3, 6.25 * _GIGA, 1, 4096,
        ),
        Chip(
            'TPU v5e', 'v5e', 197 * _TERA, 16 * _GIB, 15.75 * _GIB,
            819 * _GIGA, 100 * _GIGA, 2, 3.125 * _GIGA, 1, 256,
        ),
        # Sold as 95 GiB; libtpu lets programs have a little more.
        Chip(
            'TPU v5p', 'v5p', 459 * _TERA, 95 * _GIB, 95.73 * _GIB,
            2765 * _GIGA, 200 * _GIGA, 3, 6.25 * _GIGA, 1, 6144,
        ),
        Chip(
            'TPU v6e', 'v6e', 918 * _TERA, 32 * _GIB, 31.24 * _GIB,
            1638 * _GIGA, 200 * _GIGA, 2, 12.5 * _GIGA, 1, 256,
        ),
        # Two devices a chip, each with half of everything.
        Chip(
            'TPU7x', 'tpu7x', 2307 * _TERA, 192 * _GIB, 2 * 94.74 * _GIB,
            7380 * _GIGA, 200 * _GIGA, 3, 12.5 * _GIGA, 2, 9216,
        ),
        # Nobody's peaks: so that ratios can be printed for a dry run.
        Chip(
            'CPU (nominal)', 'cpu', 0.1 * _TERA, 4 * _GIB, 4 * _GIB,
            10 * _GIGA, 1 * _GIGA, 1, 1 * _GIGA, 1, 1024, nominal=True,
        ),
    )
}  # fmt: skip

# Slices that are sold; libtpu compiles for any and does not know. Of v4, v5p
# and tpu7x larger ones can be had in more shapes than the tables name.
_2D = '2x2 2x4 4x4 4x8 8x8 8x16 16x16'
_3D = '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x12 8x8x16 8x16x16'
_SHAPES = {
    'v4': _3D,
    'v5e': _2D,
    'v5p': f'{_3D} 4x4x12 4x8x12 4x12x12 8x12x12 12x12x12 12x12x16 12x16x16'
    ' 16x16x16 16x16x24',
    'v6e': _2D,
    'tpu7x': f'{_3D} 16x16x16 16x16x36',
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips, and how they are joined.

  Attributes:
    name: as `parse` takes it.
    chip: what each is.
    shape: of one slice.
    chips: in all.
    devices: that jax shows, in all.
    hosts: in all: machines, each running one process.
    num_slices: joined by the data center's network.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]
  chips: int
  devices: int
  hosts: int
  num_slices: int = 1

  @property
  def hbm_limit_bytes(self) -> float:
    """Bytes that a program may use of one device."""
    return self.chip.hbm_limit_bytes / self.chip.devices_per_chip


def parse(name: str) -> Topology:
  """A topology by its name: `v5e:2x4`, `2*v5p:4x4x4`, `cpu:8`.

  Raises:
    ValueError: for a name that is not one (with the right spelling where it
      can be told), and for a slice that is not sold (with its neighbours).
  """
  match = re.fullmatch(r'(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)', name)
  if not match:
    raise ValueError(f'not a topology: {name!r}. {_suggestion(name)}')
  count, generation = int(match[1] or 1), match[2]
  shape = tuple(int(size) for size in match[3].split('x'))
  if generation not in CHIPS:
    raise ValueError(
        f'unknown chip {generation!r} in {name!r}: want one of'
        f' {", ".join(CHIPS)}'
    )
  chip, chips = CHIPS[generation], math.prod(shape)
  if count < 1 or chips < 1:
    raise ValueError(f'topology {name!r} has no chips')
  if generation == 'cpu':
    if count > 1 or len(shape) > 1:
      raise ValueError(f'fake CPU devices are only counted: cpu:{chips}')
    return Topology(name, chip, shape, chips, chips, 1)
  if shape not in shapes(generation):
    raise ValueError(
        f'no slice {match[3]} of {chip.name} is sold: the nearest are'
        f' {_nearest(generation, chips)}'
    )
  # Hosts have four chips, but for v5e's and v6e's single one of eight.
  hosts = 1 if shape == (2, 4) else max(chips // 4, 1)
  return Topology(
      name,
      chip,
      shape,
      count * chips,
      count * chips * chip.devices_per_chip,
      count * hosts,
      count,
  )


@functools.cache
def shapes(generation: str) -> tuple[tuple[int, ...], ...]:
  """The slices of a generation that are sold, from few chips to many.

  Raises:
    KeyError: for a generation that has none.
  """
  known = [
      tuple(int(size) for size in shape.split('x'))
      for shape in _SHAPES[generation].split()
  ]
  return tuple(sorted(known, key=lambda shape: (math.prod(shape), shape)))


def slices(generation: str) -> tuple[Topology, ...]:
  """One topology for each of `shapes`: candidates for the smallest that fits.

  Raises:
    KeyError: for a generation that has none.
  """
  return tuple(
      parse(f'{generation}:{_spelled(shape)}') for shape in shapes(generation)
  )


def devices(topology: Topology) -> list[Any]:
  """Devices to compile for. Those of a TPU can't be run on, nor hold arrays.

  Raises:
    RuntimeError: if libtpu isn't installed, or there are too few CPU devices.
  """
  # Late: nothing else here starts a backend.
  import jax
  from jax.experimental import topologies

  if topology.chip.generation == 'cpu':
    found = jax.devices('cpu')
    if len(found) < topology.devices:
      flag = f'--xla_force_host_platform_device_count={topology.devices}'
      raise RuntimeError(
          f'{topology.name} needs {topology.devices} CPU devices, there are'
          f' {len(found)}: set XLA_FLAGS={flag} before jax is imported'
      )
    return found[: topology.devices]
  if importlib.util.find_spec('libtpu') is None:
    raise RuntimeError(
        f'compiling for {topology.name} needs libtpu, which is not installed:'
        " pip install -e '.[plan]'"
    )
  options: dict[str, Any] = {}
  if topology.num_slices > 1:
    options['num_slices'] = topology.num_slices
  if topology.shape == (2, 4):
    options['chips_per_host_bounds'] = (2, 4, 1)
  if topology.chip.generation == 'v4':
    # A chip's two cores as the one device that they are by default on a pod.
    options['chip_config_name'] = 'megacore'
  described = topologies.get_topology_desc(
      platform='tpu',
      topology_name=f'{topology.chip.generation}:{_spelled(topology.shape)}',
      **options,
  )
  return list(described.devices)


def mesh(topology: Topology, sizes: Mapping[str, int]) -> Mesh:
  """The mesh that a run on this topology would make, by the same function.

  Args:
    topology: from `parse`; several slices lie along `data`.
    sizes: size of each axis of `sharding.AXES`; a missing one is 1, and one may
      be -1: all that is left.

  Raises:
    ValueError: for sizes that don't make up the devices, or that don't map to
      the axes of the torus.
    RuntimeError: as `devices`.
  """
  found = devices(topology)
  try:
    return sharding.make_mesh(sizes, found)
  except RuntimeError as error:
    # Jax's: "unimplemented", for axes that would have to share one of the
    # torus.
    raise ValueError(
        f'mesh {dict(sizes)} does not map to the torus of {topology.name}: each'
        ' axis should be a product of whole axes of the torus'
    ) from error


def _spelled(shape: tuple[int, ...]) -> str:
  return 'x'.join(str(size) for size in shape)


def _nearest(generation: str, chips: int) -> str:
  """The two sold slices closest in chips, as names."""
  closest = sorted(
      shapes(generation), key=lambda shape: abs(math.prod(shape) - chips)
  )[:2]
  return ' and '.join(
      f'{generation}:{_spelled(shape)} ({math.prod(shape)} chips)'
      for shape in sorted(closest, key=math.prod)
  )


def _suggestion(name: str) -> str:
  """What was meant by a product's name, or what a topology looks like."""
  example = 'Write v5e:2x4, v5p:4x4x4, 2*v5p:4x4x4 or cpu:8'
  product = re.fullmatch(r'(v\d\w*?|tpu7x)(?:litepod)?[-:](\d+)', name)
  if not product:
    return example
  generation, count = product[1], int(product[2])
  generation = {'v5': 'v5e', 'v5lite': 'v5e'}.get(generation, generation)
  if generation not in _SHAPES:
    return f'{example}; the chips are {", ".join(_SHAPES)}'
  # Products of v4, v5p and tpu7x count cores, two of them a chip.
  per_chip = 2 if len(shapes(generation)[0]) == 3 else 1
  chips = count // per_chip
  cores = f'{count} cores, ' if per_chip > 1 else ''
  counted = f'{cores}{chips} chips'
  fitting = [s for s in shapes(generation) if math.prod(s) == chips]
  if not fitting:
    return f'{counted}: the nearest are {_nearest(generation, chips)}'
  return f'{counted}: write {generation}:{_spelled(fitting[0])}'
