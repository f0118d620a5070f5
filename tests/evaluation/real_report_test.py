# SPDX-License-Identifier: Apache-2.0
"""The page holds the numbers it was given, and says what is not there."""

import copy
import re

import pytest

from rlhf.evaluation import real_report
from rlhf.evaluation.findings import CAME_OUT, DID_NOT, NOT_CLEAR
from rlhf.evaluation.real_findings import findings

_COMMANDS = ['python launch/real_small.py --write=docs/results/x.md']


def _around(mean, half=0.1, n=30):
  return {'mean': mean, 'low': mean - half, 'high': mean + half, 'n': n}


def _row(group, rm=0.6, gain=0.02):
  return {
      'group': group, 'prompts': 50, 'pairs': 200, 'rm': _around(rm, 0.03),
      'longer': _around(0.58, 0.03), 'shorter': _around(0.42, 0.03),
      'better': 'longer', 'gain': _around(gain, 0.03),
  }


@pytest.fixture
def results():
  """As `real.examine` returns them, with what launch/real_small.py adds."""
  files = [{
      'name': 'text/a.jsonl.gz',
      'train': {'rows': 90, 'kept': 90, 'tokens': 4567},
      'validation': {'rows': 10, 'kept': 9},
  }]
  data = {
      'share': 0.05, 'prompt_tokens': 128, 'response_tokens': 96,
      'row_tokens': 256, 'files': files,
  }
  stages = ('pretrain', 'sft', 'rm', 'ppo', 'ppo_ptx')
  models = ('base', 'sft', 'ppo', 'ppo_ptx')
  answers = {
      m: {'rm_score': _around(i), 'kl_from_sft': _around(0.2 * i),
          'length': _around(40 - i), 'finished': _around(0.5)}
      for i, m in enumerate(models)
  }
  contrasts = {
      'text/base_over_frequencies': _around(-1.5),
      'text/sft_over_base': _around(0.05),
      'demonstrations/sft_over_base': _around(-0.4),
      'text/ppo_over_sft': _around(0.3),
      'text/ppo_ptx_over_sft': _around(-0.2),
      'text/ppo_over_ppo_ptx': _around(0.5),
      'rm_score/ppo': _around(1.0), 'rm_score/ppo_ptx': _around(0.05),
      'length/ppo': _around(-1.0), 'length/ppo_ptx': _around(-2.0),
  }
  return {
      'finished': {s: {'steps': 7, 'tokens': 12345} for s in stages},
      'quotable': ['oasst/prompts.jsonl.gz'],
      'data': dict.fromkeys(
          ('text', 'demonstrations', 'rankings', 'prompts'), data
      ),
      'model': {
          'layers': 6, 'width': 160, 'heads': 5, 'head_size': 32,
          'context': 256, 'vocab_size': 50258, 'parameters': 10_000_000,
          'table': 8_000_000,
      },
      'settings': {s: {'seed': 0, 'batch': 8} for s in stages},
      'curves': {
          'rm': {'rm/accuracy': (0.5, 0.9)},
          'ppo': {'rollout/score': (-0.5, 0.7)}, 'ppo_ptx': {},
      },
      'text': {'frequencies': _around(7.0)}
      | {m: _around(5.5 + i / 10) for i, m in enumerate(models)},
      'demonstrations': {'base': _around(5.0), 'sft': _around(4.6)}
      | {m: _around(4.7) for m in ('ppo', 'ppo_ptx')},
      'reward_model': [
          _row('all') | {'as_read': _row('all')}, _row('K = 2', 0.55, -0.1)
      ],
      'strength': _around(0.4) | {'agreement': 0.726, 'threshold': 2 / 3},
      'answers': {
          'prompts': 32, 'draws': 3, 'tokens': 48, 'temperature': 1.0
      } | answers,
      'contrasts': contrasts,
      'samples': [{
          'prompt': 'What is `a/b`?',
          'answers': {m: f'{m} | said\nit' for m in models},
      }],
      'seconds': 100.0,
      'times': dict.fromkeys(stages, 60.0),
      'versions': {'python': '3.11', 'jax': '0.10'},
      'machine': '2 CPU cores',
  }


