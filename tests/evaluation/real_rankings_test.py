# SPDX-License-Identifier: Apache-2.0
"""Accuracy by group, and of length alone, counted by hand."""

import numpy as np
import pytest

from rlhf.data.examples import Ranking
from rlhf.evaluation import real_rankings


def _ranking(ranks, texts, prompt='p'):
  ids = tuple(np.arange(min(len(text), 3)) for text in texts)
  return Ranking(
      prompt_ids=np.zeros(1, int),
      responses_ids=ids,
      ranks=tuple(ranks),
      prompt_text=prompt,
      response_texts=tuple(texts),
  )


def test_length_and_the_reward_model_on_the_same_pairs():
  rankings = [
      # The longer one is better; a tie in length, and one in rank.
      _ranking([1, 2], ['long', 'a'], 'seen'),
      _ranking([2, 1], ['ab', 'cd']),
      _ranking([1, 1, 2], ['abcdef', 'a', 'abcd']),
  ]
  right = np.array([[1, 1], [1, 1], [0.5, 2]])
  rows = real_rankings.accuracies(rankings, right, ['x', 'x', 'y'], {'seen'})
  by_group = {row['group']: row for row in rows}
  assert list(by_group) == [
      'all', 'K = 2 to 3', 'x', 'y', 'prompts that SFT did not train on'
  ]
  every = by_group['all']
  assert (every['prompts'], every['pairs']) == (3, 4)
  assert every['rm']['mean'] == pytest.approx(2.5 / 4)
  # 1 of 1, 1/2 of 1; of the third, 6 > 4 is right and 1 > 4 is not.
  assert every['longer']['mean'] == pytest.approx(2.5 / 4)
  assert every['shorter']['mean'] == pytest.approx(1.5 / 4)
  assert every['better'] == 'longer'
  assert every['gain']['mean'] == pytest.approx(0.0)
  # Cut to three tokens, 'abcdef' and 'abcd' are equally long.
  assert every['as_read']['longer']['mean'] == pytest.approx(2 / 4)
  assert by_group['y']['pairs'] == 2
  assert by_group['y']['gain']['mean'] == pytest.approx((0.5 - 1) / 2)
  assert by_group['prompts that SFT did not train on']['prompts'] == 2


def test_where_shorter_is_better_that_is_the_rule_to_beat():
  rankings = [_ranking([1, 2], ['a', 'long'])] * 3
  right = np.array([[1, 1], [0, 1], [0, 1]])
  row = real_rankings.accuracies(rankings, right, ['x'] * 3, set())[0]
  assert row['better'] == 'shorter'
  assert row['gain']['mean'] == pytest.approx(1 / 3 - 1)
  assert row['gain']['low'] <= row['gain']['mean'] <= row['gain']['high']


@pytest.mark.parametrize(
    'counts, want',
    [
        ({2: 10, 3: 10}, [(2, 2), (3, 3)]),
        ({2: 30, 3: 4, 4: 5, 5: 6, 6: 12}, [(2, 2), (3, 5), (6, 6)]),
        ({2: 30, 8: 4, 9: 5}, [(2, 9)]),
        ({2: 12, 3: 12, 9: 1}, [(2, 2), (3, 9)]),
        ({4: 3, 6: 2}, [(4, 6)]),
    ],
)
def test_sparse_k_are_taken_together(counts, want):
  k = np.repeat(list(counts), list(counts.values()))
  assert real_rankings.k_groups(k, fewest=10) == want


def test_strength_keeps_the_interval():
  accuracy = {'mean': 0.6, 'low': 0.5, 'high': 0.7, 'n': 9}
  found = real_rankings.strength(accuracy, agreement=0.75)
  assert [found[k] for k in ('low', 'mean', 'high')] == pytest.approx(
      [0.0, 0.4, 0.8]
  )
  assert found['agreement'] == 0.75
