# SPDX-License-Identifier: Apache-2.0
"""Prepared TFDS data sets become seqio tasks whose examples become rows."""

import json
import re

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from rlhf.data import rows as rows_lib
from rlhf.data import tfds_tasks

TEXT = tfds.features.Text()
TURNS = tfds.features.Sequence({'role': TEXT, 'content': TEXT})


class _Builder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
  code_path = None  # TFDS would want a package to find it: see builders/base.


def _prepare(folder, name, features, splits, **options):
  """A data set of any features, made as TFDS makes those of its catalogue."""
  _Builder(
      name=name,
      version=options.pop('version', '1.0.0'),
      features=tfds.features.FeaturesDict(features),
      split_datasets={s: list(enumerate(rows)) for s, rows in splits.items()},
      data_dir=str(folder),
      disable_shuffling=True,
      **options,
  ).download_and_prepare()


def _read(task, split='train', **options):
  dataset = seqio.get_mixture_or_task(task).get_dataset(
      sequence_length=None,
      split=split,
      **{'shuffle': False, 'num_epochs': 1} | options,
  )
  return list(map(tfds_tasks.raw_row, dataset.as_numpy_iterator()))


def test_a_data_set_of_the_catalogue(tmp_path):
  # The features are those of the installed TFDS, the news are ours.
  features = tfds.builder('ag_news_subset', data_dir=tmp_path).info.features
  news = [
      {'title': f't{n}', 'description': f'd {n} é', 'label': n % 4}
      for n in range(7)
  ]
  splits = {'train': news[:5], 'test': news[5:]}
  _prepare(tmp_path, 'ag_news_subset', dict(features), splits)
  task = tfds_tasks.register('tfds:ag_news_subset', data_dir=str(tmp_path))
  assert re.fullmatch(r'tfds_ag_news_subset_1_0_0_\w{8}', task)
  assert tfds_tasks.splits(task) == {'train': 5, 'test': 2}
  assert _read(task) == news[:5] and _read(task, 'test') == news[5:]
  assert isinstance(seqio.TaskRegistry.get(task).source, seqio.TfdsDataSource)
  found = seqio.TaskRegistry.get(task).output_features
  assert {name: (f.dtype, f.rank) for name, f in found.items()} == {
      'title': (tf.string, 0),
      'description': (tf.string, 0),
      'label': (tf.int64, 0),
  }
  fields = {'text': 'description'}
  row = rows_lib.check(_read(task)[0], 'text', 'a row', fields=fields)
  assert row['text'] == 'd 0 é'


def test_mocked_data_are_rows(tmp_path):
  # TFDS's own random examples, of the types that its reader gives.
  with tfds.testing.mock_data(num_examples=3, data_dir=str(tmp_path)):
    found = tfds.load('imdb_reviews', split='train')
  rows = [tfds_tasks.raw_row(example) for example in tfds.as_numpy(found)]
  assert len(rows) == 3 and rows == list(map(tfds_tasks.raw_row, found))
  for row in rows:
    assert type(row['text']) is str and type(row['label']) is int


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
def test_every_kind_of_feature(file_format, tmp_path, log):
  features = {
      'prompt': TEXT,
      'chosen': TURNS,
      'notes': tfds.features.Sequence(tfds.features.Sequence(TEXT)),
      'scores': tfds.features.Sequence(np.float32),
      'ranks': tfds.features.Sequence(np.int32),
      'label': tfds.features.ClassLabel(names=['no', 'yes']),
      'good': np.bool_,
      'meta': {'user': TEXT, 'more': {'age': np.int64}},
      'replies': tfds.features.Dataset({'text': TEXT}),
  }
  turns = [
      {'role': 'user', 'content': 'Hi é'},
      {'role': 'assistant', 'content': ''},
  ]
  rows = [
      {
          'prompt': 'a\x00',
          'chosen': turns,
          'notes': [['a', 'b'], [], ['c']],
          'scores': [0.5, -1.0],
          'ranks': [2, 1],
          'label': 1,
          'good': True,
          'meta': {'user': 'u', 'more': {'age': 2**40}},
      },
      {
          'prompt': '',
          'chosen': [],
          'notes': [],
          'scores': [],
          'ranks': [],
          'label': 0,
          'good': False,
          'meta': {'user': '', 'more': {'age': -1}},
      },
  ]
  examples = [row | {'replies': [{'text': 'x'}]} for row in rows]
  _prepare(
      tmp_path, 'chats', features, {'train': examples}, file_format=file_format
  )
  task = tfds_tasks.register('tfds:chats', data_dir=str(tmp_path))
  assert _read(task) == rows
  assert 'tfds:chats: dropped replies: seqio cannot take them' in log.text
  ranks = {
      name: feature.rank
      for name, feature in seqio.TaskRegistry.get(task).output_features.items()
  }
  assert ranks == {
      'prompt': 0, 'label': 0, 'good': 0, 'scores': 1, 'ranks': 1, 'notes': 2,
  }  # fmt: skip
  json.dumps(_read(task))  # Plain values only.


