# SPDX-License-Identifier: Apache-2.0
"""Rows of text files: JSON lines, plain or gzip, and CSV. See `formats`.

Both are read as their standards have them and no further. What a lenient reader
takes (NaN, a key twice, a quote in the middle of a cell) is a fault here, for
two readers would read two things.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

from etils import epath

from rlhf.data.rows import RowError

Rows = Iterator[tuple[str, Any]]

AGAIN = 'copy or make the file again'
_LONGEST = 2**26  # Bytes of a line; a file without line ends is no JSON lines.


class ReadError(Exception):
  """What is wrong with a row, without where it is."""

  def __init__(self, reason: str, message: str, field: str = ''):
    super().__init__(message)
    self.reason, self.message, self.field = reason, message, field

  def at(self, where: str) -> tuple[str, RowError]:
    return where, RowError(self.reason, where, self.message, self.field)


def attempt(where: str, convert: Callable, *args: Any) -> tuple[str, Any]:
  """`where` and `convert(*args)`, or the error that it raises."""
  try:
    return where, convert(*args)
  except ReadError as error:
    return error.at(where)


def json_lines(
    path: str, head: bytes, lists: Collection[str], packed: bool = False
) -> Rows:
  """Rows of JSON lines; the arguments are those of every reader.

  Args:
    path: of a file that can be opened.
    head: its first four bytes.
    lists: as for `formats.read`; not used.
    packed: whether it should be gzip.
  """
  del lists
  lines = _lines(path, head, packed)
  for number in itertools.count(1):
    where = f'{path}, row {number}'
    try:
      line = next(lines, None)
    except ReadError as error:
      yield error.at(where)
      return
    if line is None:
      return
    if line.strip():
      yield attempt(where, json_line, line)


def json_line(line: bytes) -> Any:
  """The JSON value of a line in UTF-8; raises `ReadError`."""
  return json_value(utf8(line, 'the row'))


def json_value(text: str, field: str = '') -> Any:
  """A JSON value to the letter; raises `ReadError`."""
  try:
    return _DECODER.decode(text)
  except ReadError as error:
    raise ReadError(error.reason, error.message, field) from None
  except json.JSONDecodeError as error:
    message = f'not JSON at character {error.pos} ({error.msg}): write one '
    message += 'JSON object a row and nothing else'
    raise ReadError('not_json', message, field) from None
  except RecursionError:
    message = 'objects or lists are nested too deeply: write a flat object'
    raise ReadError('too_deep', message, field) from None
  except ValueError:  # Of int(), over sys.get_int_max_str_digits().
    message = 'a number has thousands of digits: write it as a string'
    raise ReadError('number_too_long', message, field) from None


def utf8(data: bytes, what: str, field: str = '') -> str:
  """Text of bytes in UTF-8; raises `ReadError`."""
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    message = f'not UTF-8 at byte {error.start} of {what}: save it as UTF-8'
    raise ReadError('invalid_utf8', message, field) from None


def comma_separated(path: str, head: bytes, lists: Collection[str]) -> Rows:
  """Rows of CSV by RFC 4180 with a header; `where` has the row's first line."""
  # The limit is the whole process's. It stops a quote that is never closed.
  csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
  # What is not UTF-8 is found again in its cell, so that only its row is bad.
  lines = (
      line.decode('utf-8', 'surrogateescape')
      for line in _lines(path, head, packed=False)
  )
  reader = csv.reader(lines, strict=True)
  names, number, begin = None, 1, 1
  while True:
    where = f'{path}, row {number} (line {begin})'
    try:
      cells = next(reader, None)
      if names is None and cells is not None:
        names = _header(cells)
        cells = []
    except ReadError as error:
      yield error.at(where)
      return
    except csv.Error as error:
      yield _csv_error(str(error)).at(where)
      return
    if cells is None:
      return
    if cells:  # Blank lines have none, and are no rows.
      yield attempt(where, _cells, cells, names, lists)
      number += 1
    begin = reader.line_num + 1


