# SPDX-License-Identifier: Apache-2.0
"""Which mesh, and how many rows at a time: tried by formula, then compiled.

Every mesh of the topology gets, program by program, the fewest parts whose
estimated memory fits; meshes are put in the order of their bounds of a step's
time; the first few are compiled. What the compiler finds of a program's memory
corrects the estimates of those that are still to come.
"""

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import Mesh

from rlhf import sharding
from rlhf.planning import estimate, traffic, works
from rlhf.planning import plan as plan_lib
from rlhf.planning import topology as topology_lib
from rlhf.planning.topology import Topology

Config = Any
Overrides = tuple[tuple[str, Any], ...]
# Of the limit, for estimates.
_ROOM = 0.92
# Over the limit, a candidate is worth compiling: estimates are rough.
_NEAR = 1.15
_MOST_TENSOR, _MOST_SEQUENCE = 64, 8


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A layout.

  Attributes:
    overrides: fields of the config, by dotted name.
    flags: those of them that change it, as launch/ takes them.
    seconds: of a step, half way between floors that overlap perfectly and
      floors that don't at all. An order, not a bound.
    hbm_bytes: of a device, estimated.
    fits: whether that is below the limit.
  """

  overrides: Overrides
  flags: str
  seconds: float
  hbm_bytes: float
  fits: bool


def changed(config: Config, overrides: Overrides) -> Config:
  """A copy of a config with some fields changed."""
  result = copy.deepcopy(config)
  with result.unlocked():
    result.update_from_flattened_dict(dict(overrides))
  return result


def mesh_sizes(
    config: Config, topology: Topology
) -> Iterator[tuple[int, int, int, int]]:
  """Sizes of `sharding.AXES` that use all devices and divide the networks."""
  networks = works.networks(config).values()
  for data, tensor, sequence in itertools.product(
      _divisors(topology.devices), repeat=3
  ):
    used = data * tensor * sequence
    if topology.devices % used or data % topology.num_slices:
      continue
    if tensor > _MOST_TENSOR or sequence > _MOST_SEQUENCE:
      continue
    if any(cfg.heads % tensor for cfg in networks):
      continue
    if config.data.row_tokens % (128 * sequence) and sequence > 1:
      continue
    yield data, topology.devices // used, tensor, sequence


def candidates(
    config: Config,
    topology: Topology,
    corrections: dict[str, float] | None = None,
) -> list[Candidate]:
  """Layouts by the formulas: those that fit, the fastest first; then others.

  Args:
    config: of a stage that trains.
    topology: chips.
    corrections: by program, what its estimated working memory is multiplied by.

  Raises:
    RuntimeError: as `topology.devices`.
  """
  devices, limit = topology_lib.devices(topology), topology.hbm_limit_bytes
  runs: dict[Overrides, works.Run] = {}
  found = []
  for sizes in mesh_sizes(config, topology):
    by_axis = dict[str, int](zip(sharding.AXES, sizes, strict=True))
    try:
      mesh = sharding.make_mesh(by_axis, devices)
    except (RuntimeError, ValueError):
      continue  # Does not map to the torus.
    for remat in _remats(config):
      chosen = _choose(config, topology, mesh, remat, corrections or {}, runs)
      if chosen is not None:
        found.append(chosen)
  return sorted(
      found,
      # Of those that don't fit, the order of tenths of the limit is enough.
      key=lambda one: (
          0 if one.fits else 1 + int(10 * one.hbm_bytes / limit),
          one.seconds,
          one.hbm_bytes,
      ),
  )


def _remats(config: Config) -> tuple[Overrides, ...]:
  section = 'model' if 'model' in config else 'run_model'
  if section not in config:
    return ((),)
  return tuple(((f'{section}.remat', remat),) for remat in ('full', 'dots'))


@dataclasses.dataclass(frozen=True)
class _Setting:
  """How a program's rows are cut, on which mesh."""

  overrides: Overrides
  mesh: Mesh
  at: traffic.Layout


