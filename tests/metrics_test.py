# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md and what the stages log, held against each other both ways.

Each stage runs once, tiny, with what its marked metrics need.
"""

import re

import numpy as np
import pytest

from rlhf.stages import ppo, pretrain, reward, sft
from tests import tiny
from tests.conftest import ROOT

_PAGE = ROOT / 'docs' / 'metrics.md'
_STAGES = ('pretrain', 'sft', 'rm', 'ppo', 'ppo_ptx')


def _documented() -> dict[str, dict[str, bool]]:
  """Stage to its metrics, and whether each needs a special config (a dagger).

  A heading names the stages that its table is of.
  """
  found: dict[str, dict[str, bool]] = {stage: {} for stage in _STAGES}
  stages: list[str] = []
  for line in _PAGE.read_text(encoding='utf-8').splitlines():
    if line.startswith('## '):
      stages = [name for name in re.findall(r'`(\w+)`', line) if name in found]
    row = re.match(r'\| `([\w/]+)`( †)? \| ', line)
    for stage in stages if row else ():
      assert row[1] not in found[stage], f'{row[1]} stands there twice'
      found[stage][row[1]] = row[2] is not None
  return found


def _root(tmp_path_factory):
  return tiny.make_root(tmp_path_factory.mktemp('metrics'))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  with tiny.quick_compilation():
    yield _root(tmp_path_factory)


def _pretrain(root):
  pretrain.run(tiny.config('pretrain', root, 'a'))


def _sft(root):
  sft.run(tiny.config('sft', root, 'a', reward_model=str(root / 'rm')))


def _rm(root):
  reward.run(tiny.config('rm', root, 'a'))


def _ppo(root):
  # The first iteration trains the value function alone.
  config = tiny.config('ppo', root, 'a', **{'ppo.value_warmup_iterations': 1})
  ppo.run(config, grade=lambda rows: np.ones(len(rows)))


def _ppo_ptx(root):
  ppo.run(tiny.config('ppo_ptx', root, 'a'))


_RUNS = {
    'pretrain': _pretrain, 'sft': _sft, 'rm': _rm, 'ppo': _ppo,
    'ppo_ptx': _ppo_ptx,
}  # fmt: skip
# What their runs lack: nobody grades them.
_WITHOUT_MARKED = ('ppo_ptx',)


@pytest.mark.parametrize('stage', _STAGES)
def test_what_is_logged_is_documented_and_the_other_way_round(root, stage):
  _RUNS[stage](root)
  logged = {name for line in tiny.metrics(root / 'a') for name in line}
  (root / 'a').rename(root / f'{stage}_done')
  documented = {
      name
      for name, marked in _documented()[stage].items()
      if not (marked and stage in _WITHOUT_MARKED)
  }
  assert logged - documented == set(), 'not in docs/metrics.md'
  assert documented - logged == set(), 'in docs/metrics.md, and not logged'


def test_every_column_of_a_row_is_filled():
  rows = re.findall(
      r'^\| `[\w/]+`.*$', _PAGE.read_text(encoding='utf-8'), re.MULTILINE
  )
  assert len(rows) > 40, 'docs/metrics.md: the tables were not found'
  short = [
      row
      for row in rows
      # A pipe inside a formula is escaped.
      if len(re.split(r'(?<!\\)\|', row)) != 8
      or not all(map(str.strip, re.split(r'(?<!\\)\|', row)[1:7]))
  ]
  assert not short, short
