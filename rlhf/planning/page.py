# SPDX-License-Identifier: Apache-2.0
"""Plans as a page: what launch/plan.py --json printed, in two tables a reader
can check against the commands below them."""

from collections.abc import Sequence

_SFT, _PPO = '--config=configs/sft.py', '--config=configs/ppo_ptx.py'
# What a row is called, and the flags of launch/plan.py.
PLANS: tuple[tuple[str, str], ...] = (
    (
        'SFT 1.3B',
        f'{_SFT}:1.3b --topology=v5e:2x2 --config.micro_batches=4',
    ),
    ('SFT 1.3B', f'{_SFT}:1.3b --topology=v5p:2x2x1'),
    (
        'SFT 6.7B',
        f'{_SFT}:6b --topology=v5e:2x4 --config.micro_batches=4',
    ),
    ('SFT 6.7B', f'{_SFT}:6b --topology=v5e:4x4'),
    ('SFT 6.7B', f'{_SFT}:6b --topology=v5p:2x2x1'),
    (
        'PPO-ptx 175B + 6.7B',
        f'{_PPO}:175b --topology=v5p:4x4x4 --config.mesh.fsdp=8'
        ' --config.mesh.tensor=8 --config.ppo.ptx_micro_batches=64'
        ' --config.ppo.rollout_tensor=16 --config.ppo.rollout_rows=64'
        ' --config.ppo.score_rows=64',
    ),
    (
        'PPO-ptx 175B + 6.7B',
        f'{_PPO}:175b --topology=v5e:16x16 --config.mesh.fsdp=8'
        ' --config.mesh.tensor=32 --config.ppo.ptx_micro_batches=64'
        ' --config.ppo.micro_batches=8 --config.ppo.rollout_rows=32'
        ' --config.ppo.score_rows=64',
    ),
    (
        'PPO-ptx 1.3B + 6.7B',
        f'{_PPO}:1.3b --topology=v5e:4x4 --config.ppo.micro_batches=4'
        ' --config.ppo.ptx_micro_batches=16 --config.ppo.rollout_rows=64'
        ' --config.ppo.score_rows=64',
    ),
    (
        'PPO-ptx 1.3B + 6.7B',
        f'{_PPO}:1.3b --topology=v5p:2x2x1 --config.ppo.ptx_micro_batches=8'
        ' --config.ppo.rollout_rows=128 --config.ppo.score_rows=128',
    ),
    (
        'SFT 175B',
        f'{_SFT}:175b --topology=v5e:16x16 --config.mesh.fsdp=8'
        ' --config.mesh.tensor=32',
    ),
    (
        'SFT 175B',
        f'{_SFT}:175b --topology=v5p:4x4x4 --config.mesh.fsdp=8'
        ' --config.mesh.tensor=8',
    ),
    (
        'SFT 175B',
        f'{_SFT}:175b --topology=v5p:2x4x4 --config.mesh.fsdp=8'
        ' --config.mesh.tensor=4',
    ),
)

_HEAD = '''# What the paper's models need

Made by `python launch/plans.py --write=docs/results/plan.md`, which runs the
commands below at the compiler's default level. **Compiled, never run.** Memory
and collectives are what XLA:TPU says of the programs that a run would use;
FLOPs and floors are arithmetic on public peaks. Seconds are bounds from below,
MFU from above: no host, no input, no stragglers, no fragmented memory.

A step is an optimizer step; of PPO-ptx it is an iteration: 512 responses,
scored, and 8 updates with 8 rows of pretraining text for each response. MFU
counts the FLOPs of the model (PaLM, appendix B), not those computed again.
"Sent" is what one chip sends in a step. Petaflop/s-days are of the whole run,
at the paper's sizes; the paper reports 4.9 for SFT and 60 for PPO-ptx of 175B.

Where a row FITS and none shows the next smaller slice, there is none on sale,
or weights, moments and gradients alone are more than it holds. 256 chips are
the largest slice of v5e. Weights are spread within a slice, so that more slices
of the same size don't help.
'''


def command(arguments: str) -> str:
  """As one would type it."""
  return f'python launch/plan.py {arguments}'


def write(rows: Sequence[tuple[str, str, dict]]) -> str:
  """The page.

  Args:
    rows: title, arguments of launch/plan.py, and the JSON that it printed.
  """
  lines = [
      _HEAD,
      '| | chips | mesh | GiB a chip | | step, s ≥ | MFU ≤ | sent, GiB |'
      ' PF/s-days | chip-hours ≥ |',
      '| --- | --- | --- | --: | --- | --: | --: | --: | --: | --: |',
  ]
  for title, _, plan in rows:
    lines.append(_row(title, plan))
  lines += [
      '',
      '## Program by program',
      '',
      'Collectives as compiled, and in brackets by the hand formula of'
      ' `rlhf/planning/traffic.py`; seconds of a call by the floor that binds.',
      '',
      '| | program | calls a step | GiB a chip | s ≥ | bound by |'
      ' sent, GiB | compiled in, s |',
      '| --- | --- | --: | --: | --: | --- | --- | --: |',
  ]
  for title, _, plan in rows:
    for program in plan['programs']:
      lines.append(_program(f'{title}, {plan["topology"]}', program))
  lines += ['', '## Commands', '']
  lines += [f'    {command(arguments)}' for _, arguments, _ in rows]
  return '\n'.join(lines) + '\n'


def _row(title: str, plan: dict) -> str:
  mesh = ' '.join(f'{k} {v}' for k, v in plan['mesh'].items() if v > 1)
  memory = f'{plan["hbm_gib_per_chip"]:.1f} of {plan["hbm_limit_gib"]:.1f}'
  start = f'| {title} | {plan["topology"]} | {mesh} | {memory} |'
  if not plan['fits']:
    return f'{start} DOES NOT FIT ({plan["tightest_program"]}) | | | | | |'
  return (
      f'{start} FITS | {plan["step_seconds_lower_bound"]:.2f} |'
      f' {100 * plan["mfu_upper_bound"]:.0f} % |'
      f' {plan["collective_gib_per_chip"]:,.1f} |'
      f' {plan["petaflop_s_days"]:.3g} |'
      f' {plan["chip_hours_lower_bound"]:,.0f} |'
  )


def _program(title: str, program: dict) -> str:
  seconds = max(program['floor_seconds'].values())
  start = (
      f'| {title} | {program["name"]} | {program["calls_per_step"]} |'
      f' {program["hbm_gib_per_chip"]:.1f} | {seconds:.3f} |'
      f' {program["binding_floor"]} |'
  )
  if 'collective_gib_per_chip' not in program:
    return f'{start} out of memory | {program["compile_seconds"]:.0f} |'
  compiled: dict[str, float] = {}
  for name, size in program['collective_gib_per_chip'].items():
    axes, _ = name.rsplit(' ', 1) if ' ' in name else ('', name)
    compiled[axes] = compiled.get(axes, 0.0) + size
  formula = program['collective_gib_per_chip_by_formula']
  parts = [
      f'{axes or "one device"} {size:,.1f} ({formula.get(axes, 0.0):,.1f})'
      for axes, size in sorted(compiled.items(), key=lambda x: -x[1])
      if size >= 0.05 or formula.get(axes, 0.0) >= 0.05
  ]
  return f'{start} {", ".join(parts)} | {program["compile_seconds"]:.0f} |'
