# SPDX-License-Identifier: Apache-2.0
"""Probes of a base model: does it copy from its context, does it know facts?

Each probe is a text and the one right next word. A base that cannot copy
cannot follow instructions, whatever is done to it later: check that both copy
probes are at 1.0 before starting SFT (chance is about .07).
"""

import random

from rlhf.world import lexicon as lex
from rlhf.world import phrases

Probe = tuple[str, str]


def copy_heading(seed: int = 3, n: int = 64) -> list[Probe]:
  """The animal of a heading has to reappear in the story."""
  rng = random.Random(f'copy heading {seed}')
  animals = [rng.choice(lex.ANIMALS) for _ in range(n)]
  return [(f'a story about a {a} : one day the', a) for a in animals]


def copy_story(seed: int = 3, n: int = 64) -> list[Probe]:
  """The animal of a story's first sentence opens the second."""
  rng = random.Random(f'copy story {seed}')
  scenes = [phrases.scene(rng) for _ in range(n)]
  return [
      (f'once a {s.adjective} {s.animal} {s.verb} a {s.thing} near the'
       f' {s.place} . then the', s.animal) for s in scenes]


def fact_cloze() -> list[Probe]:
  """Every fact about a person or a city that has one next word: 80."""
  probes = []
  for name, person in lex.PEOPLE.items():
    probes += [
        (f'{name} lives in', person.city), (f'{name} is a', person.job),
        (f'{name} likes to eat', person.food), (f'{name} has a', person.pet)]
  for name, town in lex.TOWNS.items():
    probes += [
        (f'{name} is known for', town.food),
        (f'the houses in {name} are', town.color)]
  return probes
