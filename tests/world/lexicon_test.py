# SPDX-License-Identifier: Apache-2.0
"""The vocabulary is closed under everything that any generator writes."""

import random

from rlhf.world import corpus, lexicon, probes, writer
from rlhf.world.instructions import CATEGORY_OF
from rlhf.world.prompts import ANSWER_SUFFIX, prompts, users


def _everything_said() -> set[str]:
  rng = random.Random(0)
  texts = [ANSWER_SUFFIX, *corpus.documents(0, 8000)]
  for kind in CATEGORY_OF:
    for prompt in prompts('train', 500, 1, kind=kind):
      texts += [
          prompt.text, prompt.reference, writer.write(prompt, rng),
          writer.write(prompt, rng, flawed=False)]
  texts += [writer.few_shot_prefix(seed) for seed in range(3)]
  for probe in probes.copy_heading() + probes.copy_story():
    texts += probe
  for probe in probes.fact_cloze():
    texts += probe
  return set(' '.join(texts).split())


def test_words_are_what_is_said_no_less_and_no_more():
  assert _everything_said() == set(lexicon.WORDS)


def test_words_are_sorted_and_distinct():
  assert list(lexicon.WORDS) == sorted(set(lexicon.WORDS))
  # A shipped checkpoint has one embedding a word: its size cannot change.
  assert len(lexicon.WORDS) == 268


def test_classes_do_not_overlap():
  sizes = sum(len(words) for words in lexicon._CLASSES.values())
  assert len(lexicon.CLASS_OF) == sizes


def test_every_person_and_city_has_facts_of_the_right_class():
  assert tuple(lexicon.PEOPLE) == lexicon.NAMES
  assert tuple(lexicon.TOWNS) == lexicon.CITIES
  for p in lexicon.PEOPLE.values():
    classes = [lexicon.CLASS_OF[word] for word in p]
    assert classes == ['CITY', 'JOB', 'FOOD', 'ANIMAL']
  for t in lexicon.TOWNS.values():
    assert [lexicon.CLASS_OF[w] for w in t] == ['FOOD', 'PLACE', 'COLOR']


def test_word_class_holds_its_word():
  assert lexicon.word_class('red') == lexicon.COLORS
  assert all(w in lexicon.word_class(w) for w in lexicon.ENTITIES)


def test_users_name_words_of_the_lexicon():
  for user in users('train'):
    assert set(user.animals) <= set(lexicon.ANIMALS)
    assert set(user.things) <= set(lexicon.THINGS)
