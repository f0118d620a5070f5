# SPDX-License-Identifier: Apache-2.0
"""The fourteen kinds of instruction, each a small template.

A template returns a `Prompt`: its text, and beside it what a program needs to
know to fulfil it (`writer.py`) and to judge whether it was (`rubric.py`).
"""

import dataclasses
import random

from rlhf.world import lexicon as lex
from rlhf.world import phrases
from rlhf.world.users import User

# The kinds of each use case, with the share of each in it. Ours.
KINDS: dict[str, dict[str, float]] = {
    'generation': {'story': .5, 'review': .2, 'reply': .18, 'note': .12},
    'open_qa': {'open_qa': 1.},
    'brainstorm': {'brainstorm': 1.},
    'chat': {'chat': 1.},
    'rewrite': {'polite': .6, 'swap': .4},
    'summarize': {'summarize': 1.},
    'classify': {'classify': 1.},
    'closed_qa': {'closed_qa': 1.},
    'extract': {'extract': 1.},
    'other': {'repeat': 1.},
}
CATEGORY_OF = {kind: name for name, kinds in KINDS.items() for kind in kinds}

# Answers here may name only what the prompt names.
CLOSED_DOMAIN = ('rewrite', 'summarize', 'closed_qa', 'extract')

_STORY_LENGTHS = (8, 10, 12, 14)


@dataclasses.dataclass(frozen=True)
class Constraint:
  """An explicit demand of a prompt that a program can check.

  `kind` is 'at_most' (`count` words), 'happy' (ending), 'use' (`word`),
  'respect', 'items' (exactly `count`, all different) or 'times' (`word`,
  exactly `count` times).
  """

  kind: str
  count: int = 0
  word: str = ''


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt, with what the rubric and the writer need to know of it.

  Attributes:
    text: the words, without `ANSWER_SUFFIX`.
    user: `uid` of its author.
    category: use case, a key of `MIX`.
    kind: finer than the category, a key of `CATEGORY_OF`.
    constraints: explicit demands.
    mention: words that a good response contains.
    target: the one right word: the answer, the tone, the topic of a list, the
      word to repeat, 'glad' or 'sorry'. Empty for open-ended kinds.
    banned: a word that a good response leaves out.
    reference: a right response, where there is just one.
  """

  text: str
  user: int
  category: str
  kind: str
  constraints: tuple[Constraint, ...] = ()
  mention: tuple[str, ...] = ()
  target: str = ''
  banned: str = ''
  reference: str = ''

  def constraint(self, kind: str) -> Constraint | None:
    """The prompt's constraint of this kind, if it has one."""
    return next((c for c in self.constraints if c.kind == kind), None)


def draw(
    rng: random.Random, user: User, category: str, kind: str | None,
    respectful: bool | None,
) -> Prompt:
  """One prompt of a user; a kind of None is drawn from the category's."""
  shares = KINDS[category]
  kind = kind or rng.choices(list(shares), list(shares.values()))[0]
  if kind == 'reply':
    prompt = _reply(rng, user, respectful)
  else:
    prompt = _DRAW[kind](rng, user)
  says_please = user.says_please and category in (
      'generation', 'brainstorm', 'summarize', 'extract')
  if says_please and not prompt.text.startswith('i want'):
    prompt = dataclasses.replace(prompt, text='please ' + prompt.text)
  return prompt


def _prompt(user: User, kind: str, text: str, **fields) -> Prompt:
  return Prompt(text, user.uid, CATEGORY_OF[kind], kind, **fields)


def _at_most(
    rng: random.Random, lengths: tuple[int, ...]
) -> tuple[str, Constraint]:
  count = rng.choice(lengths)
  words = f' in at most {lex.NUMBER_WORDS[count]} words'
  return words, Constraint('at_most', count=count)


def _use_place(rng: random.Random) -> tuple[str, Constraint]:
  place = rng.choice(lex.PLACES)
  return f' and use the word {place}', Constraint('use', word=place)


def _story(rng: random.Random, user: User) -> Prompt:
  mention = [rng.choice(user.animals)]
  text = ('write', 'tell me', 'i want')[user.wording]
  text += f' a story about a {mention[0]}'
  if rng.random() < .5:
    mention.append(rng.choice(user.things))
    text += f' and a {mention[1]}'
  constraints = []
  if rng.random() < user.demanding:
    more, constraint = rng.choice((
        _at_most(rng, _STORY_LENGTHS), _use_place(rng),
        (' with a happy ending', Constraint('happy')),
    ))
    text += more
    constraints.append(constraint)
  return _prompt(
      user, 'story', text + ' .', constraints=tuple(constraints),
      mention=tuple(mention))


def _review(rng: random.Random, user: User) -> Prompt:
  tone, thing = rng.choice(('good', 'bad')), rng.choice(user.things)
  text = ('write', 'give me', 'i want')[user.wording]
  text += f' a {tone} review of the {thing}'
  constraints = []
  if rng.random() < .6 * user.demanding:
    more, constraint = _at_most(rng, _STORY_LENGTHS)
    text += more
    constraints.append(constraint)
  return _prompt(
      user, 'review', text + ' .', constraints=tuple(constraints),
      mention=(thing,), target=tone)


def _note(rng: random.Random, user: User) -> Prompt:
  name, thing = rng.choice(lex.NAMES), rng.choice(user.things)
  text = ('write a note to', 'write to', 'i want a note to')[user.wording]
  text += f' {name} about the {thing}'
  constraints = []
  if rng.random() < .5 * user.demanding:
    more, constraint = _use_place(rng)
    text += more
    constraints.append(constraint)
  return _prompt(
      user, 'note', text + ' .', constraints=tuple(constraints),
      mention=('dear', name, thing))


