# SPDX-License-Identifier: Apache-2.0
"""What looks wrong in a plan, and which flags would help what won't fit."""

import dataclasses
import functools
from collections.abc import Iterator

from rlhf import model, sharding
from rlhf.planning import estimate, traffic, works
from rlhf.planning import topology as topology_lib
from rlhf.planning.plan import GIB, Plan, ProgramPlan
from rlhf.stages import setup

# Compiled over formula: above it, something is sent that need not be.
_TOO_MUCH = 1.5
# Of all that a step sends: less is not worth a warning.
_MATTERS = 0.01
# Of a decoder's weights, that a token may gather unremarked (a bias, a norm).
_GATHERED = 0.05


@dataclasses.dataclass(frozen=True)
class Knob:
  """A number of the config that says in how many parts a work is done.

  Attributes:
    flag: its name.
    counts_rows: it is the rows of a part, not the number of parts.
  """

  flag: str
  counts_rows: bool = False

  def text(self, work: works.Work, parts: int) -> str:
    number = work.rows // parts if self.counts_rows else parts
    return f'--config.{self.flag}={number}'


def knob(stage: str, program: str, index: int) -> Knob:
  """What sets the parts of a program's work, by its place in the program."""
  if stage != 'ppo':
    return Knob('micro_batches')
  if program == 'generate':
    return Knob('ppo.rollout_rows', counts_rows=True)
  if program == 'score':
    return Knob('ppo.score_rows', counts_rows=True)
  return Knob('ppo.ptx_micro_batches' if index else 'ppo.micro_batches')


# -- Warnings -----------------------------------------------------------------


def warnings(plan: Plan) -> list[str]:
  """What looks wrong, a sentence each."""
  found = []
  for program in plan.programs:
    found += _replicated_rows(plan, program)
    found += _kernels(plan, program)
    found += _collectives(plan, program)
    found += _gathered_weights(program)
    found += _padded_cache(plan, program)
    found += _loops(program)
  return list(dict.fromkeys(found))


def undivided(
    stage: str, program: str, parts: tuple[works.Work, ...], copies: int
) -> Iterator[str]:
  """Of works whose rows can't be shared by all copies of the network."""
  for index, work in enumerate(parts):
    rows = work.rows // work.parts
    if rows % copies == 0:
      continue
    whole = f' a part of {work.rows}' if rows < work.rows else ''
    fitting = [
        n for n in _divisors(work.rows) if work.rows // n % copies == 0
    ]
    if fitting and program != 'generate':
      cure = knob(stage, program, index).text(work, max(fitting))
    else:
      cure = (
          'more rows, or a mesh whose data x fsdp divides'
          f' {work.rows} (the rest on tensor or sequence)'
      )
    yield (
        f'{program}: {rows} rows{whole} do not divide over data x fsdp ='
        f' {copies} copies, so every copy computes all of them. Use {cure}'
    )


def _replicated_rows(plan: Plan, program: ProgramPlan) -> Iterator[str]:
  copies = program.layout.copies
  if program.name == 'generate':
    for work in program.works:
      if work.rows % copies:
        yield (
            f'generate: {work.rows} rows do not divide over {copies} copies of'
            ' the policy, so every copy answers all of them. Use'
            f' --config.ppo.rollout_rows={copies} or a multiple of it that'
            ' divides ppo.batch, or more --config.ppo.rollout_tensor'
        )
    return
  yield from undivided(plan.run.stage, program.name, program.works, copies)


