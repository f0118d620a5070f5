# SPDX-License-Identifier: Apache-2.0
"""The corpus: its shares, its length, its errors, its worksheets."""

import random

import numpy as np
import pytest

from rlhf.world import corpus, lexicon, worksheets
from rlhf.world.prompts import ANSWER_SUFFIX, prompts


@pytest.fixture(scope='module')
def texts() -> list[str]:
  return corpus.documents(0, 10_000)


def test_documents_are_short(texts):
  lengths = [len(text.split()) for text in texts]
  assert 17 <= np.mean(lengths) <= 21
  assert max(lengths) <= 50


def test_shares_of_the_kinds(texts):
  def share(test) -> float:
    return np.mean([test(text) for text in texts])

  assert sum(corpus._MIX.values()) == pytest.approx(1)
  assert share(lambda t: t.startswith('text :')) == pytest.approx(.07, abs=.01)
  assert share(lambda t: t.count(ANSWER_SUFFIX) > 1) == (
      pytest.approx(.09, abs=.012))
  assert share(lambda t: t.startswith('a story about')) == (
      pytest.approx(.10, abs=.012))
  assert share(lambda t: 'reply :' in t) == pytest.approx(.08, abs=.01)


def test_headings_are_copied_into_the_body(texts):
  stories = [t for t in texts if t.startswith('a story about')]
  for text in stories:
    heading, body = text.split(' : ')
    animal = heading.split()[4]
    assert animal in lexicon.ANIMALS and animal in body.split()


def test_a_quarter_of_the_raw_answers_is_wrong():
  rng = random.Random(0)
  cities = {}
  for name, person in lexicon.PEOPLE.items():
    cities[f'question : where does {name} live ?'] = person.city
  texts = [corpus._question(rng) for _ in range(10_000)]
  right = [
      cities[text.split(' answer :')[0]] in text.split()
      for text in texts if text.split(' answer :')[0] in cities]
  # .9 are not rude; of these .25 are drawn anew, 1 in 8 of them right again.
  expected = .9 * (.75 + .25 / 8)
  assert len(right) > 500
  assert np.mean(right) == pytest.approx(expected, abs=.05)


def test_documents_are_decided_by_the_seed():
  assert corpus.documents(3, 20) == corpus.documents(3, 30)[:20]
  assert corpus.documents(3, 20) != corpus.documents(4, 20)


def test_worksheets_look_like_prompts_with_answers():
  rng = random.Random(0)
  asked = {
      p.text for kind in ('brainstorm', 'repeat', 'open_qa')
      for p in prompts('train', 3000, 0, kind=kind)}
  seen = 0
  for _ in range(200):
    sheet = worksheets.worksheet(rng)
    assert sheet.count(f' {ANSWER_SUFFIX} ') in (2, 3)
    assert sheet.endswith(' .')
    seen += sheet.split(f' {ANSWER_SUFFIX} ')[0] in asked
  # Lists, repetitions and questions are four of eight; most were asked.
  assert seen > 60


def test_three_of_ten_worksheet_answers_are_wrong_or_rude():
  rng = random.Random(0)
  rude = wrong = total = 0
  for _ in range(4000):
    exercise = worksheets._be_polite(rng)
    answer = worksheets._answered(rng, exercise).split(ANSWER_SUFFIX + ' ')[1]
    total += 1
    rude += any(word in lexicon.RUDE_WORDS for word in answer.split())
    wrong += answer == exercise.wrong
  assert rude / total == pytest.approx(.1, abs=.02)
  assert wrong / total == pytest.approx(.2, abs=.025)
