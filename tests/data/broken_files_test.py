# SPDX-License-Identifier: Apache-2.0
"""Broken files, one of each kind: what is said of each is one clear line.

A good row comes first wherever the format lets it, so that the row's number is
known to be right; a good file of each format stands beside them for contrast.
"""

import gzip
import io
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from rlhf.data import formats, rows

PROMPT = {'prompt': 'Hi?'}
RANKING = {'prompt': 'Hi?', 'responses': ['a', 'b'], 'ranks': [2, 1]}
TALK = [
    {'role': 'user', 'content': 'Hi?'},
    {'role': 'assistant', 'content': 'Yes.'},
]
OTHER = [{'role': 'user', 'content': 'Ho?'}, TALK[1]]


def _lines(*values):
  return b''.join(
      v if isinstance(v, bytes) else json.dumps(v).encode() + b'\n'
      for v in values
  )


def _parquet(values):
  file = io.BytesIO()
  parquet.write_table(pa.Table.from_pylist(values), file)
  return file.getvalue()


def _examples(*values):
  """Serialised tf.train.Examples, of dicts with lists or strings."""
  import tensorflow as tf

  def feature(value):
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], int):
      ints = tf.train.Int64List(value=values)
      return tf.train.Feature(int64_list=ints)
    texts = tf.train.BytesList(
        value=[v if isinstance(v, bytes) else v.encode() for v in values]
    )
    return tf.train.Feature(bytes_list=texts)

  return [
      tf.train.Example(
          features=tf.train.Features(
              feature={name: feature(v) for name, v in value.items()}
          )
      ).SerializeToString()
      for value in values
  ]


def _tf_record(folder, *records):
  import tensorflow as tf

  path = folder / 'made.tfrecord'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  return path.read_bytes()


def _array_record(folder, *records):
  from array_record.python import (
      array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
  )

  path = folder / 'made.arrayrecord'
  options = 'group_size:1,uncompressed'
  writer = array_record_module.ArrayRecordWriter(str(path), options)
  for record in records:
    writer.write(record)
  writer.close()
  return path.read_bytes()


def _flipped(data, at):
  return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


# Of the third of three rows of 10,000 letters.
def _damaged_tf_record(folder):
  data = _tf_record(folder, *_examples(*[{'prompt': 'x' * 10_000}] * 3))
  return _flipped(data, len(data) - 5_000)


def _damaged_array_record(folder):
  values = [{'prompt': f'{n}' + 'x' * 10_000} for n in range(3)]
  data = _array_record(folder, *(json.dumps(v).encode() for v in values))
  return _flipped(data, data.index(b'"2x') + 5_000)


def _damaged_parquet(folder):
  del folder
  file = io.BytesIO()
  parquet.write_table(
      pa.table({'prompt': [f'{n:09d}' for n in range(3000)]}),
      file,
      row_group_size=1024,
      compression='none',
      use_dictionary=False,
      write_page_checksum=True,
      write_statistics=False,
  )
  data = file.getvalue()
  return _flipped(data, data.index(b'%09d' % 2000))


def _rank(*responses, ranks):
  return {'prompt': 'Hi?', 'responses': list(responses), 'ranks': ranks}


