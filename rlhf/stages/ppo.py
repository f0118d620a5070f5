# SPDX-License-Identifier: Apache-2.0
"""Step 3: PPO and PPO-ptx against the reward model.

An iteration samples a batch of responses, scores it, and takes an optimizer
step of policy and value function on each minibatch (Ouyang et al. 2022,
section 3.4 and appendix C.4): ppo_trainer.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from rlhf import loop
from rlhf.stages import gate
from rlhf.stages import setup as setup_lib
from rlhf.stages.ppo_trainer import PPOState, Trainer
from rlhf.watching.alarms import AlarmConfig, Alarms

__all__ = ['HEADLINE', 'Grade', 'PPOState', 'Trainer', 'run']

# Of rows {prompt, response, finished}: the quality of each, float [rows].
Grade = Callable[[list[dict]], np.ndarray]


def run(config: setup_lib.Config, *, grade: Grade | None = None) -> None:
  """Trains a policy against the reward model and hands on its average.

  Where a program can tell what a response is worth, `grade` logs its mean as
  'rollout/gold' beside the reward model's score; nothing is trained on it.
  """
  setup = setup_lib.make(config)
  gate.check_reward_model(config)
  trainer = Trainer(setup)
  trainer.compile_ahead()
  drawn: Any = None  # By the last iteration.

  def step(state, index):
    nonlocal drawn
    state, metrics, drawn = trainer.iteration(state, index)
    if grade is not None:
      rows = trainer.sample_rows(drawn, config.ppo.batch)
      metrics['rollout/gold'] = np.mean(grade(rows))
    return state, metrics

  def evaluate(state, done):
    del state, done
    return loop.Evaluation({}, trainer.sample_rows(drawn))

  stage = loop.Stage(
      config.run,
      step,
      steps=trainer.iterations,
      headline=HEADLINE,
      evaluate=evaluate,
      position=trainer.position,
      batch=lambda index: drawn.experience,
      samples=lambda: trainer.sample_rows(drawn),
      tokens=trainer.tokens,
      waits=True,
      alarms=Alarms(AlarmConfig(**config.ppo.alarms)),
  )
  state, handed_on = setup.run(stage, trainer.state)
  # The paper evaluates the moving average of the weights (appendix C.4).
  policy = state.policy
  params = policy.params if policy.ema is None else policy.ema
  facts = {
      'iterations': trainer.iterations,
      'updates': int(policy.step),
      'kl_coefficient': float(state.kl_coefficient),
  }
  setup.hand_on(params, trainer.policy_cfg, handed_on | facts)


HEADLINE = (
    'rollout/score',
    'rollout/gold',
    'rollout/kl',
    'rollout/length',
    'rollout/entropy',
    'rollout/explained_variance',
    'policy/clip_fraction',
    'ptx/loss',
    'time/generate',
    'time/score',
    'time/train',
)
