# SPDX-License-Identifier: Apache-2.0
"""From responses to labels: rankings for the reward model, votes for a test.

One labeler ranks all responses to a prompt at once (Ouyang et al. 2022,
section 3.4), and sees identical responses once: to label both, with noise,
would teach a reward model coin flips.
"""

from collections.abc import Sequence

import numpy as np

from rlhf.world.labelers import Labelers
from rlhf.world.prompts import Prompt


def ranking_rows(
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[str]],
    features: Sequence[np.ndarray],
    labelers: Labelers,
    rng: np.random.Generator,
) -> tuple[list[dict], int]:
  """Has the responses to each prompt ranked, each by one random labeler.

  Args:
    prompts: one a row.
    responses: to each prompt, any number of them.
    features: features_KX of each prompt's responses, in the same order.
    labelers: the group that labels.
    rng: source of the labelers drawn and of their noise.

  Returns:
    Rows {'prompt', 'responses', 'ranks', 'labeler', 'user'} that can be
    written as JSON: distinct responses in the order of first appearance, their
    ranks (1 is best, ties equal, no gaps), the labeler's index in the group and
    the user's id. 'prompt' is the bare text, without an answer suffix.
    And the number of prompts dropped for want of two distinct responses, or
    because the labeler found all of them equal.

  Raises:
    ValueError: the arguments are not parallel.
  """
  if not len(prompts) == len(responses) == len(features):
    raise ValueError(
        f'{len(prompts)} prompts, {len(responses)} lists of responses and'
        f' {len(features)} arrays of features: pass one of each per prompt.')
  rows = []
  for i, (prompt, texts, features_KX) in enumerate(
      zip(prompts, responses, features, strict=True)):
    if len(texts) != len(features_KX):
      raise ValueError(
          f'Prompt {i} has {len(texts)} responses but {len(features_KX)} rows'
          ' of features: grade every response.')
    first: dict[str, int] = {}
    for k, text in enumerate(texts):
      first.setdefault(text, k)
    if len(first) < 2:
      continue
    labeler = int(rng.integers(labelers.size))
    ranks = labelers.ranks(features_KX[list(first.values())], labeler, rng)
    if (ranks == ranks[0]).all():
      continue
    rows.append({
        'prompt': prompt.text, 'responses': list(first),
        'ranks': ranks.tolist(), 'labeler': labeler, 'user': prompt.user,
    })
  return rows, len(prompts) - len(rows)


def preference_votes(
    features_a_BX: np.ndarray,
    features_b_BX: np.ndarray,
    labelers: Labelers,
    rng: np.random.Generator,
    votes: int = 8,
) -> np.ndarray:
  """How often A's response is preferred to B's, prompt by prompt.

  In each vote one random labeler judges both responses; a tie is half a win.

  Args:
    features_a_BX: [prompts, features] of the responses of A.
    features_b_BX: the same of B, to the same prompts.
    labelers: the group that votes.
    rng: source of the labelers drawn and of their noise.
    votes: how many votes on each prompt.

  Returns:
    float64 [prompts], fraction of the votes that A wins, in [0, 1].

  Raises:
    ValueError: A and B differ in shape.
  """
  if features_a_BX.shape != features_b_BX.shape:
    raise ValueError(
        f'Features of A are {features_a_BX.shape}, of B'
        f' {features_b_BX.shape}: they must answer the same prompts.')
  wins = np.zeros(len(features_a_BX))
  for _ in range(votes):
    labeler = rng.integers(labelers.size, size=len(wins))
    a = labelers.scores(features_a_BX, labeler, rng)
    b = labelers.scores(features_b_BX, labeler, rng)
    wins += .5 + .5 * np.sign(a - b)
  return wins / votes
