# SPDX-License-Identifier: Apache-2.0
"""Finds the labelers' noise: prints the constant that `labelers.py` ships.

  python -m rlhf.world.calibration

An SFT model is imitated: it writes like the demonstration writer, slips and
all, but now and then it misreads what it was asked. To calibrate on a model's
own samples instead, pass the features of the distinct responses to each prompt
to `labelers.calibrate`.
"""

import random

import numpy as np

from rlhf.world import labelers, rubric, writer
from rlhf.world.prompts import Prompt, prompts

# Brings the mean of 'follows' over distinct responses to .82, where the
# miniature's SFT model stands.
_MISREADS = .01


def stand_in_sets(split: str, n: int, seed: int) -> list[np.ndarray]:
  """Features of 4 to 9 responses of the stand-in to each of n prompts.

  Identical responses count once, and prompts that are left with one response
  are dropped, as in `comparisons.ranking_rows`.

  Returns:
    features_KX, float64, of at most n prompts.
  """
  rng = random.Random(f'stand-in {seed}')
  asked = prompts(split, n, seed)
  alike: dict[str, list[Prompt]] = {}
  for prompt in asked:
    alike.setdefault(prompt.kind, []).append(prompt)
  sets = []
  for prompt in asked:
    distinct = set()
    for _ in range(rng.randint(4, 9)):
      misread = rng.random() < _MISREADS
      read = rng.choice(alike[prompt.kind]) if misread else prompt
      distinct.add(writer.write(read, rng))
    if len(distinct) > 1:
      sets.append(rubric.grade_many(
          [prompt] * len(distinct), sorted(distinct), [True] * len(distinct)))
  return sets


def main() -> None:
  """Prints the calibrated sigma, and what it gives on validation prompts."""
  sigma = labelers.calibrate(
      labelers.TRAINING, stand_in_sets('train', 4000, seed=0))
  print(f'SIGMA = {sigma:.3f}')
  sets = stand_in_sets('validation', 4000, seed=1)
  groups = {'training': labelers.TRAINING, 'held out': labelers.HELD_OUT}
  rng = np.random.default_rng(0)
  print(f'with the shipped SIGMA of {labelers.SIGMA}:')
  for name, group in groups.items():
    agreed = labelers.agreement(group, sets, rng)
    ceiling = labelers.best_case(group, sets, rng)
    print(f'{name}: agreement {agreed.rate:.3f}, ties {agreed.ties:.3f},'
          f' ceiling of a reward model {ceiling:.3f}')
  across = labelers.agreement(
      labelers.TRAINING, sets, rng, labelers.HELD_OUT)
  print(f'training with held out: agreement {across.rate:.3f}')


if __name__ == '__main__':
  main()
