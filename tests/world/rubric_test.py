# SPDX-License-Identifier: Apache-2.0
"""The rubric: hand-written responses, right and wrong, for every feature."""

import time

import numpy as np
import pytest

from rlhf.world import rubric
from rlhf.world.instructions import CATEGORY_OF
from rlhf.world.prompts import Constraint, Prompt, prompts


def _prompt(kind: str, text: str = '', **fields) -> Prompt:
  return Prompt(text, 0, CATEGORY_OF[kind], kind, **fields)


def _grade(prompt: Prompt, response: str, finished: bool = True):
  grades = rubric.grade(prompt, response, finished)
  return dict(zip(rubric.FEATURES, grades, strict=True))


_STORY = _prompt('story', mention=('fox', 'lamp'))
_GOOD_REVIEW = _prompt('review', mention=('kite',), target='good')
_BAD_REVIEW = _prompt('review', mention=('kite',), target='bad')
_NOTE = _prompt('note', mention=('dear', 'ugo', 'map'))
_REPLY = _prompt('reply', mention=('bell',))
_QUESTION = _prompt('open_qa', mention=('mira',), target='hadry')
_LIST = _prompt(
    'brainstorm', target='foods', constraints=(Constraint('items', count=2),))
_CHAT = _prompt('chat', mention=('rika', 'sad'), target='sorry')
_POLITE = _prompt(
    'polite', 'make this polite : give me the cup you fool .',
    mention=('cup',), target='please', constraints=(Constraint('respect'),))
_SWAP = _prompt(
    'swap', 'change cat to owl : the cat saw a hat near the mill .',
    mention=('owl', 'hat', 'saw'), banned='cat')
_SUMMARY = _prompt(
    'summarize', 'summarize : near the mill a goat hid a coin .',
    mention=('goat', 'coin'))
_VERDICT = _prompt('classify', target='bad')
_READING = _prompt(
    'closed_qa', 'text : near the hill a hen lost a rope . question : who lost'
    ' the rope ?', target='hen')
_EXTRACT = _prompt(
    'extract', 'list the animals in this text : the bear saw a hat near the'
    ' cave . then the bear met a wolf .', mention=('bear', 'wolf'))
_REPEAT = _prompt(
    'repeat', target='soup', constraints=(Constraint('times', 3, 'soup'),))


@pytest.mark.parametrize(
    ('prompt', 'response', 'follows'),
    [
        (_STORY, 'the old fox found a lamp near the mill .', 1),
        (_STORY, 'the old fox found a rope near the mill .', .5),
        (_STORY, 'the fox was old . the lamp was red .', .3),
        (_GOOD_REVIEW, 'the kite was lovely .', 1),
        (_GOOD_REVIEW, 'the kite was awful .', 0),
        (_GOOD_REVIEW, 'the kite was lovely . the kite was awful .', 0),
        (_GOOD_REVIEW, 'the lamp was lovely .', 0),
        (_BAD_REVIEW, 'the kite was awful .', 1),
        (_BAD_REVIEW, 'the kite was red .', 0),
        (_NOTE, 'dear ugo , the map is near the hill . thanks .', 1),
        (_NOTE, 'dear ugo , the hat is near the hill . thanks .', 2 / 3),
        (_REPLY, 'i think the bell is fine .', 1),
        (_REPLY, 'only a fool likes the bell .', .5),
        (_REPLY, 'i think the drum is fine .', 0),
        (_QUESTION, 'mira lives in hadry .', 1),
        (_QUESTION, 'mira lives in tolva .', .4),
        (_QUESTION, 'mira lives in hadry . mira lives in tolva .', .4),
        (_QUESTION, 'hadry .', .6),
        (_LIST, 'soup , nuts .', 1),
        (_LIST, 'soup , fox .', .5),
        (_LIST, 'soup , soup .', .5),
        (_CHAT, 'i am sorry that you feel sad , rika .', 1),
        (_CHAT, 'i am glad that you feel sad , rika .', .4),
        (_CHAT, 'i am sorry that you feel sad , mira .', .6),
        (_POLITE, 'please give me the cup .', 1),
        (_POLITE, 'give me the cup .', .2),
        (_POLITE, 'please give me the hat .', 0),
        (_SWAP, 'the owl saw a hat near the mill .', 1),
        (_SWAP, 'the cat saw a hat near the mill .', .3 * 2 / 3),
        (_SUMMARY, 'a goat hid a coin .', 1),
        (_SUMMARY, 'a goat hid a rope .', .5),
        (_VERDICT, 'bad .', 1),
        (_VERDICT, 'good .', 0),
        (_VERDICT, 'good bad .', 0),
        (_READING, 'the hen lost the rope .', 1),
        (_READING, 'the goat lost the rope .', 0),
        (_EXTRACT, 'bear , wolf .', 1),
        (_EXTRACT, 'bear .', .5),
        (_EXTRACT, 'bear , wolf , fox , cat .', .5),
        (_REPEAT, 'soup soup soup .', 1),
        (_REPEAT, 'stew stew stew .', 0),
    ])
