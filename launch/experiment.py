# SPDX-License-Identifier: Apache-2.0
"""The miniature from SFT to its report: what demo.py and study.py share."""

import importlib.metadata
import json
import os
import pathlib
import platform
import time

from absl import logging

from configs import common
from launch import pipeline
from rlhf.watching.workdir import Workdir

STAGES = ('sft', 'comparisons', 'rm', 'ppo', 'ppo_ptx')


class OtherExperimentError(Exception):
  """The root holds results of another seed or size."""


def stage_config(
    name: str, root: pathlib.Path, seed: int, *, smoke: bool = False
) -> pipeline.Config:
  """configs/`name`.py at mini size, below `root`."""
  config = pipeline.load_config(f'configs/{name}.py:mini')
  with config.unlocked():
    config.root, config.seed = str(root), seed
    if smoke:
      _shrink(config)
  return config


def _shrink(config: pipeline.Config) -> None:
  """Just enough of everything for every line to run: seconds a stage."""
  config.loop.evaluate_every = 0
  config.loop.tensorboard = False
  config.data.limits = dict(
      demonstrations_train=400,
      demonstrations_validation=50,
      prompts_train=200,
      prompts_validation=20,
      text=400,
  )
  if config.stage == 'sft':
    config.epochs = 1
  if config.stage == 'comparisons':
    config.prompts = dict(train=100, validation=30)
  if config.stage == 'reward':
    config.epochs = 1
  if config.stage == 'ppo':
    config.ppo.batch = 32
    config.ppo.episodes = 32 * 4
    config.ppo.value_warmup_iterations = 1


def train(root: pathlib.Path, seed: int, *, smoke: bool = False) -> dict:
  """Runs the stages that have not finished below `root`.

  Returns:
    Each stage's wall time in seconds, those of an earlier call too.

  Raises:
    OtherExperimentError: if the root was begun with another seed or size.
  """
  _claim(root, {'seed': seed, 'smoke': smoke})
  for name in STAGES:
    run_stage(stage_config(name, root, seed, smoke=smoke))
  return read_seconds(root)


def run_stage(config: pipeline.Config, stage=None) -> None:
  """Runs a stage, and remembers below the root how long it took."""
  root = pathlib.Path(config.root)
  seconds = read_seconds(root)
  pipeline.run(config, seconds=seconds, stage=stage)
  Workdir(root, tensorboard=False).write_json('seconds', seconds)


def read_seconds(root: pathlib.Path) -> dict[str, float]:
  """What `run_stage` remembered."""
  path = root / 'seconds.json'
  return _read(path) if path.exists() else {}


def _claim(root: pathlib.Path, experiment: dict) -> None:
  path = root / 'experiment.json'
  if not path.exists():
    Workdir(root, tensorboard=False).write_json('experiment', experiment)
    return
  found = _read(path)
  if found != experiment:
    raise OtherExperimentError(
        f'{root} was begun as {found}, not as {experiment}: name another'
        ' folder with --root=, or remove that one'
    )


def examiner(
    root: pathlib.Path, seed: int, *, smoke: bool = False, reward: str = 'rm'
):
  """An `Examiner` of the models below `root`, on test users' prompts."""
  from rlhf.evaluation import miniature
  from rlhf.stages import setup as setup_lib

  config = common.base('evaluation', 'evaluation', 'mini').unlock()
  config.root, config.seed, config.temperature = str(root), seed, 1.0
  if smoke:
    _shrink(config)
  setup = setup_lib.make(config)
  n = 50 if smoke else 1000
  return miniature.Examiner(setup, 'test', n=n, seed=seed, reward=reward)


def examine(root: pathlib.Path, seed: int, *, smoke: bool = False) -> dict:
  """Examines the models below `root`, unless that was done.

  Writes measurements.npz (a value a prompt) and results.json (intervals).

  Returns:
    The contents of results.json.
  """
  from rlhf.evaluation import findings, measurements, miniature

  workdir = Workdir(root, tensorboard=False)
  if workdir.finished:
    logging.info('%s was examined before', root)
    return workdir.read_json('results')
  start = time.monotonic()
  judge = examiner(root, seed, smoke=smoke)
  measured, samples = miniature.examine_all(judge)
  measured['contrasts'] = findings.contrasts(measured)
  measurements.save(root / 'measurements.npz', measured)
  results = measurements.summarised([measured])
  results['reward_model']['validation'] = {
      'accuracy': _read(root / 'rm' / 'results.json')['accuracy'],
      **_read(root / 'comparisons' / 'results.json'),
  }
  asked = judge.questions
  results['prompts'] |= {
      'mixed': len(asked.mixed),
      'special': len(asked.all) - len(asked.mixed),
      'users': len({prompt.user for prompt in asked.all}),
  }
  results |= {
      'samples': samples,
      'seed': seed,
      'smoke': smoke,
      'versions': versions(),
      'machine': machine(),
      'config': {name: read_config(root, name) for name in STAGES},
  }
  results['seconds'] = split_of_time(
      read_seconds(root), time.monotonic() - start
  )
  workdir.write_json('results', results)
  return results


def split_of_time(stages: dict, evaluation: float) -> dict[str, float]:
  """Seconds of each stage of `STAGES`, 'training', 'evaluation', 'total'."""
  seconds = {name: stages[name] for name in STAGES if name in stages}
  training = sum(seconds.values())
  return seconds | {
      'training': training,
      'evaluation': evaluation,
      'total': training + evaluation,
  }


def read_config(root: pathlib.Path, run: str) -> dict:
  """The config that a stage ran with."""
  return _read(root / run / 'config.json')


def _read(path: pathlib.Path) -> dict:
  return json.loads(path.read_text())


def machine() -> str:
  """What the times were taken on."""
  # Those that this process may use, which a scheduler may have limited.
  limited = hasattr(os, 'sched_getaffinity')  # Not on macOS.
  cores = len(os.sched_getaffinity(0)) if limited else os.cpu_count()
  plural = '' if cores == 1 else 's'
  return f'{cores} CPU core{plural}, {platform.machine()}'


def versions() -> dict[str, str]:
  """Versions of what the numbers hang on."""
  names = ('jax', 'flax', 'optax', 'numpy')
  found = {name: importlib.metadata.version(name) for name in names}
  return {'python': platform.python_version()} | found
