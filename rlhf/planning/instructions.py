# SPDX-License-Identifier: Apache-2.0
"""The text of a compiled program (HLO) as computations and instructions.

    ENTRY %main (x: f32[8]) -> f32[8] {
      ROOT %sum = f32[8]{0} add(%x, %x), metadata={op_name="jit(f)/add"}
    }

The grammar is XLA's (openxla.org/xla/hlo_dumps); layouts, of which those of
TPUs are long (`{1,0:T(8,128)(2,1)S(1)}`), are passed over.
"""

import dataclasses
import math
import re
from typing import NamedTuple

_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,<=]*)\]')
_OPCODE = re.compile(r'\s*([a-z][\w\-]*)\(')
_REFERENCE = re.compile(r'%([\w.\-]+)')
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}


class Array(NamedTuple):
  """The type of one array."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def elements(self) -> int:
    return math.prod(self.shape)

  @property
  def bytes(self) -> float:
    # s32, bf16, f8e4m3fn, c64: the first number is of bits.
    digits = re.search(r'\d+', self.dtype)
    bits = _BITS.get(self.dtype, int(digits[0]) if digits else 0)
    return self.elements * bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line.

  Attributes:
    name: unique in its computation.
    opcode: 'add', 'all-gather-start', ...
    arrays: type of the result; of a tuple, the types of its leaves.
    operands: names of instructions of the same computation.
    argument: what stands in the parentheses: of a constant its value, of a
      parameter its number.
    attributes: what follows them.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  argument: str
  attributes: str

  def reference(self, attribute: str) -> str | None:
    """The computation that an attribute ('body', 'calls') names."""
    match = re.search(rf'\b{attribute}=%?([\w.\-]+)', self.attributes)
    return match[1] if match else None

  def references(self, attribute: str) -> list[str]:
    """The computations that an attribute lists: `called_computations={%a}`."""
    match = re.search(rf'\b{attribute}=\{{([^}}]*)\}}', self.attributes)
    return re.findall(r'[\w.\-]+', match[1]) if match else []

  def numbers(self, attribute: str) -> tuple[int, ...]:
    """The list that an attribute ('lhs_contracting_dims') is; empty if none."""
    match = re.search(rf'\b{attribute}=\{{([\d,]*)\}}', self.attributes)
    return tuple(int(n) for n in match[1].split(',') if n) if match else ()

  @property
  def op_name(self) -> str:
    """Where in the source it is from: 'jit(step)/while/body/dot_general'."""
    match = re.search(r'op_name="([^"]*)"', self.attributes)
    return match[1] if match else ''


@dataclasses.dataclass(frozen=True)
class Computation:
  """A named list of instructions, in the order of their execution."""

  name: str
  instructions: dict[str, Instruction]
  root: str


@dataclasses.dataclass(frozen=True)
class Module:
  """A program. `header` is the line that begins it."""

  header: str
  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """Reads `compiled.as_text()`.

  Raises:
    ValueError: if it isn't the text of a program.
  """
  computations: dict[str, Computation] = {}
  header = entry = name = root = ''
  instructions: dict[str, Instruction] = {}
  for line in text.splitlines():
    if line.startswith('HloModule'):
      header = line
    elif line.startswith('}'):
      computations[name] = Computation(name, instructions, root)
    elif opening := _HEADER.match(line):
      name, root, instructions = opening[2], '', {}
      entry = name if opening[1] else entry
    elif name and (start := _INSTRUCTION.match(line)):
      instruction = _instruction(start[2], line[start.end() :])
      instructions[instruction.name] = instruction
      root = instruction.name if start[1] else root
  if not entry:
    raise ValueError(
        'no ENTRY computation: want the text of a compiled program'
        ' (compiled.as_text())'
    )
  return Module(header, computations, entry)


def _instruction(name: str, text: str) -> Instruction:
  """Of what follows `%name = `."""
  end = _closing(text, 0) if text.startswith('(') else text.index(' ')
  arrays = tuple(
      Array(dtype, tuple(int(n.strip('<=')) for n in dims.split(',') if n))
      for dtype, dims in _ARRAY.findall(text[:end])
  )
  opcode = _OPCODE.match(text, end)
  if opcode is None:
    raise ValueError(f'not an instruction: %{name} = {text[:80]}')
  close = _closing(text, opcode.end() - 1)
  argument = text[opcode.end() : close - 1]
  return Instruction(
      name,
      opcode[1],
      arrays,
      tuple(_REFERENCE.findall(argument)),
      argument,
      text[close:],
  )


def _closing(text: str, start: int) -> int:
  """Index after the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.finditer(r'[()]', text[start:]):
    depth += 1 if match[0] == '(' else -1
    if not depth:
      return start + match.end()
  raise ValueError(f'parentheses do not close: {text[:80]}')
