# SPDX-License-Identifier: Apache-2.0
"""Files become TFDS data sets, and the data sets give the files' rows back."""

import csv
import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from rlhf.data import hygiene, tfds_tasks
from rlhf.data import rows as rows_lib
from rlhf.data.builders import (
    base,
    rlhf_demonstrations,
    rlhf_prompts,
    rlhf_rankings,
    rlhf_text,
)

BUILDERS = {
    'text': rlhf_text.RlhfText,
    'demonstrations': rlhf_demonstrations.RlhfDemonstrations,
    'rankings': rlhf_rankings.RlhfRankings,
    'prompts': rlhf_prompts.RlhfPrompts,
}
ROOT = pathlib.Path(__file__).parents[2]
# Too short a text for two readers to agree on by chance.
ODD = 'é\n"½"\u2028\x00 and a NUL at the end\x00'
EXTRAS = ('id', 'user', 'labeler', 'use_case', 'source')


def _row(kind: str, n: int, k: int = 3) -> dict:
  return {
      'text': {'text': f'document {n} {ODD}'},
      'demonstrations': {'prompt': f'p {n}', 'response': f'{ODD} {n}'},
      'rankings': {
          'prompt': f'{ODD} {n}',
          'responses': [f'{n} {i} {ODD}' for i in range(k)],
          'ranks': [2**31 - 1, 1, *[2] * (k - 2)],
      },
      'prompts': {'prompt': f'{n} {ODD}'},
  }[kind]


def _rows(kind: str, count: int = 90, users: int = 45) -> list[dict]:
  """Rows of which every second one is by a known user, K = 2 to 5."""
  rows = []
  for n in range(count):
    row = _row(kind, n, 2 + n % 4)
    if n % 2:
      row |= {'user': f'u{n % users}', 'id': str(n), 'source': 'here'}
    rows.append(row)
  return rows


def _whole(row: dict) -> dict:
  return dict.fromkeys(EXTRAS, '') | row


def _write(folder: pathlib.Path, rows: list[dict], name='a.jsonl') -> None:
  folder.mkdir(exist_ok=True)
  data = ''.join(json.dumps(row) + '\n' for row in rows).encode()
  if name.endswith('.gz'):
    data = gzip.compress(data)
  (folder / name).write_bytes(data)


def _build(kind: str, folder, out, file_format='tfrecord', **options):
  builder = BUILDERS[kind](
      data_dir=str(out),
      file_format=file_format,
      config=base.Options(**options) if options else None,
  )
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=str(folder))
  )
  return builder


def _read(name: str, out, split: str) -> list[dict]:
  task = tfds_tasks.register(name, data_dir=str(out))
  dataset = seqio.get_mixture_or_task(task).get_dataset(
      sequence_length=None, split=split, shuffle=False
  )
  return list(map(tfds_tasks.raw_row, dataset.as_numpy_iterator()))


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
@pytest.mark.parametrize('kind', list(BUILDERS))
def test_rows_come_back_in_their_splits_and_order(kind, file_format, tmp_path):
  rows = _rows(kind)
  # Read by name: what comes first by name comes first.
  _write(tmp_path / 'in', rows[50:], 'b.jsonl')
  _write(tmp_path / 'in', rows[:50], 'a.jsonl.gz')
  builder = _build(kind, tmp_path / 'in', tmp_path, file_format)

  expected = {split: [] for split in ('train', 'validation', 'test')}
  for row in map(_whole, rows):
    key = hygiene.split_key(row, kind)
    split = hygiene.split_of(key, validation=0.05, test=0.05)
    expected[split].append(row)
  expected = {split: part for split, part in expected.items() if part}
  task = tfds_tasks.register(f'tfds:rlhf_{kind}', data_dir=str(tmp_path))
  assert tfds_tasks.splits(task) == {s: len(p) for s, p in expected.items()}
  assert len(expected['train']) > 70
  for split, part in expected.items():
    assert _read(f'tfds:rlhf_{kind}', tmp_path, split) == part
    for row in part:
      # Neither lost nor added: exactly the kind's fields and the optional ones.
      assert rows_lib.check(row, kind, 'a row') == row

  if file_format == 'array_record':
    source = builder.as_data_source('train')
    assert len(source) == len(expected['train'])
    for i in (0, 71, 3, -1 % len(source)):
      assert tfds_tasks.raw_row(source[i]) == expected['train'][i]


