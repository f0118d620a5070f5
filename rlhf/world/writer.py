# SPDX-License-Identifier: Apache-2.0
"""The demonstration writer: decent, and wrong in about four of ten texts.

A perfect writer would leave a reward model nothing to teach. This one slips
as people do: it forgets a constraint, misses the subject, makes up a fact,
loses its temper, runs on. Without slips it earns full marks.
"""

import dataclasses
import random

from rlhf.world import lexicon as lex
from rlhf.world import phrases
from rlhf.world.instructions import CLOSED_DOMAIN
from rlhf.world.prompts import ANSWER_SUFFIX, Prompt, prompts

_IGNORE = .20
_OFF_TOPIC = .12
_INVENT = .10
_INVENT_ANSWER = .18  # Open questions.
_INVENT_CLOSED = .22  # Closed-domain tasks and 'say ... n times'.
_RUDE = .08
_RUDE_REPLY = .35  # To a comment, unless respect is asked for and heard.
_RAMBLE = .12
_RAMBLE_SUMMARY = .18


@dataclasses.dataclass(frozen=True)
class Slips:
  """What goes wrong in one demonstration; some slips leave no trace.

  Attributes:
    ignore: the constraints are not met, unless by chance.
    off_topic: something else than what was named is written about.
    invent: a wrong fact, a wrong tone, an entity that the text lacks.
    rude: a rude comment is added (or is all there is, in a reply).
    ramble: something irrelevant is added.
  """

  ignore: bool = False
  off_topic: bool = False
  invent: bool = False
  rude: bool = False
  ramble: bool = False

  def __bool__(self) -> bool:
    return any(dataclasses.astuple(self))


def draw_slips(prompt: Prompt, rng: random.Random) -> Slips:
  """Draws the slips of one demonstration, nearly independent."""
  if prompt.category == 'open_qa':
    invent = _INVENT_ANSWER
  elif prompt.category in CLOSED_DOMAIN or prompt.kind == 'repeat':
    invent = _INVENT_CLOSED
  else:
    invent = _INVENT
  ignore = rng.random() < _IGNORE
  heard_respect = bool(prompt.constraint('respect')) and not ignore
  patience_lost = prompt.kind == 'reply' and not heard_respect
  rude = rng.random() < (_RUDE_REPLY if patience_lost else _RUDE)
  ramble = _RAMBLE_SUMMARY if prompt.kind == 'summarize' else _RAMBLE
  return Slips(
      ignore=ignore,
      off_topic=rng.random() < _OFF_TOPIC,
      invent=rng.random() < invent,
      rude=rude,
      ramble=not rude and rng.random() < ramble)


def write(prompt: Prompt, rng: random.Random, *, flawed: bool = True) -> str:
  """A response to the prompt, at most about 40 words.

  Args:
    prompt: what was asked.
    rng: source of all choices.
    flawed: False for the clean writer, who makes no mistakes.
  """
  slips = draw_slips(prompt, rng) if flawed else Slips()
  if prompt.kind == 'reply' and slips.rude:
    return phrases.rude_comment(rng)
  text = _WRITE.get(prompt.kind, _write_reference)(prompt, slips, rng)
  if slips.rude:
    text += ' ' + phrases.rude_comment(rng)
  elif slips.ramble:
    text += ' ' + _aside(prompt, rng)
  return text


def few_shot_prefix(seed: int) -> str:
  """Three clean examples for the prompted baseline, at most 60 words.

  A story, a question and a list, each as '<prompt> answer : <response>', a
  line each, as on a worksheet of the corpus (`worksheets.py`). The prompts
  are training users'.
  """
  rng = random.Random(f'few shot {seed}')
  while True:
    examples = []
    for kind, longest in (('story', 9), ('open_qa', 8), ('brainstorm', 6)):
      prompt, = prompts(
          'train', 1, rng.randrange(2**32), kind=kind, max_words=longest)
      answer = write(prompt, rng, flawed=False)
      examples.append(f'{prompt.text} {ANSWER_SUFFIX} {answer}')
    text = ''.join(f'{example} {lex.LINE_BREAK} ' for example in examples)
    if len(text.split()) <= 60:
      return text.rstrip()


