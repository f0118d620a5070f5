# SPDX-License-Identifier: Apache-2.0
"""The terminal view, on a terminal and in a log file."""

import io

import numpy as np
import pytest
from rich.console import Console

from rlhf.watching import display as display_lib
from rlhf.watching.display import Display

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


def test_speed_is_shown_after_the_headline():
  output = io.StringIO()
  console = Console(file=output, force_terminal=False, width=200)
  numbers = {'tokens_per_second': 12345.6, 'time/step': 0.25, 'loss': 2.0}
  with Display('sft', 3, ('loss',), console=console) as display:
    display.update(3, numbers)
  line = 'sft 3/3  loss 2  tokens_per_second 1.235e+04  time/step 0.25'
  assert output.getvalue().strip() == line


class _Clock:
  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(display_lib.time, 'monotonic', lambda: self.now)


def _frame(display, console, output):
  output.truncate(0)
  output.seek(0)
  console.print(display._view())
  return ' '.join(output.getvalue().split())


def test_a_resumed_run_is_shown_from_where_it_goes_on(monkeypatch):
  output = io.StringIO()
  console = Console(file=output, width=100, color_system=None)
  clock = _Clock(monkeypatch)
  with Display('ppo', 100, (), first=60, console=console) as display:
    # As soon as it goes on; of what is left nothing is known yet.
    clock.now += 3
    shown = _frame(display, console, output)
    assert '60/100 0:00:03 eta -:--:--' in shown
    display.update(64, {})
    clock.now += 5
    # 8 seconds for 4 steps: 2 for each of the 36 that are left.
    shown = _frame(display, console, output)
    assert '64/100 0:00:08 eta 0:01:12' in shown
    assert shown.split('64/100')[0].count('\u2501') >= 25  # Of 40.
    display.update(100, {})
    assert '100/100 0:00:08 eta 0:00:00' in _frame(display, console, output)


@pytest.mark.parametrize('terminal', [False, True])
def test_odd_values_are_shown_not_raised(terminal):
  output = io.StringIO()
  console = Console(file=output, force_terminal=terminal, width=100)
  names = ('a', 'b', 'c', 'd', 'e')
  odd = {
      'a': float('nan'), 'b': None, 'c': np.float32(1.5), 'd': 'text', 'e': []
  }
  rows = [{}, {'prompt': None, 'response': 3, 'score': float('nan')}]
  with Display('sft', 0, names, console=console) as display:
    display.update(0, odd)
    display.samples(rows)
    display.warn('[', rows)
    display.note('')
  assert 'nan' in output.getvalue() and '1.5' in output.getvalue()


def test_a_warning_stays_in_a_terminal_above_the_view():
  output = io.StringIO()
  console = Console(
      file=output, force_terminal=True, width=100, color_system=None
  )
  with Display('ppo', 3, ('loss',), console=console) as display:
    display.update(1, {'loss': 1.0})
    display.warn('KL of [40] nats', [*ROWS, *ROWS])
    display.update(2, {'loss': 8.25})
  shown = output.getvalue()
  assert '\u256d' in shown and ' warning ' in shown  # A panel's corner.
  assert 'KL of [40] nats' in shown and 'cat [/]' in shown
  assert shown.count('list [b]two[/b] pets') == 2  # Four rows of the six.
  # What is drawn last is the view, without the warning.
  assert '8.25' in shown.split('KL of [40] nats')[-1]


def test_a_warning_in_a_log_is_found_by_its_first_word():
  output = io.StringIO()
  console = Console(file=output, force_terminal=False, width=40)
  with Display('ppo', 3, (), console=console) as display:
    display.warn(
        'KL of [40] nats\nand more',
        [{'prompt': 'a\nb', 'response': 'c', 'score': 1.0}] * 6,
    )
  assert output.getvalue().splitlines() == [
      'warning: KL of [40] nats',
      'warning: and more',
      *['warning:   | a b -> c  [1]'] * 4,
  ]


def test_a_step_does_not_draw(monkeypatch):
  drawn = []
  monkeypatch.setattr(Display, '_view', lambda self: drawn.append(1) or '')
  console = Console(file=io.StringIO(), force_terminal=True)
  with Display('sft', 5000, ('loss',), console=console) as display:
    for step in range(5000):
      display.update(step, {'loss': 1.0})
  # By the clock and at the end, however many steps there are.
  assert 1 <= len(drawn) < 500


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