def test_no_user_is_in_two_splits(tmp_path):
  rows = [{'prompt': f'p {n}', 'user': f'u{n % 100}'} for n in range(500)]
  _write(tmp_path / 'in', rows)
  builder = _build(
      'prompts', tmp_path / 'in', tmp_path, validation=0.2, test=0.3
  )
  name = 'tfds:rlhf_prompts/validation_0.2-test_0.3'
  parts = {s: _read(name, tmp_path, s) for s in builder.info.splits}
  users = {s: {row['user'] for row in part} for s, part in parts.items()}
  assert sum(map(len, parts.values())) == 500
  assert sum(map(len, users.values())) == len(set().union(*users.values()))
  # 100 coins of 0.2 and of 0.3: standard deviations are 4 and 4.6.
  assert abs(len(users['validation']) - 20) < 13
  assert abs(len(users['test']) - 30) < 15


def test_a_split_without_rows_is_left_out(tmp_path, log):
  _write(tmp_path / 'in', [{'text': 'a'}, {'text': 'b'}])
  _build('text', tmp_path / 'in', tmp_path, validation=0, test=0)
  assert "no row falls into the split 'test'" in log.text
  name = 'tfds:rlhf_text/validation_0-test_0'
  task = tfds_tasks.register(name, data_dir=str(tmp_path))
  assert tfds_tasks.splits(task) == {'train': 2}
  assert list(seqio.get_mixture_or_task(task).splits) == ['train']


def test_options_change_the_rows_and_the_folder(tmp_path):
  row = {'instruction': 'a', 'chosen': '', 'rejected': 'b'}
  _write(tmp_path / 'in', [row])
  options = {'fields': {'prompt': 'instruction'}, 'test': 0, 'validation': 0}
  with pytest.raises(rows_lib.RowError, match='a.jsonl, row 1') as info:
    _build('rankings', tmp_path / 'in', tmp_path, **options)
  assert info.value.reason.startswith('empty')
  options['allow_empty_responses'] = True
  builder = _build('rankings', tmp_path / 'in', tmp_path, **options)
  assert builder.info.full_name == (
      'rlhf_rankings/validation_0-test_0-allow_empty_responses_True-'
      'fields__prompt_instruction_/1.0.0'
  )
  assert _read(f'tfds:{builder.info.full_name[:-6]}', tmp_path, 'train') == [
      _whole({'prompt': 'a', 'responses': ['', 'b'], 'ranks': [1, 2]})
  ]
  with pytest.raises(ValueError, match='leave something to train'):
    base.Options(validation=0.5, test=0.5)


def test_files_of_several_formats_make_one_data_set(tmp_path, log):
  row = {'prompt': 'a', 'answers': ['b', 'c'], 'ranks': [1, 2]}
  _write(tmp_path / 'in', [row], 'a.jsonl')
  with (tmp_path / 'in' / 'b.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(row)
    writer.writerow(
        v if isinstance(v, str) else json.dumps(v) for v in row.values()
    )
  feature = {
      'prompt': tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'a'])),
      'answers': tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[b'b', b'c'])
      ),
      'ranks': tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 2])),
  }
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  shard = str(tmp_path / 'in' / 'c.tfrecord-00000-of-00001')
  with tf.io.TFRecordWriter(shard) as records:
    records.write(example.SerializeToString())
  (tmp_path / 'in' / 'README.md').write_text('Three files.')
  builder = _build(
      'rankings', tmp_path / 'in', tmp_path, name='three', test=0,
      validation=0, fields={'responses': 'answers'},
  )  # fmt: skip
  assert builder.info.splits['train'].num_examples == 3
  expected = {'prompt': 'a', 'responses': ['b', 'c'], 'ranks': [1, 2]}
  found = _read('tfds:rlhf_rankings/three', tmp_path, 'train')
  assert found == [_whole(expected)] * 3
  assert 'not read' in log.text and 'README.md' in log.text


