# SPDX-License-Identifier: Apache-2.0
"""Checking rows: each thing that can be wrong has a reason and a line."""

import pytest

from rlhf.data import rows

GOOD = {
    'text': {'text': 'Some text.'},
    'demonstrations': {'prompt': 'Hi?', 'response': 'Yes.'},
    'rankings': {'prompt': 'Hi?', 'responses': ['a', 'b'], 'ranks': [2, 1]},
    'prompts': {'prompt': 'Hi?'},
}
EXTRAS = dict.fromkeys(rows.OPTIONAL, '')
USER = {'role': 'user', 'content': 'Hi?'}
PROMPT = '\n\nHuman: Hi?\n\nAssistant:'


def _answer(text):
  return {'role': 'assistant', 'content': text}


def _check(row, kind, **options):
  return rows.check(row, kind, 'dir/a.jsonl, row 2', **options)


@pytest.mark.parametrize('kind', GOOD)
def test_good_rows_keep_their_fields_only(kind):
  row = GOOD[kind] | {'other': [1, {}], 'user': 7, 'labeler': None, 'id': 'x'}
  expected = GOOD[kind] | EXTRAS | {'user': '7', 'id': 'x'}
  assert _check(row, kind) == expected
  assert _check(expected, kind) == expected


def _rank(ranks, responses=('a', 'b'), **more):
  return {'prompt': 'p', 'responses': list(responses), 'ranks': ranks} | more


BAD = [
    ('text', ['a'], 'not_an_object', 'make the row an object'),
    ('text', None, 'not_an_object', 'null is of type NoneType'),
    ('text', {'txt': 'a'}, 'missing_field', "'text': missing: text need text"),
    ('text', {}, 'missing_field', 'there is nothing'),
    ('text', {'text': 3}, 'wrong_type', "'text': 3 is of type int: use a str"),
    ('text', {'text': True}, 'wrong_type', 'true is of type bool'),
    ('text', {'text': ' \n'}, 'empty_text', "'text': empty: fill it in"),
    ('text', {'text': 'a\ud800'}, 'invalid_unicode', 'character 1 is half'),
    ('text', {'text': 'a', 'id': '\udfff'}, 'invalid_unicode', "field 'id'"),
    ('text', {'text': 'a', 'user': [1]}, 'wrong_type', "'user': .* type list"),
    ('text', {'text': 'a', 'user': True}, 'wrong_type', "'user': true is of"),
    ('text', {'text': 'a', 'user': 1.5}, 'wrong_type', "'user': 1.5 is of typ"),
    ('demonstrations', {'prompt': 'a'}, 'missing_field', "'response': missing"),
    ('demonstrations', {'prompt': 'a', 'response': ''}, 'empty_response',
     "'response': empty: .* allow_empty_responses"),
    ('demonstrations', {'prompt': '', 'response': 'a'}, 'empty_prompt',
     "'prompt': empty: fill it in or leave the row out$"),
    ('prompts', {'prompt': {'text': 'a'}}, 'wrong_type', "'prompt': .* dict"),
    ('prompts', {'prompt': None}, 'wrong_type', 'null is of type NoneType'),
    ('rankings', {'prompt': 'a', 'responses': ['a', 'b']}, 'missing_field',
     "'ranks': missing: .*or chosen and rejected"),
    ('rankings', _rank([1], 'a'), 'one_response', 'at least two'),
    ('rankings', _rank([], ''), 'one_response', "'responses': 0 of them"),
    ('rankings', _rank([1]) | {'responses': 'ab'}, 'wrong_type', 'list of str'),
    ('rankings', _rank(1), 'wrong_type', "'ranks': 1 is of type int: use a li"),
    ('rankings', _rank([1]), 'ranks_do_not_match', '1 ranks for 2 responses'),
    ('rankings', _rank([1, '2']), 'wrong_type', 'list of integers'),
    ('rankings', _rank([1, True]), 'wrong_type', 'list of integers'),
    ('rankings', _rank([1, 2.0]), 'wrong_type', 'list of integers'),
    ('rankings', _rank([1, 2**31]), 'rank_out_of_range', 'beyond 32 bits'),
    ('rankings', _rank([1, -1]), 'rank_out_of_range', 'below 0'),
    ('rankings', _rank([3, 3]), 'all_tied', 'all are 3, which compares noth'),
    ('rankings', _rank([1, 2], ('a', ' ')), 'empty_response',
     "field 'responses', response 2: empty: .* allow_empty_responses"),
    ('rankings', _rank([1, 2], ('a', 3)), 'wrong_type',
     "field 'responses', response 2: 3 is of type int"),
    ('rankings', {'prompt': 'a', 'chosen': 'b'}, 'missing_field',
     "field 'rejected': missing"),
    ('rankings', {'prompt': 'a', 'rejected': 'b'}, 'missing_field',
     "field 'chosen': missing: a pair needs"),
    ('rankings', {'prompt': 'a', 'chosen': 'b', 'rejected': 3}, 'wrong_type',
     "field 'rejected': 3 is of type int"),
    ('rankings', {'prompt': 'a', 'chosen': 'b', 'rejected': ' b'},
     'equal_pair', "field 'rejected': the same as chosen"),
    ('rankings', {'chosen': 'b', 'rejected': 'c'}, 'no_common_prompt',
     "field 'prompt': chosen and rejected share no"),
    ('rankings', {'chosen': [USER, _answer('a')],
                  'rejected': [USER | {'content': 'Ho?'}, _answer('b')]},
     'no_common_prompt', 'the responses differ in turns before the last'),
    ('rankings', {'prompt': 'Ho?', 'chosen': [USER, _answer('a')],
                  'rejected': [USER, _answer('b')]},
     'no_common_prompt', "'prompt': it is not among the turns"),
    ('rankings', {'messages': [USER | {'content': 'Ho?'}],
                  'chosen': [USER, _answer('a')],
                  'rejected': [USER, _answer('b')]},
     'no_common_prompt', 'messages differ from the turns before'),
    ('rankings', {'prompt': 'a', 'chosen': [USER], 'rejected': 'b'},
     'bad_messages', "field 'chosen': the last turn is the user's"),
    ('prompts', {'messages': [USER, _answer('a')]}, 'bad_messages',
     "field 'messages': the last turn is the assistant's"),
    ('prompts', {'prompt': [USER, USER]}, 'bad_messages',
     "field 'prompt': two user turns"),
    ('demonstrations', {'messages': [USER]}, 'bad_messages', "is the user's"),
    ('demonstrations', {'messages': [USER, _answer('')]}, 'empty_response',
     "'response' .'messages' here.: empty"),
    ('text', {'messages': []}, 'bad_messages', 'there are no turns'),
]  # fmt: skip


