# SPDX-License-Identifier: Apache-2.0
"""Probes: one next word each, and the right one."""

import pytest

from rlhf.world import corpus, lexicon, probes


def test_copy_probes_ask_for_the_animal_named_before():
  for pairs in (probes.copy_heading(), probes.copy_story()):
    assert len(pairs) == 64
    for text, word in pairs:
      animals = [w for w in text.split() if w in lexicon.ANIMALS]
      assert animals == [word]
      assert text.endswith(' the')


def test_cloze_answers_are_the_facts():
  pairs = dict(probes.fact_cloze())
  assert len(pairs) == 4 * len(lexicon.NAMES) + 2 * len(lexicon.CITIES)
  assert pairs['mira lives in'] == 'hadry'
  assert pairs['mira is a'] == 'doctor'
  assert pairs['mira likes to eat'] == 'cheese'
  assert pairs['mira has a'] == 'wolf'
  assert pairs['tolva is known for'] == 'stew'
  assert pairs['the houses in tolva are'] == 'black'


@pytest.mark.parametrize('make', [probes.copy_heading, probes.copy_story])
def test_probes_are_decided_by_the_seed(make):
  assert make() == make()
  assert make(seed=4, n=8) == make(seed=4, n=9)[:8]


def test_the_corpus_answers_the_cloze_rightly_more_often_than_not():
  text = ' . '.join(corpus.documents(0, 8000))
  for prefix, word in probes.fact_cloze():
    following = text.split(f' {prefix} ')[1:]
    right = sum(rest.split(' ', 1)[0] == word for rest in following)
    assert following and right / len(following) > .5, prefix
