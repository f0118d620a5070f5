# SPDX-License-Identifier: Apache-2.0
"""Files of rows, row by row: JSON lines, Parquet, CSV, TFRecord, ArrayRecord.

What a file says is handed on as plain values; what a row must be is for `rows`
to check. A row that can't be read is handed on too, as an error, and reading
goes on with the next one where there is a way to tell where that begins.
"""

import contextlib
import functools
import itertools
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from etils import epath

from rlhf.data import text_files
from rlhf.data.rows import DataError
from rlhf.data.text_files import AGAIN, ReadError, Rows

# Fields that hold more than one string or number. A CSV cell has them as JSON.
LISTS = ('responses', 'ranks', 'messages')

# After an error of these reasons the rest of the file is lost: it is the last.
ENDING = frozenset({
    'corrupt_gzip', 'corrupt_record', 'csv_header', 'csv_line_ends',
    'csv_quote', 'gzip_without_gz', 'not_array_record', 'not_gzip',
    'not_parquet', 'row_too_long', 'truncated_gzip', 'wrong_encoding',
})  # fmt: skip


def read(path: str, *, lists: Collection[str] = LISTS) -> Rows:
  """Rows of one file, in its order, never all of them in memory.

  A file's extension, one of `EXTENSIONS`, says what it holds; it may be
  followed by a shard's number as in '.tfrecord-00001-of-00004'.

  Args:
    path: as epath opens it, gs:// included.
    lists: names, in the file, of fields that a CSV cell holds as JSON and a
      tf.train.Example as several values.

  Yields:
    where, such as 'a.jsonl, row 3' (rows count from 1; lines of JSON do even
    if blank, and CSV adds the line), and the row: a dict, or another JSON
    value, or a `RowError` where it can't be read.

  Raises:
    DataError: at once, if the extension is unknown or the file can't be opened.
  """
  bare = re.sub(r'-\d+-of-\d+$', '', path)
  extension = next((e for e in EXTENSIONS if bare.endswith(e)), None)
  if extension is None:
    raise DataError(
        f'{path}: no known extension: use one of {", ".join(EXTENSIONS)}'
    )
  try:
    with epath.Path(path).open('rb') as file:
      head = file.read(4)
  except Exception as error:  # Each kind of store raises its own.
    what = {FileNotFoundError: 'no such file', IsADirectoryError: 'a folder'}
    why = what.get(type(error)) or str(error).split('\n')[0][:200]
    raise DataError(
        f'{path}: cannot be opened: {why}: check its name and that you may '
        'read it'
    ) from error
  return _READERS[extension](path, head, lists)


def _parquet(path: str, head: bytes, lists: Collection[str]) -> Rows:
  del head, lists
  import pyarrow as pa
  from pyarrow import parquet

  number = 0
  with contextlib.ExitStack() as stack:
    local = stack.enter_context(_local(path))
    try:
      file = stack.enter_context(
          parquet.ParquetFile(local, page_checksum_verification=True)
      )
      names = file.schema_arrow.names
    except (pa.ArrowException, OSError):
      message = f'the file is no Parquet, or its end is missing: {AGAIN}'
      yield ReadError('not_parquet', message).at(f'{path}, row 1')
      return
    if len(set(names)) < len(names):
      twice = next(name for name in names if names.count(name) > 1)
      message = f'column {twice!r} is there twice: leave one out'
      yield ReadError('not_parquet', message).at(f'{path}, row 1')
      return
    batches = file.iter_batches(batch_size=1024)
    while True:
      try:
        batch = next(batches, None)
      except (pa.ArrowException, OSError):
        message = f'a part of the file is damaged: {AGAIN}'
        where = f'{path}, row {number + 1}'
        yield ReadError('corrupt_record', message).at(where)
        return
      if batch is None:
        return
      for row in _batch(batch):
        number += 1
        where = f'{path}, row {number}'
        yield row.at(where) if isinstance(row, ReadError) else (where, row)


