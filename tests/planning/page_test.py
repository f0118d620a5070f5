# SPDX-License-Identifier: Apache-2.0
"""docs/results/plan.md is what launch/plans.py wrote, and reads well."""

import json
import pathlib

from rlhf.planning import page

_RESULTS = pathlib.Path(__file__).parents[2] / 'docs' / 'results'

_PROGRAM = {
    'name': 'train',
    'calls_per_step': 1,
    'hbm_gib_per_chip': 10.0,
    'compile_seconds': 160.4,
    'collective_gib_per_chip_by_formula': {'fsdp': 6.0},
    'collective_gib_per_chip': {
        'fsdp all-gather': 5.0, 'fsdp reduce-scatter': 2.5, ' all-reduce': 0.01
    },
    'floor_seconds': {'compute': 0.5, 'hbm': 0.1},
    'binding_floor': 'compute',
}
_PLAN = {
    'topology': 'v5e:2x4',
    'mesh': {'data': 1, 'fsdp': 8},
    'fits': True,
    'hbm_gib_per_chip': 10.0,
    'hbm_limit_gib': 15.75,
    'tightest_program': 'train',
    'step_seconds_lower_bound': 0.512,
    'mfu_upper_bound': 0.884,
    'collective_gib_per_chip': 7.51,
    'petaflop_s_days': 0.0525,
    'chip_hours_lower_bound': 7.24,
    'programs': [_PROGRAM],
}


def _page(plan):
  return page.write([('SFT', '--size=1', plan)])


def test_a_plan_that_fits():
  text = _page(_PLAN)
  assert (
      '| SFT | v5e:2x4 | fsdp 8 | 10.0 of 15.8 | FITS | 0.51 | 88 % | 7.5 |'
      ' 0.0525 | 7 |'
  ) in text
  assert (
      '| SFT, v5e:2x4 | train | 1 | 10.0 | 0.500 | compute | fsdp 7.5 (6.0) |'
      ' 160 |'
  ) in text
  assert '    python launch/plan.py --size=1\n' in text


def test_one_that_does_not_has_no_other_numbers():
  program = {
      k: v for k, v in _PROGRAM.items() if k != 'collective_gib_per_chip'
  }
  text = _page(_PLAN | {'fits': False, 'programs': [program]})
  assert '| DOES NOT FIT (train) | | | | | |' in text
  assert '88 %' not in text
  assert 'compute | out of memory | 160 |' in text


def test_the_page_on_record_is_that_of_its_numbers():
  found = json.loads((_RESULTS / 'plan.json').read_text())
  rows = [(title, a, found[a]) for title, a in page.PLANS]
  assert (_RESULTS / 'plan.md').read_text() == page.write(rows)
  assert all(plan['effort'] == 'default' for plan in found.values())
