# SPDX-License-Identifier: Apache-2.0
"""A plan on one screen."""

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rlhf.planning import advice as advice_lib
from rlhf.planning import cost, search
from rlhf.planning import plan as plan_lib
from rlhf.planning.plan import GIB, Plan, ProgramPlan, parts

WIDTH = 100
DISCLAIMER = (
    'Compiled, never run. Memory and collectives are the compiler\'s; FLOPs and'
    ' floors are arithmetic on public peaks. Seconds are bounds from below, MFU'
    ' from above: no host, no input, no stragglers, no fragmented memory. Model'
    ' FLOPs by PaLM\'s convention: attention unmasked, nothing done twice.'
)
_FLOORS = {
    'compute': 'FLOPs',
    'hbm': 'memory',
    'ici': 'links',
    'dcn': 'slice links',
}


def console() -> Console:
  """As wide as the report is."""
  return Console(width=WIDTH, highlight=False)


def report(plan: Plan, price_per_chip_hour: float | None = None) -> Group:
  """The whole screen."""
  lines = [Text(DISCLAIMER, style='dim')]
  for text in advice_lib.warnings(plan):
    lines.append(Text(f'WARNING  {text}', style='yellow'))
  if not plan.fits:
    lines.append(Text('What would help:', style='bold'))
    lines += [Text(f'  {text}') for text in advice_lib.advice(plan)]
  return Group(
      _title(plan),
      _memory(plan),
      _time(plan),
      _collectives(plan),
      _totals(plan, price_per_chip_hour),
      *lines,
  )


def search_report(found: search.Found) -> Group:
  """What a search compiled, the best first."""
  lines: list[Any] = []
  for one in found.tried:
    plan = one.plan
    verdict = 'FITS' if plan.fits else 'DOES NOT FIT'
    text = Text(verdict, style='bold green' if plan.fits else 'bold red')
    text.append(f'  {_gib(plan, plan.hbm_bytes)} GiB a chip', style='not bold')
    if plan.fits:
      text.append(
          f', at least {plan.step_seconds:.3g} s a {_per(plan)}, MFU at most'
          f' {plan.mfu:.1%}, {_gib(plan, plan.wire_bytes())} GiB sent',
          style='not bold',
      )
    lines += [text, Text(f'  {one.candidate.flags or "as it is"}')]
  text = f'{found.fitting} layouts fit by the formulas'
  if not found.fitting and found.smallest:
    size = found.smallest.hbm_bytes / GIB
    text += f'; the smallest needs {size:.1f} GiB: {found.smallest.flags}'
  elif not found.smallest:
    text = 'No mesh shares out the rows of a batch evenly'
  lines.append(Text(f'{text}; {len(found.tried)} were compiled.'))
  return Group(*lines, Text(DISCLAIMER, style='dim'))


def _table(*columns: str, title: str) -> Table:
  table = Table(
      box=box.SIMPLE_HEAD,
      title=title,
      title_justify='left',
      title_style='bold',
      width=WIDTH,
      padding=(0, 1),
      collapse_padding=True,
  )
  for i, name in enumerate(columns):
    justify = 'right' if i else 'left'
    table.add_column(name, justify=justify, no_wrap=True)
  return table


def _title(plan: Plan) -> Text:
  topology = plan.topology
  axes = ' '.join(f'{k}={v}' for k, v in plan.mesh.items() if v > 1)
  sizes = {
      work.network: f'{cost.parameters(work.cfg, head=work.head) / 1e9:.3g}B'
      for program in plan.programs
      for work in program.works
  }
  networks = ', '.join(f'{name} {size}' for name, size in sizes.items())
  text = Text(f'{plan.run.stage}', style='bold')
  text.append(
      f'  {networks}  on  {topology.name}: {topology.chips} x'
      f' {topology.chip.name}, mesh {axes or "of one"}\n',
      style='not bold',
  )
  if plan.fits:
    text.append('FITS', 'bold green')
  else:
    text.append('DOES NOT FIT', 'bold red')
  per_chip = topology.chip.devices_per_chip / GIB
  text.append(
      f'  {plan.hbm_bytes * per_chip:.1f} of'
      f' {topology.chip.hbm_limit_bytes / GIB:.2f} GiB a chip, in'
      f' {plan.tightest.name}',
      style='not bold',
  )
  if plan.effort == 'fast':
    text.append('  (--effort=fast: memory is not final)', style='yellow')
  return text


