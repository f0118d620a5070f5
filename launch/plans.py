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


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  # Late, for it imports jax.
  from rlhf.planning.page import PLANS, command, write

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
  page.write_text(write(rows))


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
    sys.exit(f'error: launch/plan.py failed: {arguments}')
  return json.loads(done.stdout)


if __name__ == '__main__':
  flags.mark_flag_as_required('write')
  app.run(main)