@dataclasses.dataclass(frozen=True)
class _OnMesh:
  """What is the same for all settings on one mesh."""

  config: Config
  topology: Topology
  setting: _Setting
  room: float
  corrections: dict[str, float]
  remat: Overrides
  runs: dict[Overrides, works.Run]  # Read before; a config is slow to change.

  def of(self, name: str, setting: _Setting) -> estimate.Estimate:
    key = self.remat + setting.overrides
    if key not in self.runs:
      self.runs[key] = works.run_of(changed(self.config, setting.overrides))
    run = self.runs[key]
    call = next(call for call in run.calls if call.name == name)
    return estimate.program(
        call, self.topology, setting.mesh, setting.at, ema=True
    )

  def bytes_of(self, one: estimate.Estimate) -> float:
    factor = self.corrections.get(one.call.name, 1.0)
    return one.named_bytes + factor * one.working_bytes

  def best(
      self, settings: list[_Setting], *names: str
  ) -> tuple[Overrides, float, float] | None:
    """Of settings that these programs share.

    Returns:
      Overrides, seconds, and bytes of the program that needs most: those of the
      fastest that fits, else of the smallest. None where there is no setting.
    """
    found = []
    for setting in settings:
      each = [self.of(name, setting) for name in names]
      size = max(self.bytes_of(one) for one in each)
      seconds = sum(_score(one) for one in each)
      full = size > self.room
      order = (full, size if full else seconds, size)
      found.append((order, (setting.overrides, seconds, size)))
    return min(found, key=lambda entry: entry[0])[1] if found else None


def _score(one: estimate.Estimate) -> float:
  overlapped = one.floors.seconds
  apart = sum(dataclasses.astuple(one.floors))
  return one.call.per_step * (overlapped + apart) / 2


def _choose(
    config, topology, mesh, remat, corrections, runs
) -> Candidate | None:
  """The best settings of each program on one mesh."""
  here = changed(config, remat)
  at = traffic.layout(mesh.shape, traffic.spreads(here))
  residents = estimate.resident_bytes(here, at)
  room = _ROOM * topology.hbm_limit_bytes - residents
  setting = _Setting((), mesh, at)
  on_mesh = _OnMesh(here, topology, setting, room, corrections, remat, runs)
  overrides = tuple((f'mesh.{k}', v) for k, v in mesh.shape.items()) + remat
  seconds = most = 0.0
  for names, settings in _settings(on_mesh):
    chosen = on_mesh.best(settings, *names)
    if chosen is None:
      return None  # Nothing divides the rows.
    overrides += chosen[0]
    seconds += chosen[1]
    most = max(most, chosen[2])
  before = config.copy_and_resolve_references()
  flags = [
      f'--config.{name}={value}'
      for name, value in overrides
      if functools.reduce(
          lambda section, key: section.get(key, None), name.split('.'), before
      )
      != value
  ]
  return Candidate(
      overrides, ' '.join(flags), seconds, residents + most, most <= room
  )


