# SPDX-License-Identifier: Apache-2.0
"""Collectives of a compiled program: axes of the mesh they run on, and bytes.

Bytes on the wire are what one device sends (and receives) if the collective is
done in a ring of g devices, which no algorithm beats in volume: (g-1)/g of the
whole array for an all-gather or a reduce-scatter, twice that for an all-reduce
(Thakur, Rabenseifner and Gropp 2005).

On several slices the program is that of one slice, whose devices it numbers. To
the others it sends by the hosts' network, and notes what is made of it there.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from rlhf.planning.instructions import Computation, Instruction, Module
from rlhf.planning.trip_counts import Executions

KINDS = (
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)
# [groups, devices of a group] as a transposed range: [8,2]<=[2,8]T(1,0).
_IOTA = re.compile(r'\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?')
_MESH = re.compile(
    r'replica_groups=@?mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}'
)
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_AXIS = re.compile(r"'([^']+)'=(\d+)")
# 'fsdp', or part of an axis: 'fsdp':(2)4 is 4 of it, after the major 2.
_USED = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One, however many instructions it is spread over.

  Attributes:
    kind: of `KINDS`.
    axes: of the mesh, along which the devices of a group differ; a group that
      is part of an axis has that axis.
    group_size: devices that take part together.
    dtype: of the largest array, where it combines several.
    payload_bytes: of an all-gather its result, of the others their operand:
      the whole that a group works on; for a permutation, what one sends.
    wire_bytes: that a device sends each time.
    count: times in one run of the program.
    in_loop: whether it is inside a loop.
    op_name: where in the source it is from; empty if the compiler dropped it.
    name: its instruction.
    between_slices: over the data center's network: axes are that along which
      slices lie, the group is the slices.
  """

  kind: str
  axes: tuple[str, ...]
  group_size: int
  dtype: str
  payload_bytes: float
  wire_bytes: float
  count: int
  in_loop: bool
  op_name: str
  name: str
  between_slices: bool = False

  @property
  def total_wire_bytes(self) -> float:
    """That a device sends in one run of the program."""
    return self.count * self.wire_bytes


def collectives(
    module: Module,
    found: Mapping[str, Executions],
    mesh: Mapping[str, int],
    slices: int = 1,
) -> tuple[Collective, ...]:
  """Every collective that is run, once each, in the order of the text.

  Args:
    module: the program.
    found: how often each computation is run.
    mesh: size of each axis, in order.
    slices: how many lie along the first axis.

  Raises:
    ValueError: if the program is for another number of devices.
  """
  outer = next(iter(mesh), '')
  local = dict(mesh)
  if slices > 1:
    local[outer] //= slices
  size = math.prod(local.values())
  told = re.search(r'num_partitions=(\d+)', module.header)
  partitions = int(told[1]) if told else 1
  if partitions != size:
    raise ValueError(
        f'the program is for {partitions} devices, mesh {dict(mesh)} on'
        f' {slices} slices has {size} each'
    )
  counted: list[Collective] = []
  started: set[str] = set()
  # Of an asynchronous one whose start isn't seen: by channel.
  unseen: dict[str, Collective] = {}
  for name, computation in module.computations.items():
    runs = found.get(name)
    if runs is None or not runs.count:
      continue
    for instruction in computation.instructions.values():
      sent = _TRANSFER.search(instruction.attributes)
      if sent and instruction.opcode == 'send':
        counted.append(
            _transfer(instruction, computation, runs, outer, slices, sent[1])
        )
      if instruction.opcode.removesuffix('-start') not in KINDS:
        continue
      one = _collective(instruction, computation, runs, local)
      # XLA:TPU repeats an asynchronous collective in each fusion that starts
      # it, goes on with it beside a product, or ends it: it is done as often as
      # it is started. (Channels don't tell copies from others: the copy of an
      # iteration that is peeled off a loop has its channel, and so have some
      # that have nothing to do with each other.)
      channel = re.search(r'channel_id=(\d+)', instruction.attributes)
      if 'async_collective_fusion_config' not in instruction.attributes:
        counted.append(one)
      elif _starts(instruction, computation):
        counted.append(one)
        started.add(channel[1] if channel else '')
      else:
        key = channel[1] if channel else ''
        unseen[key] = min(unseen.get(key, one), one, key=lambda c: c.count)
  counted += [one for key, one in unseen.items() if key not in started]
  return tuple(counted)


def _starts(instruction: Instruction, computation: Computation) -> bool:
  return any(
      '"AsyncCollectiveStart"' in user.attributes
      and instruction.name in user.operands
      for user in computation.instructions.values()
  )


def _collective(
    instruction: Instruction,
    computation: Computation,
    runs: Executions,
    mesh: Mapping[str, int],
) -> Collective:
  kind = instruction.opcode.removesuffix('-start')
  # XLA:TPU's reduce-scatter: an all-reduce of which a device keeps its part.
  if kind == 'all-reduce' and 'all-reduce-scatter' in computation.name:
    kind = 'reduce-scatter'
  # Operands, because the result of a start is a tuple of all sorts of things.
  arrays = [
      array
      for operand in instruction.operands
      for array in computation.instructions[operand].arrays
  ]
  if kind == 'ragged-all-to-all':
    arrays = arrays[:1]  # Then: the buffer to write to, offsets and sizes.
  payload = sum(array.bytes for array in arrays)
  groups = device_groups(instruction.attributes, mesh)
  axes = axes_of(groups, mesh)
  if kind == 'collective-permute':
    group = math.prod(mesh[axis] for axis in axes)
  else:
    group = groups.shape[1]
  if kind == 'all-gather':
    payload *= group
  largest = max(arrays, key=lambda array: array.bytes, default=None)
  return Collective(
      kind=kind,
      axes=axes,
      group_size=group,
      dtype=largest.dtype if largest else '',
      payload_bytes=payload,
      wire_bytes=wire_bytes(kind, payload, group),
      count=runs.count,
      in_loop=runs.in_loop,
      op_name=instruction.op_name,
      name=instruction.name,
  )


