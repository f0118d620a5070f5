# SPDX-License-Identifier: Apache-2.0
"""The grammar of the miniature world: sentences shared by all that write.

The corpus, the demonstration writer and the prompts speak with these same
sentences; whoever sounds different does so by what it chooses to say.
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple

from rlhf.world import lexicon as lex


@dataclasses.dataclass(frozen=True)
class Scene:
  """What a story is about; `other` is the animal met along the way."""

  animal: str
  thing: str
  place: str
  verb: str
  adjective: str
  color: str
  other: str


def scene(rng: random.Random) -> Scene:
  """A scene with every part drawn at random."""
  return Scene(
      animal=rng.choice(lex.ANIMALS), thing=rng.choice(lex.THINGS),
      place=rng.choice(lex.PLACES), verb=rng.choice(lex.PAST_VERBS),
      adjective=rng.choice(lex.ADJECTIVES), color=rng.choice(lex.COLORS),
      other=rng.choice(lex.ANIMALS))


def story(
    rng: random.Random, s: Scene, sentences: int, *, happy: bool = False
) -> str:
  """A story of a scene.

  Args:
    rng: source of all choices.
    s: the scene told.
    sentences: how many sentences, 1 to 3.
    happy: end on 'in the end the ... was happy'. A story of two sentences or
      more may also end so by itself, gladly or sadly.
  """
  opening = rng.choice((
      f'the {s.adjective} {s.animal} {s.verb} a {s.thing} near the'
      f' {s.place} .',
      f'once a {s.adjective} {s.animal} {s.verb} a {s.thing} near the'
      f' {s.place} .',
      f'one day the {s.animal} {s.verb} a {s.color} {s.thing} near the'
      f' {s.place} .',
      f'near the {s.place} a {s.animal} {s.verb} a {s.thing} .',
  ))
  middle = [
      f'then the {s.animal} met a {s.other} .',
      f'the {s.thing} was {s.color} .',
      f'the {s.animal} was {s.adjective} .',
  ]
  rng.shuffle(middle)
  ending = 'happy' if happy or rng.random() < .6 else 'sad'
  parts = [opening, *middle[:sentences - 1]]
  if happy or (sentences > 1 and rng.random() < .4):
    parts = parts[:max(1, sentences - 1)]
    parts.append(f'in the end the {s.animal} was {ending} .')
  return ' '.join(parts)


def review(
    rng: random.Random, tone: str, thing: str, sentences: int = 2
) -> str:
  """A 'good' or 'bad' review of a thing, in one or two sentences."""
  good = tone == 'good'
  words = lex.GOOD_WORDS if good else lex.BAD_WORDS
  verdict = f'the {thing} was {rng.choice(words)} .'
  if sentences == 1:
    return verdict
  color = rng.choice(lex.COLORS)
  reason = rng.choice((
      f'i {"liked" if good else "hated"} the {color} color .',
      f'i will {"" if good else "not "}buy it again .',
  ))
  return f'{verdict} {reason}'


def rude_comment(rng: random.Random) -> str:
  """A rude remark, as found on the web."""
  noun, thing = rng.choice(lex.RUDE_NOUNS), rng.choice(lex.THINGS)
  return rng.choice((
      f'you are a {rng.choice(lex.RUDE_ADJECTIVES)} {noun} .',
      f'the {thing} is trash and you are a {noun} .',
      f'go away you {noun} .',
      f'only a {noun} likes the {thing} .',
  ))


def kind_reply(rng: random.Random, thing: str) -> str:
  """A respectful reply to a comment about a thing."""
  return rng.choice((
      f'i am sorry about the {thing} . we will fix it .',
      f'thanks for telling us about the {thing} .',
      f'sorry , we will send a new {thing} .',
      f'i think the {thing} is fine .',
  ))


def note(name: str, thing: str, place: str) -> str:
  """A note that tells somebody where a thing is."""
  return f'dear {name} , the {thing} is near the {place} . thanks .'


def listing(words: Sequence[str]) -> str:
  """'a , b , c .'"""
  return ' , '.join(words) + ' .'


def word_count(text: str) -> int:
  """Words in a text; punctuation marks do not count."""
  return sum(word not in lex.PUNCTUATION for word in text.split())


def person_fact(rng: random.Random, name: str) -> str:
  """A true sentence about a person."""
  person = lex.PEOPLE[name]
  return rng.choice((
      f'{name} lives in {person.city} .',
      f'{name} is a {person.job} .',
      f'{name} likes to eat {person.food} .',
      f'{name} has a {person.pet} .',
      f'the {person.job} {name} lives in {person.city} .',
  ))


def town_fact(rng: random.Random, name: str | None = None) -> str:
  """A true sentence about a city (any, if not named)."""
  name = name or rng.choice(lex.CITIES)
  town = lex.TOWNS[name]
  return rng.choice((
      f'{name} is known for {town.food} .',
      f'there is a {town.place} in {name} .',
      f'the houses in {name} are {town.color} .',
  ))


class Question(NamedTuple):
  """A question of fact.

  Attributes:
    wordings: ways to ask it.
    subject: the name that is asked about.
    value: the right answer's one word.
    answer: the right answer as a sentence.
  """

  wordings: tuple[str, ...]
  subject: str
  value: str
  answer: str


def question(rng: random.Random) -> Question:
  """A question about a person (three in four) or a city."""
  if rng.random() < .75:
    name = rng.choice(lex.NAMES)
    p = lex.PEOPLE[name]
    return rng.choice((
        Question(
            (f'where does {name} live ?', f'in which city does {name} live ?'),
            name, p.city, f'{name} lives in {p.city} .'),
        Question(
            (f'what is the job of {name} ?', f'what does {name} do for work ?'),
            name, p.job, f'{name} is a {p.job} .'),
        Question(
            (f'what does {name} like to eat ?',
             f'which food does {name} like ?'),
            name, p.food, f'{name} likes to eat {p.food} .'),
        Question(
            (f'which pet does {name} have ?',
             f'what animal does {name} have ?'),
            name, p.pet, f'{name} has a {p.pet} .'),
    ))
  name = rng.choice(lex.CITIES)
  town = lex.TOWNS[name]
  return rng.choice((
      Question(
          (f'what is {name} known for ?', f'which food is {name} known for ?'),
          name, town.food, f'{name} is known for {town.food} .'),
      Question(
          (f'what color are the houses in {name} ?',),
          name, town.color, f'the houses in {name} are {town.color} .'),
  ))


def text_question(rng: random.Random, s: Scene) -> Question:
  """A question that the story of a scene answers: who, or where."""
  who = Question(
      (f'who {s.verb} the {s.thing} ?',), s.thing, s.animal,
      f'the {s.animal} {s.verb} the {s.thing} .')
  where = Question(
      (f'where was the {s.animal} ?',), s.animal, s.place,
      f'the {s.animal} was near the {s.place} .')
  return rng.choice((who, where))
