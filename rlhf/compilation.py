# SPDX-License-Identifier: Apache-2.0
"""Compiling a run's programs before its first step.

So a program that does not compile, or not into the memory there is, stops a run
before it has read, sampled or scored anything; and no step's time has a
compilation in it. What is compiled is what the first call would have compiled,
and jax keeps it for that call.
"""

import time
from typing import Any

import jax

from rlhf import hosts
from rlhf.watching.display import say

# Seconds that other hosts may take longer to compile a program.
_PATIENCE = 1800.0
# Seconds under which a compilation is not worth a line.
_QUIET = 5.0


def ahead(name: str, jitted: Any, *args: Any) -> Any:
  """Compiles `jitted` for arguments like these, and says what it took.

  Args:
    name: of the program, for the reader.
    jitted: from `jax.jit`.
    *args: arrays, or shapes with their shardings.

  Returns:
    Shapes of the outputs with their shardings: arguments for the programs that
    come after it.
  """
  start = time.monotonic()
  lowered = jitted.lower(*args)
  compiled = lowered.compile()
  seconds = time.monotonic() - start
  # One host may have it from its cache and another not; in the first step the
  # one would wait for the other in a collective, which is less patient.
  hosts.barrier(f'{name} is compiled', seconds=_PATIENCE)
  if seconds > _QUIET:
    say(f'{name}: compiled in {seconds:.0f} s{_memory(compiled)}')
  return jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      lowered.out_info,
      compiled.output_shardings,
  )


def _memory(compiled) -> str:
  """', 3.2 GiB a device' where the compiler tells."""
  analysis = compiled.memory_analysis()
  if analysis is None:
    return ''
  taken = (
      analysis.argument_size_in_bytes
      + analysis.temp_size_in_bytes
      + analysis.output_size_in_bytes
      - analysis.alias_size_in_bytes
  )
  return f', {taken / 2**30:.1f} GiB a device'
