# SPDX-License-Identifier: Apache-2.0
"""Writes docs/results/plan.md: the paper's models on the slices they need.

  python launch/plans.py --write=docs/results/plan.md
  python launch/plans.py --write=docs/results/plan.md --only='SFT 1.3B'

Each row is one run of launch/plan.py, which compiles the run's own programs: an
hour of CPU in all. Numbers of rows that are not run again are kept, in the
.json beside the page.
"""

import json
import pathlib
import shlex
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags

_WRITE = flags.DEFINE_string(
    'write', None, 'The .md to write; its .json goes beside it.'
)
_ONLY = flags.DEFINE_string(
    'only', '', 'Run the rows that begin so; of the others those not yet run.'
)

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


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  page = pathlib.Path(_WRITE.value or '')
  record = page.with_suffix('.json')
  found = json.loads(record.read_text()) if record.exists() else {}
  for title, arguments in PLANS:
    again = _ONLY.value and title.startswith(_ONLY.value)
    if again or arguments not in found:
      print(f'{title}: {command(arguments)}', flush=True)
      found[arguments] = run(arguments)
      record.write_text(json.dumps(found, indent=1) + '\n')
  rows = [(title, a, found[a]) for title, a in PLANS]
  # Late, for it imports jax.
  from rlhf.planning import page as page_lib

  page.write_text(page_lib.write(rows, command))


def command(arguments: str) -> str:
  """As one would type it."""
  return f'python launch/plan.py {arguments}'


def run(arguments: str) -> dict:
  """One run of launch/plan.py, in a process of its own."""
  script = str(pathlib.Path(__file__).with_name('plan.py'))
  done = subprocess.run(
      [sys.executable, script, '--json', *shlex.split(arguments)],
      stdout=subprocess.PIPE,
      text=True,
      check=False,
  )
  if done.returncode:
    sys.exit(f'error: it failed: {command(arguments)}')
  return json.loads(done.stdout)


if __name__ == '__main__':
  flags.mark_flag_as_required('write')
  app.run(main)