def _transfer(
    instruction: Instruction,
    computation: Computation,
    runs: Executions,
    axis: str,
    slices: int,
    transfer: str,
) -> Collective:
  """What a device sends to those in its place in the other slices."""
  kind = transfer.lower().replace('_', '-')
  kind = kind if kind in KINDS else 'collective-permute'
  array = computation.instructions[instruction.operands[0]].arrays[0]
  payload = array.bytes * (slices if kind == 'all-gather' else 1)
  return Collective(
      kind=kind,
      axes=(axis,),
      group_size=slices,
      dtype=array.dtype,
      payload_bytes=payload,
      wire_bytes=wire_bytes(kind, payload, slices),
      count=runs.count,
      in_loop=runs.in_loop,
      op_name=instruction.op_name,
      name=instruction.name,
      between_slices=True,
  )


def wire_bytes(kind: str, payload_bytes: float, group_size: int) -> float:
  """Bytes that a device sends in one collective done in a ring.

  Args:
    kind: of `KINDS`.
    payload_bytes: as in `Collective`.
    group_size: devices that take part together.
  """
  if group_size == 1:
    return 0.0
  if kind in ('collective-permute', 'collective-broadcast'):
    return payload_bytes
  once = payload_bytes * (group_size - 1) / group_size
  return 2 * once if kind == 'all-reduce' else once


def device_groups(attributes: str, mesh: Mapping[str, int]) -> np.ndarray:
  """Which devices take part together, from any form that XLA prints.

  Args:
    attributes: of the instruction.
    mesh: size of each axis, in order: how many devices there are.

  Returns:
    int [groups, devices of a group]: positions in the mesh, in its order. Of a
    permutation: [pairs, 2], source and target.

  Raises:
    ValueError: for a form that isn't known.
  """
  if pairs := re.search(r'source_target_pairs=\{(.*?)\}(?:,? |$)', attributes):
    return _lists(pairs[1])
  if used := _MESH.search(attributes):
    return _mesh_groups(*used.groups())
  listed = re.search(r'replica_groups=\{((?:\{[\d,]*\},?)*)\}', attributes)
  if listed:
    if not listed[1]:
      return np.arange(math.prod(mesh.values()))[None]
    return _lists(listed[1])
  iota = re.search(r'replica_groups=(\[\S+)', attributes)
  if iota and (match := _IOTA.match(iota[1])):
    return _iota(match)
  raise ValueError(f'replica groups of an unknown form: {attributes[:200]}')


def axes_of(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
  """The axes of the mesh along which the devices of a group differ.

  Args:
    groups: int [groups, devices of a group], positions in the mesh.
    mesh: size of each axis, in order.
  """
  coordinates = np.unravel_index(groups, tuple(mesh.values()))
  return tuple(
      axis
      for axis, along in zip(mesh, coordinates, strict=True)
      if (along != along[:, :1]).any()
  )


def _integers(text: str) -> list[int]:
  return [int(number) for number in text.split(',') if number]


def _lists(text: str) -> np.ndarray:
  """Of `{0,1},{2,3}`. Groups are all of a size."""
  return np.array([_integers(g) for g in re.findall(r'\{([\d,]*)\}', text)])


def _iota(match: re.Match) -> np.ndarray:
  shape, source = _integers(match[1]), _integers(match[2] or match[1])
  devices = np.arange(math.prod(source)).reshape(source)
  if match[3]:
    devices = devices.transpose(_integers(match[3]))
  return devices.reshape(shape)


def _mesh_groups(axes: str, order: str | None, used: str) -> np.ndarray:
  """Of `mesh['x'=2,'y'=4] {'y'}`, where the names are XLA's own."""
  # Axes of which a part is used are split in up to three.
  sizes = {name: [int(size)] for name, size in _AXIS.findall(axes)}
  wanted: list[tuple[str, int]] = []
  for name, major, size in _USED.findall(used):
    if size:
      whole = math.prod(sizes[name])
      before, part = int(major), int(size)
      sizes[name] = [before, part, whole // (before * part)]
    wanted.append((name, 1 if size else 0))
  split = [(name, i) for name in sizes for i in range(len(sizes[name]))]
  shape = [sizes[name][i] for name, i in split]
  devices = np.arange(math.prod(shape))
  if order:
    match = _IOTA.match(order)
    # ([4,16]T(1,0)): the range is laid out as [4,16] before it is transposed.
    devices = _iota(match) if match else np.array(_integers(order))
  last = [split.index(axis) for axis in wanted]
  rest = [i for i in range(len(split)) if i not in last]
  group = math.prod(shape[i] for i in last)
  return devices.reshape(shape).transpose(rest + last).reshape(-1, group)
