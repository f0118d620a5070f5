# SPDX-License-Identifier: Apache-2.0
"""The study behind docs/results/miniature.md, over training seeds.

  python launch/study.py --seeds=0,1,2 --root=runs/study \
      --write=docs/results/miniature.md

For each seed the whole of launch/demo.py below root/seed<n>: everything after
the base model is seeded anew. Then, with the first seed, PPO against a reward
model that saw a tenth of the rankings. What has finished is not run again.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import time

# Before JAX and TensorFlow are imported: see launch/train.py.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags

from launch import experiment, pipeline
from rlhf.watching.display import say

_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Training seeds.')
_ROOT = flags.DEFINE_string('root', 'runs/study', 'Where everything goes.')
_JOBS = flags.DEFINE_integer('jobs', 1, 'Seeds at the same time.', 1)
_WRITE = flags.DEFINE_string(
    'write', None, 'The .md to write; its figures and .json go beside it.'
)
_SMOKE = flags.DEFINE_bool('smoke', False, 'Far too little of everything.')

# The weak reward model's share of the rankings; PPO's betas against it.
_WEAK_SHARE = 0.1
_WEAK_RUNS = {'ppo_weak_beta002': 0.02, 'ppo_weak_beta01': 0.1}


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  pipeline.quiet_libraries()
  pipeline.keep_compiled_programs()
  seeds = [int(seed) for seed in _SEEDS.value]
  root = pathlib.Path(_ROOT.value)
  run_seeds(root, seeds, jobs=_JOBS.value, smoke=_SMOKE.value)
  weak = weak_reward_model(seed_root(root, seeds[0]), seeds[0], _SMOKE.value)
  results = pool(root, seeds) | {'weak': weak}
  target = pathlib.Path(_WRITE.value or root / 'miniature.md')
  write(root, seeds, results, target)


def seed_root(root: pathlib.Path, seed: int) -> pathlib.Path:
  """Where a seed's run is."""
  return root / f'seed{seed}'


def run_seeds(
    root: pathlib.Path, seeds: list[int], *, jobs: int, smoke: bool
) -> None:
  """Runs launch/demo.py for each seed, in a process of its own.

  Raises:
    RuntimeError: when one fails, naming its log.
  """
  waiting = list(seeds)
  running: dict[int, subprocess.Popen] = {}
  while waiting or running:
    while waiting and len(running) < jobs:
      seed = waiting.pop(0)
      say(f'study: seed {seed}, {len(waiting)} more to start')
      running[seed] = _start(seed_root(root, seed), seed, jobs, smoke)
    time.sleep(0.2)
    for seed, process in list(running.items()):
      if process.poll() is None:
        continue
      del running[seed]
      if process.returncode:
        for other in running.values():
          other.terminate()
        raise RuntimeError(
            f'seed {seed} failed; see above, or'
            f' {seed_root(root, seed) / "log.txt"}'
        )
      say(f'study: seed {seed} is done')


