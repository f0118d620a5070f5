# SPDX-License-Identifier: Apache-2.0
"""What a row must be, and what is said of one that isn't.

A row that is not what its kind needs is an error with a reason, the file, the
row and the field: a data set that is quietly one tenth shorter costs more than
an edit. Rows come from `formats`; what is done with a bad one is decided above.
"""

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]

# What each kind of row must have. Instead of a prompt any may have messages
# (see `chat`), and rankings may give a pair as chosen and rejected.
FIELDS = {
    'text': ('text',),
    'demonstrations': ('prompt', 'response'),
    'rankings': ('prompt', 'responses', 'ranks'),
    'prompts': ('prompt',),
}
# Strings that a row may have; '' where it has none.
OPTIONAL = ('id', 'user', 'labeler', 'use_case', 'source')

_ASSISTANT = '\n\nAssistant:'


class DataError(ValueError):
  """Something is wrong with a source as a whole: no such file, an option."""


class RowError(ValueError):
  """A row is bad; `str` gives one line with where, what and what to do.

  Attributes:
    reason: what kind of fault it is, in snake_case, such as 'missing_field'.
    where: file and row, such as 'a.jsonl, row 3'.
    field: the field as the line shows it, with quotes; '' for the whole row.
  """

  def __init__(self, reason: str, where: str, message: str, field: str = ''):
    # All of them are `args`, so that the error survives a process pool.
    super().__init__(reason, where, message, field)
    self.reason, self.where, self.field = reason, where, field
    self._message = message

  def __str__(self) -> str:
    field = f', field {self.field}' if self.field else ''
    line = f'{self.where}{field}: {self._message}'
    # Texts and names are quoted from the data: line breaks, control characters
    # and half surrogates would break the line or the terminal.
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def check(
    row: Any,
    kind: str,
    where: str,
    *,
    allow_empty: bool = False,
    template: str = 'dialogue',
    fields: Mapping[str, str] | None = None,
) -> Row:
  """The row's fields that its kind needs, and the optional ones.

  Args:
    row: any value; a dict if it is good.
    kind: a key of `FIELDS`.
    where: what an error calls the row, such as 'a.jsonl, row 3'.
    allow_empty: whether a response may be empty, as a sampled one may.
    template: a key of `chat.TEMPLATES`, for rows with messages.
    fields: from the name of a field here to its name in the source, such as
      {'prompt': 'instruction', 'response': 'output'}.

  Returns:
    A row with exactly the fields of its kind and `OPTIONAL`, of which all but
    `responses` (list of K >= 2 strings) and `ranks` (list of K integers, lower
    is better) are strings. Checked again it is the same.

  Raises:
    RowError: the row is bad.
    DataError: there is no such template.
  """
  if not isinstance(row, dict):
    raise RowError(
        'not_an_object', where, f'{shown(row)}: make the row an object'
    )
  fields = fields or {}
  place = _Place(where, kind, fields, tuple(row))
  renamed = {name: v for name, v in row.items() if name not in fields}
  renamed |= {ours: row[its] for ours, its in fields.items() if its in row}
  if isinstance(renamed.get('prompt'), list):
    place = place.naming('messages', place.its('prompt'))
    renamed['messages'] = renamed.pop('prompt')
  first = FIELDS[kind][0]
  if renamed.get('messages') is not None and first not in renamed:
    for name in {first, 'response'} - set(renamed):
      place = place.naming(name, place.its('messages'))
  unfold = _unfold_ranking if kind == 'rankings' else _unfold
  row = unfold(renamed, place, template)

  checked = {name: _field(row, name, place, allow_empty)
             for name in FIELDS[kind]}  # fmt: skip
  checked |= {name: _optional(row.get(name), name, place) for name in OPTIONAL}
  if kind == 'rankings':
    _check_ranking(checked, place)
  return checked