def _lines(path: str, head: bytes, packed: bool) -> Iterator[bytes]:
  """Lines of a text file that may be gzip, without a byte order mark."""
  is_gzip = head.startswith(b'\x1f\x8b')
  if packed and head and not is_gzip:
    message = 'the file is no gzip: take .gz off its name, or compress it'
    raise ReadError('not_gzip', message)
  if is_gzip and not packed:
    message = 'the file is gzip: give it the name of JSON lines with .gz, or '
    raise ReadError('gzip_without_gz', f'{message}unpack it')
  with contextlib.ExitStack() as stack:
    file: Any = stack.enter_context(epath.Path(path).open('rb'))
    if packed:
      file = stack.enter_context(gzip.GzipFile(fileobj=file))
    first = _line(file)
    # No text begins with a zero, or has one after its first letter: UTF-16 and
    # UTF-32 do, with or without a mark.
    if first.startswith((b'\xff\xfe', b'\xfe\xff')) or (
        0 in first[:2] and any(first[:4])
    ):
      message = 'the file looks like UTF-16 or UTF-32: save it as UTF-8'
      raise ReadError('wrong_encoding', message)
    line = first.removeprefix(b'\xef\xbb\xbf')
    # Lines end with '\n' alone: JSON strings may hold U+2028 and its like.
    while line:
      yield line
      line = _line(file)


def _line(file: Any) -> bytes:
  # TensorFlow's file, for gs://, takes no size.
  size = (_LONGEST + 1,) if isinstance(file, io.IOBase) else ()
  try:
    line = file.readline(*size)
  except EOFError:
    message = f'the gzip is cut short: {AGAIN}'
    raise ReadError('truncated_gzip', message) from None
  except (gzip.BadGzipFile, zlib.error):
    message = f'the gzip is damaged: {AGAIN}'
    raise ReadError('corrupt_gzip', message) from None
  if len(line) > _LONGEST:
    message = f'a line is over {_LONGEST:,} bytes: put one row on a line'
    raise ReadError('row_too_long', message)
  return line


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    message = f'key {twice[:40]!r} is there twice: leave one out'
    raise ReadError('repeated_key', message)
  return found


def _constant(name: str) -> Any:
  message = f'{name[:20]} is no JSON number: write null or a finite number'
  raise ReadError('not_finite', message)


def _float(text: str) -> float:
  value = float(text)
  return value if math.isfinite(value) else _constant(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_constant
)


def _header(names: list[str]) -> list[str]:
  for name in names:
    _check_cell(name, "a column's name")
  twice = next((name for name in names if names.count(name) > 1), None)
  if twice is not None or not any(names):
    what = f'column {twice!r} is there twice' if twice else 'columns lack names'
    message = f'{what}: name each column once, in the first line'
    raise ReadError('csv_header', message)
  return names


def _csv_error(text: str) -> ReadError:
  if 'new-line' in text:
    message = 'a carriage return stands alone: end lines with line feeds'
    return ReadError('csv_line_ends', message)
  if 'limit' in text:
    message = f'a cell is over {_LONGEST:,} characters: close its quote'
    return ReadError('row_too_long', message)
  message = 'a quote is not closed, or has text after it: write a quote inside '
  return ReadError('csv_quote', f'{message}a quoted cell twice')


def _cells(
    cells: list[str], names: list[str], lists: Collection[str]
) -> dict[str, Any]:
  if len(cells) != len(names):
    message = f'{len(cells)} cells for {len(names)} columns: quote cells that '
    raise ReadError('csv_columns', f'{message}hold commas')
  row = {}
  for name, cell in zip(names, cells, strict=True):
    _check_cell(cell, 'the cell', f'{name!r}')
    if name not in lists:
      row[name] = cell
    elif cell.strip():  # An empty list is a field that is not there.
      row[name] = _list(cell, f'{name!r}')
  return row


def _list(cell: str, field: str) -> Any:
  try:
    return json_value(cell, field)
  except ReadError as error:
    if error.reason != 'not_json':
      raise
  message = 'the cell is not JSON: write a list such as ["a", "b"]'
  raise ReadError('csv_cell', message, field)


def _check_cell(text: str, what: str, field: str = '') -> None:
  utf8(text.encode('utf-8', 'surrogateescape'), what, field)