def _start(root: pathlib.Path, seed: int, jobs: int, smoke: bool):
  demo = pipeline.REPOSITORY / 'launch' / 'demo.py'
  command = [sys.executable, str(demo), f'--root={root}', f'--seed={seed}']
  if smoke:
    command.append('--smoke')
  if jobs == 1:
    return subprocess.Popen(command)
  root.mkdir(parents=True, exist_ok=True)
  with open(root / 'log.txt', 'a', encoding='utf-8') as log:
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def weak_reward_model(root: pathlib.Path, seed: int, smoke: bool) -> dict:
  """PPO against a reward model of a tenth of the rankings, at two betas.

  Returns:
    What is in weak.json: 'rankings' (how many), 'reward_model', 'models' (SFT
    and both policies), 'contrasts' (policy - SFT), 'betas', 'seed'.
  """
  from rlhf.evaluation import measurements
  from rlhf.stages import ppo
  from rlhf.watching.workdir import Workdir

  collected = json.loads((root / 'comparisons/results.json').read_text())
  rankings = round(_WEAK_SHARE * collected['train']['prompts'])
  rm = experiment.stage_config('rm', root, seed, smoke=smoke)
  with rm.unlocked():
    rm.run = 'rm_weak'
    rm.data.limits = rm.data.limits.to_dict() | {'rankings_all': rankings}
  experiment.run_stage(rm)
  for run, beta in _WEAK_RUNS.items():
    config = experiment.stage_config('ppo', root, seed, smoke=smoke)
    with config.unlocked():
      config.run = run
      config.reward_model = str(root / 'rm_weak')
      config.ppo.kl_coefficient = beta
    experiment.run_stage(config, functools.partial(ppo.run, grade=gold))
  workdir = Workdir(root, tensorboard=False)
  if (root / 'weak.json').exists():
    return workdir.read_json('weak')
  judge = experiment.examiner(root, seed, smoke=smoke, reward='rm_weak')
  measured = {name: judge.examine(name)[0] for name in ('sft', *_WEAK_RUNS)}
  contrasts = {
      f'{measure}/{run}': measured[run][measure] - measured['sft'][measure]
      for run in _WEAK_RUNS
      for measure in ('gold_utility', 'rm_score', 'length')
  }
  about_rm = measurements.summaries(judge.examine_reward_model())
  weak = {
      'seed': seed,
      'rankings': rankings,
      'betas': _WEAK_RUNS,
      'models': {k: measurements.summaries(v) for k, v in measured.items()},
      'contrasts': measurements.summaries(contrasts),
      'reward_model': about_rm,
  }
  workdir.write_json('weak', weak)
  return weak


def gold(rows: list[dict]):
  """Gold utility of rollouts {prompt, response, finished}, float [rows]."""
  from rlhf.world import labelers, rubric

  asked = prompts_by_text()
  features_BX = rubric.grade_many(
      [asked[row['prompt']] for row in rows],
      [row['response'] for row in rows],
      [row['finished'] for row in rows],
  )
  return labelers.TRAINING.utility(features_BX)


@functools.cache
def prompts_by_text() -> dict:
  """The prompts of training users; a text says all that grading needs."""
  from rlhf.data import tasks

  return {prompt.text: prompt for prompt in tasks.prompts('train')}


def pool(root: pathlib.Path, seeds: list[int]) -> dict:
  """The results of all seeds as one: intervals over seeds and prompts."""
  from rlhf.evaluation import measurements

  roots = [seed_root(root, seed) for seed in seeds]
  pooled = measurements.summarised(
      [measurements.load(one / 'measurements.npz') for one in roots]
  )
  alone = [json.loads((one / 'results.json').read_text()) for one in roots]
  about = alone[0]
  pooled['prompts'] |= {
      k: about['prompts'][k] for k in ('mixed', 'special', 'users')
  }
  return pooled | {
      'seeds': seeds,
      'seconds_each': [run['seconds'] for run in alone],
      **{k: about[k] for k in ('smoke', 'versions', 'machine', 'config')},
  }


def write(
    root: pathlib.Path, seeds: list[int], results: dict, target: pathlib.Path
) -> None:
  """Writes the document, its two figures, and the numbers behind it."""
  from rlhf.evaluation import figures, study_report
  from rlhf.watching.workdir import Workdir

  roots = [seed_root(root, seed) for seed in seeds]
  curves = {
      name: [figures.read_curves(one / name) for one in roots]
      for name in ('ppo', 'ppo_ptx')
  }
  weak = {
      f'β = {beta}': figures.read_curves(roots[0] / run)
      for run, beta in _WEAK_RUNS.items()
  }
  results['weak']['rollouts'] = {
      run: figures.ends(weak[f'β = {beta}'])
      for run, beta in _WEAK_RUNS.items()
  }
  seconds = experiment.read_seconds(roots[0])
  results['weak']['seconds'] = sum(seconds[k] for k in ('rm_weak', *_WEAK_RUNS))
  workdir = Workdir(target.parent, tensorboard=False)
  stem = target.stem
  figures.findings_figure(
      results, curves, target.with_name(f'{stem}_findings.png')
  )
  figures.overoptimisation_figure(
      weak, target.with_name(f'{stem}_overoptimisation.png')
  )
  workdir.write_json(stem, results)
  command = (
      f'python launch/study.py --seeds={",".join(map(str, seeds))}'
      f' --write=docs/results/{target.name}'
  )
  target.write_text(study_report.write_study(results, command, stem))
  say(f'study: {target}')


if __name__ == '__main__':
  app.run(main)
