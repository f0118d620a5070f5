# SPDX-License-Identifier: Apache-2.0
"""Reading files: what a good one gives, and where reading goes on."""

import codecs
import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pytest
from pyarrow import parquet

from rlhf.data import formats, rows, text_files

TEXTS = ['plain', 'two\nlines, "quoted"', 'é 東京 🦊 \u2028 \x85', ' \t', '']


@pytest.fixture
def read(tmp_path):
  """`read(name, data)` writes a file and gives [(where, row or reason)]."""

  def run(name, data, **options):
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    found = []
    for where, row in formats.read(str(path), **options):
      assert where.startswith(f'{path}, row ')
      if isinstance(row, rows.RowError):
        assert row.where == where
        row = row.reason
      found.append((where.removeprefix(f'{path}, row '), row))
    return found

  return run


def _csv(*lines):
  file = io.StringIO(newline='')
  csv.writer(file).writerows(lines)
  return file.getvalue().encode()


def _array_record(path, records, options='group_size:4'):
  from array_record.python import (
      array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
  )

  writer = array_record_module.ArrayRecordWriter(str(path), options)
  for record in records:
    writer.write(record)
  writer.close()


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_json_lines_are_numbered_by_line(read, pack, end):
  lines = [json.dumps({'text': t}, ensure_ascii=False) for t in TEXTS]
  data = pack((lines[0] + end * 2 + end.join(lines[1:])).encode())
  found = read('a.jsonl.gz' if pack is gzip.compress else 'a.jsonl', data)
  assert [row for _, row in found] == [{'text': t} for t in TEXTS]
  assert [where for where, _ in found] == ['1', '3', '4', '5', '6']


def test_any_json_value_is_handed_on(read):
  found = read('a.jsonl', '[1]\nnull\n1.5\n"a"\n{"a": [{}, 1e3]}')
  assert [row for _, row in found] == [[1], None, 1.5, 'a', {'a': [{}, 1000.0]}]


def test_a_bad_line_does_not_end_the_file(read):
  good = b'{"text": "a"}'
  bad = [
      (b'{', 'not_json'),
      (good + good, 'not_json'),
      (b'{"text": "\xff"}', 'invalid_utf8'),
      (b'{"a": NaN}', 'not_finite'),
      (b'{"a": [-Infinity]}', 'not_finite'),
      (b'{"a": 1e999}', 'not_finite'),
      (b'{"a": {"b": 1, "b": 1}}', 'repeated_key'),
      (b'[' * 10**5, 'too_deep'),
      (b'{"a": ' + b'9' * 5000 + b'}', 'number_too_long'),
      (b'{"a": "tab\t"}', 'not_json'),
      (codecs.BOM_UTF8 + good, 'not_json'),
  ]
  found = read('a.jsonl', b'\n'.join(b + b'\n' + good for b, _ in bad))
  assert [row for _, row in found[::2]] == [reason for _, reason in bad]
  assert [row for _, row in found[1::2]] == [{'text': 'a'}] * len(bad)
  assert not formats.ENDING & {reason for _, reason in bad}


def test_a_byte_order_mark_is_skipped_once(read):
  mark = codecs.BOM_UTF8
  assert read('a.jsonl', mark + b'{"a": 1}') == [('1', {'a': 1})]
  assert read('a.csv', mark + b'a\n1') == [('1 (line 2)', {'a': '1'})]
  for name in ('utf-16', 'utf-32', 'utf-16-le', 'utf-16-be', 'utf-32-be'):
    data = '{"a": 1}\n'.encode(name)
    assert read('a.jsonl', data) == [('1', 'wrong_encoding')]
    assert read('a.csv', data) == [('1 (line 1)', 'wrong_encoding')]


