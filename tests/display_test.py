# SPDX-License-Identifier: Apache-2.0
"""The terminal view, on a terminal and in a log file."""

import io

import pytest
from rich.console import Console

from rlhf import display as display_lib
from rlhf.display import Display

ROWS = [
    {'prompt': 'list [b]two[/b] pets', 'response': '[red] fox', 'score': 1.25},
    {'prompt': 'say cat', 'response': 'cat [/]', 'score': None},
    {'prompt': 'third', 'response': 'is not shown in a log', 'score': 0.0},
]


def _show(*, terminal, steps=100, rows=ROWS):
  output = io.StringIO()
  console = Console(
      file=output, force_terminal=terminal, width=100, color_system=None
  )
  headline = ('rollout/score', 'rollout/kl')
  with Display('ppo', steps, headline, console=console) as display:
    for step in range(1, steps + 1):
      display.update(step, {'rollout/score': step / 10, 'other': 3.0})
    display.update(steps, {'rollout/kl': 4.5})
    display.samples(rows)
    display.note('done [really]')
  return output.getvalue()


@pytest.mark.parametrize('steps', [3, 10, 100, 1009])
def test_a_log_gets_about_ten_lines(steps):
  shown = _show(terminal=False, steps=steps, rows=())
  lines = [line for line in shown.splitlines() if line.startswith('ppo ')]
  assert min(steps, 10) <= len(lines) <= 13
  assert lines[0] == f'ppo 1/{steps}  rollout/score 0.1'
  assert lines[-1].startswith(f'ppo {steps}/{steps}  rollout/score ')
  assert lines[-1].endswith('rollout/kl 4.5')
  assert 'other' not in shown


@pytest.mark.parametrize('terminal', [False, True])
def test_brackets_in_samples_are_not_markup(terminal):
  shown = _show(terminal=terminal)
  for row in ROWS[:2]:
    assert row['prompt'] in shown and row['response'] in shown
  assert '1.25' in shown and 'done [really]' in shown


def test_a_log_shows_two_samples():
  shown = _show(terminal=False)
  assert '  | list [b]two[/b] pets -> [red] fox  [1.25]' in shown
  assert 'third' not in shown


def test_a_terminal_shows_progress_numbers_and_samples():
  shown = _show(terminal=True)
  for part in ('ppo', '100/100', 'eta', 'rollout/score', '10', '4.5', 'third'):
    assert part in shown


def test_a_terminal_is_left_whole_when_a_run_stops():
  output = io.StringIO()
  console = Console(file=output, force_terminal=True, width=100)
  with pytest.raises(FloatingPointError):
    with Display('sft', 3, (), console=console) as display:
      display.update(1, {})
      raise FloatingPointError
  # The last control sequence shows the cursor again.
  assert output.getvalue().rfind('\x1b[?25h') > output.getvalue().rfind(
      '\x1b[?25l'
  )


def test_news_of_a_stage_are_not_markup_either(capsys):
  display_lib.say('rm: accuracy 0.7 [0.65, 0.75] in [/tmp]')
  assert capsys.readouterr().out.strip() == (
      'rm: accuracy 0.7 [0.65, 0.75] in [/tmp]'
  )