def test_follows(prompt, response, follows):
  assert _grade(prompt, response)['follows'] == pytest.approx(follows)


@pytest.mark.parametrize(
    ('constraint', 'kept', 'broken'),
    [
        (Constraint('at_most', 4), 'the fox was old .', 'a fox hid a hat .'),
        (Constraint('happy'), 'the fox was happy .', 'the fox was sad .'),
        (Constraint('happy'), 'the fox was calm .', 'the fox was old .'),
        (Constraint('happy'), 'a proud fox .', 'a proud fox was worried .'),
        (Constraint('use', word='cave'), 'near the cave .', 'near the hill .'),
        (Constraint('respect'), 'thanks .', 'go away you loser .'),
        (Constraint('items', 2), 'soup , pie .', 'soup , pie , nuts .'),
        (Constraint('items', 2), 'soup , pie .', 'soup , soup .'),
        (Constraint('times', 2, 'cup'), 'cup cup .', 'cup .'),
        (Constraint('times', 2, 'cup'), 'cup cup .', 'cup cup cup .'),
    ])
def test_constraints(constraint, kept, broken):
  prompt = _prompt('story', constraints=(constraint,))
  assert _grade(prompt, kept)['constraints'] == 1
  assert _grade(prompt, broken)['constraints'] == 0


def test_constraints_are_averaged():
  use, happy = Constraint('use', word='cave'), Constraint('happy')
  prompt = _prompt('story', constraints=(use, happy))
  assert _grade(prompt, 'the cave was red .')['constraints'] == .5
  assert _grade(_STORY, 'the cave was red .')['constraints'] == 1


def test_every_constraint_that_prompts_make_can_be_checked():
  kinds = {c.kind for p in prompts('train', 3000, 0) for c in p.constraints}
  assert kinds == {'at_most', 'happy', 'use', 'respect', 'items', 'times'}


def test_an_unknown_constraint_is_refused():
  prompt = _prompt('story', constraints=(Constraint('rhyme'),))
  with pytest.raises(ValueError, match="'rhyme'"):
    rubric.grade(prompt, 'the fox .', True)


@pytest.mark.parametrize(
    ('prompt', 'response', 'holds'),
    [
        (_QUESTION, 'mira lives in hadry .', 1),
        (_QUESTION, 'mira lives in tolva .', 0),
        (_QUESTION, 'mira lives in hadry . tolva is known for stew .', 0),
        (_QUESTION, 'mira is a baker .', 1),  # Wrong, but no rival answer.
        (_READING, 'the hen lost the rope .', 1),
        (_READING, 'the hen lost the lamp .', 0),
        (_SWAP, 'the owl saw a hat near the mill .', 1),
        (_SWAP, 'the owl saw a hat near the cave .', 0),
        (_SUMMARY, 'a goat hid a coin .', 1),
        (_EXTRACT, 'bear , fox .', 0),
        (_POLITE, 'please give me the bread .', 0),
        (_STORY, 'the fox met a wolf .', 1),  # Open-ended: invent at will.
    ])
