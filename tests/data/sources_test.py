# SPDX-License-Identifier: Apache-2.0
"""Names become seqio tasks, and tasks rows."""

import collections
import gzip
import json
import os
from typing import Any

import pytest
import seqio
import tensorflow as tf

from rlhf.data import sources, vocabularies
from rlhf.data.cleaning import Reading
from rlhf.data.rows import OPTIONAL, DataError, RowError

LETTERS = vocabularies.WordVocabulary(['a', 'b', 'c', 'd'])


def write(path, rows):
  data = '\n'.join(json.dumps(row) for row in rows).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return str(path)


def _found(name, kind, split='all', limit=None, **options):
  reading = Reading(**options)
  task = sources.resolve(name, kind, reading)
  return list(sources.read(task, kind, split, reading, limit))


def _read(*args, **options):
  found = _found(*args, **options)
  assert not any(isinstance(row, RowError) for _, row in found)
  return [row for _, row in found]


def test_files_globs_and_lists_are_read_in_order(tmp_path):
  for n, suffix in enumerate(['b.jsonl', 'a.jsonl.gz', 'c.jsonl']):
    write(tmp_path / suffix, [{'text': f'{n} {i}'} for i in range(3)])
  names = f'{tmp_path}/c.jsonl, {tmp_path}/*.jsonl*'
  found = _found(names, 'text')
  expected = [f'{n} {i}' for n in (2, 1, 0) for i in range(3)]
  assert [row['text'] for _, row in found] == expected
  assert [where for where, _ in found][3:5] == [
      f'{tmp_path}/a.jsonl.gz, row {n}' for n in (1, 2)
  ]
  assert len(_read(names, 'text', limit=4)) == 4


def test_rankings_keep_each_rows_own_k(tmp_path):
  rows = [
      {'prompt': str(k), 'responses': ['é', 'x\x00'] * k, 'ranks': [1, 2] * k}
      for k in (1, 4, 2)
  ]
  found = _read(write(tmp_path / 'a.jsonl', rows), 'rankings')
  assert found == [row | dict.fromkeys(OPTIONAL, '') for row in rows]


def test_a_file_is_read_as_what_it_is_asked_for(tmp_path):
  rows = [{'prompt': 'a', 'responses': ['b', 'c'], 'ranks': [1, 2]}]
  name = write(tmp_path / 'a.jsonl', rows)
  assert _read(name, 'prompts')[0]['prompt'] == 'a'
  ((where, error),) = _found(name, 'demonstrations')
  assert where == error.where == f'{name}, row 1'
  assert "field 'response': missing" in str(error)


def test_bad_rows_come_with_their_place_among_the_good(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "a"}\nnonsense\n{"text": ""}\n{"text": "b"}\n')
  found = _found(str(path), 'text', strict=False)
  assert [isinstance(row, RowError) for _, row in found] == [0, 1, 1, 0]
  wheres = [where for where, _ in found]
  assert wheres == [f'{path}, row {n}' for n in range(1, 5)]


def test_fields_are_renamed_on_the_way(tmp_path):
  rows = [{'instruction': 'p', 'output': 'r'}]
  name = write(tmp_path / 'a.jsonl', rows)
  fields = {'prompt': 'instruction', 'response': 'output'}
  (row,) = _read(name, 'demonstrations', fields=fields)
  assert (row['prompt'], row['response']) == ('p', 'r')


def test_resolving_twice_gives_one_task(tmp_path):
  name = write(tmp_path / 'a.jsonl', [{'text': 'a'}])
  task = sources.resolve(name, 'text')
  assert task == sources.resolve(name, 'text')
  assert task != sources.resolve(name, 'text', Reading(strict=False))
  assert sources.resolve(task, 'text') == task
  assert task in seqio.TaskRegistry.names()
  assert sources.splits(task) == ('all',) and not sources.is_mixture(task)


def test_a_task_of_files_serves_seqio_as_well(tmp_path):
  rows = [{'prompt': str(k), 'responses': ['é'] * k, 'ranks': [*range(k)]}
          for k in (2, 5)]  # fmt: skip
  task = sources.resolve(write(tmp_path / 'a.jsonl', rows), 'rankings')
  dataset = seqio.get_mixture_or_task(task).get_dataset(
      None, split='all', shuffle=False
  )
  (_, found) = dataset.as_numpy_iterator()
  assert found['prompt'] == b'5' and found['ranks'].tolist() == [0, 1, 2, 3, 4]
  assert [text.decode() for text in found['responses']] == ['é'] * 5


