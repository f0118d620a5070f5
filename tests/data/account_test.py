# SPDX-License-Identifier: Apache-2.0
"""An account adds up, and says so in one line."""

import pytest

from rlhf.data import account
from rlhf.data.rows import RowError


def _error(reason='empty_text', n=3):
  return RowError(reason, f'a.jsonl, row {n}', 'empty: fill it in', "'text'")


def test_a_strict_account_stops_at_the_first_bad_row():
  strict = account.Account()
  error = _error()
  with pytest.raises(RowError) as caught:
    strict.bad(error)
  assert caught.value is error
  assert strict.rows_kept == 0 and not strict.dropped


def test_rows_are_kept_dropped_or_kept_no_longer():
  a = account.Account(strict=False)
  a.rows_read = 9
  a.keep('train', 5)
  a.keep('validation')
  a.keep('validation', 0)
  a.bad(_error())
  a.drop('repeated_prompt', 'a.jsonl, row 4', 'as a.jsonl, row 1: hello')
  a.drop('repeated_prompt', 'a.jsonl, row 5', 'as a.jsonl, row 1: hello')
  a.unkeep('train', 'prompt_too_long', 'a.jsonl, row 9', 'x' * 300)
  assert a.kept == {'train': 4, 'validation': 1} and a.rows_kept == 5
  assert a.rows_read == a.rows_kept + sum(a.dropped.values())
  assert a.line() == (
      '5 of 9 rows kept; 2 dropped: repeated prompt; 1 dropped: empty text; '
      '1 dropped: prompt too long'
  )


def test_a_few_of_every_reason_are_named_and_cut_short():
  a = account.Account(strict=False)
  for n in range(20):
    a.bad(_error(n=n))
  a.drop('prompt_too_long', 'a.jsonl, row 9', 'x' * 300)
  examples = a.to_json()['dropped_examples']
  assert [e['where'] for e in examples['empty_text']] == [
      f'a.jsonl, row {n}' for n in range(5)
  ]
  assert examples['empty_text'][0]['what'].endswith("'text': empty: fill it in")
  (long,) = examples['prompt_too_long']
  assert long['what'] == 'x' * 100 + '...'


def test_the_most_frequent_reason_comes_first_then_by_name():
  a = account.Account(strict=False)
  for reason in ('b', 'a', 'c', 'c'):
    a.drop(reason, 'here', 'this')
  assert list(a.to_json()['dropped'].items()) == [('c', 2), ('a', 1), ('b', 1)]
  assert list(a.to_json()['dropped_examples']) == ['c', 'a', 'b']


def test_notes_are_not_rows():
  a = account.Account()
  a.rows_read = 2
  a.keep('', 2)
  a.note('words not in the vocabulary', 0)
  a.note('responses cut', 2)
  a.note('responses cut')
  assert a.rows_kept == 2 and a.line() == '2 of 2 rows kept; 3 responses cut'
  assert a.to_json()['notes']['responses cut'] == 3
