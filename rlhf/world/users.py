# SPDX-License-Identifier: Apache-2.0
"""Simulated users: what each likes to ask, and how; split by user.

400 users differ in what they ask for, how they word it, which animals and
things they like to name and how often they set constraints. The splits share
no user (Ouyang et al. 2022, section 3.2: prompts are split by user).
"""

import dataclasses
import functools
import random

from rlhf.world import lexicon as lex

# Ouyang et al. 2022, table 1; 'other' is rounded up, to sum to 1.
MIX = {
    'generation': .456, 'open_qa': .124, 'brainstorm': .112, 'chat': .084,
    'rewrite': .066, 'summarize': .042, 'classify': .035, 'closed_qa': .026,
    'extract': .019, 'other': .036,
}

_SPLITS = {
    'train': range(0, 280), 'validation': range(280, 320),
    'test': range(320, 400),
}


@dataclasses.dataclass(frozen=True)
class User:
  """One simulated customer.

  Attributes:
    uid: 0 to 399.
    habits: leaning to each use case, in the order of `MIX`; 1 on average.
    wording: which of three wordings is the user's own.
    says_please: whether instructions begin with 'please'.
    demanding: tendency to set constraints, .2 to .7.
    animals: the five that this user writes about.
    things: the six that this user writes about.
  """

  uid: int
  habits: tuple[float, ...]
  wording: int
  says_please: bool
  demanding: float
  animals: tuple[str, ...]
  things: tuple[str, ...]


def _user(uid: int) -> User:
  rng = random.Random(f'user {uid}')
  return User(
      uid=uid,
      # Ours: a gamma of shape 1.5 and mean 1.
      habits=tuple(rng.gammavariate(1.5, 1 / 1.5) for _ in MIX),
      wording=rng.randrange(3),
      says_please=rng.random() < .3,
      demanding=rng.uniform(.2, .7),
      animals=tuple(rng.sample(lex.ANIMALS, 5)),
      things=tuple(rng.sample(lex.THINGS, 6)))


@functools.cache
def users(split: str) -> tuple[User, ...]:
  """The users of 'train' (280), 'validation' (40) or 'test' (80)."""
  if split not in _SPLITS:
    raise ValueError(
        f"Unknown split '{split}': use one of {', '.join(_SPLITS)}.")
  return tuple(_user(uid) for uid in _SPLITS[split])