def test_names_that_mean_nothing_are_refused(tmp_path):
  write(tmp_path / 'empty.jsonl', [])
  write(tmp_path / 'a.json', [{'text': 'a'}])
  name = write(tmp_path / 'a.jsonl', [{'text': 'a'}])
  for bad, message in [
      (f'{tmp_path}/none*.jsonl', 'no file and no registered task is called'),
      ('miniature_txt', "did you mean 'miniature_text'"),
      (' , ', 'no text are named'),
      (f'{tmp_path}/a.json', 'a.json: no known extension: use one of'),
      (f'{tmp_path}/empty.jsonl', 'empty.jsonl: no rows'),
  ]:
    with pytest.raises(DataError, match=message):
      _read(bad, 'text')
  with pytest.raises(DataError, match="has no split 'test': use one of all"):
    _read(name, 'text', 'test')
  with pytest.raises(DataError, match="kind is 'texts'"):
    sources.resolve(name, 'texts')


def _digest(name):
  return sources.fingerprint(sources.resolve(name, 'text'), 'text', Reading())


def test_a_changed_file_has_another_fingerprint(tmp_path):
  name = write(tmp_path / 'a.jsonl', [{'text': 'a'}])
  first = _digest(name)
  assert _digest(name) == first
  write(tmp_path / 'a.jsonl', [{'text': 'bb'}])
  second = _digest(name)
  # Of the same size, but changed at another time.
  write(tmp_path / 'a.jsonl', [{'text': 'cc'}])
  os.utime(name, ns=(1, 1))
  assert len({first, second, _digest(name)}) == 3


# -- Tasks of a user's own ----------------------------------------------------


def add_task(name, preprocessors, answers='dx', splits=('train',)):
  """Registers a task of two rows, which answer with `answers`."""

  def dataset(split, shuffle_files):
    del split, shuffle_files
    texts: Any = {'prompt': ['a b', 'c'], 'response': list(answers)}
    return tf.data.Dataset.from_tensor_slices(texts)

  feature = seqio.Feature(LETTERS, add_eos=False)
  seqio.TaskRegistry.add(
      name,
      source=sources.function_source(dataset, splits),
      preprocessors=preprocessors,
      output_features={'prompt': feature, 'response': feature},
  )


def test_a_tokenised_task_is_read_from_its_pretokenized_copy():
  add_task('sources_test_a', [seqio.preprocessors.tokenize], 'da')
  found = _found('sources_test_a', 'demonstrations', 'train')
  assert [(row['prompt'], row['response']) for _, row in found] == [
      ('a b', 'd'), ('c', 'a')
  ]  # fmt: skip
  assert found[1][0] == 'sources_test_a, split train, row 2'
  assert len(_read('sources_test_a', 'prompts', 'train', limit=1)) == 1


def test_a_mixture_keeps_its_rates_and_needs_a_limit():
  names = ['sources_test_b', 'sources_test_c']
  for name, answers in zip(names, ('da', 'db'), strict=True):
    add_task(name, [seqio.preprocessors.tokenize], answers)
  seqio.MixtureRegistry.add(
      'sources_test_mix', list(zip(names, (3, 1), strict=True))
  )
  assert sources.is_mixture('sources_test_mix')
  mixed = _read('sources_test_mix', 'demonstrations', 'train', limit=400)
  count = collections.Counter(row['response'] for row in mixed)
  # Half of each task's two rows answer 'd'; 300 of 400 rows are the first's,
  # with a standard deviation of 9.
  assert sum(count.values()) == 400 and abs(count['a'] - 150) < 25
  assert abs(count['b'] - 50) < 25
  with pytest.raises(DataError, match='is a mixture, which has no end'):
    _read('sources_test_mix', 'demonstrations', 'train')


def test_a_task_without_raw_text_is_refused():
  def forget(dataset):
    return dataset.map(
        lambda ex: {f: LETTERS.encode_tf(text) for f, text in ex.items()}
    )

  add_task('sources_test_d', [forget])
  with pytest.raises(DataError, match="no raw 'prompt', only prompt, resp"):
    _read('sources_test_d', 'demonstrations', 'train')