def _page(results):
  return real_report.write_real(results, _COMMANDS, 'x', 'Busy.')


def _cells(text, label):
  line = next(x for x in text.splitlines() if x.startswith(f'| {label} |'))
  return [cell.strip() for cell in line.strip('|').split('|')][1:]


def test_the_page_has_the_numbers(results):
  text = _page(results)
  assert text.splitlines()[2] == f'    {_COMMANDS[0]}'
  assert _cells(text, 'plain text')[1] == '5.600 [5.500, 5.700]'
  assert _cells(text, 'K = 2')[:3] == ['50', '200', '55.0 [52.0, 58.0]']
  assert _cells(text, 'comes to an end, %')[0] == '50.0 [40.0, 60.0]'
  assert _cells(text, 'text') == [
      'text/a.jsonl.gz', '90 (4,567 tokens)', '9 of 10'
  ]
  assert _cells(text, 'together') == ['', '400']
  assert '![losses of every stage, and PPO against PPO-ptx](x.png)' in text
  assert 'Busy.' in text
  assert 'Not finished' not in text


def test_verdicts_follow_the_intervals(results):
  found = {f.claim: f for f in findings(results)}
  status = [f.status for f in found.values()]
  assert status == [
      CAME_OUT, CAME_OUT, CAME_OUT, NOT_CLEAR, DID_NOT, NOT_CLEAR, CAME_OUT,
      CAME_OUT,
  ]
  scored = found['The reward model prefers what PPO learnt to say.']
  assert scored.verdicts['PPO'] == CAME_OUT
  assert '-0.50 to 0.70' in scored.text
  results['contrasts']['text/base_over_frequencies'] = _around(0.5)
  assert findings(results)[0].status == DID_NOT
  results['reward_model'][0]['gain'] = _around(-0.2)
  assert findings(results)[3].status == DID_NOT


def test_what_has_not_finished_is_named_and_left_out(results):
  without = copy.deepcopy(results)
  for model in ('ppo', 'ppo_ptx'):
    for group in ('text', 'demonstrations', 'answers', 'times', 'finished'):
      del without[group][model]
    for name in list(without['contrasts']):
      if model in name:
        without['contrasts'].pop(name)
  del without['strength']
  without['samples'][0]['answers'] = {'base': 'a', 'sft': 'b'}
  text = _page(without)
  assert 'Not finished when this was written: PPO, PPO-ptx.' in text
  assert len(_cells(text, 'plain text')) == 2
  assert len(findings(without)) == 4

  only_base = {
      k: v for k, v in without.items()
      if k not in ('demonstrations', 'reward_model', 'answers', 'samples')
  }
  only_base['finished'] = {'pretrain': {'steps': 7}}
  only_base['times'] = {'pretrain': 60.0}
  only_base['text'] = {'base': _around(5.5), 'frequencies': _around(7.0)}
  only_base['contrasts'] = {'text/base_over_frequencies': _around(-1.5)}
  only_base['data'] = {'text': results['data']['text']}
  text = _page(only_base)
  assert text.count('Not measured.') == 2
  assert '1 of 1 claims came out.' in text


def test_texts_of_others_are_shown_as_they_are():
  shown = real_report.shown('a|b `c` <d> *e*\n\n [f](/root/g)  h\x00')
  assert shown == (
      'a&#124;b &#96;c&#96; &#60;d&#62; \\*e\\* ⏎ &#91;f&#93;(&#47;root&#47;g)'
      ' h\N{REPLACEMENT CHARACTER}'
  )
  assert real_report.shown('x' * 301) == 'x' * 300 + ' …'
  assert real_report.shown(' \n ') == ''


def test_answers_stay_in_their_cells(results):
  text = _page(results)
  assert '| PPO | ppo &#124; said ⏎ it |' in text
  assert '|  | What is &#96;a&#47;b&#96;? |\n| --- | :-- |' in text


def test_no_line_of_prose_is_long(results):
  prose = [
      line for line in _page(results).splitlines()
      if not re.match(r'\||    |!\[', line)
  ]
  assert max(map(len, prose)) <= 80