def shown(value: Any) -> str:
  """A value as an error quotes it, short whatever it is, and its type."""
  if value is None or isinstance(value, bool):
    text = str(value).replace('None', 'null').lower()
  elif isinstance(value, str):
    text = f'"{value[:40]}"'
  else:
    text = reprlib.repr(value)[:40]
  return f'{text} is of type {type(value).__name__}'


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where a row is from, as errors tell it: file and row, names of fields."""

  where: str
  kind: str
  fields: Mapping[str, str]
  names: tuple[str, ...]

  def its(self, name: str) -> str:
    """What the source calls a field."""
    return self.fields.get(name, name)

  def naming(self, name: str, its: str) -> '_Place':
    return dataclasses.replace(self, fields={**self.fields, name: its})

  def label(self, name: str, part: str = '') -> str:
    its = self.its(name)
    return f'{name!r}{f" ({its!r} here)" if its != name else ""}{part}'

  def missing(self, name: str, remedy: str) -> RowError:
    names = [str(found)[:30] for found in self.names[:8]]
    if len(self.names) > 8:
      names.append(f'... ({len(self.names)} in all)')
    there = ', '.join(names) or 'nothing'
    return RowError(
        'missing_field',
        self.where,
        f'missing: {remedy}; there is {there}',
        self.label(name),
    )


def _field(row: Row, name: str, place: _Place, allow_empty: bool) -> Any:
  if name not in row:
    remedy = f'{place.kind} need {", ".join(FIELDS[place.kind])}'
    if place.kind == 'rankings':
      remedy += ' (or chosen and rejected)'
    raise place.missing(name, remedy)
  value, label = row[name], place.label(name)
  if name == 'ranks':
    if not isinstance(value, list) or any(type(v) is not int for v in value):
      raise RowError(
          'wrong_type',
          place.where,
          f'{shown(value)}: use a list of integers, 1 for the best',
          label,
      )
  elif name == 'responses':
    if not isinstance(value, list):
      raise RowError(
          'wrong_type',
          place.where,
          f'{shown(value)}: use a list of strings',
          label,
      )
    for k, response in enumerate(value, start=1):
      part = place.label(name, f', response {k}')
      _check_response(response, place, part, allow_empty)
  elif name == 'response':
    _check_response(value, place, label, allow_empty)
  else:
    _check_string(value, place, label)
    if not value.strip():
      message = 'empty: fill it in or leave the row out'
      raise RowError(f'empty_{name}', place.where, message, label)
  return value


def _optional(value: Any, name: str, place: _Place) -> str:
  if value is None:
    return ''
  if type(value) is int:
    return str(value)
  _check_string(value, place, place.label(name))
  return value


def _check_response(
    value: Any, place: _Place, label: str, allow_empty: bool
) -> None:
  _check_string(value, place, label)
  if not value.strip() and not allow_empty:
    message = 'empty: fill it in, leave the row out, or set '
    message += 'allow_empty_responses'
    raise RowError('empty_response', place.where, message, label)


def _check_string(value: Any, place: _Place, label: str) -> None:
  if not isinstance(value, str):
    message = f'{shown(value)}: use a string'
    raise RowError('wrong_type', place.where, message, label)
  try:
    value.encode()
  except UnicodeEncodeError as error:
    message = f'character {error.start} is half of a surrogate pair, which '
    message += 'alone is no character: write the text as UTF-8'
    raise RowError('invalid_unicode', place.where, message, label) from None


def _check_ranking(row: Row, place: _Place) -> None:
  responses, ranks = row['responses'], row['ranks']
  name, reason = 'ranks', ''
  if len(responses) < 2:
    name, reason = 'responses', 'one_response'
    message = f'{len(responses)} of them: a ranking compares at least two'
  elif len(ranks) != len(responses):
    reason = 'ranks_do_not_match'
    message = f'{len(ranks)} ranks for {len(responses)} responses: give each '
    message += 'response one'
  elif not all(0 <= rank < 2**31 for rank in ranks):
    reason = 'rank_out_of_range'
    message = 'a rank is below 0 or beyond 32 bits: use 1, 2, 3, ...'
  elif len(set(ranks)) == 1:
    reason = 'all_tied'
    message = f'all are {ranks[0]}, which compares nothing: leave the row out'
  if reason:
    raise RowError(reason, place.where, message, place.label(name))


def _unfold(row: Row, place: _Place, template: str) -> Row:
  """The row with text for messages; not for rankings."""
  from rlhf.data import chat  # Late: it raises this module's errors.

  messages = row.get('messages')
  if messages is None or FIELDS[place.kind][0] in row:
    return row
  about = (messages, template, place.where, f'{place.its("messages")!r}')
  if place.kind == 'text':
    return row | {'text': chat.render(*about)}
  if place.kind == 'prompts':
    return row | {'prompt': chat.prompt(*about)}
  if 'response' not in row:
    prompt, response = chat.prompt_and_response(*about)
    return row | {'prompt': prompt, 'response': response}
  return row | {'prompt': chat.prompt(*about)}


def _unfold_ranking(row: Row, place: _Place, template: str) -> Row:
  """The row with prompt, responses and ranks, whichever way they are given.

  Each response is a string, or messages whose last turn is the response; turns
  before it are the prompt, and the same for all.
  """
  from rlhf.data import chat

  pair = 'responses' not in row and ('chosen' in row or 'rejected' in row)
  labels = [place.label('chosen'), place.label('rejected')]
  if pair:
    for name in ('chosen', 'rejected'):
      if name not in row:
        raise place.missing(name, 'a pair needs chosen and rejected')
    replies = [row['chosen'], row['rejected']]
  else:
    replies = row.get('responses')
    if not isinstance(replies, list):
      return row
    labels = [
        place.label('responses', f', response {k + 1}')
        for k in range(len(replies))
    ]
  texts, contexts = [], []
  for reply, label in zip(replies, labels, strict=True):
    turns = []
    if isinstance(reply, list):
      turns, reply = chat.reply(reply, place.where, label)
    if pair:
      _check_string(reply, place, label)
    texts.append(reply)
    contexts.append(turns)

  messages = row.get('messages') if 'prompt' not in row else None
  if any(contexts):
    _check_context(row, contexts, place)
    prompt = chat.prompt(replies[0][:-1], template, place.where, labels[0])
    row = row | {'prompt': prompt}
  elif messages is not None:
    label = f'{place.its("messages")!r}'
    prompt = chat.prompt(messages, template, place.where, label)
    row = row | {'prompt': prompt}
  elif pair and 'prompt' not in row:
    prompt, texts = _common_prompt(texts, place)
    row = row | {'prompt': prompt}
  if pair:
    if texts[0].strip() == texts[1].strip():
      message = 'the same as chosen, which compares nothing: leave the row out'
      raise RowError('equal_pair', place.where, message, labels[1])
    row = row | {'ranks': [1, 2]}
  return row | {'responses': texts}


def _check_context(row: Row, contexts: list, place: _Place) -> None:
  """Turns before the responses are the same, and what the row's prompt is."""
  from rlhf.data import chat

  turns, message = contexts[0], ''
  if any(other != turns for other in contexts):
    message = 'the responses differ in turns before the last: give all of them '
    message += 'the same'
  elif 'prompt' in row:
    # A prompt beside whole dialogues is one of their turns, often the first.
    _check_string(row['prompt'], place, place.label('prompt'))
    if row['prompt'].strip() not in [text.strip() for _, text in turns]:
      message = 'it is not among the turns before the response: leave it out'
  elif row.get('messages') is not None:
    label = f'{place.its("messages")!r}'
    if chat.turns(row['messages'], place.where, label) != turns:
      message = 'messages differ from the turns before the response: leave '
      message += 'them out'
  if message:
    label = place.label('prompt')
    raise RowError('no_common_prompt', place.where, message, label)


def _common_prompt(pair: list[str], place: _Place) -> tuple[str, list[str]]:
  """Two dialogues up to the last "\\n\\nAssistant:" they share, and from there.
  """
  common = 0
  while common < min(map(len, pair)) and pair[0][common] == pair[1][common]:
    common += 1
  end = pair[0].rfind(_ASSISTANT, 0, common)
  if end < 0:
    message = f'chosen and rejected share no {_ASSISTANT!r} before which it '
    message += 'could stand: add a prompt'
    label = place.label('prompt')
    raise RowError('no_common_prompt', place.where, message, label)
  end += len(_ASSISTANT)
  return pair[0][:end], [text[end:] for text in pair]
