# SPDX-License-Identifier: Apache-2.0
"""The rubric: what is good about a response, decided by a program.

Seven features in [0, 1]. Five are qualities that anyone can check (the paper
asks its labelers for much the same, appendix B), two are matters of taste.
"""

import functools
import random
from collections.abc import Iterator, Sequence

import numpy as np

from rlhf.world import lexicon as lex
from rlhf.world import phrases, writer
from rlhf.world.instructions import CATEGORY_OF, CLOSED_DOMAIN
from rlhf.world.prompts import Constraint, Prompt
from rlhf.world.prompts import prompts as draw_prompts

FEATURES = (
    'follows',  # does what was asked
    'constraints',  # share of the explicit constraints that are met
    'no_invention',  # closed domain: nothing the prompt lacks; facts: right
    'not_rude',
    'fluent',  # grammatical, finished, not repetitive
    'polite',  # taste: says please, thanks, glad or sorry
    'brief',  # taste: 1 for nothing, 0 from 20 words on
)

_RUDE = frozenset(lex.RUDE_WORDS)
_POLITE = frozenset(lex.POLITE_WORDS)
_PUNCTUATION = frozenset(lex.PUNCTUATION)
_ENTITIES = frozenset(lex.ENTITIES)
_ANIMALS = frozenset(lex.ANIMALS)
_PAST = frozenset(lex.PAST_VERBS)
_GOOD = frozenset(lex.GOOD_WORDS)
_BAD = frozenset(lex.BAD_WORDS)
_GLAD = frozenset(lex.GOOD_FEELINGS)
_SAD = frozenset(lex.BAD_FEELINGS)
_TOPICS = {topic: frozenset(words) for topic, words in lex.TOPICS.items()}
_RIVALS = {
    word: frozenset(lex.word_class(word)) - {word} for word in lex.ENTITIES
}

_EMPTY = (0., 0., 1., 1., 0., 0., 1.)
_BRIEF_SCALE = 20
_ILLEGAL_ALLOWED = 4  # So many illegal trigrams make a response gibberish.
_SAMPLES_PER_KIND = 4000


def grade(prompt: Prompt, response: str, finished: bool) -> np.ndarray:
  """Grades one response; any text can be graded.

  Args:
    prompt: what was asked.
    response: words separated by spaces; may be empty, may hold any words.
    finished: whether the response came to its end (the model emitted EOS)
      before it was cut off.

  Returns:
    Seven features in [0, 1] in the order of `FEATURES`, float64.
  """
  words = response.split()
  count = sum(word not in _PUNCTUATION for word in words)
  if count == 0:
    return np.array(_EMPTY)
  present = frozenset(words)
  return np.array((
      _follows(prompt, words, present),
      _constraints_met(prompt, words, present, count),
      float(not _invents(prompt, present)),
      float(_RUDE.isdisjoint(present)),
      _fluency(words, finished),
      float(not _POLITE.isdisjoint(present)),
      1 - min(1., count / _BRIEF_SCALE),
  ))


def grade_many(
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    finished: Sequence[bool],
) -> np.ndarray:
  """Grades response i to prompt i.

  Returns:
    features_BX, float64 [responses, features].

  Raises:
    ValueError: the three sequences differ in length.
  """
  if not len(prompts) == len(responses) == len(finished):
    raise ValueError(
        f'{len(prompts)} prompts, {len(responses)} responses and'
        f' {len(finished)} flags: pass one of each for every response.')
  features = [
      grade(*row) for row in zip(prompts, responses, finished, strict=True)]
  return np.array(features).reshape(len(features), len(FEATURES))


