# SPDX-License-Identifier: Apache-2.0
"""Prompts: the paper's mix, split by user, the filters, the errors."""

import collections

import pytest

from rlhf.world.instructions import CATEGORY_OF, KINDS
from rlhf.world.prompts import MIX, prompts, users

_SPLITS = {'train': 280, 'validation': 40, 'test': 80}


def test_mix_is_the_papers():
  # Ouyang et al. 2022, table 1, in percent; 'other' is 3.5 there (sum 99.9).
  paper = {
      'generation': 45.6, 'open_qa': 12.4, 'brainstorm': 11.2, 'chat': 8.4,
      'rewrite': 6.6, 'summarize': 4.2, 'classify': 3.5, 'other': 3.5,
      'closed_qa': 2.6, 'extract': 1.9}
  assert MIX == pytest.approx({k: v / 100 for k, v in paper.items()}, abs=2e-3)
  assert sum(MIX.values()) == pytest.approx(1)


@pytest.mark.parametrize('split', _SPLITS)
def test_each_split_has_the_mix(split):
  n = 8000
  drawn = collections.Counter(p.category for p in prompts(split, n, 0))
  for category, share in MIX.items():
    # Four standard deviations of a binomial share.
    tolerance = 4 * (share * (1 - share) / n) ** .5
    assert drawn[category] / n == pytest.approx(share, abs=tolerance)


def test_kinds_have_their_shares():
  n = 6000
  drawn = collections.Counter(
      p.kind for p in prompts('train', n, 0, category='generation'))
  for kind, share in KINDS['generation'].items():
    assert drawn[kind] / n == pytest.approx(share, abs=.025)
  assert all(sum(k.values()) == pytest.approx(1) for k in KINDS.values())
  assert set(KINDS) == set(MIX)


def test_users_are_never_shared_between_splits():
  ids = {split: {u.uid for u in users(split)} for split in _SPLITS}
  assert {split: len(found) for split, found in ids.items()} == _SPLITS
  assert len(set.union(*ids.values())) == sum(_SPLITS.values())
  for split, found in ids.items():
    assert {p.user for p in prompts(split, 1000, 0)} <= found


def test_users_differ_in_habits():
  shares = []
  for user in users('train'):
    weights = [m * h for m, h in zip(MIX.values(), user.habits, strict=True)]
    shares.append(weights[0] / sum(weights))
  assert min(shares) < .15 and max(shares) > .75


def test_seed_split_and_count_decide():
  first = prompts('train', 50, 0)
  assert first == prompts('train', 50, 0)
  assert first[:20] == prompts('train', 20, 0)
  assert first != prompts('train', 50, 1)
  texts = [p.text for p in first]
  assert texts != [p.text for p in prompts('validation', 50, 0)]


@pytest.mark.parametrize('kind', CATEGORY_OF)
def test_filter_by_kind(kind):
  found = prompts('test', 100, 0, kind=kind)
  assert {(p.kind, p.category) for p in found} == {(kind, CATEGORY_OF[kind])}
  assert max(len(p.text.split()) for p in found) <= 29


def test_filter_by_category():
  found = prompts('test', 200, 0, category='rewrite')
  assert {p.kind for p in found} == {'polite', 'swap'}


@pytest.mark.parametrize('respectful', [True, False])
def test_respectful_replies(respectful):
  for prompt in prompts('test', 50, 0, kind='reply', respectful=respectful):
    assert ('in a respectful way' in prompt.text) == respectful
    assert (prompt.constraint('respect') is not None) == respectful


def test_max_words():
  found = prompts('train', 300, 0, kind='story', max_words=9)
  assert max(len(p.text.split()) for p in found) <= 9


def test_nobody_is_asked_twice_for_please():
  texts = [p.text for p in prompts('train', 3000, 0)]
  assert any(t.startswith('please ') for t in texts)
  assert not any(t.startswith('please i want') for t in texts)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'split': 'dev'}, "Unknown split 'dev'.*validation"),
        ({'category': 'poetry'}, "Unknown category 'poetry'.*chat"),
        ({'kind': 'poem'}, "Unknown kind 'poem'.*story"),
        ({'kind': 'story', 'category': 'chat'}, "belongs to .*'generation'"),
        ({'kind': 'closed_qa', 'max_words': 12}, "'closed_qa'.*max_words=12"),
    ])
def test_errors_name_the_fault_and_the_remedy(arguments, message):
  with pytest.raises(ValueError, match=message):
    prompts(**{'split': 'train', 'n': 1, 'seed': 0, **arguments})