def test_gzip_gives_the_rows_before_it_breaks(read):
  # Incompressible, so that a cut of the bytes is a cut of the rows.
  rng = random.Random(0)
  lines = [json.dumps({'x': rng.getrandbits(60)}) for _ in range(20000)]
  packed = gzip.compress('\n'.join(lines).encode())
  whole = [json.loads(line) for line in lines]
  for data, reason in [
      (packed[: len(packed) // 2], 'truncated_gzip'),
      (packed[:-4], 'truncated_gzip'),
      (packed[:-8] + b'bad sum.', 'corrupt_gzip'),
      (packed + b'more', 'corrupt_gzip'),
      (packed[:12] + b'\xff' * 20 + packed[32:], 'corrupt_gzip'),
  ]:
    *good, (where, last) = read('a.jsonl.gz', data)
    assert last == reason and reason in formats.ENDING
    assert [row for _, row in good] == whole[: len(good)]
    assert where == str(len(good) + 1)
    assert len(good) > 9000 or data[12:14] == b'\xff\xff'
  parts = gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n')
  assert [row for _, row in read('a.jsonl.gz', parts)] == [{'a': 1}, {'a': 2}]


def test_a_file_without_line_ends_is_not_read_whole(read, monkeypatch):
  monkeypatch.setattr(text_files, '_LONGEST', 100)
  data = b'{"a": 1}\n' + b' ' * 101 + b'\n{"a": 1}'
  assert read('a.jsonl', data) == [('1', {'a': 1}), ('2', 'row_too_long')]


def test_csv_gives_strings_and_lists(read):
  names = ['prompt', 'responses', 'ranks', 'id', 'user']
  lines = [
      [text, json.dumps(TEXTS), '[1, 2, 3, 4, 5]', '007', '']
      for text in TEXTS
  ]
  found = read('a.csv', _csv(names, *lines))
  assert [row for _, row in found] == [
      {'prompt': text, 'responses': TEXTS, 'ranks': [1, 2, 3, 4, 5],
       'id': '007', 'user': ''}
      for text in TEXTS
  ]  # fmt: skip
  # The header is line 1; the second row's prompt goes over two lines.
  wheres = [f'{n + 1} (line {line})' for n, line in enumerate([2, 3, 5, 6, 7])]
  assert [where for where, _ in found] == wheres


def test_csv_lists_may_be_empty_or_have_other_names(read):
  found = read('a.csv', 'ranks,a\n,1\n', lists=('ranks', 'a'))
  assert found == [('1 (line 2)', {'a': 1})]


def test_csv_rows_and_lines_are_told_apart(read):
  data = b'a,b\r\n"1\r\n2",x\r\n\r\n3\r\n4,"\xff"\r\n5,6\n7,8,9\n'
  assert read('a.csv', data) == [
      ('1 (line 2)', {'a': '1\r\n2', 'b': 'x'}),
      ('2 (line 5)', 'csv_columns'),
      ('3 (line 6)', 'invalid_utf8'),
      ('4 (line 7)', {'a': '5', 'b': '6'}),
      ('5 (line 8)', 'csv_columns'),
  ]


def test_csv_stops_where_rows_cannot_be_told_apart(read):
  good = ('1 (line 2)', {'a': '1', 'b': '2'})
  for bad, reason in [
      ('"3,4\n5,6\n', 'csv_quote'),
      ('"3"x,4\n5,6\n', 'csv_quote'),
      ('3,4\r5,6\n', 'csv_line_ends'),
  ]:
    found = read('a.csv', 'a,b\n1,2\n' + bad)
    assert found == [good, ('2 (line 3)', reason)]
    assert reason in formats.ENDING
  for header in ('a,a', ',,', '', '\n'):
    found = read('a.csv', header + '\n1,2\n' if header else '')
    assert found == ([('1 (line 1)', 'csv_header')] if header else [])


def test_csv_takes_long_cells(read):
  text = 'x' * 200_000  # Over the csv module's own limit.
  assert read('a.csv', f'a\n{text}\n') == [('1 (line 2)', {'a': text})]


def _parquet(table, **options):
  file = io.BytesIO()
  parquet.write_table(table, file, **options)
  return file.getvalue()


def test_parquet_comes_by_row_groups(read):
  talk = [{'role': 'user', 'content': 'Hi?'}]
  rows_in = [
      {'n': n, 'text': TEXTS[n % 5], 'ranks': [n, 1], 'messages': talk}
      for n in range(5000)
  ]
  data = _parquet(pa.Table.from_pylist(rows_in), row_group_size=1500)
  found = read('a.parquet', data)
  assert [row for _, row in found] == rows_in
  assert [where for where, _ in found] == [str(n + 1) for n in range(5000)]


def test_parquet_is_streamed(tmp_path, monkeypatch):
  path = str(tmp_path / 'a.parquet')
  table = pa.table({'n': range(10_000)})
  parquet.write_table(table, path, row_group_size=1000)
  taken = []
  whole = parquet.ParquetFile.iter_batches

  def counted(self, **options):
    for batch in whole(self, **options):
      taken.append(len(batch))
      yield batch

  monkeypatch.setattr(parquet.ParquetFile, 'iter_batches', counted)
  assert next(formats.read(path))[1] == {'n': 0} and sum(taken) <= 1024


def test_parquet_values_that_cannot_be_had_are_that_rows(read):
  bad = pa.array([b'a', b'\xff', b'c'], pa.binary()).view(pa.string())
  found = read('a.parquet', _parquet(pa.table({'text': bad})))
  expected = [{'text': 'a'}, 'invalid_utf8', {'text': 'c'}]
  assert [row for _, row in found] == expected
  days = pa.array([0, 2**30], pa.date32())
  found = read('a.parquet', _parquet(pa.table({'day': days})))
  assert [row for _, row in found][1:] == ['out_of_range']


def test_parquet_damage_is_found_by_its_checksums(read):
  table = pa.table({'text': [f'{n:020d}' for n in range(3000)]})
  data = _parquet(
      table, row_group_size=1000, compression='none', use_dictionary=False,
      write_page_checksum=True,
  )  # fmt: skip
  at = data.index(b'%020d' % 1500)
  data = data[:at] + b'x' + data[at + 1 :]
  *good, (where, last) = read('a.parquet', data)
  assert last == 'corrupt_record' and where == str(len(good) + 1)
  assert [row for _, row in good] == table.to_pylist()[: len(good)]
  assert read('b.parquet', data[:-20]) == [('1', 'not_parquet')]


@pytest.fixture(scope='module')
def tf():
  import tensorflow

  return tensorflow


def _example(tf, row):
  features = {}
  for name, value in row.items():
    values = value if isinstance(value, list) else [value]
    if values and isinstance(values[0], str | bytes):
      values = [v.encode() if isinstance(v, str) else v for v in values]
      feature = tf.train.Feature(
          bytes_list=tf.train.BytesList(value=values)
      )
    elif values and isinstance(values[0], float):
      feature = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    else:
      feature = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    features[name] = feature
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString()


def _tf_record(tf, path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  return path.read_bytes()


def test_examples_have_lists_where_a_field_is_one(read, tf, tmp_path):
  talk = [{'role': 'user', 'content': 'Hi?'}]
  rows_in = [
      {'prompt': text, 'responses': [text], 'ranks': [1], 'id': 7,
       'score': 0.5, 'many': [1, 2], 'messages': json.dumps(talk)}
      for text in TEXTS
  ]  # fmt: skip
  records = [_example(tf, row | {'none': []}) for row in rows_in]
  expected = [row | {'messages': talk} for row in rows_in]
  data = _tf_record(tf, tmp_path / 'x', records)
  for name in ('a.tfrecord', 'a.tfrecords', 'a.tfrecord-00001-of-00004'):
    found = read(name, data)
    assert [row for _, row in found] == expected
    assert [where for where, _ in found] == ['1', '2', '3', '4', '5']
  _array_record(tmp_path / 'y', records)
  data = (tmp_path / 'y').read_bytes()
  found = read('a.array_record', data)
  assert [row for _, row in found] == expected


def test_a_record_that_is_no_example_is_that_rows(read, tf, tmp_path):
  good = _example(tf, {'text': 'a'})
  bad = [b'', b'{"text": "a"}', b'\xff' * 9, _example(tf, {})]
  bad.append(_example(tf, {'text': b'\xff'}))
  data = _tf_record(tf, tmp_path / 'x', [r for b in bad for r in (b, good)])
  found = [row for _, row in read('a.tfrecord', data)]
  assert found[::2] == ['not_an_example'] * 4 + ['invalid_utf8']
  assert found[1::2] == [{'text': 'a'}] * 5


def test_a_tf_record_ends_wherever_it_is_cut_or_damaged(read, tf, tmp_path):
  data = _tf_record(
      tf, tmp_path / 'x', [_example(tf, {'n': n}) for n in range(20)]
  )
  size = len(data) // 20  # All are alike in length.
  assert size * 20 == len(data)
  for cut in range(5 * size, 6 * size, 3):
    found = [row for _, row in read('a.tfrecord', data[:cut])]
    lost = ['corrupt_record'] if cut > 5 * size else []
    assert found == [{'n': n} for n in range(5)] + lost
  for at in range(5 * size, 6 * size, 3):
    flipped = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
    found = [row for _, row in read('a.tfrecord', flipped)]
    assert found == [{'n': n} for n in range(5)] + ['corrupt_record']


def test_array_records_of_json(read, tmp_path):
  rows_in = [{'text': t} for t in TEXTS] * 50
  _array_record(tmp_path / 'x', [json.dumps(r).encode() for r in rows_in])
  data = (tmp_path / 'x').read_bytes()
  for name in ('a.arrayrecord', 'a.array_record-00000-of-00001'):
    found = read(name, data)
    assert [row for _, row in found] == rows_in
  for cut in (0, 10, len(data) // 2, len(data) - 1):
    found = read('a.arrayrecord', data[:cut])
    assert found == [('1', 'not_array_record')]
  _array_record(tmp_path / 'none', [])
  assert read('a.arrayrecord', (tmp_path / 'none').read_bytes()) == []


def test_array_record_damage_is_never_read_as_rows(read, tmp_path):
  rows_in = [{'n': n, 'x': f'{n * 7919 % 10007:x}' * 30} for n in range(2000)]
  records = [json.dumps(row).encode() for row in rows_in]
  _array_record(tmp_path / 'x', records, 'group_size:4,uncompressed')
  data = (tmp_path / 'x').read_bytes()
  lost = 0
  for at in range(1000, len(data), len(data) // 40):
    flipped = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
    found = read('a.arrayrecord', flipped)
    if isinstance(found[-1][1], str):
      lost += 1
      where, reason = found.pop()
      assert reason in ('corrupt_record', 'not_array_record')
      assert where == str(len(found) + 1)
    else:
      assert len(found) == 2000  # The byte was filling.
    assert [row for _, row in found] == rows_in[: len(found)]
  assert lost > 20


@pytest.mark.parametrize('name', ['a.json', 'a.txt', 'a.jsonl.bz2', 'jsonl'])
def test_an_unknown_extension_is_refused_at_once(name):
  with pytest.raises(rows.DataError, match=r'known extension: use one of \.'):
    formats.read(name)


def test_what_cannot_be_opened_is_refused_at_once(tmp_path):
  (tmp_path / 'b.jsonl').mkdir()
  for extension in formats.EXTENSIONS:
    with pytest.raises(rows.DataError, match='no such file: check its name'):
      formats.read(str(tmp_path / f'a{extension}'))
  with pytest.raises(rows.DataError, match='b.jsonl: cannot be opened: a fold'):
    formats.read(str(tmp_path / 'b.jsonl'))


def test_remote_files_are_read(tmp_path, monkeypatch):
  """As objects: in place, or by a copy for readers that know no gs://."""
  from etils.epath import backend, gpath
  from fsspec.implementations import memory

  class Objects(memory.MemoryFileSystem):
    protocol = 'gs'
    cachable = False
    store: dict = {}
    pseudo_dirs: list = ['']

  objects = Objects()
  monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
  monkeypatch.setattr(
      backend.fsspec_backend, '_get_filesystem', lambda name: objects
  )
  row = {'text': 'a'}
  line = json.dumps(row).encode()
  _array_record(tmp_path / 'x', [line])
  for name, data in [
      ('a.jsonl', line),
      ('a.jsonl.gz', gzip.compress(line)),
      ('a.csv', _csv(['text'], ['a'])),
      ('a.parquet', _parquet(pa.Table.from_pylist([row]))),
      ('a.arrayrecord', (tmp_path / 'x').read_bytes()),
  ]:
    path = f'gs://bucket/{name}'
    with objects.open(path, 'wb') as file:
      file.write(data)
    ((where, found),) = formats.read(path)
    assert found == row and where.startswith(f'{path}, row 1')


def test_json_and_csv_and_parquet_come_without_tensorflow(fresh_python):
  code = 'from rlhf.data import formats; import sys; '
  code += "print({'tensorflow', 'pyarrow', 'array_record'} & set(sys.modules))"
  assert fresh_python(code).strip() == 'set()'