@pytest.mark.parametrize(('kind', 'bad', 'reason', 'message'), BAD)
def test_a_bad_row_says_where_and_what(kind, bad, reason, message):
  with pytest.raises(rows.RowError, match=message) as error:
    _check(bad, kind)
  assert error.value.reason == reason
  assert error.value.where == 'dir/a.jsonl, row 2'
  assert str(error.value).startswith('dir/a.jsonl, row 2')
  assert len(str(error.value).splitlines()) == 1


def test_an_error_is_printable_short_and_survives_copying():
  row = {'a\nb\ud800': 1} | {f'name {n} ' * 99: 1 for n in range(99)}
  with pytest.raises(rows.RowError) as error:
    _check(row, 'text')
  line = str(error.value)
  assert line.isprintable() and len(line) < 500
  assert 'a\\nb\\ud800' in line and '(100 in all)' in line
  # As process pools copy an exception: its class on its arguments.
  copy = type(error.value)(*error.value.args)
  assert (str(copy), copy.reason, copy.where) == (
      line, 'missing_field', 'dir/a.jsonl, row 2'
  )  # fmt: skip


def test_a_value_of_any_depth_is_quoted_short():
  deep = []
  for _ in range(5000):
    deep = [deep]
  with pytest.raises(rows.RowError, match='of type list') as error:
    _check({'text': deep}, 'text')
  assert len(str(error.value)) < 200


def test_empty_responses_may_be_allowed():
  row = GOOD['rankings'] | {'responses': ['', 'b']}
  found = _check(row, 'rankings', allow_empty=True)
  assert found['responses'] == ['', 'b']
  with pytest.raises(rows.RowError, match="'prompt': empty"):
    _check(row | {'prompt': ''}, 'rankings', allow_empty=True)
  row = {'messages': [USER, _answer('')]}
  assert _check(row, 'demonstrations', allow_empty=True)['response'] == ''


