# SPDX-License-Identifier: Apache-2.0
"""A tiny PPO-ptx that says when it is in a phase, for preemption tests.

It touches a file and stays there for a while, so that a signal comes in the
midst of it.
"""

import dataclasses
import functools
import pathlib
import time

import jax

from rlhf import checkpoint, hosts
from rlhf.stages import ppo
from tests import tiny

ITERATIONS = 4
# `keep=1`: an unbroken run has not kept the step that another one stopped at.
CHANGES = {
    'ppo.episodes': 16 * ITERATIONS,
    'loop.save_every': 3,
    'loop.keep': 1,
    'loop.evaluate_every': 2,
}


def run(root: str, run: str, phase: str = '', seconds: float = 0.5) -> None:
  """What launch/train.py does, with networks that no stage has trained.

  Args:
    root: from `tiny.make_root`.
    run: name of the work directory.
    phase: 'generate', 'score' or 'train': of the second iteration; 'save': of
      the first checkpoint; '': never waits.
    seconds: for how long it stays there.
  """
  # It starts again and again: even the smallest programs are worth keeping.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  config = tiny.config('ppo_ptx', pathlib.Path(root), run, **CHANGES)
  if phase:
    _wait_in(phase, pathlib.Path(root) / run / 'in_phase', seconds)
  with hosts.joined():
    ppo.run(config)


def _wait_in(phase: str, marker: pathlib.Path, seconds: float) -> None:

  def stay():
    if not marker.exists():
      marker.touch()
      time.sleep(seconds)

  if phase == 'save':
    _before(checkpoint.Checkpoints, 'save', lambda *_: stay())
  elif phase == 'generate':
    _before(
        ppo.Trainer, '_generate', lambda self, state, *_: _second(state, stay)
    )
  elif phase == 'train':
    _before(
        ppo.Trainer, 'learn', lambda self, state, *_: _second(state, stay)
    )
  else:
    _before_scoring(stay)


def _second(state, stay):
  if int(state.policy.step):
    stay()


def _before(owner, name: str, first) -> None:
  """Has a method call `first` with its arguments before it does its work."""
  method = getattr(owner, name)

  @functools.wraps(method)
  def both(*args, **options):
    first(*args)
    return method(*args, **options)

  setattr(owner, name, both)


def _before_scoring(stay) -> None:
  """The program is one of a trainer's own; replaced once it is compiled."""
  compile_ahead = ppo.Trainer.compile_ahead

  def compile_and_replace(self):
    compile_ahead(self)
    score, calls = self.programs.score, []

    def stay_and_score(*args):
      calls.append(True)
      if len(calls) == 2:
        stay()
      return score(*args)

    self.programs = dataclasses.replace(self.programs, score=stay_and_score)

  ppo.Trainer.compile_ahead = compile_and_replace
