# SPDX-License-Identifier: Apache-2.0
"""The shared sentences say what they are asked to say."""

import dataclasses
import random

import pytest

from rlhf.world import lexicon, phrases


@pytest.mark.parametrize('sentences', [1, 2, 3])
def test_a_story_names_its_scene_in_so_many_sentences(sentences):
  rng = random.Random(0)
  for _ in range(100):
    s = phrases.scene(rng)
    text = phrases.story(rng, s, sentences)
    assert text.count(' .') == sentences
    assert {s.animal, s.thing, s.verb, s.place} <= set(text.split())
    known = set(dataclasses.astuple(s)) | {'happy', 'sad'}
    named = {w for w in text.split() if w in lexicon.CLASS_OF}
    assert named <= known


def test_a_happy_story_ends_happily():
  rng = random.Random(0)
  for _ in range(100):
    text = phrases.story(rng, phrases.scene(rng), 2, happy=True)
    assert text.endswith(' was happy .')
    assert text.count(' .') == 2


@pytest.mark.parametrize('tone', ['good', 'bad'])
def test_a_review_has_one_tone(tone):
  rng = random.Random(0)
  right, wrong = lexicon.GOOD_WORDS, lexicon.BAD_WORDS
  if tone == 'bad':
    right, wrong = wrong, right
  for _ in range(50):
    words = set(phrases.review(rng, tone, 'kite').split())
    assert 'kite' in words
    assert words & set(right) and not words & set(wrong)


def test_the_answer_to_a_question_is_its_fact():
  rng = random.Random(0)
  for _ in range(200):
    q = phrases.question(rng)
    facts = lexicon.PEOPLE.get(q.subject) or lexicon.TOWNS[q.subject]
    assert q.value in facts
    assert {q.subject, q.value} <= set(q.answer.split())
    assert all(q.subject in wording.split() for wording in q.wordings)


def test_comments_are_rude_and_replies_are_not():
  rng = random.Random(0)
  rude = set(lexicon.RUDE_WORDS)
  for _ in range(50):
    assert rude & set(phrases.rude_comment(rng).split())
    assert not rude & set(phrases.kind_reply(rng, 'cup').split())


def test_words_are_counted_without_punctuation():
  assert phrases.word_count('dear ugo , where is it ? thanks .') == 6
  assert phrases.word_count('') == 0