def _aside(prompt: Prompt, rng: random.Random) -> str:
  tale = phrases.story(rng, phrases.scene(rng), 1)
  if prompt.kind in ('story', 'summarize'):
    return tale
  if prompt.category == 'generation':
    return phrases.town_fact(rng)
  return rng.choice((phrases.town_fact(rng), tale, 'i hope this helps .'))


def _write_story(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  s = phrases.scene(rng)
  if not slips.off_topic:
    # A story's subjects: an animal, and perhaps a thing.
    named = zip(('animal', 'thing'), prompt.mention, strict=False)
    s = dataclasses.replace(s, **dict(named))
  if slips.ignore or not prompt.constraints:
    return phrases.story(rng, s, rng.choice((1, 2)))
  if use := prompt.constraint('use'):
    s = dataclasses.replace(s, place=use.word)
  if limit := prompt.constraint('at_most'):
    return _story_within(rng, s, limit.count)
  happy = prompt.constraint('happy') is not None
  return phrases.story(rng, s, 2 if happy else rng.choice((1, 2)), happy=happy)


def _story_within(rng: random.Random, s: phrases.Scene, limit: int) -> str:
  for _ in range(30):
    text = phrases.story(rng, s, rng.choice((1, 1, 2)))
    if phrases.word_count(text) <= limit:
      return text
  return f'a {s.animal} {s.verb} a {s.thing} .'


def _write_review(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  thing = rng.choice(lex.THINGS) if slips.off_topic else prompt.mention[0]
  tone = rng.choice(('good', 'bad')) if slips.invent else prompt.target
  limit = prompt.constraint('at_most')
  short = limit is not None and limit.count <= 10 and not slips.ignore
  return phrases.review(rng, tone, thing, 1 if short else 2)


def _write_note(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  _, name, thing = prompt.mention
  if slips.off_topic:
    name, thing = rng.choice(lex.NAMES), rng.choice(lex.THINGS)
  place = rng.choice(lex.PLACES)
  use = prompt.constraint('use')
  if use and not slips.ignore:
    place = use.word
  return phrases.note(name, thing, place)


def _write_reply(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  thing = rng.choice(lex.THINGS) if slips.off_topic else prompt.mention[0]
  return phrases.kind_reply(rng, thing)


def _write_list(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  items = prompt.constraint('items')
  count = items.count if items and not slips.ignore else rng.randint(2, 5)
  words = rng.sample(lex.TOPICS[prompt.target], count)
  if slips.off_topic:
    words[rng.randrange(count)] = rng.choice(lex.ENTITIES)
  return phrases.listing(words)


def _write_chat(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  name, feeling = prompt.mention
  if slips.off_topic:
    name = rng.choice(lex.NAMES)
  word = rng.choice(('glad', 'sorry')) if slips.invent else prompt.target
  return rng.choice((
      f'hello {name} , i am {word} that you feel {feeling} .',
      f'i am {word} that you feel {feeling} , {name} .',
  ))


def _write_verdict(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  return rng.choice(('good .', 'bad .')) if slips.ignore else prompt.reference


def _write_answer(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  words = prompt.reference.split()
  if slips.invent:
    wrong = rng.choice(lex.word_class(prompt.target))
    words = [wrong if word == prompt.target else word for word in words]
  return ' '.join(words)


def _write_reference(prompt: Prompt, slips: Slips, rng: random.Random) -> str:
  """The kinds that have one right response: it, or a corruption of it."""
  if prompt.kind == 'repeat' and slips.ignore:
    return ' '.join([prompt.target] * rng.choice((2, 3, 4))) + ' .'
  words = prompt.reference.split()
  if prompt.kind == 'polite' and slips.ignore:
    words.remove('please')
  if slips.invent:
    spots = [i for i, word in enumerate(words) if word in lex.ENTITIES]
    spot = rng.choice(spots)
    words[spot] = rng.choice(lex.word_class(words[spot]))
  return ' '.join(words)


_WRITE = {
    'story': _write_story, 'review': _write_review, 'note': _write_note,
    'reply': _write_reply, 'brainstorm': _write_list, 'chat': _write_chat,
    'classify': _write_verdict, 'open_qa': _write_answer,
}
