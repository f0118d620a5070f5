# SPDX-License-Identifier: Apache-2.0
"""How often each part of a compiled program is run.

XLA:CPU notes the trip count of a loop that it knows; XLA:TPU does not, so it is
worked out as XLA does it: from the comparison in the loop's condition, and the
step and the start of the counter that is compared. An integer is followed back
through copies, tuples and fusions to a constant, or to a constant plus an
element of a loop's state.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

from rlhf.planning.instructions import Computation, Instruction, Module

# The value of the result is that of the first operand.
_COPIES = (
    'bitcast', 'broadcast', 'convert', 'copy', 'copy-done', 'copy-start',
    'opt-barrier', 'reshape',
)  # fmt: skip
_MIRRORED = {'LT': 'GT', 'GT': 'LT', 'LE': 'GE', 'GE': 'LE', 'NE': 'NE'}


@dataclasses.dataclass(frozen=True)
class Loop:
  """A while loop.

  Attributes:
    name: its instruction.
    op_name: where in the source it is from.
    trips: iterations each time it is reached; None if they can't be told.
    exact: False if it may stop sooner (a decoder that ends when all rows have),
      or the count was not to be told.
  """

  name: str
  op_name: str
  trips: int | None
  exact: bool


@dataclasses.dataclass
class Executions:
  """Of one computation.

  Attributes:
    count: runs of it in one run of the program; loops whose trips can't be told
      count once.
    in_loop: whether any of them is in a loop.
    fused: it is the inside of a fusion, which is scheduled as one instruction,
      or of what another core does meanwhile.
  """

  count: int = 0
  in_loop: bool = False
  fused: bool = False


@dataclasses.dataclass(frozen=True)
class _Scope:
  """A computation where it is run: what its parameters stand for.

  Attributes:
    computation: whose names are meant.
    arguments: of a fusion or a call: scope and name of each parameter.
    loop: of a loop's body or condition: the scope of the loop, and the loop.
    symbolic: of a body: its parameters stand for themselves.
  """

  computation: Computation
  arguments: tuple[tuple['_Scope', str], ...] = ()
  loop: 'tuple[_Scope, Instruction] | None' = None
  symbolic: bool = False


@dataclasses.dataclass(frozen=True)
class _Integer:
  """`offset`, plus element `counter[1]` of the state of loop `counter[0]`."""

  offset: int
  counter: tuple[str, int] | None = None


def executions(module: Module) -> tuple[dict[str, Executions], list[Loop]]:
  """How often each computation is run, and the loops.

  Branches of a conditional are each counted as if they were taken. What reduces
  and sorts apply to elements is left out.
  """
  return _Walk(module).result()


class _Walk:
  """Follows the program from its entry into everything that it runs."""

  def __init__(self, module: Module):
    self._module = module
    self._found: dict[str, Executions] = {}
    self._loops: dict[str, Loop] = {}

  def result(self) -> tuple[dict[str, Executions], list[Loop]]:
    entry = self._module.computations[self._module.entry]
    self._visit(_Scope(entry), 1, in_loop=False, fused=False)
    return self._found, list(self._loops.values())

  def _visit(
      self, scope: _Scope, count: int, *, in_loop: bool, fused: bool
  ) -> None:
    found = self._found.setdefault(scope.computation.name, Executions())
    found.count += count
    found.in_loop |= in_loop
    found.fused |= fused
    for instruction in scope.computation.instructions.values():
      if instruction.opcode == 'while':
        loop = self._loop(scope, instruction)
        trips = 1 if loop.trips is None else loop.trips
        # The condition is looked at once more than it holds.
        for part, times in (('body', trips), ('condition', trips + 1)):
          inner = _Scope(
              self._named(instruction, part), loop=(scope, instruction)
          )
          self._visit(inner, count * times, in_loop=True, fused=fused)
        continue
      # What runs beside (a SparseCore) adds nothing to the time of this.
      inside = fused or instruction.opcode not in ('call', 'conditional')
      for inner in self._called(scope, instruction):
        self._visit(inner, count, in_loop=in_loop, fused=inside)

  def _named(self, instruction: Instruction, attribute: str) -> Computation:
    name = instruction.reference(attribute)
    if name is None or name not in self._module.computations:
      raise ValueError(f'%{instruction.name} has no {attribute}=')
    return self._module.computations[name]

  def _called(
      self, scope: _Scope, instruction: Instruction
  ) -> Iterator[_Scope]:
    """Computations that an instruction other than a loop runs once."""
    # Asynchronous calls and fusions are as others are, started and awaited.
    opcode = instruction.opcode.removesuffix('-start')
    if opcode in ('fusion', 'async'):
      yield self._inner(scope, instruction, 'calls')
    elif opcode == 'call':
      yield self._inner(scope, instruction, 'to_apply')
    elif opcode == 'conditional':
      branches = re.findall(
          r'(?:true|false)_computation=%?([\w.\-]+)', instruction.attributes
      ) or instruction.references('branch_computations')
      for branch, operand in zip(
          branches, instruction.operands[1:], strict=True
      ):
        yield _Scope(self._module.computations[branch], ((scope, operand),))
    elif opcode == 'custom-call':
      # Collectives that a SparseCore does.
      for name in instruction.references('called_computations'):
        yield _Scope(self._module.computations[name])

  def _inner(
      self, scope: _Scope, instruction: Instruction, attribute: str
  ) -> _Scope:
    arguments = tuple((scope, name) for name in instruction.operands)
    return _Scope(self._named(instruction, attribute), arguments)

  def _loop(self, scope: _Scope, loop: Instruction) -> Loop:
    """Trips of a loop, as few as its known bounds allow."""
    noted = re.search(r'"known_trip_count":(\{[^}]*\})', loop.attributes)
    if noted:
      trips, exact = int(json.loads(noted[1])['n']), True
    else:
      condition = _Scope(self._named(loop, 'condition'), loop=(scope, loop))
      parts = list(self._conjuncts(condition, condition.computation.root))
      bounds = [self._bound(scope, loop, part) for part in parts]
      known = [bound for bound in bounds if bound is not None]
      trips = min(known) if known else None
      exact = len(bounds) == 1 and trips is not None
    found = Loop(loop.name, loop.op_name, trips, exact)
    self._loops.setdefault(loop.name, found)
    return found

  def _conjuncts(
      self, scope: _Scope, name: str
  ) -> Iterator[tuple[_Scope, Instruction]]:
    """`a` and `b` of a condition `a and b`, where they are computed."""
    instruction = scope.computation.instructions[name]
    if instruction.opcode == 'and':
      for operand in instruction.operands:
        yield from self._conjuncts(scope, operand)
    elif instruction.opcode in _COPIES:
      yield from self._conjuncts(scope, instruction.operands[0])
    elif instruction.opcode in ('fusion', 'call'):
      (inner,) = self._called(scope, instruction)
      yield from self._conjuncts(inner, inner.computation.root)
    elif instruction.opcode == 'parameter' and scope.arguments:
      yield from self._conjuncts(*scope.arguments[int(instruction.argument)])
    else:
      yield scope, instruction

  def _bound(
      self,
      scope: _Scope,
      loop: Instruction,
      condition: tuple[_Scope, Instruction],
  ) -> int | None:
    """Trips after which `counter < limit` no longer holds."""
    where, compare = condition
    if compare.opcode != 'compare':
      return None
    direction = re.search(r'direction=(\w+)', compare.attributes)
    sides = [self._integer(where, name) for name in compare.operands]
    left, right = sides
    if direction is None or left is None or right is None:
      return None
    towards = direction[1]
    if left.counter is None:
      left, right, towards = right, left, _MIRRORED.get(towards, '')
    if left.counter is None or right.counter or left.counter[0] != loop.name:
      return None
    element = left.counter[1]
    body = _Scope(
        self._named(loop, 'body'), loop=(scope, loop), symbolic=True
    )
    step = self._integer(body, body.computation.root, element)
    start = self._integer(scope, loop.operands[0], element)
    if step is None or step.counter != left.counter:
      return None
    if start is None or start.counter:
      return None
    distance = right.offset - left.offset - start.offset
    return _trips(distance, step.offset, towards)

  def _integer(
      self, scope: _Scope, name: str, element: int | None = None
  ) -> _Integer | None:
    """Value of an instruction, or of an element of the tuple that it is."""
    instruction = scope.computation.instructions[name]
    opcode, operands = instruction.opcode, instruction.operands
    if opcode == 'constant':
      digits = re.fullmatch(r'-?\d+', instruction.argument)
      return _Integer(int(digits[0])) if digits else None
    if opcode in _COPIES:
      return self._integer(scope, operands[0], element)
    if opcode == 'get-tuple-element':
      index = re.search(r'index=(\d+)', instruction.attributes)
      return index and self._integer(scope, operands[0], int(index[1]))
    if opcode == 'tuple' and element is not None:
      return self._integer(scope, operands[element])
    if opcode in ('add', 'subtract'):
      left, right = (self._integer(scope, operand) for operand in operands)
      return _sum(left, right, 1 if opcode == 'add' else -1)
    if opcode in ('fusion', 'call'):
      (inner,) = self._called(scope, instruction)
      return self._integer(inner, inner.computation.root, element)
    if opcode == 'while' and element is not None:
      return self._carried(scope, instruction, element)
    if opcode == 'parameter':
      if scope.arguments:
        outer, operand = scope.arguments[int(instruction.argument)]
        return self._integer(outer, operand, element)
      if scope.loop and element is not None:
        outer, loop = scope.loop
        itself = _Integer(0, (loop.name, element))
        if scope.symbolic:
          return itself
        return self._carried(outer, loop, element) or itself
    return None

  def _carried(
      self, scope: _Scope, loop: Instruction, element: int
  ) -> _Integer | None:
    """An element of a loop's state, if the loop leaves it as it is."""
    body = _Scope(
        self._named(loop, 'body'), loop=(scope, loop), symbolic=True
    )
    after = self._integer(body, body.computation.root, element)
    if after != _Integer(0, (loop.name, element)):
      return None
    return self._integer(scope, loop.operands[0], element)


def _sum(
    left: _Integer | None, right: _Integer | None, sign: int
) -> _Integer | None:
  if left is None or right is None or (left.counter and right.counter):
    return None
  if right.counter and sign < 0:
    return None
  return _Integer(
      left.offset + sign * right.offset, left.counter or right.counter
  )


def _trips(distance: int, step: int, direction: str) -> int | None:
  """Iterations until a counter that has `distance` to go has gone it."""
  if direction in ('GT', 'GE'):
    distance, step = -distance, -step
    direction = _MIRRORED[direction]
  if direction == 'NE' and step and distance % step == 0:
    # Passing the limit by would take until the counter wraps around.
    return distance // step if distance // step >= 0 else None
  if direction not in ('LT', 'LE') or step <= 0:
    return None
  if direction == 'LE':
    distance += 1
  return max(math.ceil(distance / step), 0)
