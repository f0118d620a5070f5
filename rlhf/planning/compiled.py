# SPDX-License-Identifier: Apache-2.0
"""One program, compiled and never run: what the compiler says of it."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator

import jax

from rlhf.planning import hlo
from rlhf.planning.programs import Program
from rlhf.planning.shapes import bytes_per_device

_SIZE = r'\(?([\d.]+)([KMGT]?)i?B?\)?'
# Of libtpu: `the total memory required for HLO temporaries (40.25G) exceeds
# available HBM (15.75G)`, arguments included; other versions print `Used
# 40.25G of 15.75G hbm`.
_OUT_OF_MEMORY = re.compile(
    rf'(?:total memory required[^(]*|Used ){_SIZE}(?: exceeds| of )', re.DOTALL
)
_UNITS = {unit: 1024**i for i, unit in enumerate(('', 'K', 'M', 'G', 'T'))}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device while a program runs.

  Attributes:
    arguments: arrays that it is given.
    outputs: that it returns, those included that take an argument's place.
    temporaries: of its own.
    aliased: outputs that take an argument's place.
    peak: most at one time, arguments included.
  """

  arguments: int
  outputs: int
  temporaries: int
  aliased: int
  peak: int


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a program.

  Attributes:
    program: it.
    memory: None if it needs more than there is.
    analysis: of its text, likewise.
    required_bytes: that it needs on a device: its peak, or what the compiler
      says it would take where that is too much.
    seconds: that compiling took, tracing and lowering included.
  """

  program: Program
  memory: Memory | None
  analysis: hlo.Program | None
  required_bytes: float
  seconds: float

  @property
  def fits(self) -> bool:
    """Alone on the device, whatever else lies there."""
    return self.memory is not None


@contextlib.contextmanager
def effort(level: str) -> Iterator[None]:
  """How hard the compiler tries, for what is compiled inside.

  Args:
    level: 'default', or 'fast': for tests, XLA's O0 for time and memory (and
      for CPUs next to no optimisation). The collectives are nearly the same;
      the memory that it finds is off by a few to thirty per cent.
  """
  if level not in ('default', 'fast'):
    raise ValueError(f'effort {level!r}: want default or fast')
  fast = {
      'jax_optimization_level': 'O0',
      'jax_memory_fitting_level': 'O0',
      'jax_disable_most_optimizations': True,
  }
  before = {name: jax.config.values[name] for name in fast}
  if level == 'fast':
    for name, value in fast.items():
      jax.config.update(name, value)
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def compile_program(program: Program) -> Compiled:
  """Compiles a program for the devices of its mesh.

  Raises:
    jax.errors.JaxRuntimeError: from the compiler, unless all that it lacks is
      memory.
  """
  start = time.monotonic()
  lowered = program.lower()
  try:
    executable = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    required = required_bytes(str(error))
    if required is None:
      raise
    seconds = time.monotonic() - start
    return Compiled(program, None, None, required, seconds)
  devices = program.mesh.devices.flat
  memory = _memory(executable, devices[0].platform)
  text = executable.as_text()
  assert text is not None, 'this compiler does not show its program'
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  analysis = hlo.analyze(text, dict(program.mesh.shape), slices)
  seconds = time.monotonic() - start
  return Compiled(program, memory, analysis, memory.peak, seconds)


def required_bytes(message: str) -> float | None:
  """What a program would take, from the error of one that takes too much.

  Returns:
    Bytes of a device; None if that is not what the error is about.
  """
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  match = _OUT_OF_MEMORY.search(message)
  return float(match[1]) * _UNITS[match[2]] if match else None


def argument_bytes(program: Program) -> int:
  """Of a program's arguments on one device, by their shapes alone."""
  return bytes_per_device(program.args)


def _memory(executable: jax.stages.Compiled, platform: str) -> Memory:
  found = executable.memory_analysis()
  assert found is not None, 'this compiler tells nothing about memory'
  peak = (
      found.argument_size_in_bytes
      + found.output_size_in_bytes
      - found.alias_size_in_bytes
      + found.temp_size_in_bytes
  )
  if platform == 'tpu':
    # Of temporaries the compiler adds up what never lives together: the policy
    # update of PPO-ptx 1.3B on 16 chips has 1.4 + 23.7 GiB on v5p, a peak of
    # 15.6, and is refused on v5e for needing 16.1. On CPUs the peak is not
    # that of one device.
    peak = found.peak_memory_in_bytes
  return Memory(
      arguments=found.argument_size_in_bytes,
      outputs=found.output_size_in_bytes,
      temporaries=found.temp_size_in_bytes,
      aliased=found.alias_size_in_bytes,
      peak=peak,
  )
