# SPDX-License-Identifier: Apache-2.0
"""Verdicts follow the numbers, whichever way they go."""

import numpy as np
import pytest

from rlhf.evaluation import findings
from rlhf.evaluation.findings import CAME_OUT, DID_NOT, NOT_CLEAR


def _interval(low, high):
  return {'mean': (low + high) / 2, 'low': low, 'high': high, 'n': 10}


def _by_claim(results, words):
  found = [f for f in findings.findings(results) if words in f.claim]
  assert len(found) == 1, [f.claim for f in found]
  return found[0]


@pytest.mark.parametrize(
    'low, high, verdict',
    [
        (0.51, 0.6, CAME_OUT),
        (0.4, 0.49, DID_NOT),
        (0.49, 0.6, 'not clear: the interval includes 50 %'),
        (0.5, 0.6, 'not clear: the interval includes 50 %'),
        (np.nan, np.nan, 'not clear: not measured'),
    ],
)
def test_above(low, high, verdict):
  assert findings.above(_interval(low, high), 0.5, '50 %') == verdict


def test_below_mirrors_above():
  assert findings.below(_interval(-0.2, -0.1), 0, '0') == CAME_OUT
  assert findings.below(_interval(0.1, 0.2), 0, '0') == DID_NOT
  assert findings.below(_interval(-0.1, 0.2), 0, '0').startswith(NOT_CLEAR)


@pytest.mark.parametrize(
    'low, high, status',
    [
        (0.46, 0.54, CAME_OUT),
        (0.51, 0.54, CAME_OUT),  # Not one half, but close to it.
        (0.51, 0.58, DID_NOT),
        (0.6, 0.7, DID_NOT),
        (0.44, 0.54, NOT_CLEAR),
    ],
)
def test_about_equal(low, high, status):
  verdict = findings.about_equal(_interval(low, high), 0.45, 0.55)
  assert verdict.startswith(status)


def test_everything_comes_out_when_it_does(make_results):
  found = findings.findings(make_results())
  assert len(found) == 12
  assert [f.claim for f in found if f.status != CAME_OUT] == []


@pytest.mark.parametrize(
    'words, changes',
    [
        ('by the training labelers', dict(ppo=dict(win=0.4))),
        ('Held-out labelers', dict(ppo_ptx=dict(win=0.4))),
        ('gold rubric', dict(ppo=dict(gold=7.0))),
        ('about equally good', dict(duel=0.7)),
        ('SFT is preferred to the prompted', dict(prompted=dict(win=0.6))),
        ('prompted base is preferred', dict(prompted=dict(win=0.1))),
        ('alignment tax', dict(ppo=dict(loss=0.8))),
        ('wins back', dict(ppo_ptx=dict(loss=0.9))),
        ('Less is invented', dict(ppo=dict(invention=0.9))),
        ('less often rude than', dict(ppo_ptx=dict(rude=0.9))),
        ('two thirds', dict(strength=0.5)),
    ],
)
def test_a_failure_is_called_one(make_results, words, changes):
  finding = _by_claim(make_results(**changes), words)
  assert finding.status == DID_NOT
  assert DID_NOT in finding.verdict


def test_a_claim_that_half_fails_names_the_half(make_results):
  finding = _by_claim(
      make_results(ppo=dict(win=0.4)), 'by the training labelers'
  )
  assert finding.verdict == 'PPO: did not come out; PPO-ptx: came out'
  assert '55 % is missed by PPO.' in finding.text


def test_without_a_tax_nothing_is_won_back(make_results):
  finding = _by_claim(make_results(ppo=dict(loss=0.8501)), 'wins back')
  assert finding.verdict == 'not clear: no clear tax to win back'


def test_contrasts_by_hand():
  """Two prompts, the second new; one number a model is enough."""
  names = (
      'win_rate/training_labelers',
      'gold_utility',
      'pretrain_loss',
      'invention_rate',
      'rude_rate/plain',
      'rude_rate/respectful',
      'length',
  )
  values = dict(base=1.0, prompted=2.0, sft=4.0, ppo=8.0, ppo_ptx=5.0)
  measured = {
      model: {name: np.array([x, x + 1]) for name in names}
      for model, x in values.items()
  }
  measured['clean_writer'] = {names[0]: np.array([0.5, 1.0])}
  measured['prompts'] = {'seen_in_training': np.array([1.0, 0.0])}
  measured['sft']['rude_rate/respectful'] = np.array([1.0, 0.0])
  found = findings.contrasts(measured)
  expected = {
      'wins/sft_over_prompted': [2, 2],
      'wins/prompted_over_base': [1, 1],
      'wins_on_unseen/ppo': [9],
      'share_of_ceiling/ppo': [[7.5, 0], [8.5, 0.5]],
      'tax/won_back': [[3, 4], [3, 4]],
      'pretrain_loss/base': [-3, -3],
      'pretrain_loss/ppo': [4, 4],
      'gold_utility/ppo_ptx': [1, 1],
      'respect/sft': [3, 5],
      'length/ppo': [4, 4],
  }
  for name, wanted in expected.items():
    np.testing.assert_allclose(found[name], wanted, err_msg=name)


def test_numbers_are_written_for_people():
  interval = dict(mean=-0.0004, low=-0.0126, high=0.5)
  assert findings.number(interval) == '0.00 [-0.01, 0.50]'
  assert findings.percent(interval) == '0.0 [-1.3, 50.0] %'
  assert findings.points(interval, 0) == '0 [-1, 50] points'
