# SPDX-License-Identifier: Apache-2.0
"""Names become seqio tasks, and tasks rows."""

import collections
import gzip
import json

import pytest
import seqio
import tensorflow as tf

from rlhf.data import examples, prompting, sources, vocabularies

LETTERS = vocabularies.WordVocabulary(['a', 'b', 'c', 'd'])


def _write(path, rows):
  data = '\n'.join(json.dumps(row) for row in rows).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return str(path)


def _read(name, kind, split, **options):
  limit = options.pop('limit', None)
  task = sources.resolve(name, kind, **options)
  return list(sources.read(task, kind, split, limit))


def test_files_globs_and_lists_are_read_in_order(tmp_path):
  for n, suffix in enumerate(['b.jsonl', 'a.jsonl.gz', 'c.jsonl']):
    _write(tmp_path / suffix, [{'text': f'{n} {i}'} for i in range(3)])
  names = f'{tmp_path}/c.jsonl, {tmp_path}/*.jsonl*'
  texts = [row['text'] for row in _read(names, 'text', 'all')]
  expected = [f'{n} {i}' for n in (2, 1, 0) for i in range(3)]
  assert texts == expected
  assert len(_read(names, 'text', 'all', limit=4)) == 4


def test_the_two_splits_make_the_whole_and_share_no_user(tmp_path):
  rows = [{'prompt': f'p {i}', 'user': f'u{i % 200}'} for i in range(1000)]
  name = _write(tmp_path / 'a.jsonl', rows)
  split = {
      s: _read(name, 'prompts', s, validation_share=0.2)
      for s in ('train', 'validation', 'all')
  }
  users = {s: {row['user'] for row in rows} for s, rows in split.items()}
  assert not users['train'] & users['validation']
  assert len(split['train']) + len(split['validation']) == 1000
  assert [row['prompt'] for row in split['all']] == [r['prompt'] for r in rows]
  # 200 coins of 0.2: a standard deviation is 0.028.
  assert abs(len(users['validation']) / 200 - 0.2) < 0.1
  assert not _read(name, 'prompts', 'validation', validation_share=0)


def test_rankings_keep_each_rows_own_k(tmp_path):
  rows = [
      {'prompt': str(k), 'responses': ['é', 'x\x00'] * k, 'ranks': [1, 2] * k}
      for k in (1, 4, 2)
  ]
  found = _read(_write(tmp_path / 'a.jsonl', rows), 'rankings', 'all')
  extras = {'user': '', 'labeler': ''}
  assert found == [row | extras for row in rows]


def test_a_file_is_read_as_what_it_is_asked_for(tmp_path):
  rows = [{'prompt': 'a', 'responses': ['b', 'c'], 'ranks': [1, 2]}]
  name = _write(tmp_path / 'a.jsonl', rows)
  assert _read(name, 'prompts', 'all')[0]['prompt'] == 'a'
  with pytest.raises(ValueError, match="a.jsonl, row 1, field 'response': m"):
    _read(name, 'demonstrations', 'all')


def test_resolving_twice_gives_one_task(tmp_path):
  name = _write(tmp_path / 'a.jsonl', [{'text': 'a'}])
  task = sources.resolve(name, 'text')
  assert task == sources.resolve(name, 'text')
  assert task != sources.resolve(name, 'text', validation_share=0.1)
  assert sources.resolve(task, 'text') == task
  assert task in seqio.TaskRegistry.names()


def test_names_that_mean_nothing_are_refused(tmp_path):
  _write(tmp_path / 'empty.jsonl', [])
  _write(tmp_path / 'a.json', [{'text': 'a'}])
  name = _write(tmp_path / 'a.jsonl', [{'text': 'a'}])
  for bad, message in [
      (f'{tmp_path}/none*.jsonl', 'no file and no registered task is called'),
      ('miniature_txt', "did you mean 'miniature_text'"),
      (' , ', 'no text are named'),
      (f'{tmp_path}/a.json', 'not a .jsonl or .jsonl.gz file'),
      (f'{tmp_path}/empty.jsonl', 'empty.jsonl: no rows'),
  ]:
    with pytest.raises(ValueError, match=message):
      _read(bad, 'text', 'all')
  with pytest.raises(ValueError, match="has no split 'test': use one of train"):
    _read(name, 'text', 'test')
  with pytest.raises(ValueError, match="kind is 'texts'"):
    sources.resolve(name, 'texts')
  with pytest.raises(ValueError, match='validation_share is 1'):
    sources.resolve(name, 'text', validation_share=1)


def _add_task(name, preprocessors):
  def dataset(split, shuffle_files):
    del split, shuffle_files
    texts = {'prompt': ['a b', 'c'], 'response': ['d', name[-1]]}
    return tf.data.Dataset.from_tensor_slices(texts)

  feature = seqio.Feature(LETTERS, add_eos=False)
  seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(dataset, splits=['train']),
      preprocessors=preprocessors,
      output_features={'prompt': feature, 'response': feature},
  )


def test_any_registered_task_or_mixture_serves():
  tokenize = seqio.preprocessors.tokenize
  _add_task('sources_test_a', [tokenize])
  _add_task('sources_test_b', [tokenize])
  names = ['sources_test_a', 'sources_test_b']
  rates = list(zip(names, (3, 1), strict=True))
  seqio.MixtureRegistry.add('sources_test_mix', rates)
  rows = _read('sources_test_a', 'demonstrations', 'train')
  assert [row['response'] for row in rows] == ['d', 'a']
  mixed = _read('sources_test_mix', 'demonstrations', 'train', limit=400)
  count = collections.Counter(row['response'] for row in mixed)
  # Half of each task's two rows answer 'd'; 300 of 400 rows are the first's,
  # with a standard deviation of 9.
  assert sum(count.values()) == 400 and abs(count['a'] - 150) < 25
  assert abs(count['b'] - 50) < 25
  with pytest.raises(ValueError, match='is a mixture, which has no end'):
    _read('sources_test_mix', 'demonstrations', 'train')
  (first, *_) = examples.load(
      'sources_test_mix',
      'demonstrations',
      'train',
      LETTERS,
      prompting.PromptFormat(),
      limit=4,
  )
  assert first.prompt_ids.tolist() == [1, *LETTERS.encode(first.prompt_text)]


def test_a_task_without_raw_text_is_refused():
  def forget(dataset):
    return dataset.map(
        lambda ex: {f: LETTERS.encode_tf(text) for f, text in ex.items()}
    )

  _add_task('sources_test_c', [forget])
  with pytest.raises(ValueError, match="no raw 'prompt', only prompt, resp"):
    _read('sources_test_c', 'demonstrations', 'train')


def test_load_goes_all_the_way(tmp_path):
  rows = [{'prompt': 'a', 'responses': ['b', ''], 'ranks': [1, 2]}]
  name = _write(tmp_path / 'a.jsonl', rows)
  arguments = (name, 'rankings', 'all', LETTERS, prompting.PromptFormat())
  with pytest.raises(ValueError, match='allow_empty_responses'):
    examples.load(*arguments)
  (found,) = examples.load(*arguments, allow_empty_responses=True)
  assert [ids.tolist() for ids in found.responses_ids] == [[4, 1], [1]]
  with pytest.raises(ValueError, match='no rankings left of 0 rows'):
    examples.load(
        name, 'rankings', 'validation', LETTERS, prompting.PromptFormat(),
        validation_share=0, allow_empty_responses=True,
    )  # fmt: skip
