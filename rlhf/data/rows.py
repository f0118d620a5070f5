# SPDX-License-Identifier: Apache-2.0
"""Rows of JSON Lines: reading, checking, and which split a row belongs to.

A row that is not what its kind needs stops the run, with the file, the row and
the field: a data set that is quietly one tenth shorter costs more than an edit.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

Row = dict[str, Any]

# What each kind of row must have. Rankings may give a pair as chosen, rejected.
FIELDS = {
    'text': ('text',),
    'demonstrations': ('prompt', 'response'),
    'rankings': ('prompt', 'responses', 'ranks'),
    'prompts': ('prompt',),
}
# Strings that a row may have; '' where it has none.
OPTIONAL = ('user', 'labeler')

_HUMAN, _ASSISTANT = '\n\nHuman:', '\n\nAssistant:'
# A change of this key or of `is_validation` moves rows between the splits.
_SPLIT_KEY = b'rlhf split'


def read(
    file: BinaryIO, path: str, kind: str, *, allow_empty: bool = False
) -> Iterator[Row]:
  """Checked rows of a .jsonl or .jsonl.gz file opened in binary.

  Rows are lines, counted from 1; blank lines are counted and skipped.

  Raises:
    ValueError: the file or a row is malformed.
  """
  # Lines end with '\n' alone: JSON strings may hold U+2028 and its like.
  lines = gzip.GzipFile(fileobj=file) if path.endswith('.gz') else file
  number = 0
  while True:
    number += 1
    where = f'{path}, row {number}'
    try:
      line = lines.readline()
    except (EOFError, OSError, zlib.error) as error:
      raise ValueError(
          f'{where}: the gzip stream is broken or cut short ({error}): copy or '
          'make the file again'
      ) from error
    if not line:
      return
    if line.strip():
      row = _parse(line, where)
      yield check(row, kind, where, allow_empty=allow_empty)


def check(
    row: Any, kind: str, where: str, *, allow_empty: bool = False
) -> Row:
  """The row's fields that its kind needs, and the optional ones.

  Args:
    row: a JSON value.
    kind: a key of `FIELDS`.
    where: what an error calls the row, such as 'a.jsonl, row 3'.
    allow_empty: whether a response may be empty, as a sampled one may.

  Returns:
    A row with exactly the fields of its kind and `OPTIONAL`.

  Raises:
    ValueError: a field is missing or wrong.
  """
  if not isinstance(row, dict):
    raise ValueError(f'{where}: not a JSON object: write one object a line')
  if kind == 'rankings' and 'chosen' in row and 'responses' not in row:
    row = _pair(row, where, allow_empty)
  checked = {
      name: _field(row, name, kind, where, allow_empty) for name in FIELDS[kind]
  }
  for name in OPTIONAL:
    value = row.get(name)
    checked[name] = '' if value is None else str(value)
    at = f'{where}, field {name!r}'
    if not isinstance(value, (str, int, type(None))):
      raise ValueError(f'{at}: {_kind_of(value)}: use a string')
    _check_unicode(checked[name], at)
  if kind == 'rankings':
    _check_ranking(checked, where)
  return checked


def is_validation(row: Row, kind: str, share: float) -> bool:
  """Whether a checked row is in the validation split; all others train.

  By a keyed hash of the row's user, so that no user is in both splits; without
  one of its prompt's first turn, so that dialogues that begin alike stay
  together, as do a prompt's rows of every kind; for text of its first 64
  characters. The same row goes to the same split in every file and run.
  """
  if row['user']:
    key = f'user {row["user"]}'
  elif kind == 'text':
    key = f'text {row["text"][:64]}'
  else:
    key = f'prompt {_first_turn(row["prompt"])}'
  digest = hashlib.blake2b(key.encode(), key=_SPLIT_KEY, digest_size=8).digest()
  return int.from_bytes(digest, 'big') < share * 2**64


def _parse(line: bytes, where: str) -> Any:
  try:
    return json.loads(line.decode())
  except UnicodeDecodeError as error:
    raise ValueError(
        f'{where}: not UTF-8 at byte {error.start} of the row: save the file '
        'as UTF-8'
    ) from error
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
        f'{where}: not JSON ({error}): write one JSON object a line'
    ) from error


def _field(
    row: Row, name: str, kind: str, where: str, allow_empty: bool
) -> Any:
  at = f'{where}, field {name!r}'
  if name not in row:
    remedy = f'{kind} need {", ".join(FIELDS[kind])}'
    if kind == 'rankings':
      remedy += ' (or chosen and rejected)'
    raise ValueError(f'{at}: missing: {remedy}; there is {", ".join(row)}')
  value = row[name]
  if name == 'ranks':
    if not isinstance(value, list) or any(type(v) is not int for v in value):
      raise ValueError(
          f'{at}: {_kind_of(value)}: use a list of integers, 1 for the best'
      )
    if any(not -(2**31) <= v < 2**31 for v in value):
      raise ValueError(f'{at}: a rank is beyond 32 bits: use 1, 2, 3, ...')
  elif name == 'responses':
    if not isinstance(value, list):
      raise ValueError(f'{at}: {_kind_of(value)}: use a list of strings')
    for k, response in enumerate(value):
      _check_text(response, f'{at}, response {k + 1}', allow_empty)
  else:
    _check_text(value, at, allow_empty and name == 'response')
  return value


def _check_text(value: Any, at: str, allow_empty: bool) -> None:
  if not isinstance(value, str):
    raise ValueError(f'{at}: {_kind_of(value)}: use a string')
  if not value.strip() and not allow_empty:
    remedy = 'fill it in or leave the row out'
    if 'response' in at:
      remedy += ', or set allow_empty_responses'
    raise ValueError(f'{at}: empty: {remedy}')
  _check_unicode(value, at)


def _check_unicode(value: str, at: str) -> None:
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
        f'{at}: character {error.start} is half of a surrogate pair, which '
        'alone is no character: write the text as UTF-8'
    ) from error


def _check_ranking(row: Row, where: str) -> None:
  responses, ranks = row['responses'], row['ranks']
  if len(responses) < 2:
    raise ValueError(
        f"{where}, field 'responses': {len(responses)} of them: a ranking "
        'compares at least two'
    )
  if len(ranks) != len(responses):
    raise ValueError(
        f"{where}, field 'ranks': {len(ranks)} ranks for {len(responses)} "
        'responses: give each response one'
    )


def _pair(row: Row, where: str, allow_empty: bool) -> Row:
  """A chosen/rejected row as a ranking of two.

  Without a prompt of its own, chosen and rejected are whole dialogues, and the
  prompt is what they share up to the last common "\\n\\nAssistant:".
  """
  for name in ('chosen', 'rejected'):
    if name not in row:
      raise ValueError(
          f'{where}, field {name!r}: missing: a pair needs chosen and rejected'
      )
    _check_text(row[name], f'{where}, field {name!r}', allow_empty)
  pair = [row['chosen'], row['rejected']]
  if 'prompt' in row:
    return row | {'responses': pair, 'ranks': [1, 2]}
  common = 0
  while common < min(map(len, pair)) and pair[0][common] == pair[1][common]:
    common += 1
  end = pair[0].rfind(_ASSISTANT, 0, common)
  if end < 0:
    raise ValueError(
        f"{where}, field 'prompt': missing, and chosen and rejected share no "
        f'{_ASSISTANT!r} before which it could stand: add a prompt'
    )
  end += len(_ASSISTANT)
  prompt, responses = pair[0][:end], [text[end:] for text in pair]
  return row | {'prompt': prompt, 'responses': responses, 'ranks': [1, 2]}


def _first_turn(prompt: str) -> str:
  prompt = prompt.strip()
  if prompt.startswith(_HUMAN.strip()):
    prompt = prompt.removeprefix(_HUMAN.strip())
    prompt = prompt.split(_ASSISTANT, 1)[0]
  return prompt.strip()


def _kind_of(value: Any) -> str:
  shown = json.dumps(value, default=str)[:40]
  return f'{shown} is of type {type(value).__name__}'