@pytest.mark.parametrize(
    ('name', 'data', 'message'),
    [
        ('a.jsonl', b'{"text": "a"}\n{"text": 3}\n', "row 2, field 'text'"),
        ('a.jsonl', b'{"text": "a"}\n{"text"\n', 'a.jsonl, row 2'),
        ('a.jsonl', b'\n', 'a.jsonl: no rows'),
        ('a.txt', b'some text', 'no file of a known format .* only a.txt'),
    ],
)
def test_the_first_fault_stops_and_leaves_no_data(
    name, data, message, tmp_path
):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / name).write_bytes(data)
  with pytest.raises(ValueError, match=message) as info:
    _build('text', tmp_path / 'in', tmp_path)
  assert isinstance(info.value, rows_lib.RowError | rows_lib.DataError)
  assert len(str(info.value).splitlines()) == 1
  assert not list(tmp_path.rglob('dataset_info.json'))
  with pytest.raises(rows_lib.DataError, match='tfds:rlhf_text: not prepared'):
    tfds_tasks.register('tfds:rlhf_text', data_dir=str(tmp_path))


def _command(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
      [sys.executable, '-m', 'rlhf.data.builders', *arguments],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': '.'},
      capture_output=True,
      text=True,
      timeout=120,
  )


def test_the_command_line_builds(tmp_path):
  rows = _rows('rankings', 40)
  _write(tmp_path / 'in', rows)
  # By the path of the file, as `tfds build` has it; below by name.
  done = _command(
      'rlhf/data/builders/rlhf_rankings.py',
      f'--manual_dir={tmp_path}/in',
      f'--data_dir={tmp_path}',
      '--file_format=array_record',
      '--config={"validation": 0, "test": 0.2}',
  )
  assert done.returncode == 0, done.stderr
  name = 'tfds:rlhf_rankings/validation_0-test_0.2'
  parts = [_read(name, tmp_path, split) for split in ('train', 'test')]
  assert parts[0] and parts[1]
  found = sorted(sum(parts, []), key=lambda row: row['prompt'])
  assert found == sorted(map(_whole, rows), key=lambda row: row['prompt'])


def test_the_command_line_ends_with_what_is_wrong(tmp_path):
  _write(tmp_path / 'in', [{'prompt': 'a'}, {'promt': 'b'}])
  done = _command(
      'rlhf_prompts', f'--manual_dir={tmp_path}/in', f'--data_dir={tmp_path}'
  )
  assert done.returncode != 0
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith('rlhf.data.rows.RowError: ')
  assert f"{tmp_path}/in/a.jsonl, row 2, field 'prompt'" in last


def test_hh_rlhf_goes_through_whole(tmp_path, shared_data):
  path = shared_data / 'hh_rlhf' / 'harmless_base_rankings.jsonl.gz'
  rows = [json.loads(line) for line in gzip.open(path)]
  assert len(rows) == 1629
  fields = ('prompt', 'responses', 'ranks', *EXTRAS)
  rows = [{f: row.get(f, '') for f in fields} for row in rows]
  builder = _build('rankings', path.parent, tmp_path, 'array_record')
  found = []
  for split in builder.info.splits:
    part = _read('tfds:rlhf_rankings', tmp_path, split)
    assert len(part) == builder.info.splits[split].num_examples
    found.append(iter(part))
  # In the order of the file: each row is the next one of some split.
  heads = [next(part) for part in found]
  for row in rows:
    at = heads.index(row)
    heads[at] = next(found[at], None)
  assert heads == [None] * len(found)
