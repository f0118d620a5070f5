# SPDX-License-Identifier: Apache-2.0
"""From a name to tokens: every row is accounted for, and stores are trusted
only while nothing has changed."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import seqio

from rlhf.data import (
    cleaning,
    loading,
    prompting,
    sources,
    store,
    vocabularies,
)
from rlhf.data.account import Account
from rlhf.data.cleaning import Hygiene, Reading
from rlhf.data.rows import DataError, RowError
from tests.data import made
from tests.data.sources_test import LETTERS, add_task, write

BYTES = vocabularies.ByteVocabulary()
FORMAT = prompting.PromptFormat(suffix=':', response_prefix=' ')


def _load(
    name, kind, split: Any = 'all', *, vocabulary: Any = BYTES, **options
):
  return loading.load(name, kind, split, vocabulary, FORMAT, **options)


@pytest.fixture
def accounts(monkeypatch):
  """All accounts that `load` keeps."""
  kept = []

  def account(**options):
    kept.append(Account(**options))
    return kept[-1]

  monkeypatch.setattr(loading, 'Account', account)
  return kept


def _adds_up(account):
  assert account.rows_read == account.rows_kept + sum(account.dropped.values())
  return account


def _messy(path):
  """50 rows, some of which fall to every rule there is."""
  rows = []
  for n in range(40):
    prompt = f'{n % 30} is the number {n % 30}' + ' a@b.org' * (n % 8 == 0)
    rows.append({'prompt': prompt + ' and more' * (n % 10), 'response': 'r' * n,
                 'user': f'u{n % 6}', 'id': str(n % 38)})  # fmt: skip
  rows += [{'prompt': 'p'}, {'prompt': '', 'response': 'r'}, 3, {}, None]
  rows += [{'prompt': f'last {n}', 'response': 'r', 'user': 'v'}
           for n in range(5)]  # fmt: skip
  return write(path, rows)


RULES = {
    'no rules': Hygiene(),
    'repeats': Hygiene(prefix_characters=12),
    'users': Hygiene(per_user=3),
    'personal data': Hygiene(pii=('email',)),
    'all': Hygiene(prefix_characters=12, per_user=3, pii=('email',)),
}


@pytest.mark.parametrize('rules', RULES)
@pytest.mark.parametrize('split', ['train', 'validation', 'all'])
@pytest.mark.parametrize('limit', [None, 4])
def test_every_row_is_kept_or_dropped(tmp_path, accounts, rules, split, limit):
  reading = Reading(
      strict=False, hygiene=RULES[rules], validation_share=0.3, test_share=0.2
  )
  name = _messy(tmp_path / 'a.jsonl')
  found = _load(
      name, 'demonstrations', split, reading=reading, limit=limit,
      max_prompt_tokens=80, max_response_tokens=9,
  )  # fmt: skip
  account = _adds_up(accounts[-1])
  assert len(found) == account.kept[split] > 0
  if limit is not None and split == 'all':
    assert account.rows_read == 4
    return
  assert account.rows_read == 50
  assert {'missing_field', 'not_an_object', 'duplicate_id'} <= set(
      account.dropped
  )
  if limit is not None:
    assert len(found) <= 4 and account.dropped['over_limit'] > 0
  else:
    assert account.dropped['prompt_too_long'] > 0


def test_an_account_of_all_splits_adds_up(tmp_path):
  account = Account(strict=False)
  reading = Reading(strict=False, hygiene=RULES['all'], validation_share=0.3)
  name = _messy(tmp_path / 'a.jsonl')
  splits = loading.rows_by_split(name, 'prompts', None, reading, account)
  assert set(splits) == {'train', 'validation', 'test'}
  assert {s: len(rows) for s, rows in splits.items()} == account.kept
  assert _adds_up(account).rows_read == 50


def test_splits_that_share_an_account_stay_apart():
  account, found = Account(), {}
  for split, limit in (('train', 30), ('test', 20), ('validation', 0)):
    found |= loading.rows_by_split(
        'miniature_prompts', 'prompts', split, Reading(), account, limit
    )
  assert {split: len(rows) for split, rows in found.items()} == account.kept
  assert account.kept == {'train': 30, 'test': 20, 'validation': 0}
  assert _adds_up(account).rows_read == 50


@pytest.mark.parametrize('limit', [None, 50])
def test_native_splits_are_taken_as_they_are(accounts, limit):
  words = vocabularies.vocabulary('miniature')
  found = _load(
      'miniature_prompts', 'prompts', 'test', vocabulary=words, limit=limit,
      max_prompt_tokens=12, reading=Reading(hygiene=Hygiene(per_user=2)),
  )  # fmt: skip
  account = _adds_up(accounts[-1])
  assert account.rows_read == (limit or 2000)
  assert len(found) == account.kept['test'] == account.rows_kept
  assert account.dropped['prompt_too_long'] > 0
  if limit is None:
    assert account.dropped['over_user_limit'] > 0


def test_both_splits_of_a_file_make_the_whole_and_share_no_user(tmp_path):
  rows = [{'prompt': f'p {i}', 'user': f'u{i % 200}'} for i in range(1000)]
  name = write(tmp_path / 'a.jsonl', rows)
  reading = Reading(validation_share=0.2)
  split = {
      s: _load(name, 'prompts', s, reading=reading)
      for s in ('train', 'validation', 'all')
  }
  users = {s: {p.user for p in prompts} for s, prompts in split.items()}
  assert not users['train'] & users['validation']
  assert len(split['train']) + len(split['validation']) == 1000
  assert [p.text for p in split['all']] == [row['prompt'] for row in rows]
  # 200 coins of 0.2: a standard deviation is 0.028.
  assert abs(len(users['validation']) / 200 - 0.2) < 0.1


def test_a_task_with_one_split_is_split_by_user():
  add_task('loading_test_one', [seqio.preprocessors.tokenize], 'da')
  both = [
      _load('loading_test_one', 'demonstrations', split, vocabulary=LETTERS,
            reading=Reading(validation_share=0.5))
      for split in ('train', 'all')
  ]  # fmt: skip
  assert len(both[0]) == 1 and len(both[1]) == 2


# -- Tasks and mixtures of a user's own ---------------------------------------


def test_a_users_own_task_and_mixture_go_all_the_way(accounts):
  """Registered as in seqio's documentation: tokenised features, native splits,
  and *_pretokenized beside them."""
  for name, answers in (('loading_test_a', 'da'), ('loading_test_b', 'cb')):
    add_task(
        name, [seqio.preprocessors.tokenize], answers,
        splits=('train', 'validation'),
    )  # fmt: skip
  seqio.MixtureRegistry.add(
      'loading_test_mix', [('loading_test_a', 1), ('loading_test_b', 1)]
  )
  found = _load(
      'loading_test_a', 'demonstrations', 'train', vocabulary=LETTERS
  )
  assert [(d.prompt_text, d.response_text) for d in found] == [
      ('a b', 'd'), ('c', 'a')
  ]  # fmt: skip
  # Tokens are made anew, with BOS, EOS and the run's own prompt format.
  assert found[1].prompt_ids.tolist() == [1, *LETTERS.encode('c:')]
  assert found[1].response_ids.tolist() == [*LETTERS.encode('a'), 1]
  assert _adds_up(accounts[-1]).rows_read == 2
  mixed = _load(
      'loading_test_mix', 'demonstrations', 'validation', vocabulary=LETTERS,
      limit=100,
  )  # fmt: skip
  assert {d.response_text for d in mixed} == set('dacb')
  assert len(mixed) == _adds_up(accounts[-1]).rows_read == 100
  with pytest.raises(DataError, match='is a mixture, which has no end'):
    _load('loading_test_mix', 'demonstrations', 'validation')


def test_a_mixture_with_one_split_is_limited_before_it_is_split(accounts):
  for name, answers in (('loading_test_c', 'da'), ('loading_test_d', 'cb')):
    add_task(name, [seqio.preprocessors.tokenize], answers)
  seqio.MixtureRegistry.add(
      'loading_test_mix_2', [('loading_test_c', 1), ('loading_test_d', 1)]
  )
  reading = Reading(validation_share=0.5)
  found = _load(
      'loading_test_mix_2', 'prompts', 'train', vocabulary=LETTERS, limit=60,
      reading=reading,
  )  # fmt: skip
  account = _adds_up(accounts[-1])
  assert account.rows_read == 60 and len(found) == account.kept['train'] < 60


# -- Errors -------------------------------------------------------------------


def test_strictly_the_first_bad_row_stops_the_run(tmp_path):
  name = _messy(tmp_path / 'a.jsonl')
  for split in ('all', 'train'):
    with pytest.raises(RowError) as caught:
      _load(name, 'demonstrations', split)
    # Row 1 has an empty response, and row 39 the id of row 1.
    assert str(caught.value).startswith(f"{name}, row 1, field 'response': emp")
  write(tmp_path / 'b.jsonl', [{'prompt': 'p', 'id': 'x'}] * 2)
  with pytest.raises(RowError) as caught:
    _load(f'{tmp_path}/b.jsonl', 'prompts')
  for part in ('row 2, ', "'x' is also that of ", 'b.jsonl, row 1'):
    assert part in str(caught.value)


def test_nothing_to_learn_from_is_an_error(tmp_path):
  empty = write(tmp_path / 'empty.jsonl', [])
  for folder in ('', str(tmp_path / 'stores')):
    with pytest.raises(DataError, match='empty.jsonl: no rows'):
      _load(empty, 'text', folder=folder)
    name = write(tmp_path / 'a.jsonl', [{'prompt': 'a long prompt'}])
    with pytest.raises(DataError, match='no prompts left .0 of 1 rows kept; 1'):
      _load(name, 'prompts', max_prompt_tokens=3, folder=folder)
    with pytest.raises(DataError, match='a.jsonl, validation: no prompts left'):
      _load(
          name, 'prompts', 'validation', folder=folder,
          reading=Reading(validation_share=0),
      )  # fmt: skip
  left = list((tmp_path / 'stores').glob('*/store.json'))
  assert not left, 'an empty store would be taken for a good one'


def test_rankings_of_silent_models_need_leave(tmp_path):
  rows = [{'prompt': 'a', 'responses': ['b', ''], 'ranks': [1, 2]}]
  name = write(tmp_path / 'a.jsonl', rows)
  with pytest.raises(RowError, match='allow_empty_responses'):
    _load(name, 'rankings')
  (found,) = _load(name, 'rankings', reading=cleaning.reading({}, 'rankings'))
  assert [len(ids) for ids in found.responses_ids] == [3, 1]


# -- Stores -------------------------------------------------------------------


def _files(folder: pathlib.Path) -> dict[str, str]:
  """A file of every kind, as one data set each."""
  demonstrations = [
      {'prompt': f'p {n}', 'response': f'é {n}', 'user': f'u{n}'}
      for n in range(30)
  ]
  rankings = [
      {'prompt': f'p {n}', 'responses': ['x'] * (n % 4 + 1) + ['y'],
       'ranks': [1] * (n % 4 + 1) + [2], 'labeler': 'l'}
      for n in range(30)
  ]  # fmt: skip
  text = [{'text': f'document {n} ' * n} for n in range(1, 90)]
  return {
      'demonstrations': write(folder / 'd.jsonl', demonstrations),
      'prompts': write(folder / 'd.jsonl', demonstrations),
      'rankings': write(folder / 'r.jsonl.gz', rankings),
      'text': write(folder / 't.jsonl', text),
  }


@pytest.mark.parametrize('kind', ['demonstrations', 'prompts', 'rankings'])
@pytest.mark.parametrize('split', ['train', 'all'])
def test_a_store_holds_what_memory_would(tmp_path, accounts, kind, split):
  name = _files(tmp_path)[kind]
  options = dict(max_prompt_tokens=5, max_response_tokens=4)
  memory = _load(name, kind, split, **options)
  stored = _load(name, kind, split, folder=str(tmp_path / 's'), **options)
  assert isinstance(stored, store.StoredExamples) and len(stored) == len(memory)
  for a, b in zip(stored, memory, strict=True):
    assert made.equal_examples(a, b)
  facts = stored.facts
  assert facts['kind'] == kind and facts['made_from']['name'] == name
  assert facts['account'] == accounts[0].to_json()
  assert accounts[0] == accounts[1] and accounts[0].dropped['prompt_too_long']


@pytest.mark.parametrize('separate', [True, False])
def test_a_store_of_text_holds_what_memory_would(tmp_path, separate):
  name = _files(tmp_path)['text']
  memory, stored = [
      _load(name, 'text', folder=folder, separate_documents=separate)
      for folder in ('', str(tmp_path / 's'))
  ]
  assert isinstance(stored, store.StoredTokens)
  assert len(memory) > 3 * 4096 and np.array_equal(stored[:], memory)
  assert np.sum(memory == BYTES.eos_id) == (2 if separate else 1) * 89


def test_a_store_is_made_anew_when_anything_changes(tmp_path, monkeypatch):
  folder = tmp_path / 's'
  name = _files(tmp_path)['demonstrations']
  reads = []
  read = sources.read

  def counting(*args):
    reads.append(args)
    return read(*args)

  monkeypatch.setattr(sources, 'read', counting)

  def load(**options):
    options = dict[str, Any](
        folder=str(folder), max_response_tokens=9, vocabulary_fingerprint='v'
    ) | options
    split = options.pop('split', 'train')
    before = len(reads)
    found = _load(name, 'demonstrations', split, **options)
    return len(reads) - before, found

  assert load()[0] == 1
  assert load()[0] == 0, 'nothing has changed: it is not read again'
  for changes in (
      dict(vocabulary_fingerprint='w'),
      dict(max_response_tokens=8),
      dict(max_prompt_tokens=99),
      dict(limit=5),
      dict(split='validation', reading=Reading(validation_share=0.5)),
      dict(reading=Reading(strict=False)),
      dict(reading=Reading(hygiene=Hygiene(per_user=9))),
      dict(reading=Reading(fields={'user': 'response'})),
  ):
    assert load(**changes)[0] == 1, changes
    assert load(**changes)[0] == 0
  assert load()[0] == 0, 'the first is still there'
  rows = [{'prompt': 'new', 'response': 'row', 'user': 'u1'}] * 3
  write(pathlib.Path(name), rows)
  count, found = load(split='all')
  assert count == 1 and [d.prompt_text for d in found] == ['new'] * 3
  names = {path.name for path in folder.iterdir()}
  assert len(names) == 10 and all('new-' not in n for n in names)


def test_a_task_is_probed_and_not_read_again(tmp_path):
  add_task('loading_test_e', [seqio.preprocessors.tokenize], 'da')
  folder = str(tmp_path)
  for _ in range(2):
    found = _load(
        'loading_test_e', 'prompts', vocabulary=LETTERS, folder=folder
    )
    assert [p.text for p in found] == ['a b', 'c']
  (path,) = tmp_path.iterdir()
  facts = json.loads((path / 'store.json').read_text())
  assert facts['account']['kept'] == {'all': 2}