def _memory(plan: Plan) -> Table:
  names = [program.name for program in plan.programs]
  table = _table(
      'memory', *names, title='GiB of a chip while each program runs'
  )
  by_program = [parts(plan, program) for program in plan.programs]
  rows = list(dict.fromkeys(name for found in by_program for name in found))
  # Last what is left over.
  rows.sort(key=lambda name: name == plan_lib.REST)
  for name in rows:
    table.add_row(name, *(_gib(plan, found.get(name)) for found in by_program))
  totals = [
      Text(
          _gib(plan, program.hbm_bytes),
          style='bold' if _fits(plan, program) else 'bold red',
      )
      for program in plan.programs
  ]
  table.add_section()
  limit = plan.topology.chip.hbm_limit_bytes / GIB
  table.add_row(f'together, of {limit:.2f}', *totals)
  return table


def _fits(plan: Plan, program: ProgramPlan) -> bool:
  inside = program.hbm_bytes <= plan.topology.hbm_limit_bytes
  return program.compiled.fits and inside


def _gib(plan: Plan, size: float | None) -> str:
  if size is None:
    return ''
  size *= plan.topology.chip.devices_per_chip / GIB
  if 0 < size < 0.005:
    return '<0.01'
  return f'{size:.2f}' if size < 99.5 else f'{size:,.0f}'


def _time(plan: Plan) -> Table:
  floors = dict(_FLOORS)
  if plan.topology.num_slices == 1:
    del floors['dcn']
  table = _table(
      'program',
      *floors.values(),
      'a call',
      'calls',
      _per(plan),
      'model',
      'needed',
      'compiled',
      title='Floors in seconds; FLOPs of a call, of all chips together',
  )
  for program in plan.programs:
    bound = program.floors.seconds
    found = program.compiled_flops
    if found is not None:
      found += program.kernel_flops
    table.add_row(
        program.name,
        *(_seconds(getattr(program.floors, name)) for name in floors),
        _seconds(bound),
        str(program.calls),
        _seconds(program.calls * bound),
        _flops(program.model_flops),
        _flops(program.hardware_flops),
        _flops(found),
    )
  return table


def _collectives(plan: Plan) -> Table:
  table = _table(
      'program',
      'along',
      'compiled',
      'formula',
      'mostly',
      title='GiB that a chip sends in a call, by axes of the mesh',
  )
  for program in plan.programs:
    for row in _wire_rows(plan, program):
      table.add_row(*row)
  return table


def _wire_rows(plan: Plan, program: ProgramPlan) -> Iterable[tuple[str, ...]]:
  found = program.compiled_wire
  by_axes: dict[tuple[str, ...], dict[str, float]] = {}
  for (axes, kind), size in (found or {}).items():
    by_axes.setdefault(axes, {})[kind] = size
  every = {axes: sum(kinds.values()) for axes, kinds in by_axes.items()}
  for axes, size in program.wire.items():
    every[axes] = max(every.get(axes, 0.0), size)
  largest = max(every.values(), default=0.0)
  name = program.name
  for axes in sorted(every, key=lambda axes: -every[axes]):
    # What is less than a hundredth of the most is not worth a line.
    if every[axes] < 0.01 * largest or not every[axes]:
      continue
    kinds = by_axes.get(axes, {})
    compiled = '-' if found is None else _gib(plan, sum(kinds.values()))
    formula = _gib(plan, program.wire.get(axes, 0.0))
    most = max(kinds, key=lambda kind: kinds[kind]) if kinds else ''
    yield name, '+'.join(axes), compiled, formula, most
    name = ''


def _totals(plan: Plan, price: float | None) -> Text:
  per = _per(plan)
  seconds = plan.run.steps * plan.step_seconds
  text = Text()
  text.append(
      f'MFU at most {plan.mfu:.1%}. Each {per}: at least'
      f' {plan.step_seconds:.3g} s, {_gib(plan, plan.wire_bytes())} GiB sent by'
      ' a chip\n',
      style='bold',
  )
  text.append(
      f'The run: {plan.run.steps:,} {per}s,'
      f' {cost.petaflop_s_days(plan.run):.3g} petaflop/s-days; at least'
      f' {seconds / 3600:,.3g} hours, {plan.chip_hours:,.0f} chip-hours'
  )
  if price is not None:
    text.append(f', {plan.chip_hours * price:,.0f} at {price:g} a chip-hour')
  return text


def _per(plan: Plan) -> str:
  return 'iteration' if plan.run.stage == 'ppo' else 'step'


def _seconds(value: float) -> str:
  if value and value < 0.0005:
    return '<0.001'
  return f'{value:.3f}' if value < 9.9995 else f'{value:,.1f}'


def _flops(value: float | None) -> str:
  if value is None:
    return '-'
  return f'{value:.2e}'.replace('e+', 'e') if value else ''