def _batch(batch: Any) -> Iterable[Any]:
  """Rows of an Arrow batch, with a `ReadError` for one that has no Python form.
  """
  try:
    return batch.to_pylist()
  except (ValueError, OverflowError) as error:
    if len(batch) > 1:
      one = (_batch(batch.slice(i, 1)) for i in range(len(batch)))
      return itertools.chain.from_iterable(one)
    if isinstance(error, UnicodeDecodeError):
      message = 'a text is not UTF-8: save it as UTF-8'
      return [ReadError('invalid_utf8', message)]
    message = 'a value, such as a date, is out of range: leave its column out'
    return [ReadError('out_of_range', message)]


def _tf_record(path: str, head: bytes, lists: Collection[str]) -> Rows:
  del head
  import tensorflow as tf

  number, size = 0, 0
  records = tf.data.TFRecordDataset(path).as_numpy_iterator()
  while True:
    number += 1
    where = f'{path}, row {number}'
    try:
      record = next(records, None)
    except tf.errors.DataLossError:
      message = f'the record is damaged or cut short: {AGAIN}'
      yield ReadError('corrupt_record', message).at(where)
      return
    if record is None:
      break
    # Length and two checksums stand around a record.
    size += 16 + len(record)
    yield text_files.attempt(where, _example, record, lists)
  # TensorFlow takes less than a length at the end for the end.
  if size < epath.Path(path).stat().length:
    message = f'the record is cut short: {AGAIN}'
    yield ReadError('corrupt_record', message).at(where)


def _array_record(path: str, head: bytes, lists: Collection[str]) -> Rows:
  del head
  # A compiled module, which type checkers can't see.
  from array_record.python import (
      array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
  )

  with _local(path) as local:
    where = f'{path}, row 1'
    reader = array_record_module.ArrayRecordReader(local)
    # What can't be opened has no records, and raises when one is read.
    count = reader.num_records() if reader.ok() else 0
    if not reader.ok():
      message = f'the file is no ArrayRecord, or its end is missing: {AGAIN}'
      yield ReadError('not_array_record', message).at(where)
      return
    for number in range(1, count + 1):
      where = f'{path}, row {number}'
      try:
        record = reader.read()
      except RuntimeError:
        message = f'the record is damaged: {AGAIN}'
        yield ReadError('corrupt_record', message).at(where)
        return
      convert = _json_record if record[:1] == b'{' else _example
      yield text_files.attempt(where, convert, record, lists)


def _json_record(record: bytes, lists: Collection[str]) -> Any:
  del lists
  return text_files.json_line(record)


def _example(record: bytes, lists: Collection[str]) -> dict[str, Any]:
  """Features of a serialised tf.train.Example; messages are JSON."""
  import tensorflow as tf
  from google.protobuf import message as protobuf

  try:
    features = tf.train.Example.FromString(record).features.feature
  except protobuf.DecodeError:
    features = {}
  if not features:
    raise ReadError(
        'not_an_example',
        'the record holds no tf.train.Example: write one with a feature for '
        'each field',
    )
  row = {}
  for name, feature in sorted(features.items()):
    kind = feature.WhichOneof('kind')
    values = list(getattr(feature, kind).value) if kind else []
    if kind == 'bytes_list':
      values = [text_files.utf8(v, 'the value', f'{name!r}') for v in values]
    if name == 'messages' and kind == 'bytes_list' and len(values) == 1:
      row[name] = text_files.json_value(values[0], f'{name!r}')
    elif name in lists or len(values) > 1:
      row[name] = values
    elif values:  # A feature without values is how a field is left out.
      row[name] = values[0]
  return row


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
  """The path of the file, or of a copy, for libraries that know no gs://."""
  if '://' not in path:
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = f'{folder}/copy'
    with epath.Path(path).open('rb') as source, open(copy, 'wb') as target:
      shutil.copyfileobj(source, target)
    yield copy


_READERS = {
    '.jsonl': text_files.json_lines,
    '.jsonl.gz': functools.partial(text_files.json_lines, packed=True),
    '.parquet': _parquet,
    '.csv': text_files.comma_separated,
    '.tfrecord': _tf_record,
    '.tfrecords': _tf_record,
    '.arrayrecord': _array_record,
    '.array_record': _array_record,
}
EXTENSIONS = tuple(_READERS)
