# SPDX-License-Identifier: Apache-2.0
"""The whole method on the embedded world, and what came of it.

  python launch/demo.py                 # what `make demo` runs; ten minutes
  python launch/demo.py --smoke         # every line of it, in a minute

Stages that have finished below --root are not run again. The report is in
report.md, results.json and report.png there.
"""

import os
import pathlib
import sys

# Before JAX and TensorFlow are imported: see launch/train.py.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags

from launch import experiment, pipeline

_ROOT = flags.DEFINE_string(
    'root', None, 'Where everything goes; runs/demo, or runs/smoke.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of everything after the base model.')
_SMOKE = flags.DEFINE_bool('smoke', False, 'Far too little of everything.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  pipeline.quiet_libraries()
  pipeline.keep_compiled_programs()
  smoke = _SMOKE.value
  root = pathlib.Path(_ROOT.value or ('runs/smoke' if smoke else 'runs/demo'))
  from rlhf import hosts

  try:
    # Ctrl-C has the stage save: the same command goes on with it.
    with hosts.joined():
      experiment.train(root, _SEED.value, smoke=smoke)
  except experiment.OtherExperimentError as error:
    sys.exit(f'error: {error}')
  results = experiment.examine(root, _SEED.value, smoke=smoke)
  write(root, results)


def write(root: pathlib.Path, results: dict) -> None:
  """Writes report.md and report.png, and prints the table."""
  from rlhf.evaluation import figures, report
  from rlhf.watching.display import say

  curves = {
      name: [figures.read_curves(root / name)] for name in ('ppo', 'ppo_ptx')
  }
  figures.findings_figure(results, curves, root / 'report.png')
  (root / 'report.md').write_text(report.write_demo(results))
  report.print_demo(results)
  say(f'report: {root / "report.md"}, {root / "report.png"}')


if __name__ == '__main__':
  app.run(main)