def _kernels(plan: Plan, program: ProgramPlan) -> Iterator[str]:
  analysis = program.compiled.analysis
  if analysis is None or not program.works:
    return
  mesh, lengths = program.compiled.program.mesh, setup.row_lengths(plan.config)
  claimed = [
      work
      for work in program.works
      if model.choose_kernel(work.cfg, mesh, lengths).kernel == 'splash'
  ]
  if claimed and not analysis.custom_calls.get('tpu_custom_call'):
    yield (
        f'{program.name}: the splash kernel was chosen, but the program holds'
        ' no tpu_custom_call: another attention was compiled'
    )
  on_tpu = mesh.devices.flat[0].platform == 'tpu'
  if on_tpu and not claimed and program.name != 'generate':
    yield (
        f'{program.name}: no splash kernel for these shapes (heads of a'
        ' multiple of 128 that divide over tensor, rows of a multiple of'
        ' 128): attention logits are kept in memory'
    )


def _collectives(plan: Plan, program: ProgramPlan) -> Iterator[str]:
  if plan.topology.chip.nominal or program.compiled.analysis is None:
    return  # XLA's programs for CPUs are not made to send little.
  formula = sum(program.wire.values())
  ratio = program.wire_bytes / formula if formula else float('inf')
  excess = program.calls * (program.wire_bytes - formula)
  if ratio > _TOO_MUCH and excess > _MATTERS * plan.wire_bytes():
    most = max(
        program.compiled.analysis.collectives,
        key=lambda one: one.total_wire_bytes,
    )
    yield (
        f'{program.name}: a device sends {program.wire_bytes / GIB:.1f} GiB,'
        f' the formulas say {formula / GIB:.1f}. Most in one:'
        f' {most.count} x {most.kind} along {"+".join(most.axes) or "nothing"}'
        f' ({most.total_wire_bytes / GIB:.1f} GiB) {most.op_name}'
    )


def _gathered_weights(program: ProgramPlan) -> Iterator[str]:
  """Of a decoder: weights that each token gathers again."""
  analysis = program.compiled.analysis
  if program.name != 'generate' or analysis is None:
    return
  gathered = decode_gathers(program)
  weights = traffic.weight_bytes(program.works[0].cfg) / program.layout.tensor
  if gathered > _GATHERED * weights:
    yield (
        f'generate: every token gathers {gathered / GIB:.2f} GiB, of'
        f' {weights / GIB:.2f} GiB of weights on a device: they lie where'
        ' decoding does not want them. Look at ppo.rollout_tensor'
    )


def _padded_cache(plan: Plan, program: ProgramPlan) -> Iterator[str]:
  if program.name != 'generate' or plan.topology.chip.nominal:
    return
  (work,) = program.works
  padding = estimate.cache_padding(work, program.layout)
  # Of little, even twice as much is little.
  cache = traffic.cache_bytes(work, program.layout)
  if (padding - 1) * cache > 0.02 * plan.topology.hbm_limit_bytes:
    heads = work.cfg.heads // program.layout.tensor
    yield (
        f'generate: {heads} heads a device are stored as {padding * heads:.0f},'
        f' so the cache takes {padding:.2f} times its {cache / GIB:.1f} GiB.'
        ' Less ppo.rollout_tensor would leave a multiple of 8'
    )


def decode_gathers(program: ProgramPlan) -> float:
  """Bytes that a device gathers for each token that it decodes."""
  analysis = program.compiled.analysis
  assert analysis is not None
  tokens = program.works[0].new_tokens
  return sum(
      one.total_wire_bytes / tokens
      for one in analysis.collectives
      # A scan over layers inside the loop over tokens, or right in it.
      if one.kind == 'all-gather' and one.in_loop and one.count >= tokens
  )


def _loops(program: ProgramPlan) -> Iterator[str]:
  analysis = program.compiled.analysis
  if analysis and analysis.unknown_loops:
    yield (
        f'{program.name}: {len(analysis.unknown_loops)} loops whose trips'
        ' could not be read were counted once'
    )


# -- Advice -------------------------------------------------------------------


