# SPDX-License-Identifier: Apache-2.0
"""Prompts of simulated users, in the use-case mix of the paper."""

import bisect
import functools
import itertools
import random

from rlhf.world.instructions import CATEGORY_OF, Constraint, Prompt, draw
from rlhf.world.users import MIX, User, users

__all__ = [
    'ANSWER_SUFFIX', 'MIX', 'Constraint', 'Prompt', 'User', 'prompts', 'users'
]

# What follows a prompt's text, everywhere a model sees one.
ANSWER_SUFFIX = 'answer :'

_TRIES = 1000


def prompts(
    split: str,
    n: int,
    seed: int,
    *,
    category: str | None = None,
    kind: str | None = None,
    respectful: bool | None = None,
    max_words: int = 29,
) -> list[Prompt]:
  """Draws prompts of a split's users.

  The use case is drawn from `MIX`, then its author among the split's users in
  proportion to their leaning: so every split has the paper's mix exactly (in
  expectation) although no user has.

  Args:
    split: 'train', 'validation' or 'test'.
    n: how many prompts.
    seed: same split, seed and filters, same prompts.
    category: only this use case.
    kind: only this kind (it implies its category).
    respectful: whether replies to a comment are asked for in a respectful
      way; None leaves it to chance. Other kinds are not affected.
    max_words: a longer prompt is drawn again, in the same use case. Words and
      punctuation marks both count.

  Returns:
    n prompts.

  Raises:
    ValueError: unknown split, category or kind; a kind of another category;
      or a max_words below what some kind needs.
  """
  category = _checked_category(category, kind)
  rng = random.Random(f'prompts {split} {seed}')
  found = []
  for _ in range(n):
    use_case = category or rng.choices(list(MIX), list(MIX.values()))[0]
    for _ in range(_TRIES):
      user = _author(rng, split, use_case)
      prompt = draw(rng, user, use_case, kind, respectful)
      if len(prompt.text.split()) <= max_words:
        break
    else:
      raise ValueError(
          f"No '{kind or use_case}' prompt fits max_words={max_words}: raise"
          ' it (29 serves every kind).')
    found.append(prompt)
  return found


def _checked_category(category: str | None, kind: str | None) -> str | None:
  if category is not None and category not in MIX:
    raise ValueError(
        f"Unknown category '{category}': use one of {', '.join(MIX)}.")
  if kind is None:
    return category
  if kind not in CATEGORY_OF:
    raise ValueError(
        f"Unknown kind '{kind}': use one of {', '.join(CATEGORY_OF)}.")
  if category not in (None, CATEGORY_OF[kind]):
    raise ValueError(
        f"Kind '{kind}' belongs to category '{CATEGORY_OF[kind]}', not to"
        f" '{category}': name one of them only.")
  return CATEGORY_OF[kind]


@functools.cache
def _cumulative_habits(split: str, category: str) -> tuple[float, ...]:
  index = list(MIX).index(category)
  return tuple(itertools.accumulate(u.habits[index] for u in users(split)))


def _author(rng: random.Random, split: str, category: str) -> User:
  cumulative = _cumulative_habits(split, category)
  return users(split)[
      bisect.bisect(cumulative, rng.random() * cumulative[-1])]
