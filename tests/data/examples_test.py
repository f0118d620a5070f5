# SPDX-License-Identifier: Apache-2.0
"""Rows become token ids; what is dropped or cut is counted."""

import logging

import pytest

from rlhf.data import account as account_lib
from rlhf.data import examples, prompting
from rlhf.data.rows import DataError, RowError, check

FORMAT = prompting.PromptFormat(prefix='<', suffix='>', response_prefix=' ')


class Letters:
  """One id a character, its code; EOS, BOS too, is 1 and 'z' is unknown."""

  bos_id = eos_id = 1
  unk_id = 2

  def encode(self, text):
    return [2 if c == 'z' else ord(c) for c in text]


@pytest.fixture
def log(caplog):
  # absl's logger does not propagate to the root, where caplog listens.
  logger = logging.getLogger('absl')
  before = logger.propagate, logger.level
  logger.propagate = True
  logger.setLevel(logging.INFO)
  yield caplog
  logger.propagate, level = before
  logger.setLevel(level)


class BosLetters(Letters):
  """The same with a BOS of its own."""

  bos_id = 3


LETTERS = Letters()


def _convert(kind, *rows, vocabulary=LETTERS, **options):
  return examples.from_rows(rows, kind, vocabulary, FORMAT, **options)


def _ids(text):
  return [ord(c) for c in text]


def test_text_has_neither_format_nor_eos():
  (found,) = _convert('text', {'text': 'ab'})
  assert found.tolist() == _ids('ab')


def test_a_demonstration_has_bos_format_and_eos():
  (found,) = _convert('demonstrations', {'prompt': 'ab', 'response': 'c'})
  assert found.prompt_ids.tolist() == [1, *_ids('<ab>')]
  assert found.response_ids.tolist() == [*_ids(' c'), 1]
  assert (found.prompt_text, found.response_text) == ('ab', 'c')


def test_a_vocabularys_own_bos_comes_first():
  row = {'prompt': 'ab', 'response': 'c', 'responses': ['c', 'd'],
         'ranks': [1, 2]}  # fmt: skip
  for kind in ('demonstrations', 'rankings'):
    (found,) = _convert(kind, row, vocabulary=BosLetters())
    assert found.prompt_ids.tolist() == [3, *_ids('<ab>')]
  assert found.responses_ids[0].tolist() == [*_ids(' c'), 1]
  (found,) = _convert('prompts', row, vocabulary=BosLetters())
  assert found.ids.tolist() == [3, *_ids('<ab>')]


def test_prompts_keep_their_user():
  (found,) = _convert('prompts', {'prompt': 'ab', 'user': 4})
  assert found.ids.tolist() == [1, *_ids('<ab>')]
  assert (found.text, found.user) == ('ab', '4')


def test_a_cut_response_has_no_eos(log):
  rows = [
      {'prompt': 'a', 'response': 'x' * n} for n in (2, 3, 4)
  ]
  # ' xx' + EOS is 4 tokens and fits; ' xxx' + EOS is 5 and does not.
  found = _convert('demonstrations', *rows, max_response_tokens=4)
  assert [d.response_ids.tolist() for d in found] == [
      [*_ids(' xx'), 1],
      _ids(' xxx'),
      _ids(' xxx'),
  ]
  assert '3 of 3 rows kept; 2 responses cut to 4 tokens, without' in log.text


def test_long_prompts_are_dropped_and_counted(log):
  rows = [{'prompt': 'a' * n} for n in (1, 2, 3)]
  # BOS, '<', 'aa' and '>' are 5 tokens.
  found = _convert('prompts', *rows, max_prompt_tokens=5, name='mine')
  assert [p.text for p in found] == ['a', 'aa']
  assert 'mine: 2 of 3 rows kept; 1 dropped: prompt too long' in log.text


def test_rankings_keep_ties_and_the_order_of_responses():
  responses = ['a', 'b', 'c']
  rows = [
      {'prompt': 'p', 'responses': responses, 'ranks': ranks}
      for ranks in ([2, 1, 1], [3, 1, 2])
  ]
  found = _convert('rankings', *rows)
  assert [r.ranks for r in found] == [(2, 1, 1), (3, 1, 2)]
  assert found[0].response_texts == ('a', 'b', 'c')
  assert [r.tolist() for r in found[0].responses_ids] == [
      [*_ids(' ' + c), 1] for c in responses
  ]


def test_an_allowed_empty_response_is_an_eos_alone():
  row = {'prompt': 'p', 'responses': ['', 'b'], 'ranks': [2, 1]}
  (found,) = _convert('rankings', row, allow_empty_responses=True)
  assert found.responses_ids[0].tolist() == [1]


def test_unknown_words_are_counted(log):
  _convert('text', {'text': 'azzb'})
  assert '2 words not in the vocabulary' in log.text


def _demonstration(n):
  row = {'prompt': 'a' * n, 'response': 'xyz'}
  return check(row, 'demonstrations', f'a, row {n}')


def test_the_account_of_a_split_adds_up():
  rows = [
      (f'a, row {n}', _demonstration(n))
      for n in range(1, 6)
  ]
  account = account_lib.Account(rows_read=9, kept={'train': 5, 'test': 4})
  tokeniser = examples.Tokeniser(Letters(), FORMAT, 6, 2)
  made = tokeniser.examples(rows, 'demonstrations', account, 'train')
  assert len(list(made)) == 3
  assert account.kept == {'train': 3, 'test': 4}
  assert account.dropped == {'prompt_too_long': 2}
  assert account.rows_kept + sum(account.dropped.values()) == account.rows_read
  where = [e['where'] for e in account.examples['prompt_too_long']]
  assert where == ['a, row 4', 'a, row 5']
  assert account.notes['words not in the vocabulary'] == 3


def test_bad_rows_and_nothing_left_are_errors():
  with pytest.raises(RowError, match="rows, row 2, field 'prompt': missing"):
    _convert('prompts', {'prompt': 'a'}, {'text': 'b'})
  with pytest.raises(DataError, match='no prompts left .0 of 1 rows kept; 1'):
    _convert('prompts', {'prompt': 'aaaa'}, max_prompt_tokens=3)
  with pytest.raises(ValueError, match='max_response_tokens must be'):
    _convert('demonstrations', max_response_tokens=0)
