# SPDX-License-Identifier: Apache-2.0
"""Reading rows: each thing that can be wrong says so by file, row and field."""

import gzip
import io
import json

import pytest

from rlhf.data import rows

GOOD = {
    'text': {'text': 'Some text.'},
    'demonstrations': {'prompt': 'Hi?', 'response': 'Yes.'},
    'rankings': {'prompt': 'Hi?', 'responses': ['a', 'b'], 'ranks': [2, 1]},
    'prompts': {'prompt': 'Hi?'},
}
EXTRAS = {'user': '', 'labeler': ''}


def _read(kind, *lines, path='a.jsonl', **options):
  data = b'\n'.join(
      line if isinstance(line, bytes) else json.dumps(line).encode()
      for line in lines
  )
  return list(rows.read(io.BytesIO(data), path, kind, **options))


@pytest.mark.parametrize('kind', GOOD)
def test_good_rows_keep_their_fields_only(kind):
  row = GOOD[kind] | {'other': [1, {}], 'user': 7, 'labeler': None}
  assert _read(kind, row) == [GOOD[kind] | {'user': '7', 'labeler': ''}]


def test_blank_lines_count_but_hold_no_row():
  assert len(_read('prompts', GOOD['prompts'], b'', GOOD['prompts'], b'')) == 2
  with pytest.raises(ValueError, match='row 3'):
    _read('prompts', GOOD['prompts'], b' ', b'{')


def test_a_line_separator_inside_a_string_ends_no_row():
  row = {'text': 'one\u2028two\x85three'}
  line = json.dumps(row, ensure_ascii=False).encode()
  assert _read('text', line, line) == [row | EXTRAS] * 2


BAD = [
    ('text', b'{"text": ', "row 2: not JSON"),
    ('text', b'["a"]', 'row 2: not a JSON object'),
    ('text', b'{"text": "\xff"}', 'row 2: not UTF-8 at byte 10'),
    ('text', {'txt': 'a'}, "row 2, field 'text': missing: text need text"),
    ('text', {'text': 3}, "row 2, field 'text': 3 is of type int: use"),
    ('text', {'text': ' \n'}, "row 2, field 'text': empty"),
    ('text', {'text': 'a\ud800'}, "field 'text': character 1 is half"),
    ('text', {'text': 'a', 'user': [1]}, "field 'user': .* type list"),
    ('demonstrations', {'prompt': 'a'}, "field 'response': missing"),
    ('demonstrations', {'prompt': 'a', 'response': ''}, "'response': empty"),
    ('demonstrations', {'prompt': '', 'response': 'a'}, "'prompt': empty"),
    ('prompts', {'prompt': {'text': 'a'}}, "'prompt': .* type dict"),
    ('prompts', {'prompt': None}, "'prompt': null is of type NoneType"),
    ('rankings', {'prompt': 'a', 'responses': ['a', 'b']}, "'ranks': missing"),
    ('rankings', {'prompt': 'a', 'responses': ['a'], 'ranks': [1]}, 'two'),
    ('rankings', {'prompt': 'a', 'responses': 'ab', 'ranks': [1]}, 'list'),
    ('rankings', {'prompt': 'a', 'responses': ['a', 'b'], 'ranks': [1]},
     "field 'ranks': 1 ranks for 2 responses"),
    ('rankings', {'prompt': 'a', 'responses': ['a', 'b'], 'ranks': [1, '2']},
     "field 'ranks': .* list of integers"),
    ('rankings', {'prompt': 'a', 'responses': ['a', 'b'], 'ranks': [1, True]},
     "field 'ranks': .* list of integers"),
    ('rankings', {'prompt': 'a', 'responses': ['a', 'b'], 'ranks': [1, 2**40]},
     'beyond 32 bits'),
    ('rankings', {'prompt': 'a', 'responses': ['a', ' '], 'ranks': [1, 2]},
     "field 'responses', response 2: empty: .* allow_empty_responses"),
    ('rankings', {'prompt': 'a', 'responses': ['a', 3], 'ranks': [1, 2]},
     "field 'responses', response 2: 3 is of type int"),
    ('rankings', {'prompt': 'a', 'chosen': 'b'}, "field 'rejected': missing"),
    ('rankings', {'chosen': 'b', 'rejected': 'c'}, "field 'prompt': missing"),
]  # fmt: skip