# What is broken; the file's name and bytes, or what makes them; the kind that
# is asked for; the reason, the row, and parts of the line.
_TABLE = [
    # Files.
    ('gzip cut short', 'a.jsonl.gz', gzip.compress(_lines(PROMPT))[:-9],
     'prompts', 'truncated_gzip', 2, 'cut short: copy or make the file again'),
    ('gzip damaged', 'a.jsonl.gz', _flipped(gzip.compress(_lines(PROMPT)), -6),
     'prompts', 'corrupt_gzip', 2, 'damaged: copy or make the file again'),
    ('not gzip', 'a.jsonl.gz', _lines(PROMPT),
     'prompts', 'not_gzip', 1, 'take .gz off its name'),
    ('gzip without .gz', 'a.jsonl', gzip.compress(_lines(PROMPT)),
     'prompts', 'gzip_without_gz', 1, 'with .gz, or unpack it'),
    ('UTF-16', 'a.jsonl', _lines(PROMPT).decode().encode('utf-16'),
     'prompts', 'wrong_encoding', 1, 'save it as UTF-8'),
    # Lines of JSON.
    ('cut line', 'a.jsonl', _lines(PROMPT, b'{"prompt": "Hi'),
     'prompts', 'not_json', 2, 'Unterminated string'),
    ('two objects on a line', 'a.jsonl', _lines(PROMPT, b'{} {}\n'),
     'prompts', 'not_json', 2, 'Extra data): write one JSON object a row'),
    ('a JSON array over lines', 'a.jsonl', b'[\n{"prompt": "Hi?"}\n]\n',
     'prompts', 'not_json', 1, 'Expecting value'),
    ('Latin-1', 'a.jsonl', _lines(PROMPT, b'{"prompt": "\xe9t\xe9"}\n'),
     'prompts', 'invalid_utf8', 2, 'byte 12 of the row: save it as UTF-8'),
    ('NaN', 'a.jsonl', _lines(PROMPT, b'{"prompt": "a", "score": NaN}\n'),
     'prompts', 'not_finite', 2, 'NaN is no JSON number: write null'),
    ('infinity by overflow', 'a.jsonl', _lines(PROMPT, b'{"score": 1e999}\n'),
     'prompts', 'not_finite', 2, '1e999 is no JSON number'),
    ('very deep', 'a.jsonl', _lines(PROMPT, b'[' * 99999 + b'\n'),
     'prompts', 'too_deep', 2, 'write a flat object'),
    ('very long number', 'a.jsonl', _lines(PROMPT, b'9' * 9999 + b'\n'),
     'prompts', 'number_too_long', 2, 'write it as a string'),
    ('a key twice', 'a.jsonl', _lines(PROMPT, b'{"prompt": "", "prompt": ""}'),
     'prompts', 'repeated_key', 2, "key 'prompt' is there twice: leave one"),
    # CSV.
    ('cells and columns', 'a.csv', b'prompt,user\nHi?,7\nHi, you?,7\n',
     'prompts', 'csv_columns', 2, '(line 3): 3 cells for 2 columns: quote'),
    ('an open quote', 'a.csv', b'prompt,user\n"Hi\nyou?",7\n"Hi?,7\n',
     'prompts', 'csv_quote', 2, '(line 4): a quote is not closed'),
    ('a list that is none', 'a.csv',
     b'prompt,responses,ranks\nHi?,a; b,"[1, 2]"\n',
     'rankings', 'csv_cell', 1, "'responses': the cell is not JSON: write a"),
    ('a column twice', 'a.csv', b'prompt,prompt\nHi?,Ho?\n',
     'prompts', 'csv_header', 1, "column 'prompt' is there twice: name each"),
    ('carriage returns alone', 'a.csv', b'prompt,user\rHi?,7\r',
     'prompts', 'csv_line_ends', 1, 'end lines with line feeds'),
    ('Latin-1 cell', 'a.csv', b'prompt,user\nHi?,7\nHi?,\xe9\n',
     'prompts', 'invalid_utf8', 2, "'user': not UTF-8 at byte 0 of the cell"),
    ('semicolons', 'a.csv', b'prompt;user\nHi?;7\n',
     'prompts', 'missing_field', 1, 'there is prompt;user'),
    # Parquet.
    ('not Parquet', 'a.parquet', _lines(PROMPT),
     'prompts', 'not_parquet', 1, 'the file is no Parquet'),
    ('damaged Parquet', 'a.parquet', _damaged_parquet,
     'prompts', 'corrupt_record', 1025, 'a part of the file is damaged'),
    ('Parquet bytes', 'a.parquet', _parquet([{'prompt': b'Hi?'}]),
     'prompts', 'wrong_type', 1, "is of type bytes: use a string"),
    ('Parquet null', 'a.parquet', _parquet([PROMPT, {'prompt': None}]),
     'prompts', 'wrong_type', 2, "'prompt': null is of type NoneType"),
    # Records.
    ('damaged TFRecord', 'a.tfrecord', _damaged_tf_record,
     'prompts', 'corrupt_record', 3, 'the record is damaged or cut short'),
    ('TFRecord cut in a length', 'a.tfrecord',
     lambda folder: _tf_record(folder, *_examples(PROMPT)) + b'\x09\0\0',
     'prompts', 'corrupt_record', 2, 'the record is cut short'),
    ('TFRecord of JSON', 'a.tfrecord',
     lambda folder: _tf_record(folder, *_examples(PROMPT), _lines(PROMPT)),
     'prompts', 'not_an_example', 2, 'write one with a feature for each field'),
    ('Latin-1 feature', 'a.tfrecord',
     lambda folder: _tf_record(folder, *_examples(PROMPT, {'prompt': b'\xe9'})),
     'prompts', 'invalid_utf8', 2, "'prompt': not UTF-8 at byte 0 of the val"),
    ('two values of a scalar', 'a.tfrecord',
     lambda folder: _tf_record(folder, *_examples({'text': ['a', 'b']})),
     'text', 'wrong_type', 1, "'text': ['a', 'b'] is of type list"),
    ('damaged ArrayRecord', 'a.arrayrecord', _damaged_array_record,
     'prompts', 'corrupt_record', 3, 'the record is damaged: copy or make'),
    ('ArrayRecord cut short', 'a.arrayrecord',
     lambda folder: _array_record(folder, *[_lines(PROMPT)] * 9)[:-99],
     'prompts', 'not_array_record', 1, 'or its end is missing'),
    ('ArrayRecord of anything', 'a.array_record',
     lambda folder: _array_record(folder, b'{"prompt": "Hi?"}', b'{"Hi?"'),
     'prompts', 'not_json', 2, "Expecting ':' delimiter"),
    # Rows.
    ('an array a line', 'a.jsonl', _lines(PROMPT, ['Hi?']),
     'prompts', 'not_an_object', 2, 'make the row an object'),
    ('another name', 'a.jsonl', _lines({'question': 'Hi?'}),
     'prompts', 'missing_field', 1, "'prompt': missing: prompts need prompt; "),
    ('no response', 'a.jsonl', _lines(PROMPT),
     'demonstrations', 'missing_field', 1, "'response': missing"),
    ('a number for text', 'a.jsonl', _lines({'text': 7}),
     'text', 'wrong_type', 1, "'text': 7 is of type int: use a string"),
    ('empty prompt', 'a.jsonl', _lines(PROMPT, {'prompt': ' '}),
     'prompts', 'empty_prompt', 2, "'prompt': empty: fill it in or leave"),
    ('empty text', 'a.jsonl', _lines({'text': ''}),
     'text', 'empty_text', 1, "'text': empty: fill it in or leave the row out"),
    ('empty response', 'a.jsonl', _lines(PROMPT | {'response': ''}),
     'demonstrations', 'empty_response', 1, 'or set allow_empty_responses'),
    ('half a character', 'a.jsonl', _lines(PROMPT, b'{"prompt": "\\ud83d"}'),
     'prompts', 'invalid_unicode', 2, 'half of a surrogate pair'),
    ('a user that is a list', 'a.jsonl', _lines(PROMPT | {'user': [7]}),
     'prompts', 'wrong_type', 1, "'user': [7] is of type list: use a string"),
    ('one response', 'a.jsonl', _lines(RANKING, _rank('a', ranks=[1])),
     'rankings', 'one_response', 2, '1 of them: a ranking compares at least'),
    ('no responses', 'a.jsonl', _lines(RANKING, _rank(ranks=[])),
     'rankings', 'one_response', 2, '0 of them'),
    ('too few ranks', 'a.jsonl', _lines(_rank('a', 'b', 'c', ranks=[1, 2])),
     'rankings', 'ranks_do_not_match', 1, '2 ranks for 3 responses: give each'),
    ('a rank of 10**10', 'a.jsonl', _lines(_rank('a', 'b', ranks=[1, 10**10])),
     'rankings', 'rank_out_of_range', 1, "'ranks': a rank is below 0 or"),
    ('scores for ranks', 'a.jsonl', _lines(_rank('a', 'b', ranks=[0.1, 0.9])),
     'rankings', 'wrong_type', 1, 'use a list of integers, 1 for the best'),
    ('all tied', 'a.jsonl', _lines(RANKING, _rank('a', 'b', ranks=[1, 1])),
     'rankings', 'all_tied', 2, 'all are 1, which compares nothing: leave'),
    ('an equal pair', 'a.jsonl',
     _lines({'prompt': 'Hi?', 'chosen': 'a', 'rejected': 'a'}),
     'rankings', 'equal_pair', 1, 'the same as chosen'),
    ('half a pair', 'a.jsonl', _lines({'prompt': 'Hi?', 'chosen': 'a'}),
     'rankings', 'missing_field', 1, "'rejected': missing: a pair needs"),
    ('dialogues with nothing in common', 'a.jsonl',
     _lines({'chosen': 'a', 'rejected': 'b'}),
     'rankings', 'no_common_prompt', 1, 'share no'),
    ('messages with other prompts', 'a.jsonl',
     _lines({'chosen': TALK, 'rejected': OTHER}),
     'rankings', 'no_common_prompt', 1, 'differ in turns before the last'),
    ('no messages', 'a.jsonl', _lines({'messages': []}),
     'prompts', 'bad_messages', 1, "'messages': there are no turns"),
    ('an unknown role', 'a.jsonl',
     _lines({'messages': [{'role': 'tool', 'content': 'a'}]}),
     'prompts', 'bad_messages', 1, 'turn 1: role: "tool" is of type str: use'),
    ('the last turn', 'a.jsonl', _lines({'messages': TALK}),
     'prompts', 'bad_messages', 1, "a prompt ends with a user's"),
    ('two user turns', 'a.jsonl', _lines({'messages': [TALK[0]] * 2}),
     'prompts', 'bad_messages', 1, 'two user turns in a row: join them'),
]  # fmt: skip