def test_chosen_and_rejected_are_a_ranking_of_two():
  row = {'prompt': 'Hi?', 'chosen': 'a', 'rejected': 'b', 'user': 'u'}
  found = _check(row, 'rankings')
  assert found['responses'] == ['a', 'b'] and found['ranks'] == [1, 2]
  assert found['user'] == 'u'


def test_chosen_and_rejected_dialogues_split_at_the_last_common_answer():
  shared = '\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go\n\nAssistant:'
  row = {'chosen': shared + ' On.', 'rejected': shared + ' Off.'}
  found = _check(row, 'rankings')
  assert found['prompt'] == shared
  assert found['responses'] == [' On.', ' Off.']
  with pytest.raises(rows.RowError, match='the same as chosen'):
    _check(row | {'rejected': shared + ' On.'}, 'rankings')


def test_messages_become_what_the_kind_needs():
  talk = [USER, _answer('Yes.')]
  assert _check({'messages': talk}, 'text')['text'] == PROMPT + ' Yes.'
  assert _check({'messages': [USER]}, 'prompts')['prompt'] == PROMPT
  found = _check({'messages': talk}, 'demonstrations')
  assert (found['prompt'], found['response']) == (PROMPT, 'Yes.')
  beside = {'messages': [USER], 'response': 'No.'}
  found = _check(beside, 'demonstrations', template='plain')
  assert (found['prompt'], found['response']) == ('Hi?', 'No.')
  # Where there is text, messages are not read.
  found = _check({'messages': talk, 'prompt': 'a'}, 'prompts')
  assert found['prompt'] == 'a'


@pytest.mark.parametrize(
    'row',
    [
        {'messages': [USER], 'responses': ['a', 'b'], 'ranks': [1, 2]},
        {'messages': [USER], 'responses': [[_answer('a')], 'b'],
         'ranks': [1, 2]},
        {'messages': [USER], 'chosen': 'a', 'rejected': 'b'},
        {'messages': [USER], 'chosen': [_answer('a')], 'rejected': 'b'},
        {'prompt': [USER], 'chosen': [_answer('a')],
         'rejected': [_answer('b')]},
        {'chosen': [USER, _answer('a')], 'rejected': [USER, _answer('b')]},
        {'messages': [USER], 'chosen': [USER, _answer('a')],
         'rejected': [USER, _answer('b')]},
        {'prompt': 'Hi?', 'chosen': [USER, _answer('a')],
         'rejected': [USER, _answer('b')]},
        {'prompt': 'Hi?', 'messages': [USER, _answer('a')],
         'chosen': [USER, _answer('a')], 'rejected': [USER, _answer('b')]},
    ],
)  # fmt: skip
def test_preference_sets_come_in_many_shapes(row):
  found = _check(row, 'rankings')
  ranking = {'prompt': PROMPT, 'responses': ['a', 'b'], 'ranks': [1, 2]}
  assert found == ranking | EXTRAS


def test_fields_may_have_other_names():
  row = {'instruction': 'Hi?', 'output': 'Yes.', 'prompt': 'not this'}
  fields = {'prompt': 'instruction', 'response': 'output'}
  found = _check(row, 'demonstrations', fields=fields)
  assert found == GOOD['demonstrations'] | EXTRAS
  del row['instruction']
  with pytest.raises(rows.RowError) as error:
    _check(row, 'demonstrations', fields=fields)
  assert error.value.reason == 'missing_field'
  assert "field 'prompt' ('instruction' here): missing" in str(error.value)
  assert str(error.value).endswith('there is output, prompt')
  row = {'conversations': [{'from': 'human', 'value': 3}]}
  with pytest.raises(rows.RowError, match="'conversations', turn 1: value: 3"):
    _check(row, 'prompts', fields={'messages': 'conversations'})


def test_fields_may_change_places():
  row = {'prompt': 'p', 'chosen': 'a', 'rejected': 'b'}
  fields = {'chosen': 'rejected', 'rejected': 'chosen'}
  found = _check(row, 'rankings', fields=fields)
  assert found['responses'] == ['b', 'a']


def test_an_unknown_template_is_no_rows_fault():
  with pytest.raises(rows.DataError, match="template is 'chat'"):
    _check({'messages': [USER]}, 'prompts', template='chat')
