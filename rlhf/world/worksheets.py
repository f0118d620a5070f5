# SPDX-License-Identifier: Apache-2.0
"""Worksheets: web text in which instructions and answers stand together.

Their surface is that of a prompt followed by `ANSWER_SUFFIX`, so that a base
model can pick up the form of an answer, and a few-shot prompt can remind it.
Each exercise is a line, so an answer ends at the line break.
Three answers in ten are wrong or rude: it is web text.
"""

import random
from typing import NamedTuple

from rlhf.world import lexicon as lex
from rlhf.world import phrases
from rlhf.world.prompts import ANSWER_SUFFIX

_WRONG = .2
_RUDE = .1
_MAX_WORDS = 44


class _Exercise(NamedTuple):
  instruction: str
  right: str
  wrong: str


def worksheet(rng: random.Random) -> str:
  """Two or three exercises with their answers, in about 30 words."""
  parts: list[str] = []
  for _ in range(rng.choice((2, 3))):
    part = _answered(rng, rng.choice(_FAMILIES)(rng))
    length = len(f' {lex.LINE_BREAK} '.join([*parts, part]).split())
    if len(parts) < 2 or length <= _MAX_WORDS:
      parts.append(part)
  return f' {lex.LINE_BREAK} '.join(parts)


def _answered(rng: random.Random, exercise: _Exercise) -> str:
  chance = rng.random()
  if chance < _RUDE:
    answer = phrases.rude_comment(rng)
  elif chance < _RUDE + _WRONG:
    answer = exercise.wrong
  else:
    answer = exercise.right
  return f'{exercise.instruction} {ANSWER_SUFFIX} {answer}'


def _list_items(rng: random.Random) -> _Exercise:
  topic, other = rng.sample(tuple(lex.TOPICS), 2)
  count = rng.randint(2, 5)
  verb = rng.choice(('list', 'give me', 'name'))
  return _Exercise(
      f'{verb} {lex.NUMBER_WORDS[count]} {topic} .',
      phrases.listing(rng.sample(lex.TOPICS[topic], count)),
      phrases.listing(rng.sample(lex.TOPICS[other], rng.randint(2, 5))))


def _say_times(rng: random.Random) -> _Exercise:
  word = rng.choice(lex.THINGS + lex.FOODS)
  count, miscount = rng.sample((2, 3, 4), 2)
  return _Exercise(
      f'say {word} {lex.NUMBER_WORDS[count]} times .',
      ' '.join([word] * count) + ' .', ' '.join([word] * miscount) + ' .')


def _where(rng: random.Random) -> _Exercise:
  name, city = rng.choice(lex.NAMES), rng.choice(lex.CITIES)
  wording = rng.choice(('where does', 'in which city does'))
  return _Exercise(
      f'{wording} {name} live ?',
      f'{name} lives in {lex.PEOPLE[name].city} .', f'{name} lives in {city} .')


def _tell(rng: random.Random) -> _Exercise:
  s, other = phrases.scene(rng), phrases.scene(rng)
  wording = rng.choice(('write', 'tell me', 'i want'))
  return _Exercise(
      f'{wording} a story about a {s.animal} .', phrases.story(rng, s, 1),
      phrases.story(rng, other, 1))


def _be_polite(rng: random.Random) -> _Exercise:
  demand = rng.choice(('give', 'bring', 'show'))
  thing = rng.choice(lex.THINGS + lex.FOODS)
  plain = f'{demand} me the {thing} .'
  return _Exercise(f'make this polite : {plain}', f'please {plain}', plain)


def _job(rng: random.Random) -> _Exercise:
  name, job = rng.choice(lex.NAMES), rng.choice(lex.JOBS)
  wording = rng.choice((
      f'what is the job of {name} ?', f'what does {name} do for work ?'))
  return _Exercise(
      wording, f'{name} is a {lex.PEOPLE[name].job} .', f'{name} is a {job} .')


def _review(rng: random.Random) -> _Exercise:
  tone, thing = rng.choice(('good', 'bad')), rng.choice(lex.THINGS)
  other = 'bad' if tone == 'good' else 'good'
  verb = rng.choice(('write', 'give me', 'i want'))
  return _Exercise(
      f'{verb} a {tone} review of the {thing} .',
      phrases.review(rng, tone, thing), phrases.review(rng, other, thing))


_FAMILIES = (
    _list_items, _say_times, _where, _job, _tell, _tell, _review, _be_polite
)
