# SPDX-License-Identifier: Apache-2.0
"""The report as it is called, and on real data: every row is accounted for."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import real_data
from launch import pipeline
from rlhf.data import report, vocabularies
from rlhf.data.report import sources

_ROOT = pathlib.Path(__file__).parents[2]
# Rows of each data set, from the README of the real data.
_ROWS = {
    'hh_rlhf': {'rankings': 1629, 'demonstrations': 182},
    'alpaca_eval': {'rankings': 399, 'demonstrations': 182},
    'oasst': {'rankings': 150, 'demonstrations': 182},
    't0_mixture': {'demonstrations': 5448},
    'flan_cot': {'demonstrations': 2400},
    'text': {'text': 1048 + 430 + 46 + 48},
    'prompts': {'prompts': 250 + 230 + 154},
}


def _data(*args):
  return subprocess.run(
      [sys.executable, 'launch/data.py', *args],
      cwd=_ROOT,
      env=os.environ,
      capture_output=True,
      text=True,
      timeout=300,
  )


def _write(path, rows):
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  path.write_text('\n'.join(lines) + '\n')
  return path


@pytest.fixture
def bad_rankings(tmp_path):
  """Six rows, of which three are good."""
  good = {'prompt': 'Where?', 'responses': ['left', 'right'], 'ranks': [1, 2]}
  return _write(
      tmp_path / 'bad.jsonl',
      [
          good | {'labeler': 'ann'},
          good | {'ranks': [1, 1]},
          '{"prompt": ',
          good | {'prompt': 'And then?', 'user': 'u'},
          {'prompt': 'no responses'},
          {'prompt': 'A pair?', 'chosen': 'yes', 'rejected': 'no'},
      ],
  )


@pytest.mark.slow
def test_json_of_one_source_adds_up_and_is_all_of_stdout(bad_rankings):
  done = _data(
      '--kind=rankings', f'--source={bad_rankings}', '--nostrict', '--json'
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found['rows_read'] == 6 and found['rows_kept'] == 3
  assert found['dropped'] == {'all_tied': 1, 'missing_field': 1, 'not_json': 1}
  (example,) = found['dropped_examples']['not_json']
  assert example['where'].endswith('bad.jsonl, row 3')
  assert sum(found['kept'].values()) == 3
  assert found['rankings']['pairs'] == 3


@pytest.mark.slow
def test_strict_stops_at_the_first_bad_row_with_one_line(bad_rankings):
  done = _data('--kind=rankings', f'--source={bad_rankings}', '--json')
  assert done.returncode == 1 and done.stdout == ''
  assert 'Traceback' not in done.stderr
  (line,) = [x for x in done.stderr.splitlines() if x.startswith('error: ')]
  assert line == (
      f"error: {bad_rankings}, row 2, field 'ranks': all are 1, which compares"
      ' nothing: leave the row out'
  )


@pytest.mark.slow
def test_a_config_with_flags_is_reported_and_written(tmp_path):
  rows = [{'prompt': f'Do {i}', 'user': f'u{i}'} for i in range(20)]
  file = _write(tmp_path / 'p.jsonl', rows)
  done = _data(
      '--config=configs/ppo.py:1.3b',
      f'--config.root={tmp_path}',
      '--config.data.vocabulary=bytes',
      f'--config.data.prompts={file}',
  )
  assert done.returncode == 0, done.stderr
  assert '20 rows read = 20 kept + 0 dropped' in done.stdout
  assert 'not set: --config.data.text=' in done.stdout
  last = done.stdout.splitlines()[-1]
  assert last == f'written to {tmp_path}/ppo/data.json'
  found = json.loads((tmp_path / 'ppo' / 'data.json').read_text())
  by_name = {one['name']: one for one in found['datasets']}
  assert by_name['prompts']['rows_kept'] == 20
  assert by_name['prompts']['splits']['train']['users'] <= 20
  assert by_name['text']['absent'].startswith('not set')


@pytest.mark.parametrize(
    ('args', 'want'),
    [
        ([], 'error: give --config=, or --kind= and --source='),
        (['--source=a.jsonl'], 'error: --source= needs --kind='),
        (
            ['--config=configs/real_data.py:nope'],
            "error: unknown data 'nope': want one of hh_rlhf, alpaca_eval",
        ),
        (['--config=configs/sft.py', '--config.data.promts=x'], 'promts'),
    ],
)
def test_wrong_flags_are_one_line(args, want):
  done = _data(*args)
  assert done.returncode == 1 and done.stdout == ''
  assert 'Traceback' not in done.stderr and want in done.stderr


# -- What a config names ------------------------------------------------------


def test_what_an_earlier_stage_makes_is_missing_with_its_command(tmp_path):
  c = pipeline.load_config('configs/rm.py')
  c.root = str(tmp_path)
  found = {d.names: d for d in sources.of_config(c)}
  missing = found['rankings',].absent
  assert '--config=configs/comparisons.py:mini' in missing
  assert f'--config.root={tmp_path}' in missing
  assert found['rankings',].whole
  assert found['demonstrations',].absent == ''
  folder = tmp_path / 'comparisons'
  folder.mkdir()
  (folder / 'rankings_train.jsonl.gz').touch()
  found = {d.names: d for d in sources.of_config(c)}
  assert found['rankings',].absent == ''


def test_fields_of_one_source_are_read_once_and_a_config_has_its_layout():
  c = pipeline.load_config('configs/real_data.py:alpaca_eval')
  found = {d.names: d for d in sources.of_config(c)}
  rankings = found['rankings', 'validation_rankings']
  assert not rankings.whole and not rankings.absent
  assert rankings.layout.max_responses == 9
  assert rankings.layout.max_prompts == 64
  assert rankings.layout.rows == c.rows
  assert found['prompts',].absent == 'not set: --config.data.prompts='
  c = pipeline.load_config('configs/sft.py')
  found = {d.names: d for d in sources.of_config(c)}
  assert found['demonstrations',].limits == {'train': 4000}
  assert found['prompts',].limits == {'validation': 200}
  assert found['prompts',].layout.prompt_lengths == (32,)


@pytest.mark.parametrize('limit', [{}, {'prompts': 3}, {'prompts_train': 5}])
def test_limits_are_accounted_for(tmp_path, limit):
  rows = [{'prompt': f'Do {i}', 'user': f'u{i}'} for i in range(60)]
  c = pipeline.load_config('configs/ppo.py:1.3b')
  with c.unlocked():
    c.data.limits = limit
  c.data.vocabulary = 'bytes'
  c.data.prompts = str(_write(tmp_path / 'p.jsonl', rows))
  (prompts,) = [
      d for d in sources.of_config(c) if d.names == ('prompts',)
  ]
  bytes_ = vocabularies.vocabulary('bytes')
  splits, account = sources.read(prompts, c.data, bytes_)
  report.check(splits, account)
  assert account.rows_read == 60
  most = {s: limit.get(f'prompts_{s}', limit.get('prompts')) for s in splits}
  for split, kept in splits.items():
    assert most[split] is None or len(kept) <= most[split]
    for one in kept:
      assert one.row['prompt'] == one.example.text
  assert ('over_limit' in account.dropped) == bool(limit)


@pytest.mark.parametrize('name', real_data.NAMES)
def test_real_rows_are_kept_or_dropped_for_a_reason(shared_data, name):
  c = pipeline.load_config(f'configs/real_data.py:{name}')
  c.folder = str(shared_data)
  there = [d for d in sources.of_config(c) if not d.absent]
  assert {d.names[0] for d in there} == set(_ROWS[name])
  vocabulary = vocabularies.vocabulary(c.data.vocabulary)
  for dataset in there:
    splits, account = sources.read(dataset, c.data, vocabulary)
    found = report.describe(
        dataset.kind, splits, account, vocabulary, dataset.layout, examples=1
    )
    assert found['rows_read'] == _ROWS[name][dataset.names[0]]
    dropped = sum(found['dropped'].values())
    assert found['rows_read'] == found['rows_kept'] + dropped
    assert set(found['dropped']) <= {
        'personal_data', 'prompt_too_long', 'repeated_prompt', 'over_user_limit'
    }  # fmt: skip
    parts = found['splits'].values()
    assert found['rows_kept'] == sum(part['rows'] for part in parts)
    assert not any('problem' in part for part in parts)
    assert all(not s['prompts'] for s in found['shared'])
    assert len(found['examples']) == 1
    json.dumps(found, allow_nan=False)