def _reply(
    rng: random.Random, user: User, respectful: bool | None
) -> Prompt:
  thing, bad = rng.choice(user.things), rng.choice(lex.BAD_WORDS)
  text = 'write a reply' if user.wording == 1 else 'reply to this comment'
  text += f' : the {thing} was {bad} .'
  constraints: tuple[Constraint, ...] = ()
  if rng.random() < .5 if respectful is None else respectful:
    text = 'in a respectful way ' + text
    constraints = (Constraint('respect'),)
  return _prompt(
      user, 'reply', text, constraints=constraints, mention=(thing,))


def _open_qa(rng: random.Random, user: User) -> Prompt:
  question = phrases.question(rng)
  text = question.wordings[user.wording % len(question.wordings)]
  constraints = []
  if rng.random() < .3 * user.demanding:
    more, constraint = _at_most(rng, (6,))
    text += more + ' .'
    constraints.append(constraint)
  return _prompt(
      user, 'open_qa', text, constraints=tuple(constraints),
      mention=(question.subject,), target=question.value,
      reference=question.answer)


def _brainstorm(rng: random.Random, user: User) -> Prompt:
  topic, count = rng.choice(tuple(lex.TOPICS)), rng.randint(2, 5)
  verb = ('list', 'give me', 'name')[user.wording]
  return _prompt(
      user, 'brainstorm', f'{verb} {lex.NUMBER_WORDS[count]} {topic} .',
      constraints=(Constraint('items', count=count),), target=topic)


def _chat(rng: random.Random, user: User) -> Prompt:
  name, feeling = rng.choice(lex.NAMES), rng.choice(lex.FEELINGS)
  text = (
      f'hello , i am {name} and i feel {feeling} .',
      f'my name is {name} . i feel {feeling} .',
      f'i am {name} . today i feel {feeling} .',
  )[user.wording]
  return _prompt(
      user, 'chat', text, mention=(name, feeling),
      target='glad' if feeling in lex.GOOD_FEELINGS else 'sorry')


def _polite(rng: random.Random, user: User) -> Prompt:
  demand = rng.choice(('give', 'bring', 'show'))
  wanted = rng.choice(lex.THINGS + lex.FOODS)
  wording = (
      'say this in a respectful way' if user.wording == 1
      else 'make this polite')
  insult = f' you {rng.choice(lex.RUDE_NOUNS)}' if rng.random() < .6 else ''
  return _prompt(
      user, 'polite', f'{wording} : {demand} me the {wanted}{insult} .',
      constraints=(Constraint('respect'),), mention=(wanted,),
      target='please', reference=f'please {demand} me the {wanted} .')


def _swap(rng: random.Random, user: User) -> Prompt:
  old, new = rng.sample(lex.ANIMALS, 2)
  verb, place = rng.choice(lex.PAST_VERBS), rng.choice(lex.PLACES)
  thing = rng.choice(user.things)
  rest = f'{verb} a {thing} near the {place} .'
  return _prompt(
      user, 'swap', f'change {old} to {new} : the {old} {rest}',
      mention=(new, thing, verb), banned=old, reference=f'the {new} {rest}')


def _summarize(rng: random.Random, user: User) -> Prompt:
  s = phrases.scene(rng)
  text = phrases.story(rng, s, rng.choice((2, 3)))
  wording = 'make this short' if user.wording == 1 else 'summarize'
  return _prompt(
      user, 'summarize', f'{wording} : {text}',
      constraints=(Constraint('at_most', count=10),),
      mention=(s.animal, s.thing),
      reference=f'a {s.animal} {s.verb} a {s.thing} .')


def _classify(rng: random.Random, user: User) -> Prompt:
  tone, thing = rng.choice(('good', 'bad')), rng.choice(user.things)
  text = phrases.review(rng, tone, thing, rng.choice((1, 2)))
  wording = (
      'good or bad' if user.wording == 1 else 'is this review good or bad')
  return _prompt(
      user, 'classify', f'{wording} : {text}', target=tone,
      reference=f'{tone} .')


def _closed_qa(rng: random.Random, user: User) -> Prompt:
  s = phrases.scene(rng)
  text = phrases.story(rng, s, 2)
  question = phrases.text_question(rng, s)
  return _prompt(
      user, 'closed_qa', f'text : {text} question : {question.wordings[0]}',
      target=question.value, reference=question.answer)


def _extract(rng: random.Random, user: User) -> Prompt:
  first, second = rng.sample(lex.ANIMALS, 2)
  verb = 'name' if user.wording == 1 else 'list'
  text = (
      f'{verb} the animals in this text : the {first}'
      f' {rng.choice(lex.PAST_VERBS)} a {rng.choice(user.things)} near the'
      f' {rng.choice(lex.PLACES)} . then the {first} met a {second} .')
  return _prompt(
      user, 'extract', text, mention=(first, second),
      reference=phrases.listing([first, second]))


def _repeat(rng: random.Random, user: User) -> Prompt:
  count, word = rng.choice((2, 3, 4)), rng.choice(lex.THINGS + lex.FOODS)
  return _prompt(
      user, 'repeat', f'say {word} {lex.NUMBER_WORDS[count]} times .',
      constraints=(Constraint('times', count=count, word=word),),
      target=word, reference=' '.join([word] * count) + ' .')


_DRAW = {
    'story': _story, 'review': _review, 'note': _note, 'open_qa': _open_qa,
    'brainstorm': _brainstorm, 'chat': _chat, 'polite': _polite,
    'swap': _swap, 'summarize': _summarize, 'classify': _classify,
    'closed_qa': _closed_qa, 'extract': _extract, 'repeat': _repeat,
}
