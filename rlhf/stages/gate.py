# SPDX-License-Identifier: Apache-2.0
"""Before PPO: is its reward model strong enough to be optimised against?"""

import json

from etils import epath

from rlhf.stages import setup as setup_lib
from rlhf.watching.display import say

# In the miniature an RM below this is hacked down to empty answers at the
# paper's beta, while its reward rises; see docs/results/miniature.md. Ours.
THRESHOLD = 2 / 3


def strength(accuracy: float, ceiling: float) -> float:
  """How far from chance (0) to its ceiling (1) an RM's accuracy has come."""
  return (accuracy - 0.5) / (ceiling - 0.5)


def check_reward_model(config: setup_lib.Config) -> str | None:
  """Warns when the reward model is weak, or when that can't be told.

  The ceiling is measured by the comparisons stage; for human rankings it is
  `config.labeler_agreement`, how often two labelers agree (Paper: 72.6 %).

  Args:
    config: PPO's; `reward_model` is the directory of the finished RM.

  Returns:
    The warning, or None.
  """
  results = _results(epath.Path(config.reward_model))
  comparisons = _results(epath.Path(config.root) / 'comparisons')
  ceiling = comparisons.get('ceiling', config.get('labeler_agreement'))
  if 'accuracy' not in results or ceiling is None:
    warning = (
        f'reward model {config.reward_model}: no accuracy on record, so nobody'
        ' knows if it is strong enough to be optimised against'
    )
    say(f'warning: {warning}')
    return warning
  accuracy = results['accuracy']['mean']
  found = strength(accuracy, ceiling)
  line = (
      f'reward model: accuracy {accuracy:.3f}, ceiling {ceiling:.3f}:'
      f' {found:.0%} of the way from chance'
  )
  if found >= THRESHOLD:
    say(line)
    return None
  warning = (
      f'{line}, under {THRESHOLD:.0%}. PPO will find its mistakes: expect the'
      ' score to rise while quality falls. More rankings help first, then a'
      f' larger KL coefficient (now {config.ppo.kl_coefficient})'
  )
  say(f'warning: {warning}')
  return warning


def _results(directory: epath.Path) -> dict:
  path = directory / 'results.json'
  return json.loads(path.read_text()) if path.exists() else {}
