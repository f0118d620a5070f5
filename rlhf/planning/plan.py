# SPDX-License-Identifier: Apache-2.0
"""A run on chips that nobody has yet: does it fit, and how fast can it be.

Its own programs (rlhf/planning/programs.py) are compiled and never run. Memory
and collectives are the compiler's; FLOPs, bytes of memory traffic and floors
are arithmetic. All bytes and floors are of one device unless they say chip.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from rlhf import model
from rlhf.planning import compiled as compiled_lib
from rlhf.planning import cost, traffic, works
from rlhf.planning import floors as floors_lib
from rlhf.planning import programs as programs_lib
from rlhf.planning.shapes import bytes_per_device
from rlhf.planning.topology import Topology
from rlhf.planning.topology import mesh as mesh_of
from rlhf.stages import setup

Config = Any
GIB = 2**30
# What is left of a program's memory when all that has a name is taken off.
REST = 'activations, gradients, other'


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
  """A program of a run.

  Attributes:
    compiled: what the compiler says of it.
    calls: in a training step; in an iteration of PPO.
    layout: of its mesh.
    beside: bytes of residents that lie in memory while it runs, unread.
    model_flops: over all devices.
    hardware_flops: likewise, that it can't do without.
    kernel_flops: of them, those that custom calls do, which are not counted in
      the program's text.
    wire: what a device sends, by the formulas.
    floors: seconds of one call.
  """

  compiled: compiled_lib.Compiled
  calls: int
  layout: traffic.Layout
  beside: float
  model_flops: float
  hardware_flops: float
  kernel_flops: float
  wire: traffic.Wire
  floors: floors_lib.Floors

  @property
  def name(self) -> str:
    return self.compiled.program.name

  @property
  def works(self) -> tuple[works.Work, ...]:
    return self.compiled.program.call.works

  @property
  def hbm_bytes(self) -> float:
    """That it needs of a device, with what lies beside it."""
    return self.compiled.required_bytes + self.beside

  @property
  def compiled_flops(self) -> float | None:
    """Of all devices, custom calls excepted; None if it did not compile."""
    analysis = self.compiled.analysis
    return analysis.flops * self.layout.devices if analysis else None

  @property
  def compiled_wire(self) -> dict[tuple[tuple[str, ...], str], float] | None:
    """Bytes by axes and kind; None if it did not compile."""
    analysis = self.compiled.analysis
    return analysis.wire_bytes() if analysis else None

  @property
  def wire_bytes(self) -> float:
    """As compiled; by the formulas if it did not compile."""
    found = self.compiled_wire
    return sum((self.wire if found is None else found).values())


@dataclasses.dataclass(frozen=True)
class Plan:
  """A config on a topology.

  Attributes:
    config: of the run.
    topology: chips.
    effort: that the compiler made.
    run: what is computed.
    mesh: sizes of its axes.
    programs: in the order of a step.
    residents: bytes, by name, of what always lies in memory.
  """

  config: Config
  topology: Topology
  effort: str
  run: works.Run
  mesh: dict[str, int]
  programs: tuple[ProgramPlan, ...]
  residents: dict[str, float]

  @property
  def tightest(self) -> ProgramPlan:
    """The program that needs most memory."""
    return max(self.programs, key=lambda program: program.hbm_bytes)

  @property
  def hbm_bytes(self) -> float:
    return self.tightest.hbm_bytes

  @property
  def fits(self) -> bool:
    return all(p.compiled.fits for p in self.programs) and (
        self.hbm_bytes <= self.topology.hbm_limit_bytes
    )

  @property
  def step_seconds(self) -> float:
    """A bound from below: programs run one after the other."""
    return sum(p.calls * p.floors.seconds for p in self.programs)

  @property
  def model_flops(self) -> float:
    """Of a step, over all devices."""
    return sum(p.calls * p.model_flops for p in self.programs)

  @property
  def mfu(self) -> float:
    """From above: the share of the chips' peak that is the model's FLOPs."""
    peak = self.topology.chips * self.topology.chip.peak_flops
    return self.model_flops / (peak * self.step_seconds)

  @property
  def chip_hours(self) -> float:
    """Of the whole run, from below."""
    seconds = self.run.steps * self.step_seconds
    return self.topology.chips * seconds / 3600

  def wire_bytes(self) -> float:
    """That a device sends in a step."""
    return sum(p.calls * p.wire_bytes for p in self.programs)


def make(
    config: Config,
    topology: Topology,
    *,
    effort: str = 'default',
    stop_if_full: bool = False,
    on_program: Callable[[str], None] = lambda name: None,
) -> Plan:
  """Compiles all programs of a config, one after the other.

  Args:
    config: of a stage that trains.
    topology: to compile for.
    effort: see `compiled.effort`.
    stop_if_full: leave out what comes after a program that does not fit.
    on_program: called with each program's name before it is compiled.

  Raises:
    ValueError: for numbers that don't fit together.
    RuntimeError: if there is no compiler for the topology.
  """
  mesh = mesh_of(topology, config.mesh)
  built = programs_lib.build(config, mesh)
  residents = {
      name: float(bytes_per_device(tree))
      for name, tree in built.residents.items()
  }
  done = []
  with compiled_lib.effort(effort):
    for program in built.programs:
      on_program(program.name)
      found = compiled_lib.compile_program(program)
      done.append(_program_plan(config, topology, residents, found))
      full = done[-1].hbm_bytes > topology.hbm_limit_bytes
      if stop_if_full and (full or not found.fits):
        break
  return Plan(
      config=config,
      topology=topology,
      effort=effort,
      run=built.run,
      mesh=dict(mesh.shape),
      programs=tuple(done),
      residents=residents,
  )


def _program_plan(config, topology, residents, found) -> ProgramPlan:
  program = found.program
  call, mesh = program.call, program.mesh
  at = traffic.layout(mesh.shape, traffic.spreads(config))
  if call.works:
    ema = config.stage == 'ppo' and config.ppo.ema_decay is not None
    wire, hbm = traffic.wire(call, at), traffic.hbm(call, at, ema=ema)
  else:
    policy = works.networks(config)['policy']
    # Its program is for the training's mesh, its result on the rollout's.
    tensor = config.ppo.rollout_tensor or at.tensor
    wire = traffic.lay_out_wire(policy, at, tensor)
    hbm = traffic.lay_out_hbm(policy, at, tensor)
  kernels = [
      model.choose_kernel(work.cfg, mesh, setup.row_lengths(config)).kernel
      for work in call.works
  ]
  pairs = list(zip(call.works, kernels, strict=True))
  hardware = sum(cost.hardware_flops(*pair) for pair in pairs)
  kernel_flops = sum(cost.kernel_flops(*pair) for pair in pairs)
  flops = hardware / at.devices
  if found.analysis is None:
    sent = [
        floors_lib.Traffic(axes, at.size(axes), size)
        for axes, size in wire.items()
    ]
  else:
    sent = [
        floors_lib.Traffic(
            one.axes,
            one.group_size,
            one.total_wire_bytes,
            one.between_slices,
        )
        for one in found.analysis.collectives
    ]
    # What it does, where that is more than it must: rows that don't divide.
    flops = max(flops, found.analysis.flops + kernel_flops / at.devices)
  return ProgramPlan(
      compiled=found,
      calls=call.per_step,
      layout=at,
      beside=sum(
          size for name, size in residents.items() if name not in program.reads
      ),
      model_flops=sum(cost.model_flops(work) for work in call.works),
      hardware_flops=hardware,
      kernel_flops=kernel_flops,
      wire=wire,
      floors=floors_lib.floors(
          topology, mesh, flops=flops, hbm_bytes=hbm, traffic=sent
      ),
  )


# -- As numbers ---------------------------------------------------------------


def parts(plan: Plan, program: ProgramPlan) -> dict[str, float]:
  """Bytes of a device while a program runs, by what they are for."""
  result = {name: float(size) for name, size in plan.residents.items()}
  arguments = program.compiled.program.args
  if program.name == 'generate':
    weights = bytes_per_device(arguments[0])
    result['rollout weights'] = float(weights)
    result['cache'] = traffic.cache_bytes(program.works[0], program.layout)
  rest = program.hbm_bytes - sum(result.values())
  if program.name == 'lay_out' and program.compiled.memory:
    result['rollout weights'] = float(program.compiled.memory.outputs)
    rest -= result['rollout weights']
  return result | {REST: max(rest, 0.0)}


def as_json(plan: Plan, price_per_chip_hour: float | None = None) -> dict:
  """The plan as numbers; every name says its unit. Bytes are of a chip."""
  topology = plan.topology
  per_chip = topology.chip.devices_per_chip / GIB
  total = {
      'compiled_never_run': True,
      'stage': plan.run.stage,
      'topology': topology.name,
      'chips': topology.chips,
      'mesh': plan.mesh,
      'effort': plan.effort,
      'fits': plan.fits,
      'hbm_gib_per_chip': plan.hbm_bytes * per_chip,
      'hbm_limit_gib': topology.chip.hbm_limit_bytes / GIB,
      'hbm_parts_gib_per_chip': {
          name: size * per_chip
          for name, size in parts(plan, plan.tightest).items()
      },
      'tightest_program': plan.tightest.name,
      'steps': plan.run.steps,
      'step_seconds_lower_bound': plan.step_seconds,
      'mfu_upper_bound': plan.mfu,
      'model_flops_per_step': plan.model_flops,
      'collective_gib_per_chip': plan.wire_bytes() * per_chip,
      'petaflop_s_days': cost.petaflop_s_days(plan.run),
      'chip_hours_lower_bound': plan.chip_hours,
  }
  if price_per_chip_hour is not None:
    total['price_lower_bound'] = plan.chip_hours * price_per_chip_hour
  total['programs'] = [_program_json(p, per_chip) for p in plan.programs]
  return total


def _program_json(program: ProgramPlan, per_chip: float) -> dict:
  found = program.compiled
  result = {
      'name': program.name,
      'calls_per_step': program.calls,
      'fits': found.fits,
      'hbm_gib_per_chip': program.hbm_bytes * per_chip,
      'argument_bytes_per_device_of_shapes': compiled_lib.argument_bytes(
          found.program
      ),
      'compile_seconds': found.seconds,
      'model_flops': program.model_flops,
      'hardware_flops': program.hardware_flops,
      'compiled_flops': program.compiled_flops,
      'collective_gib_per_chip_by_formula': {
          '+'.join(axes): size * per_chip for axes, size in program.wire.items()
      },
      'floor_seconds': dataclasses.asdict(program.floors),
      'binding_floor': program.floors.binding,
  }
  if found.memory and found.analysis:
    result |= {
        'memory_bytes_per_device': dataclasses.asdict(found.memory),
        'collective_gib_per_chip': {
            f'{"+".join(axes)} {kind}': size * per_chip
            for (axes, kind), size in found.analysis.wire_bytes().items()
        },
        'custom_calls': found.analysis.custom_calls,
        'loops_of_unknown_length': len(found.analysis.unknown_loops),
    }
  return result
