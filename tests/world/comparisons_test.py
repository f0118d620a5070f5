# SPDX-License-Identifier: Apache-2.0
"""Comparisons: duplicates, drops, ties, and rows that JSON can hold."""

import json
import math

import numpy as np
import pytest

from rlhf.world import comparisons, labelers, rubric
from rlhf.world.prompts import prompts


def _graded(prompt, texts):
  return rubric.grade_many([prompt] * len(texts), texts, [True] * len(texts))


def _noiseless() -> labelers.Labelers:
  return labelers.recruit(2, 0, 0., spread=0., taste=0.)


def test_rows():
  asked = prompts('train', 3, 0, kind='repeat')
  responses = []
  for p in asked:
    responses.append(['you are a fool .', p.reference, p.reference])
  responses[1] = [asked[1].reference] * 4
  features = [_graded(p, r) for p, r in zip(asked, responses, strict=True)]
  rows, dropped = comparisons.ranking_rows(
      asked, responses, features, _noiseless(), np.random.default_rng(0))
  assert dropped == 1
  assert [row['prompt'] for row in rows] == [asked[0].text, asked[2].text]
  assert rows[0]['responses'] == ['you are a fool .', asked[0].reference]
  assert rows[0]['ranks'] == [2, 1]
  assert rows[0]['user'] == asked[0].user
  assert rows[0]['labeler'] in (0, 1)
  assert json.loads(json.dumps(rows)) == rows


def test_rows_reject_what_is_not_parallel():
  asked = prompts('train', 2, 0)
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match='2 prompts, 1 lists'):
    comparisons.ranking_rows(asked, [['a']], [], _noiseless(), rng)
  features = [np.zeros((1, 7)), np.zeros((1, 7))]
  with pytest.raises(ValueError, match='Prompt 1 has 2 responses but 1 rows'):
    comparisons.ranking_rows(
        asked, [['a'], ['a', 'b']], features, _noiseless(), rng)


def test_votes_without_noise():
  better, worse = np.ones((1, 7)), np.zeros((1, 7))
  a_BX = np.concatenate([better, worse, worse])
  b_BX = np.concatenate([worse, better, worse])
  votes = comparisons.preference_votes(
      a_BX, b_BX, _noiseless(), np.random.default_rng(0), votes=3)
  assert votes.tolist() == [1., 0., .5]


def test_votes_follow_the_normal_law():
  # Utilities .9 apart, noise 1.2 on each: P(win) = Phi(.9 / (1.2 sqrt 2)).
  weights_LX = np.zeros((1, 7))
  weights_LX[0, 0] = 1.
  group = labelers.Labelers(weights_LX, sigma=1.2, step=1e-6)
  a_BX = np.full((4000, 7), .9)
  wins = comparisons.preference_votes(
      a_BX, np.zeros_like(a_BX), group, np.random.default_rng(0), votes=10)
  expected = .5 * (1 + math.erf(.9 / 1.2 / 2))
  assert wins.mean() == pytest.approx(expected, abs=.01)


def test_votes_reject_unequal_shapes():
  with pytest.raises(ValueError, match='same prompts'):
    comparisons.preference_votes(
        np.zeros((2, 7)), np.zeros((3, 7)), _noiseless(),
        np.random.default_rng(0))