def _settings(
    on_mesh: _OnMesh,
) -> Iterator[tuple[tuple[str, ...], list[_Setting]]]:
  """Programs that share their settings, and settings that share out rows."""
  config, at = on_mesh.config, on_mesh.setting.at
  run = works.run_of(config)

  def same(*overrides):
    return dataclasses.replace(on_mesh.setting, overrides=overrides)

  if run.stage != 'ppo':
    (work,) = run.calls[0].works
    # A ranking's rows and its prompts are both cut.
    prompts = config.batch if run.stage == 'reward' else work.rows
    counts = [n for n in _parts(work.rows, at.copies) if prompts % n == 0]
    yield ('train',), [same(('micro_batches', n)) for n in counts]
    return
  c = config.ppo
  works_of = {call.name: call.works for call in run.calls}
  ptx = [
      n
      for work in works_of['policy_step'][1:]
      for n in _parts(work.rows, at.copies)
  ]
  yield (
      ('policy_step', 'value_step'),
      [
          same(('ppo.micro_batches', n), ('ppo.ptx_micro_batches', m))
          for n in _parts(c.batch // c.minibatches, at.copies)
          for m in ptx or [0]
      ],
  )
  counts = _parts(c.batch, at.copies)
  yield ('score',), [same(('ppo.score_rows', c.batch // n)) for n in counts]
  yield ('generate',), list(_rollouts(on_mesh, works_of['generate'][0]))


def _rollouts(on_mesh: _OnMesh, work: works.Work) -> Iterator[_Setting]:
  training, batch = on_mesh.setting.mesh, on_mesh.config.ppo.batch
  for tensor in _divisors(training.size):
    if work.cfg.heads % tensor or tensor > _MOST_TENSOR:
      continue
    mesh = sharding.rollout_mesh(training, tensor)
    at = traffic.layout(mesh.shape)
    for n in _parts(batch, at.copies):
      rows = ('ppo.rollout_rows', batch // n)
      yield _Setting((('ppo.rollout_tensor', tensor), rows), mesh, at)


def _parts(rows: int, copies: int) -> list[int]:
  """Powers of two that cut rows into parts that copies share evenly."""
  powers = (2**i for i in range(rows.bit_length()))
  return [n for n in powers if rows % n == 0 and rows // n % copies == 0]


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]


# -- Compiled -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tried:
  """A candidate that was compiled."""

  candidate: Candidate
  plan: plan_lib.Plan


@dataclasses.dataclass(frozen=True)
class Found:
  """What a search found.

  Attributes:
    tried: those that fit first, the fastest of them first.
    fitting: how many layouts fit by the formulas.
    smallest: the one that by the formulas needs least memory; None if no mesh
      shares out the rows evenly.
  """

  tried: tuple[Tried, ...]
  fitting: int
  smallest: Candidate | None


def search(
    config: Config,
    topology: Topology,
    *,
    wanted: int,
    compiles: int,
    effort: str = 'default',
    say: Callable[[str], None] = lambda text: None,
) -> Found:
  """Compiles the best candidates until enough of them fit.

  Args:
    config: of a stage that trains.
    topology: chips.
    wanted: candidates that are to fit.
    compiles: programs that may be compiled; a candidate that was begun is
      finished, but for one that turns out not to fit.
    effort: see `compiled.effort`.
    say: is told what is compiled.
  """
  corrections: dict[str, float] = {}
  ranked = candidates(config, topology)
  fitting = sum(one.fits for one in ranked)
  smallest = min(ranked, key=lambda one: one.hbm_bytes, default=None)
  tried, used = list[Tried](), 0
  while ranked and used < compiles:
    best = ranked[0]
    far = best.hbm_bytes > _NEAR * topology.hbm_limit_bytes
    if far or sum(one.plan.fits for one in tried) >= wanted:
      break
    say(best.flags or 'the config as it is')
    plan = plan_lib.make(
        changed(config, best.overrides),
        topology,
        effort=effort,
        stop_if_full=True,
        on_program=say,
    )
    used += len(plan.programs)
    tried.append(Tried(best, plan))
    corrections |= _corrections(plan, corrections)
    done = {one.candidate.overrides for one in tried}
    ranked = [
        one
        for one in candidates(config, topology, corrections)
        if one.overrides not in done
    ]
  tried.sort(key=lambda one: (not one.plan.fits, one.plan.step_seconds))
  return Found(tuple(tried), fitting, smallest)


def as_json(found: Found) -> dict:
  """What was compiled, as numbers, the best first."""
  return {
      'fitting_by_formula': found.fitting,
      'smallest_gib_by_formula': found.smallest
      and found.smallest.hbm_bytes / plan_lib.GIB,
      'tried': [
          {'flags': one.candidate.flags} | plan_lib.as_json(one.plan)
          for one in found.tried
      ],
  }


def _corrections(
    plan: plan_lib.Plan, known: dict[str, float]
) -> dict[str, float]:
  """How far estimates were too low, by program; the worst counts."""
  found = {}
  for program in plan.programs:
    if not program.works:
      continue
    mesh = program.compiled.program.mesh
    one = estimate.program(
        program.compiled.program.call,
        plan.topology,
        mesh,
        program.layout,
        ema=True,
    )
    inside = program.hbm_bytes - sum(plan.residents.values())
    factor = (inside - one.named_bytes) / max(one.working_bytes, 1.0)
    if math.isfinite(factor):
      found[program.name] = max(factor, known.get(program.name, 1.0))
  return found
