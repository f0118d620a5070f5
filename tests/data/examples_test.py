# SPDX-License-Identifier: Apache-2.0
"""Rows become token ids; what is dropped or cut is counted."""

import logging

import pytest

from rlhf.data import examples, prompting

FORMAT = prompting.PromptFormat(prefix='<', suffix='>', response_prefix=' ')


class Letters:
  """One id a character, its code; EOS is 1 and 'z' is unknown."""

  eos_id, unk_id = 1, 2

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


def _convert(kind, *rows, **options):
  return examples.from_rows(rows, kind, Letters(), FORMAT, **options)


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
  assert '3 of 3 demonstrations; 2 responses cut to 4 tokens' in log.text


def test_long_prompts_are_dropped_and_counted(log):
  rows = [{'prompt': 'a' * n} for n in (1, 2, 3)]
  # BOS, '<', 'aa' and '>' are 5 tokens.
  found = _convert('prompts', *rows, max_prompt_tokens=5, name='mine')
  assert [p.text for p in found] == ['a', 'aa']
  assert 'mine: 2 of 3 prompts; 1 dropped for a prompt over 5' in log.text


def test_rankings_with_nothing_to_compare_are_dropped_and_counted(log):
  responses = ['a', 'b', 'c']
  rows = [
      {'prompt': 'p', 'responses': responses, 'ranks': ranks}
      for ranks in ([1, 1, 1], [2, 1, 1], [3, 1, 2])
  ]
  found = _convert('rankings', *rows)
  assert [r.ranks for r in found] == [(2, 1, 1), (3, 1, 2)]
  assert [r.tolist() for r in found[0].responses_ids] == [
      [*_ids(' ' + c), 1] for c in responses
  ]
  assert '2 of 3 rankings; 1 dropped because all ranks are equal' in log.text


def test_an_allowed_empty_response_is_an_eos_alone():
  row = {'prompt': 'p', 'responses': ['', 'b'], 'ranks': [2, 1]}
  (found,) = _convert('rankings', row, allow_empty_responses=True)
  assert found.responses_ids[0].tolist() == [1]


def test_unknown_words_are_counted(log):
  _convert('text', {'text': 'azzb'})
  assert '2 words not in the vocabulary' in log.text


def test_bad_rows_and_nothing_left_are_errors():
  with pytest.raises(ValueError, match="rows, row 2, field 'prompt': missing"):
    _convert('prompts', {'prompt': 'a'}, {'text': 'b'})
  with pytest.raises(ValueError, match='no prompts left of 1 rows'):
    _convert('prompts', {'prompt': 'aaaa'}, max_prompt_tokens=3)
  with pytest.raises(ValueError, match="kind is 'pairs': use one of text"):
    _convert('pairs')
  with pytest.raises(ValueError, match='max_response_tokens must be'):
    _convert('demonstrations', max_response_tokens=0)