def _first_error(path, kind):
  """The first error of a file, and the rows before it."""
  good = []
  for where, row in formats.read(str(path)):
    try:
      if isinstance(row, rows.RowError):
        raise row
      good.append(rows.check(row, kind, where))
    except rows.RowError as error:
      return good, error
  return good, None


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  """The error of each row of the table, and its file."""
  errors = {}
  for name, file, data, kind, *_ in _TABLE:
    folder = tmp_path_factory.mktemp('broken')
    path = folder / file
    path.write_bytes(data(folder) if callable(data) else data)
    errors[name] = path, *_first_error(path, kind)
  return errors


@pytest.mark.parametrize(
    ('name', 'reason', 'number', 'fragment'),
    [(name, *rest) for name, _, _, _, *rest in _TABLE],
    ids=[row[0] for row in _TABLE],
)
def test_a_broken_file_says_what_and_where(
    found, name, reason, number, fragment
):
  path, good, error = found[name]
  assert error is not None
  line = str(error)
  assert (error.reason, len(good)) == (reason, number - 1)
  assert line.startswith(f'{path}, row {number}')
  assert line[len(f'{path}, row {number}')] in ',: '
  assert fragment in line
  assert len(line.splitlines()) == 1 and len(line) < len(str(path)) + 250
  for word in ('Traceback', 'tensorflow', 'riegeli', 'arrow', 'Errno'):
    assert word not in line.removeprefix(str(path))