def test_bytes_that_are_not_text_are_reported_by_the_row(tmp_path):
  examples = [{'text': 'good'}, {'text': b'caf\xe9'}]
  _prepare(tmp_path, 'latin', {'text': TEXT}, {'train': examples})
  task = tfds_tasks.register('tfds:latin', data_dir=str(tmp_path))
  good, bad = _read(task)
  assert rows_lib.check(good, 'text', 'row 1')['text'] == 'good'
  with pytest.raises(rows_lib.RowError, match="row 2, field 'text'") as info:
    rows_lib.check(bad, 'text', 'row 2')
  assert info.value.reason == 'invalid_unicode'


def test_array_records_shuffle_by_the_seed(tmp_path):
  rows = [{'text': str(n)} for n in range(600)]
  _prepare(
      tmp_path, 'numbers', {'text': TEXT}, {'train': rows},
      file_format='array_record',
  )  # fmt: skip
  task = tfds_tasks.register('tfds:numbers', data_dir=str(tmp_path))
  assert _read(task) == rows
  one, same, other = (
      _read(task, shuffle=True, seed=seed) for seed in (1, 1, 2)
  )
  assert one == same != other and one != rows
  assert sorted(int(row['text']) for row in one) == list(range(600))
  assert len(_read(task, num_epochs=2)) == 1200


def test_one_data_set_is_one_task(tmp_path):
  names = {}
  for folder in ('a', 'b'):
    for config in ('x-y', 'x_y'):
      text = f'{folder} {config}'
      config = tfds.core.BuilderConfig(name=config)
      _prepare(
          tmp_path / folder, 'twins', {'text': TEXT},
          {'train': [{'text': text}]}, config=config,
      )  # fmt: skip
      name = f'tfds:twins/{config.name}'
      task = tfds_tasks.register(name, data_dir=str(tmp_path / folder))
      assert task == tfds_tasks.register(
          f'{name}:1.0.0', data_dir=str(tmp_path / folder)
      )
      names[task] = text
  assert len(names) == 4
  for task, text in names.items():
    assert _read(task) == [{'text': text}]


def test_the_newest_version_and_tfdss_own_folder(tmp_path, monkeypatch):
  for version in ('1.0.0', '1.10.0', '1.9.0'):
    rows = {'train': [{'text': version}]}
    _prepare(tmp_path, 'old_and_new', {'text': TEXT}, rows, version=version)
  file_utils = tfds.core.utils.file_utils
  monkeypatch.setattr(file_utils.constants, 'DATA_DIR', tmp_path)
  monkeypatch.setattr(file_utils, '_REGISTERED_DATA_DIRS', {tmp_path})
  for wanted, found in [('', '1.10.0'), (':1.9.0', '1.9.0')]:
    task = tfds_tasks.register(f'tfds:old_and_new{wanted}')
    assert task == 'tfds_old_and_new_' + found.replace('.', '_')
    assert tfds_tasks.splits(task) == {'train': 1}
  builder = seqio.TaskRegistry.get(task).source.tfds_dataset.builder
  assert str(builder.data_path) == str(tmp_path / 'old_and_new' / '1.9.0')


