# SPDX-License-Identifier: Apache-2.0
"""What a compiled program does, from its text: collectives, loops, FLOPs.

XLA's own `cost_analysis()` counts the body of a loop once, however often it is
run: of a network that is a scan over layers it sees one layer. Here everything
is multiplied by the trips of the loops that it is in.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Mapping

import numpy as np

from rlhf.planning.collectives import Collective
from rlhf.planning.collectives import collectives as _collectives
from rlhf.planning.instructions import Array, Computation, Instruction, parse
from rlhf.planning.trip_counts import Loop, executions

# The compiler's "don't know", INT64_MAX.
_UNKNOWN_CYCLES = 2**63 - 1
_LABELS = re.compile(r'dim_labels=(\w+)_(\w+)->(\w+)')


@dataclasses.dataclass(frozen=True)
class Program:
  """One run of a compiled program, on one device of its mesh.

  Attributes:
    collectives: each once.
    loops: with their trips.
    flops: of matrix products and convolutions, 2 for a multiply and add, as
      this device does them: shards, rematerialisation and padding included,
      kernels (custom calls) and elementwise work not.
    custom_calls: instructions by target; a Pallas kernel is 'tpu_custom_call'.
    estimated_cycles: the compiler's own estimate (XLA:TPU's; 0 elsewhere),
      without communication and kernels. Never compared with a clock here.
    unknown_cycles: instructions that it made no estimate of.
  """

  collectives: tuple[Collective, ...]
  loops: tuple[Loop, ...]
  flops: float
  custom_calls: dict[str, int]
  estimated_cycles: int
  unknown_cycles: int

  @property
  def unknown_loops(self) -> tuple[Loop, ...]:
    """Loops whose trips can't be told: what is in them is counted once."""
    return tuple(loop for loop in self.loops if loop.trips is None)

  @property
  def bounded_loops(self) -> tuple[Loop, ...]:
    """Loops that may stop sooner than they were counted."""
    return tuple(
        loop for loop in self.loops if loop.trips is not None and not loop.exact
    )

  def wire_bytes(
      self, *, between_slices: bool | None = None
  ) -> dict[tuple[tuple[str, ...], str], float]:
    """Bytes that a device sends, by axes of the mesh and kind of collective.

    Args:
      between_slices: only those over the data center's network, or only the
        others; None: both.
    """
    totals: dict[tuple[tuple[str, ...], str], float] = {}
    for one in self.collectives:
      if between_slices not in (None, one.between_slices):
        continue
      key = (one.axes, one.kind)
      totals[key] = totals.get(key, 0.0) + one.total_wire_bytes
    return totals


def analyze(text: str, mesh: Mapping[str, int], slices: int = 1) -> Program:
  """Reads a program compiled by XLA for TPU or CPU.

  Args:
    text: `compiled.as_text()`.
    mesh: size of each axis, in order, of the mesh that it was compiled for
      (`mesh.shape`).
    slices: how many slices lie along its first axis (`topology.num_slices`).

  Raises:
    ValueError: if the text isn't a program's, or it is for another number of
      devices.
  """
  module = parse(text)
  found, loops = executions(module)
  flops, cycles, unknown = 0.0, 0, 0
  custom_calls: collections.Counter[str] = collections.Counter()
  for name, runs in found.items():
    computation = module.computations[name]
    for instruction in computation.instructions.values():
      flops += runs.count * _flops(instruction, computation)
      if instruction.opcode.removesuffix('-start') == 'custom-call':
        custom_calls[_target(instruction)] += 1
      # A fusion has an estimate; what it is made of would count twice.
      if not runs.fused:
        one = _cycles(instruction)
        known = one != _UNKNOWN_CYCLES
        cycles += runs.count * one if known else 0
        unknown += not known
  return Program(
      collectives=_collectives(module, found, mesh, slices),
      loops=tuple(loops),
      flops=flops,
      custom_calls=dict(custom_calls),
      estimated_cycles=cycles,
      unknown_cycles=unknown,
  )


def _target(instruction: Instruction) -> str:
  match = re.search(r'custom_call_target="(.*?)"', instruction.attributes)
  return match[1] if match else ''


def _cycles(instruction: Instruction) -> int:
  estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
  return int(estimate[1]) if estimate else 0


def _flops(instruction: Instruction, computation: Computation) -> float:
  """Of one run of a product; 0 of anything else."""
  if instruction.opcode not in ('dot', 'convolution'):
    return 0.0
  operands = [
      computation.instructions[name].arrays[0] for name in instruction.operands
  ]
  if instruction.opcode == 'dot':
    summed = instruction.numbers('lhs_contracting_dims')
    terms = math.prod(operands[0].shape[dim] for dim in summed)
    return 2.0 * instruction.arrays[0].elements * terms
  return _convolution_flops(instruction, operands[0], operands[1])


def _convolution_flops(
    instruction: Instruction, image: Array, kernel: Array
) -> float:
  """Of a convolution, which on TPUs most matrix products are.

  XLA:TPU writes the batch dimensions of a product as spatial ones, with strides
  and dilations such that nearly all that the window covers is padding. As XLA's
  own cost analysis does, only terms are counted that aren't padding:

    2 * batch * output features * input features * prod_d pairs_d

  pairs_d: how many (output, window) positions along d meet an element.
  """
  labels = _LABELS.search(instruction.attributes)
  if labels is None:
    return 0.0
  image_at, kernel_at, output_at = (
      dict(zip(text, array.shape, strict=True))
      for text, array in zip(
          labels.groups(),
          (image, kernel, instruction.arrays[0]),
          strict=True,
      )
  )
  batch_groups = re.search(r'batch_group_count=(\d+)', instruction.attributes)
  # The kernel's input features are those of one feature group already.
  terms = 2.0 * image_at['b'] * kernel_at['i'] * kernel_at['o']
  terms /= int(batch_groups[1]) if batch_groups else 1
  window = re.search(r'window=\{([^}]*)\}', instruction.attributes)
  settings = dict(
      part.split('=', 1) for part in (window[1] if window else '').split()
  )
  spatial = sorted(label for label in image_at if label.isdigit())
  for i, label in enumerate(spatial):

    def setting(name: str, i: int = i, default: str = '1') -> str:
      return settings[name].split('x')[i] if name in settings else default

    terms *= _pairs(
        image_at[label],
        kernel_at[label],
        output_at[label],
        int(setting('stride')),
        int(setting('pad', default='0_0').split('_')[0]),
        int(setting('lhs_dilate')),
        int(setting('rhs_dilate')),
    )
  return terms


@functools.cache
def _pairs(
    image: int,
    window: int,
    output: int,
    stride: int,
    padding: int,
    image_dilation: int,
    window_dilation: int,
) -> int:
  """(output, window) positions along a dimension that meet an element."""
  at = (
      np.arange(output)[:, None] * stride
      + np.arange(window)[None] * window_dilation
      - padding
  )
  inside = (at >= 0) & (at < image * image_dilation)
  return int((inside & (at % image_dilation == 0)).sum())