def test_no_two_faults_are_told_alike(found):
  assert len(found) == len(_TABLE) >= 34
  lines = [
      str(e).removeprefix(e.where) for _, _, e in found.values()
  ]
  assert len(set(lines)) == len(lines)
  # And nothing is said of a reason that has no row here, but for what would
  # take a file of 64 MiB, or of dates that Python does not know.
  reasons = {error.reason for _, _, error in found.values()}
  assert formats.ENDING - reasons == {'row_too_long'}


@pytest.mark.parametrize('extension', formats.EXTENSIONS)
def test_good_files_of_every_format_give_the_same_rows(tmp_path, extension):
  source = [
      {'prompt': 'Hi, "you"?\nSay é 🦊', 'responses': ['a', 'b, c', '"d"\n'],
       'ranks': [2, 1, 2], 'user': 'u7'},
      {'prompt': '1', 'responses': ['x', 'y'], 'ranks': [0, 2**31 - 1],
       'user': '007'},
  ]  # fmt: skip
  quoted = [
      ','.join(
          '"' + (v if isinstance(v, str) else json.dumps(v)).replace('"', '""')
          + '"' for v in row.values()
      ) for row in source
  ]  # fmt: skip
  text = '\r\n'.join(['prompt,responses,ranks,user', *quoted]).encode()
  data = {
      '.jsonl': lambda: _lines(*source),
      '.jsonl.gz': lambda: gzip.compress(_lines(*source)),
      '.parquet': lambda: _parquet(source),
      '.csv': lambda: text,
      '.tfrecord': lambda: _tf_record(tmp_path, *_examples(*source)),
      '.tfrecords': lambda: _tf_record(tmp_path, *_examples(*source)),
      '.arrayrecord': lambda: _array_record(
          tmp_path, *(json.dumps(row).encode() for row in source)
      ),
      '.array_record': lambda: _array_record(tmp_path, *_examples(*source)),
  }[extension]()
  path = tmp_path / f'good{extension}'
  path.write_bytes(data)
  good, error = _first_error(path, 'rankings')
  assert error is None
  extras = dict.fromkeys(rows.OPTIONAL, '')
  assert good == [extras | row for row in source]