def _follows(
    prompt: Prompt, words: list[str], present: frozenset[str]
) -> float:
  """How much of the instruction, constraints apart, was carried out."""
  target = prompt.target
  mentioned = sum(word in present for word in prompt.mention)
  mentioned /= max(1, len(prompt.mention))
  match prompt.kind:
    case 'story':
      return mentioned * (.3 if _PAST.isdisjoint(present) else 1.)
    case 'review':
      wanted, unwanted = (_GOOD, _BAD) if target == 'good' else (_BAD, _GOOD)
      return mentioned * (
          unwanted.isdisjoint(present) and not wanted.isdisjoint(present))
    case 'reply':
      return mentioned * (1. if _RUDE.isdisjoint(present) else .5)
    case 'open_qa':
      right = target in present and _RIVALS[target].isdisjoint(present)
      return .4 * mentioned + .6 * right
    case 'brainstorm':
      items = [word for word in words if word not in _PUNCTUATION]
      return len(present & _TOPICS[target]) / len(items)
    case 'chat':
      name, feeling = prompt.mention
      return .4 * (name in present) + .6 * (
          target in present and feeling in present)
    case 'polite':
      return mentioned * (1. if target in present else .2)
    case 'swap':
      return mentioned * (.3 if prompt.banned in present else 1.)
    case 'classify':
      other = 'bad' if target == 'good' else 'good'
      return float(target in present and other not in present)
    case 'closed_qa' | 'repeat':
      return float(target in present)
    case 'extract':
      found = present & _ANIMALS
      return len(found & set(prompt.mention)) / max(2, len(found))
    case _:  # A note, a summary: it has to mention what it is about.
      return mentioned


def _constraints_met(
    prompt: Prompt, words: list[str], present: frozenset[str], count: int
) -> float:
  if not prompt.constraints:
    return 1.
  met = sum(_met(c, words, present, count) for c in prompt.constraints)
  return met / len(prompt.constraints)


def _met(
    constraint: Constraint, words: list[str], present: frozenset[str],
    count: int,
) -> bool:
  match constraint.kind:
    case 'at_most':
      return count <= constraint.count
    case 'happy':
      return _SAD.isdisjoint(present) and not _GLAD.isdisjoint(present)
    case 'use':
      return constraint.word in present
    case 'respect':
      return _RUDE.isdisjoint(present)
    case 'items':
      distinct = len(present - _PUNCTUATION)
      return count == distinct == constraint.count
    case 'times':
      return words.count(constraint.word) == constraint.count
  raise ValueError(f"Unknown constraint kind '{constraint.kind}'.")


def _invents(prompt: Prompt, present: frozenset[str]) -> bool:
  if prompt.category == 'open_qa':
    return not _RIVALS[prompt.target].isdisjoint(present)
  if prompt.category in CLOSED_DOMAIN:
    return not (present & _ENTITIES) <= set(prompt.text.split())
  return False


def _fluency(words: list[str], finished: bool) -> float:
  legal = legal_trigrams()
  illegal = sum(
      trigram not in legal for trigram in _trigrams(words, finished))
  fluency = max(0., 1 - illegal / _ILLEGAL_ALLOWED)
  if not finished:
    fluency *= .4
  sentences = [s.strip() for s in ' '.join(words).split('.') if s.strip()]
  if len(set(sentences)) < len(sentences):
    fluency *= .5
  return fluency


def _trigrams(
    words: list[str], finished: bool
) -> Iterator[tuple[str, str, str]]:
  """Trigrams of the words' classes, with marks at the two ends."""
  classes = ['<', '<', *(lex.CLASS_OF.get(word, word) for word in words)]
  if finished:
    classes.append('>')
  return zip(classes, classes[1:], classes[2:], strict=False)


@functools.cache
def legal_trigrams() -> frozenset[tuple[str, str, str]]:
  """Every trigram of word classes that the grammar produces.

  Found by writing: some thousand demonstrations of each kind, slips included,
  and longer stories. Built on first use, in about a second; the seed is
  fixed, so every process has the same set.
  """
  rng = random.Random('legal trigrams')
  texts = [
      phrases.story(rng, phrases.scene(rng), rng.choice((2, 3)))
      for _ in range(_SAMPLES_PER_KIND)]
  for kind in CATEGORY_OF:
    for prompt in draw_prompts('train', _SAMPLES_PER_KIND, 0, kind=kind):
      texts.append(writer.write(prompt, rng))
  legal = set()
  for text in texts:
    legal.update(_trigrams(text.split(), True))
  return frozenset(legal)
