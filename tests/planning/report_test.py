# SPDX-License-Identifier: Apache-2.0
"""The screen, its warnings and its advice, of plans that nothing was compiled
for: what a compiler might have said stands in the tests."""

import dataclasses
import functools
import io

import pytest
from rich.console import Console

from launch import pipeline
from rlhf.planning import (
    advice,
    compiled,
    cost,
    floors,
    hlo,
    plan,
    programs,
    report,
    topology,
    traffic,
    works,
)
from rlhf.planning.collectives import Collective, wire_bytes

GIB = 2**30


@functools.cache
def _mesh(name, **sizes):
  return topology.mesh(topology.parse(name), sizes)


def _collective(kind, axes, size, payload, count):
  return Collective(
      kind, axes, size, 'bf16', payload, wire_bytes(kind, payload, size), count,
      True, 'while/body/dot_general', 'x',
  )  # fmt: skip


def _program(config, call, mesh, *, gib=1.0, collectives=(), kernels=2):
  """As if the compiler had said so; it is out of memory without `collectives`.

  Args:
    config: of the run.
    call: of the program.
    mesh: of the program.
    gib: that it needs.
    collectives: None if it does not compile.
    kernels: Pallas's.
  """
  at = traffic.layout(mesh.shape, traffic.spreads(config))
  memory = analysis = None
  if collectives is not None:
    memory = compiled.Memory(0, 0, 0, 0, int(gib * GIB))
    calls = {'tpu_custom_call': kernels} if kernels else {}
    flops = cost.hardware_flops(call.works[0], 'xla') / at.devices
    analysis = hlo.Program(tuple(collectives), (), flops, calls, 0, 0)
  program = programs.Program(call, mesh, None, ((),), ())
  return plan.ProgramPlan(
      compiled=compiled.Compiled(program, memory, analysis, gib * GIB, 1.0),
      calls=call.per_step,
      layout=at,
      beside=2 * GIB,
      model_flops=1e15,
      hardware_flops=2e15,
      kernel_flops=0,
      wire=traffic.wire(call, at),
      floors=floors.Floors(2.0, 1.0, 0.5, 0.0),
  )


def _sft(*, rows=None, parts=1, data=1, fsdp=8, **changes):
  config = pipeline.load_config('configs/sft.py:1.3b')
  with config.unlocked():
    config.micro_batches = parts
    config.batch = rows or config.batch
  run = works.run_of(config)
  mesh = _mesh('v5e:2x4', data=data, fsdp=fsdp)
  formula = sum(traffic.wire(run.calls[0], traffic.layout(mesh.shape)).values())
  sent = _collective('all-gather', ('fsdp',), 8, formula * 8 / 7, 1)
  changes = {'collectives': (sent,)} | changes
  return plan.Plan(
      config=config,
      topology=topology.parse('v5e:2x4'),
      effort='default',
      run=run,
      mesh=dict(mesh.shape),
      programs=(_program(config, run.calls[0], mesh, **changes),),
      residents={'weights': 0.5 * GIB, 'optimizer': 1.5 * GIB},
  )


