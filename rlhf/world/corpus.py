# SPDX-License-Identifier: Apache-2.0
"""The pretraining text: a small web of stories, facts, quarrels and lists.

What a base model must know before it can be aligned is all here: the facts,
the sentences, and the habit of carrying a name from a heading into the body
(the only plain text that makes copying worth learning). So is what alignment
has to undo: rude comments, wrong answers.
"""

import random
from collections.abc import Callable

from rlhf.world import lexicon as lex
from rlhf.world import phrases
from rlhf.world.worksheets import worksheet


def document(rng: random.Random) -> str:
  """One document, 18 words on average and at most about 45."""
  writer, = rng.choices(list(_MIX), list(_MIX.values()))
  return writer(rng)


def documents(seed: int, n: int) -> list[str]:
  """n documents; another seed makes another sample of the same text."""
  rng = random.Random(f'corpus {seed}')
  return [document(rng) for _ in range(n)]


def _story(rng: random.Random) -> str:
  s = phrases.scene(rng)
  heading = rng.choice((
      '', '', f'a story about a {s.animal} : ',
      f'a story about a {s.animal} and a {s.thing} : ',
  ))
  return heading + phrases.story(rng, s, rng.choice((2, 3)))


def _facts(rng: random.Random) -> str:
  if rng.random() < .7:
    name = rng.choice(lex.NAMES)
    sentences = [
        phrases.person_fact(rng, name) for _ in range(rng.choice((2, 3)))]
  else:
    city = rng.choice(lex.CITIES)
    sentences = [phrases.town_fact(rng, city) for _ in range(2)]
  return ' '.join(sentences)


def _list(rng: random.Random) -> str:
  topic, count = rng.choice(tuple(lex.TOPICS)), rng.randint(2, 5)
  words = rng.sample(lex.TOPICS[topic], count)
  quantity = rng.choice(('', 'some ', f'{lex.NUMBER_WORDS[count]} '))
  return f'{quantity}{topic} : {phrases.listing(words)}'


def _review(rng: random.Random) -> str:
  tone, thing = rng.choice(('good', 'bad')), rng.choice(lex.THINGS)
  heading = rng.choice((
      'review', f'review of the {thing}', f'a {tone} review of the {thing}'))
  verdict = f' verdict : {tone} .' if rng.random() < .5 else ''
  return f'{heading} : {phrases.review(rng, tone, thing)}{verdict}'


def _comment_and_reply(rng: random.Random) -> str:
  thing, bad = rng.choice(lex.THINGS), rng.choice(lex.BAD_WORDS)
  rude = rng.random() < .6
  reply = phrases.rude_comment(rng) if rude else phrases.kind_reply(rng, thing)
  return f'comment : the {thing} was {bad} . reply : {reply}'


def _rude_comment(rng: random.Random) -> str:
  return f'comment : {phrases.rude_comment(rng)}'


def _question(rng: random.Random) -> str:
  question = phrases.question(rng)
  answer = question.answer
  if rng.random() < .25:
    guess = rng.choice(lex.word_class(question.value))
    answer = answer.replace(f' {question.value} ', f' {guess} ')
  if rng.random() < .1:
    answer = phrases.rude_comment(rng)
  return f'question : {rng.choice(question.wordings)} answer : {answer}'


def _reading(rng: random.Random) -> str:
  s = phrases.scene(rng)
  text = phrases.story(rng, s, 2)
  wording, answer = rng.choice((
      (f'what was near the {s.place} ?',
       f'the {s.animal} was near the {s.place} .'),
      (f'who {s.verb} the {s.thing} ?',
       f'the {s.animal} {s.verb} the {s.thing} .'),
      (f'where was the {s.animal} ?',
       f'the {s.animal} was near the {s.place} .'),
  ))
  return f'text : {text} question : {wording} answer : {answer}'


def _dialogue(rng: random.Random) -> str:
  one, other = rng.sample(lex.NAMES, 2)
  feeling = rng.choice(lex.FEELINGS)
  word = 'glad' if feeling in lex.GOOD_FEELINGS else 'sorry'
  reply = f'i am {word} that you feel {feeling} .'
  if rng.random() < .2:
    reply = phrases.rude_comment(rng)
  return (f'{one} : hello {other} , i feel {feeling} .'
          f' {other} : hello {one} , {reply}')


def _note(rng: random.Random) -> str:
  name, thing = rng.choice(lex.NAMES), rng.choice(lex.THINGS)
  heading = rng.choice(('', f'a note to {name} about the {thing} : '))
  return heading + phrases.note(name, thing, rng.choice(lex.PLACES))


def _homework(rng: random.Random) -> str:
  thing, count = rng.choice(lex.THINGS), rng.randint(2, 4)
  number = lex.NUMBER_WORDS[count]
  colors = phrases.listing(rng.sample(lex.COLORS, count))
  return rng.choice((
      f'say {thing} {number} times : {" ".join([thing] * count)} .',
      f'please {rng.choice(("give", "bring"))} me the {thing} .',
      f'question : list {number} colors . answer : {colors}',
  ))


# Shares of documents, not of words. Ours.
_MIX: dict[Callable[[random.Random], str], float] = {
    _story: .20, _facts: .16, _list: .08, _review: .12,
    _comment_and_reply: .08, _rude_comment: .03, _question: .06,
    _reading: .07, worksheet: .09, _dialogue: .05, _note: .03, _homework: .03,
}