def test_what_is_not_there_is_refused_in_one_line(tmp_path):
  config = tfds.core.BuilderConfig(name='en')
  rows = {'train': [{'text': 'a'}]}
  _prepare(tmp_path, 'my_books', {'text': TEXT}, rows, config=config)
  command = 'python -m rlhf.data.builders '
  for name, fragments in {
      'tfds:ag_news': ['knows no data set', 'did you mean ag_news_subset'],
      'tfds:my_boks/en': ['knows no data set', 'my_books'],
      'tfds:imdb_reviews/plain_text': [
          'does not download',
          f'{command}imdb_reviews/plain_text --data_dir={tmp_path}',
      ],
      'tfds:rlhf_text': [f'{command}rlhf_text --manual_dir='],
      'tfds:my_books/fr': ['use tfds:my_books/en:1.0.0'],
      'tfds:my_books/en:2.0.0': ['use tfds:my_books/en:1.0.0'],
      'ag_news_subset': ['names no TFDS data set: write tfds:NAME'],
      'tfds:huggingface:glue': ['names no TFDS data set'],
      'tfds:my_books/en/1.0.0': ['names no TFDS data set'],
  }.items():
    with pytest.raises(rows_lib.DataError) as info:
      tfds_tasks.register(name, data_dir=str(tmp_path))
    message = str(info.value)
    assert name in message and len(message.splitlines()) == 1
    assert all(fragment in message for fragment in fragments), message
  with pytest.raises(rows_lib.DataError, match='no seqio task tfds_none'):
    tfds_tasks.splits('tfds_none')


def test_raw_rows_are_plain():
  flat = tf.ragged.constant([['a', 'é'], []])
  example = {
      'bytes': 'é'.encode(),
      'text': np.str_('a'),
      'broken': b'\xff',
      'int': np.int32(3),
      'float': np.float32(0.5),
      'bool': np.bool_(True),
      'array': np.array([[1, 2]], np.int16),
      'strings': np.array([b'a', b'b\x00'], object),
      'tensor': tf.constant(['a']),
      'ragged': flat,
      'numpy_ragged': tf.compat.v1.ragged.RaggedTensorValue(
          np.array([b'a'], object), np.array([0, 1, 1])
      ),
      'turns': {'role': np.array([b'u'], object), 'content': [b'hi']},
      'many': {'role': [[b'u'], []], 'content': [[b'hi'], []]},
      'none': {'role': [], 'content': []},
      'unequal': {'a': [1], 'b': [1, 2]},
      'nested': {'a': [1], 'b': 2},
  }
  assert tfds_tasks.raw_row(example) == {
      'bytes': 'é',
      'text': 'a',
      'broken': '\udcff',
      'int': 3,
      'float': 0.5,
      'bool': True,
      'array': [[1, 2]],
      'strings': ['a', 'b\x00'],
      'tensor': ['a'],
      'ragged': [['a', 'é'], []],
      'numpy_ragged': [['a'], []],
      'turns': [{'role': 'u', 'content': 'hi'}],
      'many': [[{'role': 'u', 'content': 'hi'}], []],
      'none': [],
      'unequal': {'a': [1], 'b': [1, 2]},
      'nested': {'a': [1], 'b': 2},
  }
  plain = tfds_tasks.raw_row(example)
  types = {name: type(plain[name]) for name in ('text', 'int', 'float', 'bool')}
  assert types == {'text': str, 'int': int, 'float': float, 'bool': bool}