def test_no_invention(prompt, response, holds):
  assert _grade(prompt, response)['no_invention'] == holds


@pytest.mark.parametrize('word', ['fool', 'stupid', 'trash', 'loser'])
def test_not_rude(word):
  assert _grade(_STORY, f'you are a {word} .')['not_rude'] == 0
  assert _grade(_STORY, 'you are a fox .')['not_rude'] == 1


@pytest.mark.parametrize(
    ('response', 'finished', 'fluent'),
    [
        ('the old fox found a lamp near the mill .', True, 1),
        ('the old fox found a lamp near the mill .', False, .4),
        ('the old fox found a lamp near', False, .4),
        # Cut short: 'near <end>' is an illegal trigram.
        ('the old fox found a lamp near', True, .75),
        # '<start> <start> near', 'fox found .' and others never occur.
        ('near near near near near', True, 0),
        ('the fox was old . the fox was old .', True, .5),
        ('the fox was zzz .', True, .25),  # Three trigrams hold the word.
    ])
def test_fluent(response, finished, fluent):
  assert _grade(_STORY, response, finished)['fluent'] == pytest.approx(fluent)


def test_legal_trigrams_are_classes_and_few():
  legal = rubric.legal_trigrams()
  assert ('<', 'the', 'ADJECTIVE') in legal
  assert ('the', 'ADJECTIVE', 'ANIMAL') in legal
  assert ('the', 'the', 'ANIMAL') not in legal
  assert 400 < len(legal) < 800


def test_tastes():
  grades = _grade(_REPLY, 'thanks for telling us about the bell .')
  assert grades['polite'] == 1
  assert grades['brief'] == pytest.approx(1 - 7 / 20)
  assert _grade(_REPLY, 'the bell is fine .')['polite'] == 0
  assert _grade(_REPLY, 'bell ' * 30)['brief'] == 0


@pytest.mark.parametrize('response', ['', ' ', '.', ', : ?'])
def test_a_response_without_words(response):
  expected = [0, 0, 1, 1, 0, 0, 1]
  assert rubric.grade(_STORY, response, True).tolist() == expected


@pytest.mark.parametrize('kind', CATEGORY_OF)
def test_any_list_of_words_can_be_graded(kind):
  rng = np.random.default_rng(0)
  words = np.array(['fox', '.', ',', 'zzz', 'good', 'fool', '<eos>', 'hadry'])
  for prompt in prompts('train', 30, 0, kind=kind):
    response = ' '.join(rng.choice(words, rng.integers(0, 25)))
    grades = rubric.grade(prompt, response, bool(rng.integers(2)))
    assert grades.shape == (len(rubric.FEATURES),)
    assert np.all((0 <= grades) & (grades <= 1))


def test_grade_many_is_grade_on_each():
  asked = prompts('train', 20, 0)
  texts = ['the fox was old .'] * 20
  finished = [i % 2 == 0 for i in range(20)]
  features_BX = rubric.grade_many(asked, texts, finished)
  assert features_BX.shape == (20, 7)
  for i in range(20):
    expected = rubric.grade(asked[i], texts[i], finished[i])
    np.testing.assert_array_equal(features_BX[i], expected)
  assert rubric.grade_many([], [], []).shape == (0, 7)


def test_grade_many_rejects_unequal_lengths():
  with pytest.raises(ValueError, match='1 prompts, 2 responses and 1 flags'):
    rubric.grade_many([_STORY], ['a', 'b'], [True])


def test_grading_is_quick():
  # About 10 microseconds each; a run grades a hundred thousand.
  rubric.legal_trigrams()
  asked = prompts('train', 1000, 0)
  texts = ['the old fox found a lamp near the mill . the lamp was red .'] * 1000
  best = float('inf')
  for _ in range(5):
    start = time.process_time()
    rubric.grade_many(asked, texts, [True] * 1000)
    best = min(best, time.process_time() - start)
  assert best / 1000 < 60e-6
