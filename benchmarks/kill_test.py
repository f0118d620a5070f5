# SPDX-License-Identifier: Apache-2.0
"""Kills runs at random moments: is the run that goes on the unbroken one?

  python benchmarks/kill_test.py --stage=ppo_ptx --kills=100
  python benchmarks/kill_test.py --stage=sft --kills=20 --hosts=2
  python benchmarks/kill_test.py                # every stage, a few kills each

A stage of the miniature, shortened, is run once without a break. Then, trial by
trial, it is started in a new work directory, its process group gets SIGKILL,
and the same command is given again until the run ends. All that an unbroken run
leaves behind has to be there, to the bit: the network it hands on, the last
checkpoint's arrays (optimizer, moving average, ...), each line of metrics and
samples once, the results. Only clocks may differ. See tests/runs.py.

A third of the kills wait for a checkpoint that is being written; some come
before the first step, some while the network is handed on, the others at any
moment of training. Every fourth trial is killed three times. A kill that comes
too late is tried again. With --hosts=2 two processes of two fake devices each
make one run, and one of them is killed, or both; the other has to end by
itself within a minute.

The last line is JSON, {"stage", "kills", "identical": kills after which the run
was the same, "killed_in", ...}; the exit code is 1 unless all are. What differs
is printed, and both folders stay.
"""

import collections
import concurrent.futures
import contextlib
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags, logging

from launch import pipeline
from tests import forks, kills

STAGES = ('pretrain', 'sft', 'rm', 'ppo', 'ppo_ptx')

_STAGE = flags.DEFINE_enum('stage', None, STAGES, 'By default each of them.')
_KILLS = flags.DEFINE_integer('kills', 8, 'How many, of a stage.')
_HOSTS = flags.DEFINE_integer('hosts', 1, 'Processes of a run: 1 or 2.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
_SAVE_EVERY = flags.DEFINE_integer('save_every', 0, 'Steps; 0: by stage.')
_JOBS = flags.DEFINE_integer('jobs', 1, 'Trials at a time.')
_ROOT = flags.DEFINE_string(
    'root', '', 'Where to work; by default a folder that is removed if all is'
    ' well. Stages that are finished there are not run again.'
)
_PLAIN = flags.DEFINE_bool('plain', False, 'Import anew for each start.')

_HEARTBEAT_SECONDS = 6
_SAVE_STEPS = dict(pretrain=20, sft=20, rm=10, ppo=1, ppo_ptx=1)

# The stages before each, which are run once, as small.
_NEEDS = dict(
    rm=('sft', 'comparisons'),
    ppo=('sft', 'comparisons', 'rm'),
    ppo_ptx=('sft', 'comparisons', 'rm'),
)


def config(
    stage: str, root: str, run: str, save_every: int = 0
) -> pipeline.Config:
  """A stage of the miniature, cut to some seconds of training."""
  c = pipeline.load_config(f'configs/{stage}.py:mini').unlock()
  c.root, c.run = root, run
  c.loop.tensorboard = False
  c.loop.log_every = 1
  c.loop.save_every = save_every or _SAVE_STEPS.get(stage, 0)
  c.data.limits = dict(
      demonstrations_train=400,
      demonstrations_validation=40,
      prompts_train=300,
      prompts_validation=20,
      text=400,
      text_validation=20,
      rankings=160,
      validation_rankings=20,
  )
  # Tokenised once, and read by all.
  c.data.store = f'{root}/data'
  if stage == 'pretrain':
    c.steps, c.loop.evaluate_every = 200, 60
  if stage == 'sft':
    c.epochs, c.loop.evaluate_every = 8, 50
  if stage == 'comparisons':
    c.prompts = dict(train=160, validation=30)
  if stage == 'rm':
    c.epochs, c.loop.evaluate_every = 3, 25
  if c.stage == 'ppo':
    c.loop.evaluate_every = 3
    c.ppo.update(batch=16, episodes=16 * 10, value_warmup_iterations=2)
  return c.lock()


def attempt(
    stage: str,
    root: str,
    run: str,
    save_every: int,
    hosts: int,
    index: int,
    port: int,
) -> None:
  """What launch/train.py does, in a process that was forked for it."""
  from rlhf import hosts as hosts_lib

  pipeline.quiet_libraries()
  pipeline.keep_compiled_programs()
  where = (f'localhost:{port}', hosts, index) if hosts > 1 else ()
  with hosts_lib.joined(
      *where, start_seconds=60, heartbeat_seconds=_HEARTBEAT_SECONDS
  ):
    pipeline.run(config(stage, root, run, save_every))


def try_stage(stage: str, root: pathlib.Path, server: forks.Server) -> dict:
  """All trials of a stage; prints each."""
  begun = time.monotonic()
  for name in _NEEDS.get(stage, ()):
    print(f'{stage}: making {name} first', flush=True)
    _experiment(name, root, server).finish(name)
  experiment = kills.measured(
      _experiment(stage, root, server, _SAVE_EVERY.value, _HOSTS.value)
  )
  print(
      f'{stage}: the first step after {experiment.start_seconds:.1f} s,'
      f' {experiment.train_seconds:.1f} s of training,'
      f' {experiment.saves} checkpoints',
      flush=True,
  )
  killed_in: collections.Counter[str] = collections.Counter()
  identical, wanted = 0, kills.counts(_KILLS.value)

  def one(number: int):
    draw = random.Random(f'{_SEED.value} {stage} {number}')
    return kills.trial(experiment, f'trial-{number}', wanted[number], draw)

  with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
    for number, (phases, found) in enumerate(pool.map(one, range(len(wanted)))):
      killed_in.update(phases)
      identical += 0 if found else len(phases)
      print(
          f'{stage}, trial {number}: killed in {", ".join(phases)}:'
          f' {"not " if found else ""}identical',
          flush=True,
      )
      for line in found:
        print(f'  {root / f"trial-{number}"}: {line}', flush=True)
  return {
      'stage': stage,
      'kills': sum(wanted),
      'identical': identical,
      'hosts': _HOSTS.value,
      'killed_in': {phase: killed_in[phase] for phase in kills.PHASES},
      'seconds': round(time.monotonic() - begun, 1),
  }


def _experiment(
    stage: str,
    root: pathlib.Path,
    server: forks.Server,
    save_every: int = 0,
    hosts: int = 1,
) -> kills.Experiment:
  return kills.Experiment(
      server,
      root,
      'benchmarks.kill_test:attempt',
      {'stage': stage, 'root': str(root), 'save_every': save_every},
      hosts,
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  root = pathlib.Path(_ROOT.value or tempfile.mkdtemp(prefix='kill_test'))
  root = root.absolute()
  root.mkdir(parents=True, exist_ok=True)
  results = []
  with forks.Server(
      'seqio',
      'rlhf.stages',
      'rlhf.data.tasks',
      'rlhf.data.loading',
      'benchmarks.kill_test',
      plain=_PLAIN.value,
  ) as server:
    for stage in [_STAGE.value] if _STAGE.value else STAGES:
      folder = root / stage if _HOSTS.value == 1 else root / f'{stage}-hosts'
      folder.mkdir(exist_ok=True)
      results.append(try_stage(stage, folder, server))
      print(json.dumps(results[-1]), flush=True)
  if any(row['identical'] < row['kills'] for row in results):
    print(f'what differs is in {root}', file=sys.stderr)
    sys.exit(1)
  if not _ROOT.value:
    with contextlib.suppress(OSError):
      shutil.rmtree(root)


if __name__ == '__main__':
  app.run(main)
