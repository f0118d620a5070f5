# SPDX-License-Identifier: Apache-2.0
"""The texts hold the numbers and the verdicts that they were given."""

import io
import re

import pytest
from rich.console import Console

from rlhf.evaluation import report
from rlhf.evaluation.findings import findings


def _table_row(text: str, label: str) -> list[str]:
  line = next(x for x in text.splitlines() if x.startswith(f'| {label} '))
  return [cell.strip() for cell in line.strip('|').split('|')][1:]


def test_the_report_has_the_numbers(make_results):
  text = report.write_demo(make_results())
  wins = _table_row(text, 'wins against SFT, %')
  assert [cell.split()[0] for cell in wins] == [
      '22.0', '30.0', '50.0', '58.0', '58.0'
  ]
  assert _table_row(text, 'loss on text, nats')[3].startswith('0.910 [')
  flat = ' '.join(text.split())
  assert re.search(r'texts of 75\.0 \[7.*, 7.*\] % of the prompts', flat)
  assert 'smoke' not in text


def test_the_report_says_that_all_came_out(make_results):
  text = report.write_demo(make_results())
  assert '12 of 12 claims came out.' in text
  assert 'did not come out' not in text
  assert 'not clear' not in text


def test_the_report_says_what_did_not_come_out(make_results):
  results = make_results(ppo=dict(win=0.4, loss=0.8))
  text = report.write_demo(results)
  assert '8 of 12 claims came out.' in text
  assert 'PPO: did not come out; PPO-ptx: came out' in text
  tax = next(f for f in findings(results) if 'alignment tax' in f.claim)
  assert f'| {tax.claim.rstrip(".")} | did not come out |' in text


def test_a_smoke_run_is_called_one(make_results):
  text = report.write_demo(make_results() | {'smoke': True})
  assert 'smoke run' in text.split('\n\n')[1]


def test_answers_stay_in_their_cells(make_results):
  text = report.answers(make_results()['samples'])
  assert '| PPO | ppo \\| says so |' in text


def test_what_was_not_measured_is_a_dash(make_results):
  results = make_results()
  del results['models']['prompted']['rm_score']
  row = _table_row(report.results_table(results), 'reward model score')
  assert row[1] == '-'


@pytest.mark.parametrize('width', [80, 120])
def test_the_terminal_shows_the_same(make_results, width):
  out = io.StringIO()
  console = Console(file=out, width=width, color_system=None)
  report.print_demo(make_results(ppo=dict(win=0.4)), console)
  text = out.getvalue()
  assert max(map(len, text.splitlines())) <= width
  assert re.search(r'wins against SFT, %.* 40\.0 ±\d\.\d', text)
  assert '…' not in text  # Nothing was cut off.
  assert 'PPO: did not come out' in text
  assert 'time: sft 60 s' in text
