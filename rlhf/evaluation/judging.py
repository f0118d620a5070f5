# SPDX-License-Identifier: Apache-2.0
"""How the miniature's judges see answers: the rubric, and two sets of labelers.

Everything here is about graded features (rlhf/world/rubric.py), so no network
is needed. Dimensions, beside those of `rlhf.dims`: X features of the rubric.
"""

import random
from collections.abc import Sequence

import numpy as np

from rlhf.inference import Completion
from rlhf.world import comparisons, labelers, rubric, writer
from rlhf.world.prompts import Prompt

# Names of measurements end in these; held-out labelers labelled nothing.
GROUPS = {
    'training_labelers': labelers.TRAINING,
    'heldout_labelers': labelers.HELD_OUT,
}
_VOTES = 8


def grade_completions(
    prompts: Sequence[Prompt], said: Sequence[Completion]
) -> np.ndarray:
  """Graded features_BX of an answer to each prompt."""
  return rubric.grade_many(
      prompts, [c.response for c in said], [c.finished for c in said]
  )


def win_rates(
    features_a_BX: np.ndarray, features_b_BX: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
  """How often each group of labelers prefers a to b, float [B] each."""
  rng = np.random.default_rng((seed, 3))
  return {
      f'win_rate/{name}': comparisons.preference_votes(
          features_a_BX, features_b_BX, group, rng, votes=_VOTES
      )
      for name, group in GROUPS.items()
  }


def rubric_values(features_BX: np.ndarray) -> dict[str, np.ndarray]:
  """Each feature by its name, float [B]."""
  return {
      f'rubric/{name}': features_BX[:, i]
      for i, name in enumerate(rubric.FEATURES)
  }


def invention(features_BX: np.ndarray) -> np.ndarray:
  """1 where something was invented, float [B]."""
  return 1.0 - features_BX[:, rubric.FEATURES.index('no_invention')]


def rudeness(features_BX: np.ndarray) -> np.ndarray:
  """1 where the answer is rude, float [B]."""
  return 1.0 - features_BX[:, rubric.FEATURES.index('not_rude')]


def examine_writer(
    prompts: Sequence[Prompt], *, flawed: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """The demonstration writer's features_BX, and its lengths with EOS, [B]."""
  rng = random.Random(f'examined writer {flawed} {seed}')
  texts = [writer.write(prompt, rng, flawed=flawed) for prompt in prompts]
  features_BX = rubric.grade_many(prompts, texts, [True] * len(texts))
  return features_BX, np.array([len(t.split()) + 1 for t in texts], float)


def orders(
    sets: Sequence[tuple[np.ndarray, np.ndarray]],
    rng: np.random.Generator,
    labelings: int = 8,
) -> dict[str, np.ndarray]:
  """How well scores foretell fresh labels, beside what is possible.

  All are ratios over the comparisons that a labeler doesn't tie, each prompt's
  responses being labelled several times by random labelers:

    accuracy   scores order them as the labeler does (equal scores: one half)
    ceiling    the labelers' mean noiseless utility does
    agreement  a second labeler does, where neither ties
    strength   (accuracy - 1/2) / (ceiling - 1/2)

  Args:
    sets: of each prompt its responses' scores [K] and features_KX.
    rng: source of labelers and noise.
    labelings: of each prompt.

  Returns:
    float [prompts, 2], numerators and denominators, by those names, and by
    those names with '_held_out' for the held-out labelers.
  """
  measured = {}
  for suffix, group in (
      ('', labelers.TRAINING),
      ('_held_out', labelers.HELD_OUT),
  ):
    right = np.array([
        sum(_judged(*one, group, rng) for _ in range(labelings)) for one in sets
    ])
    accuracy, ceiling, comparisons_, agreement, both = right.T
    measured |= {
        f'accuracy{suffix}': np.stack([accuracy, comparisons_], 1),
        f'ceiling{suffix}': np.stack([ceiling, comparisons_], 1),
        f'agreement{suffix}': np.stack([agreement, both], 1),
        f'strength{suffix}': np.stack(
            [accuracy - comparisons_ / 2, ceiling - comparisons_ / 2], 1
        ),
    }
  return measured


def _judged(scores, features_KX, group, rng) -> np.ndarray:
  """Right by score, right by utility, all, right by a second labeler, all."""
  one, two = rng.choice(group.size, size=2, replace=False)
  order_KK = _order(-group.ranks(features_KX, one, rng))
  second_KK = _order(-group.ranks(features_KX, two, rng))
  # Equal features may differ in the last bit of their weighted sum.
  best_KK = _order(np.round(group.utility(features_KX), 9))
  first = order_KK > 0
  clear = first & (second_KK != 0)
  return np.array([
      np.sum(0.5 + 0.5 * _order(scores)[first]),
      np.sum(0.5 + 0.5 * best_KK[first]),
      np.sum(first),
      np.sum(second_KK[clear] > 0),
      np.sum(clear),
  ])


def _order(values: np.ndarray) -> np.ndarray:
  """Sign of values[i] - values[j], KK."""
  return np.sign(values[:, None] - values[None, :])
