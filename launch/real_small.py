# SPDX-License-Identifier: Apache-2.0
"""What came of the run on real text: writes docs/results/real_small.md.

  python launch/train.py --config=configs/real_small.py:ppo_ptx
  python launch/train.py --config=configs/real_small.py:ppo
  python launch/real_small.py --write=docs/results/real_small.md

The stages below --root are read and examined, none is run: those that have not
finished are named and left out. The figure and the numbers go beside the page.
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
    'root', 'runs/real_small', 'Where launch/train.py left the stages.'
)
_WRITE = flags.DEFINE_string(
    'write', None, 'The .md to write; its .png and .json go beside it.'
)
# Prompts of other files may not be free to copy.
_QUOTE = flags.DEFINE_list(
    'quote',
    ['oasst/prompts.jsonl.gz', 'koala/prompts.jsonl.gz'],
    'Files whose prompts may be shown, as folder/file.',
)
_REMARK = flags.DEFINE_string(
    'remark', '', 'A sentence to print with the times: what else ran, say.'
)

_COMMANDS = (
    'python launch/train.py --config=configs/real_small.py:ppo_ptx',
    'python launch/train.py --config=configs/real_small.py:ppo',
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  pipeline.quiet_libraries()
  pipeline.keep_compiled_programs()
  root = pathlib.Path(_ROOT.value)
  target = pathlib.Path(_WRITE.value or root / 'real_small.md')
  write(root, target, quotable=_QUOTE.value, remark=_REMARK.value)


def write(
    root: pathlib.Path,
    target: pathlib.Path,
    *,
    quotable: list[str],
    remark: str = '',
) -> None:
  """Examines the stages below `root` and writes the page, figure, numbers."""
  from rlhf.evaluation import figures, real, real_inputs, real_report
  from rlhf.watching.display import say
  from rlhf.watching.workdir import Workdir

  results = real.examine(root, quotable)
  stages = list(results['finished'])
  # A stage that launch/experiment.py ran has its time on record.
  times = {name: real_inputs.seconds(root / name) for name in stages}
  recorded = experiment.read_seconds(root)
  results |= {
      'times': {name: recorded.get(name, times[name]) for name in stages},
      'versions': experiment.versions(),
      'machine': experiment.machine(),
  }
  curves = {
      name: figures.read_curves(root / name, prefix='') for name in stages
  }
  workdir = Workdir(target.parent, tensorboard=False)
  stem = target.stem
  figures.real_figure(curves, target.with_name(f'{stem}.png'))
  workdir.write_json(stem, results)
  commands = [
      *_COMMANDS,
      f'python launch/real_small.py --write=docs/results/{target.name}',
  ]
  target.write_text(real_report.write_real(results, commands, stem, remark))
  say(f'real text: {target}')


if __name__ == '__main__':
  app.run(main)