@pytest.mark.parametrize(('kind', 'bad', 'message'), BAD)
def test_a_bad_row_says_where_and_what(kind, bad, message):
  with pytest.raises(ValueError, match=message) as error:
    _read(kind, GOOD[kind], bad, path='dir/a.jsonl')
  assert str(error.value).startswith('dir/a.jsonl, row 2')


def test_empty_responses_may_be_allowed():
  row = GOOD['rankings'] | {'responses': ['', 'b']}
  assert _read('rankings', row, allow_empty=True)[0]['responses'] == ['', 'b']
  with pytest.raises(ValueError, match="'prompt': empty"):
    _read('rankings', row | {'prompt': ''}, allow_empty=True)


def test_gzip_is_read_and_a_broken_one_named():
  line = json.dumps(GOOD['text']).encode() + b'\n'
  packed = gzip.compress(line * 2000)
  good = list(rows.read(io.BytesIO(packed), 'a.jsonl.gz', 'text'))
  assert len(good) == 2000
  garbled = packed[:12] + b'x' * 9
  for broken in (packed[:-12], packed[:-4], b'no gzip', garbled):
    with pytest.raises(ValueError, match=r'a.jsonl.gz, row \d+: the gzip str'):
      list(rows.read(io.BytesIO(broken), 'a.jsonl.gz', 'text'))


def test_chosen_and_rejected_are_a_ranking_of_two():
  row = {'prompt': 'Hi?', 'chosen': 'a', 'rejected': 'b', 'user': 'u'}
  (found,) = _read('rankings', row)
  assert found['responses'] == ['a', 'b'] and found['ranks'] == [1, 2]
  assert found['user'] == 'u'


def test_chosen_and_rejected_dialogues_split_at_the_last_common_answer():
  shared = '\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go\n\nAssistant:'
  row = {'chosen': shared + ' On.', 'rejected': shared + ' Off.'}
  (found,) = _read('rankings', row)
  assert found['prompt'] == shared
  assert found['responses'] == [' On.', ' Off.']


def _in_validation(share=0.3, kind='prompts', **row):
  row = {'prompt': 'x', 'user': ''} | row
  return rows.is_validation(row, kind, share)


def test_the_split_is_by_user_and_keeps_its_share():
  by_user = {}
  for n in range(4000):
    user = str(n % 1000)
    held_out = _in_validation(prompt=f'prompt {n}', user=user)
    assert by_user.setdefault(user, held_out) == held_out
  # 1000 coins of 0.3: a standard deviation is 0.0145.
  assert abs(sum(by_user.values()) / 1000 - 0.3) < 0.05
  assert not any(_in_validation(0.0, prompt=str(n)) for n in range(100))


def test_prompts_that_begin_alike_stay_together():
  for n in range(50):
    bare = _in_validation(prompt=f'Question {n}? ')
    turn = f'\n\nHuman: Question {n}?\n\nAssistant:'
    assert _in_validation(prompt=turn) == bare
    assert _in_validation(prompt=turn + ' No.\n\nHuman: Why?') == bare
    assert _in_validation(kind='demonstrations', prompt=turn) == bare


def test_text_is_split_by_its_beginning():
  texts = [f'{n:064d} and more' for n in range(200)]
  found = [_in_validation(0.5, 'text', text=t) for t in texts]
  again = [_in_validation(0.5, 'text', text=t + ' of it') for t in texts]
  assert found == again and 60 < sum(found) < 140


def test_the_split_does_not_move():
  # Pinned: a change would move training rows into validation.
  picked = [n for n in range(40) if _in_validation(0.1, prompt=f'p{n}')]
  assert picked == [0, 21, 39]
