# SPDX-License-Identifier: Apache-2.0
"""The document over seeds follows the numbers too."""

import pytest

from rlhf.evaluation import measurements, study_report
from rlhf.evaluation.findings import CAME_OUT, DID_NOT, NOT_CLEAR, findings

_RUNS = {'ppo_weak_beta002': 0.02, 'ppo_weak_beta01': 0.1}


def _interval(mean, half):
  return dict(mean=mean, low=mean - half, high=mean + half, n=10)


def _weak(gold_hacked=-3.0, gold_safe=0.1):
  measured = {
      'win_rate/training_labelers': _interval(0.3, 0.1),
      'kl_from_sft': _interval(5, 1),
  }
  ends = {
      'rollout/score': (0.0, 1.0),
      'rollout/gold': (7.5, 3.0),
      'rollout/length': (9.0, 1.0),
  }
  return {
      'seed': 0,
      'rankings': 1500,
      'betas': _RUNS,
      'seconds': 60.0,
      'models': dict.fromkeys(_RUNS, measured),
      'rollouts': dict.fromkeys(_RUNS, ends),
      'reward_model': {
          k: _interval(0.6, 0.1) for k in ('accuracy', 'strength', 'ceiling')
      },
      'contrasts': {
          'gold_utility/ppo_weak_beta002': _interval(gold_hacked, 0.05),
          'gold_utility/ppo_weak_beta01': _interval(gold_safe, 0.05),
          'rm_score/ppo_weak_beta002': _interval(1, 0.1),
          'rm_score/ppo_weak_beta01': _interval(0.3, 0.1),
      },
  }


@pytest.fixture
def make_pooled(make_measured, make_results):
  """Results over seeds; each seed may have its own changes."""

  def make(*changes):
    runs = [make_measured(seed, **c) for seed, c in enumerate(changes)]
    about = make_results()
    return measurements.summarised(runs) | {
        'seeds': list(range(len(runs))),
        'seconds_each': [about['seconds']] * len(runs),
        'weak': _weak(),
        'smoke': False,
        'config': _configs(),
        **{k: about[k] for k in ('versions', 'machine')},
    }

  return make


def _configs():
  configs: dict = {}
  for _, stage, path in study_report._SETTINGS:
    node = configs.setdefault(stage, {})
    *parents, leaf = path.split('.')
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = 0.5
  return configs


def _prompts(results):
  results['prompts'] |= {'mixed': 400, 'special': 320, 'users': 80}
  return results


def test_pooled_means_are_means_over_seeds(make_pooled):
  results = make_pooled(
      dict(ppo=dict(win=0.54)), dict(ppo=dict(win=0.58)), {}
  )
  wins = results['models']['ppo']['win_rate/training_labelers']
  assert wins['each'] == pytest.approx([0.54, 0.58, 0.58])
  assert wins['mean'] == pytest.approx(0.5667, abs=1e-4)
  assert wins['seeds'] == 3
  won_back = results['contrasts']['tax/won_back']  # A ratio.
  assert won_back['mean'] == pytest.approx(0.07 / 0.06, rel=1e-3)


def test_seeds_that_disagree_make_a_finding_unclear(make_pooled):
  results = make_pooled(dict(ppo=dict(win=0.42)), {}, {})
  finding = findings(results)[0]
  assert finding.verdicts['PPO'].startswith(NOT_CLEAR)
  assert finding.verdicts['PPO-ptx'] == CAME_OUT


def test_students_t_is_stricter(make_pooled):
  """Means .51, .53, .59: t = 1.8, short of 4.3; the bootstrap is content."""
  results = make_pooled(*(dict(ppo=dict(win=w)) for w in (0.53, 0.54, 0.6)))
  found = findings(results)
  assert found[0].status == CAME_OUT
  text = study_report.by_students_t(results, found)
  assert 'these are not clear any more: PPO and PPO-ptx are preferred' in text
  same = make_pooled({}, {}, {})
  text = study_report.by_students_t(same, findings(same))
  assert 'every claim that came out still does' in text


def test_one_seed_says_nothing_of_others(make_pooled):
  results = _prompts(make_pooled({}))
  text = study_report.write_study(results, 'python x', 'miniature')
  assert 'One seed: nothing is known of others.' in text


@pytest.mark.parametrize(
    'hacked, safe, statuses',
    [
        (-3.0, 0.1, [CAME_OUT, CAME_OUT]),
        (0.5, -1.0, [DID_NOT, DID_NOT]),
        (0.0, -0.1, [NOT_CLEAR, NOT_CLEAR]),
    ],
)
def test_weak_reward_model(hacked, safe, statuses):
  found = study_report.weak_findings(_weak(hacked, safe))
  assert [f.status for f in found] == statuses
  assert 'gold utility from 7.50 to 3.00' in found[0].text


def test_document(make_pooled):
  results = _prompts(make_pooled({}, {}, {}))
  text = study_report.write_study(results, 'python launch/study.py', 'mini')
  for part in (
      '    python launch/study.py\n',
      '12 of 12 claims came out.',
      '(mini_findings.png)',
      '(mini_overoptimisation.png)',
      '| PPO wins, training labelers, % | 58.0 [',
      '| SFT epochs | 0.5 |',
      '| total | 80 | 80 | 80 |',
  ):
    assert part in text, part