def advice(plan: Plan) -> list[str]:
  """Flags that lower the memory of each program that does not fit."""
  limit = plan.topology.hbm_limit_bytes
  over = [
      program
      for program in plan.programs
      if program.hbm_bytes > limit or not program.compiled.fits
  ]
  if not over:
    return []
  residents = sum(plan.residents.values())
  found = []
  if residents > 0.8 * limit:
    found += _spread_more(plan, residents)
  else:
    for program in over:
      found += _smaller_parts(plan, program)
    found += _remat(plan)
    found += _fewer_copies(plan)
  found += _next_slice(plan)
  return list(dict.fromkeys(found))


def _smaller_parts(plan: Plan, program: ProgramPlan) -> Iterator[str]:
  copies = program.layout.copies
  if program.name == 'generate':
    (work,) = program.works
    if work.rows % (2 * copies) == 0:
      half = work.rows // 2
      cache = traffic.cache_bytes(work, program.layout) / GIB
      yield (
          f'--config.ppo.rollout_rows={half}: half of {cache:.1f} GiB of'
          ' cache'
      )
    heads, tensor = work.cfg.heads, 2 * program.layout.tensor
    if heads % tensor == 0 and program.layout.devices % tensor == 0:
      yield (
          f'--config.ppo.rollout_tensor={tensor}: half of the rollout weights'
      )
    return
  for index, work in enumerate(program.works):
    more = [
        n
        for n in _divisors(work.rows)
        if n > work.parts and work.rows // n % copies == 0
    ]
    if more:
      flag = knob(plan.run.stage, program.name, index).text(work, min(more))
      yield f'{flag}: fewer rows at a time in {program.name} ({work.network})'


def _remat(plan: Plan) -> Iterator[str]:
  section = 'model' if plan.run.stage == 'pretrain' else 'run_model'
  trained = [
      work
      for program in plan.programs
      for work in program.works
      if work.kind == 'train'
  ]
  if any(work.cfg.remat in ('none', 'dots') for work in trained):
    if section in plan.config:
      yield f'--config.{section}.remat=full: keep only the inputs of layers'


def _fewer_copies(plan: Plan) -> Iterator[str]:
  """One more halving of a row's activations, where parts can't get smaller."""
  fsdp, tensor = plan.mesh['fsdp'], plan.mesh['tensor']
  heads = [w.cfg.heads for p in plan.programs for w in p.works]
  if fsdp % 2 == 0 and all(h % (2 * tensor) == 0 for h in heads):
    yield (
        f'--config.mesh.fsdp={fsdp // 2} --config.mesh.tensor={2 * tensor}:'
        ' half of a row on each device'
    )


def _spread_more(plan: Plan, residents: float) -> Iterator[str]:
  yield (
      f'{residents / GIB:.1f} GiB a device are weights and optimizer, before'
      ' anything is computed'
  )
  if plan.mesh['data'] > plan.topology.num_slices:
    fsdp = plan.mesh['fsdp'] * plan.mesh['data'] // plan.topology.num_slices
    yield (
        f'--config.mesh.data={plan.topology.num_slices}'
        f' --config.mesh.fsdp={fsdp}: store one copy, not {plan.mesh["data"]}'
    )
  if plan.run.stage == 'ppo':
    for name, axes in plan.config.ppo.spread.items():
      if set(sharding.SPREAD) - set(axes):
        yield f'--config.ppo.spread.{name} on all of {sharding.SPREAD}'


def _next_slice(plan: Plan) -> Iterator[str]:
  """The smallest sold slice that could hold what does not shrink."""
  topology = plan.topology
  if topology.chip.nominal:
    return
  need = plan.hbm_bytes / topology.hbm_limit_bytes
  larger = [
      one
      for one in topology_lib.slices(topology.chip.generation)
      if one.chips >= max(need * topology.chips, topology.chips + 1)
  ]
  if larger:
    yield f'--topology={larger[0].name}: {larger[0].chips} chips'


@functools.cache
def _divisors(number: int) -> tuple[int, ...]:
  return tuple(n for n in range(1, number + 1) if number % n == 0)