def _rollout(*, collectives=(), gib=1.0, rows=512, tensor=8):
  config = pipeline.load_config('configs/ppo_ptx.py:1.3b')
  with config.unlocked():
    config.reward_model = 'runs/6b/rm'
    config.ppo.rollout_rows, config.ppo.rollout_tensor = rows, tensor
  run = works.run_of(config)
  mesh = _mesh('v5p:2x2x2', data=8 // tensor, tensor=tensor)
  generate = _program(
      config, run.calls[0], mesh, gib=gib, collectives=collectives
  )
  program = dataclasses.replace(
      generate.compiled.program, args=({},), reads=()
  )
  generate = dataclasses.replace(
      generate, compiled=dataclasses.replace(generate.compiled, program=program)
  )
  return plan.Plan(
      config=config,
      topology=topology.parse('v5p:2x2x2'),
      effort='fast',
      run=run,
      mesh={'data': 1, 'fsdp': 8, 'tensor': 1, 'sequence': 1},
      programs=(generate,),
      residents={},
  )


def _screen(one, **kwargs):
  out = io.StringIO()
  Console(file=out, width=report.WIDTH).print(report.report(one, **kwargs))
  return out.getvalue()


# -- The screen ---------------------------------------------------------------


def test_a_plan_that_fits():
  screen = _screen(_sft(), price_per_chip_hour=1.5)
  text = ' '.join(screen.split())
  assert 'FITS 3.0 of 15.75 GiB a chip, in train' in text
  assert 'DOES NOT' not in text and 'WARNING' not in text
  assert 'Compiled, never run' in text
  # 6,363 steps of 2 s on 8 chips: 28.28 chip-hours.
  assert '28 chip-hours, 42 at 1.5 a chip-hour' in text
  assert '0.0525 petaflop/s-days' in text
  # 1e15 FLOPs in 2 s on 8 x 197e12.
  assert 'MFU at most 31.7%' in text
  assert max(map(len, screen.splitlines())) <= 100
  assert len(screen.splitlines()) <= 40


def test_a_plan_that_is_out_of_memory_is_bounded_by_the_formulas():
  one = _sft(gib=30.5, collectives=None)
  assert not one.fits and one.programs[0].compiled_wire is None
  assert one.wire_bytes() == sum(one.programs[0].wire.values())
  text = _screen(one)
  assert 'DOES NOT FIT  32.5 of 15.75 GiB' in text
  assert '--config.micro_batches=2' in text


def test_fast_compilation_is_said():
  assert 'memory is not final' in _screen(_rollout())


def test_memory_has_names_and_a_rest():
  one = _sft(gib=3.0)
  parts = plan.parts(one, one.programs[0])
  assert parts == {
      'weights': 0.5 * GIB, 'optimizer': 1.5 * GIB, plan.REST: 3 * GIB
  }


def test_what_lies_beside_a_program_counts():
  one = _sft(gib=14.0)
  assert one.hbm_bytes == 16 * GIB and not one.fits


# -- Warnings -----------------------------------------------------------------


def test_a_good_plan_has_no_warnings():
  assert advice.warnings(_sft()) == []


@pytest.mark.parametrize(
    'rows, parts, want',
    [
        # 2 rows a part for 8 copies; of 4 parts each has 8.
        (32, 16, 'Use --config.micro_batches=4'),
        (12, 1, 'a mesh whose data x fsdp divides 12'),
    ],
)
def test_rows_that_every_copy_would_compute(rows, parts, want):
  (warning,) = advice.warnings(_sft(rows=rows, parts=parts))
  assert 'every copy computes all' in warning and want in warning


def test_prompts_that_every_copy_would_answer():
  (warning,) = advice.warnings(_rollout(rows=4, tensor=1))
  assert '4 rows do not divide over 8 copies' in warning


def test_a_kernel_that_is_not_there():
  (warning,) = advice.warnings(_sft(kernels=0))
  assert 'no tpu_custom_call' in warning


def test_more_is_sent_than_the_formulas_say():
  formula = sum(_sft().programs[0].wire.values())
  wasted = _collective('all-gather', ('fsdp',), 8, formula, 2)
  (warning,) = advice.warnings(_sft(collectives=(wasted,)))
  assert '2 x all-gather along fsdp' in warning
  assert 'while/body/dot_general' in warning


def test_a_decoder_that_gathers_weights_each_token():
  table = 50_304 * 2048 * 2
  gather = _collective('all-gather', ('tensor',), 8, table, 1024)
  found = advice.warnings(_rollout(collectives=(gather,)))
  assert any('every token gathers 0.17 GiB' in text for text in found)
  once = dataclasses.replace(gather, count=1)
  assert advice.decode_gathers(_rollout(collectives=(once,)).programs[0]) == 0
  assert not any(
      'every token' in text
      for text in advice.warnings(_rollout(collectives=(once,)))
  )


def test_a_cache_that_is_padded():
  # 24 heads on 8 devices: 3 on each, 18 of 144 GiB (256 rows of 576 MiB).
  (warning,) = advice.warnings(_rollout(rows=256))
  assert '3 heads a device are stored as 8' in warning
  assert 'takes 2.67 times its 18.0 GiB' in warning


# -- Advice -------------------------------------------------------------------


def test_parts_are_advised_that_all_copies_share():
  flags = advice.advice(_sft(gib=30.0))
  assert flags[0].startswith('--config.micro_batches=2:')
  # At a row a copy rows are split instead.
  flags = advice.advice(_sft(gib=30.0, parts=4))
  assert not any('micro_batches' in flag for flag in flags)
  assert flags[0].startswith('--config.mesh.fsdp=4 --config.mesh.tensor=2:')


def test_a_larger_slice_is_advised():
  # 32 of 15.75 GiB: 2.03 times the chips, and the next slice has 32.
  assert advice.advice(_sft(gib=30.0))[-1] == '--topology=v5e:4x8: 32 chips'


def test_one_copy_is_advised_where_states_alone_are_too_much():
  one = _sft(gib=30.0, data=2, fsdp=4)
  one = dataclasses.replace(one, residents={'optimizer': 14.0 * GIB})
  flags = advice.advice(one)
  assert '--config.mesh.data=1 --config.mesh.fsdp=8' in flags[1]


def test_fewer_prompts_at_a_time_are_advised():
  flags = advice.advice(_rollout(gib=120.0))
  assert flags[0].startswith('--config.ppo.rollout_rows=256:')


def test_what_fits_needs_no_advice():
  assert advice.advice(_sft()) == []
