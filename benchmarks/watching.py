# SPDX-License-Identifier: Apache-2.0
"""What it costs a step to be watched: metrics.jsonl, TensorBoard, the display.

  python benchmarks/watching.py        # one JSON line; three minutes

The miniature's SFT and PPO as they are shipped (a line every 10 steps; each
iteration), and SFT with a line each step, with TensorBoard and a terminal that
is redrawn, against nothing of it. Runs with and without take turns; the step
times are medians. Two answers each:

  main_thread_share   time that a step spends in calls of the work directory
                      and of the display, over the step's time
  slower              how much longer a step takes with all of it on, which
                      counts what threads take from the computation too; on a
                      busy machine it is uncertain by some percent

Weights don't matter to the time: PPO's policy is the base model, its reward
model that with a random head. Needs TensorFlow, as the data do; TensorBoard's
own writer would not.
"""

import functools
import io
import json
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
from rich.console import Console

from launch import pipeline
from rlhf import loop, model, networks
from rlhf.stages import STAGES
from rlhf.watching import workdir
from rlhf.watching.display import Display

_ITERATIONS = 30  # Of PPO; SFT takes two epochs, 220 steps.
# The first ones are not like the others: for two or three seconds of a process
# TensorBoard's modules are imported, once.
_WARM_UP = {'sft': 100, 'ppo': 5}


# Name, stage, and lines of metrics every so many steps; 0: as it is shipped.
_CASES = (('sft', 'sft', 0), ('sft_each_step', 'sft', 1), ('ppo', 'ppo', 0))


class _Timed(Display):
  """The display on a terminal that nobody sees; notes when steps end."""

  ends: list[float]

  def __init__(self, *args, **options):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    super().__init__(*args, **options, console=console)


class _Nothing(_Timed):
  """In its place: notes when steps end."""

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def update(self, step, numbers):
    pass

  def samples(self, rows):
    pass


def _noting_ends(update, ends):
  """`Display.update`, which the loop calls once a step."""

  @functools.wraps(update)
  def call(*args, **options):
    ends.append(time.perf_counter())
    return update(*args, **options)

  return call


def _timed(function, spent):
  """The function; adds when each call began, and its time, to `spent`."""

  @functools.wraps(function)
  def call(*args, **options):
    start = time.perf_counter()
    try:
      return function(*args, **options)
    finally:
      spent.append((start, time.perf_counter() - start))

  return call


def _patched(owner, name, function):
  """Sets an attribute and returns what takes it back."""
  before = getattr(owner, name)
  setattr(owner, name, function)
  return lambda: setattr(owner, name, before)


def measure(config, *, watched: bool) -> tuple[list[float], list[float]]:
  """Runs a stage: seconds of each step, and of its calls in each."""
  view = _Timed if watched else _Nothing
  ends: list[float] = []
  spent: list[tuple[float, float]] = []
  undo = [_patched(loop, 'Display', view)]
  for owner, name in (
      (workdir.Workdir, 'scalars'),
      (workdir.Workdir, 'samples'),
      (view, 'samples'),
      (view, 'update'),
  ):
    undo.append(_patched(owner, name, _timed(getattr(owner, name), spent)))
  undo.append(_patched(view, 'update', _noting_ends(view.update, ends)))
  try:
    STAGES[config.stage](config)
  finally:
    for back in reversed(undo):
      back()
  # The last ones hold the evaluation at the end.
  spans = list(zip(ends, ends[1:], strict=False))[_WARM_UP[config.stage] : -2]
  calls = [
      sum(seconds for start, seconds in spent if begin <= start < end)
      for begin, end in spans
  ]
  return [end - begin for begin, end in spans], calls


def _config(stage: str, root: str, run: str, watched: bool, log_every: int):
  c = pipeline.load_config(f'configs/{stage}.py').unlock()
  c.root, c.run = root, run
  c.loop.update(
      log_every=(log_every or c.loop.log_every) if watched else 0,
      save_every=0,
      evaluate_every=0,
      tensorboard=watched,
  )
  if stage == 'sft':
    c.epochs = 2
  else:
    c.init_from, c.reward_model = f'{root}/base', f'{root}/rm'
    c.requires = {}
    c.ppo.episodes = _ITERATIONS * c.ppo.batch
  return c.lock()


def _write_networks(root: str) -> None:
  sft = pipeline.load_config('configs/sft.py')
  params, cfg, _ = networks.load_model(sft.init_from)
  head = {'scalar_head': model.init_scalar_head(jax.random.key(0), cfg)}
  for name, found in (('base', params), ('rm', params | head)):
    networks.save_model(pathlib.Path(root) / name / 'model', found, cfg, {})


def main() -> None:
  pipeline.keep_compiled_programs()
  found: dict = {
      'device': str(jax.devices()[0].device_kind), 'jax': jax.__version__
  }
  with tempfile.TemporaryDirectory() as root:
    _write_networks(root)
    for name, stage, log_every in _CASES:
      seconds: dict[bool, list[float]] = {True: [], False: []}
      calls: list[float] = []
      for turn, watched in enumerate((False, True, True, False)):
        run = f'{name}_{turn}'
        config = _config(stage, root, run, watched, log_every)
        steps, called = measure(config, watched=watched)
        seconds[watched] += steps
        if watched:
          calls += called
      on, off = (statistics.median(seconds[key]) for key in (True, False))
      found[name] = {
          'step_ms': round(1000 * off, 2),
          'watched_step_ms': round(1000 * on, 2),
          'slower': round(on / off - 1, 4),
          'main_thread_ms': round(1000 * statistics.mean(calls), 4),
          'main_thread_median_ms': round(1000 * statistics.median(calls), 4),
          'main_thread_share': round(statistics.mean(calls) / on, 5),
      }
  print(json.dumps(found))


if __name__ == '__main__':
  main()
