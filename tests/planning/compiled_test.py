# SPDX-License-Identifier: Apache-2.0
"""What a compiler says of a program, and how it says that there is no room."""

import jax
import jax.numpy as jnp
import pytest

from rlhf import sharding
from rlhf.planning import compiled, programs, topology, works

GIB = 2**30


@pytest.mark.parametrize(
    'message, want',
    [
        (
            'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: the total memory'
            ' required for HLO temporaries (16.00G) exceeds available HBM'
            ' (15.75G).',
            16 * GIB,
        ),
        (
            'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used'
            ' 1.50T of 95.74G hbm.',
            1.5 * 1024 * GIB,
        ),
        ('INTERNAL: total memory required (16.00G) exceeds', None),
        ('RESOURCE_EXHAUSTED: too many files', None),
    ],
)
def test_what_an_error_says_that_it_takes(message, want):
  assert compiled.required_bytes(message) == want


def _square(name, width):
  mesh = topology.mesh(topology.parse(name), {'fsdp': -1})
  x = jax.ShapeDtypeStruct(
      (width, width), jnp.float32, sharding=sharding.replicated(mesh)
  )
  jitted = jax.jit(lambda x: (x @ x) @ x.T, out_shardings=x.sharding)
  return programs.Program(works.Call('square', ()), mesh, jitted, (x,), ())


def test_a_program_that_does_not_fit_is_an_answer():
  """For a real chip (needs libtpu)."""
  with compiled.effort('fast'):
    found = compiled.compile_program(_square('v5e:2x2', 60_000))
  assert not found.fits and found.analysis is None
  # Argument, product and result: 3 x 13.4 GiB.
  assert found.required_bytes == pytest.approx(40.2 * GIB, rel=0.01)


def test_a_program_that_fits():
  program = _square('cpu:1', 500)
  with compiled.effort('fast'):
    found = compiled.compile_program(program)
  assert found.memory is not None and found.analysis is not None
  assert found.memory.arguments == compiled.argument_bytes(program) == 10**6
  assert found.required_bytes == found.memory.peak >= 3 * 10**6
  assert found.analysis.flops == 2 * 2 * 500**3


def test_effort_is_of_what_is_inside():
  name = 'jax_optimization_level'
  before = jax.config.values[name]
  with compiled.effort('fast'):
    assert jax.config.values[name] != before
  assert jax.config.values[name] == before
  with pytest.raises(ValueError, match='want default or fast'):
    with compiled.effort('some'):
      pass
