# SPDX-License-Identifier: Apache-2.0
"""Examples: rows of a data set as token ids, ready to be packed.

Every sequence starts with the vocabulary's BOS, which is its EOS where it has
no other, and a response ends with EOS. `prompt_ids` hold the BOS and
`response_ids` the EOS, so that a sequence is the one followed by the other.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from rlhf.data import prompting
from rlhf.data import rows as rows_lib
from rlhf.data.account import Account


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstration:
  """A prompt and the response to imitate; int32 ids, raw texts."""

  prompt_ids: np.ndarray
  response_ids: np.ndarray
  prompt_text: str
  response_text: str
  user: str = ''


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
  """A prompt and its K responses; rank lower is better, equal is a tie."""

  prompt_ids: np.ndarray
  responses_ids: tuple[np.ndarray, ...]
  ranks: tuple[int, ...]
  prompt_text: str
  response_texts: tuple[str, ...]
  labeler: str = ''
  user: str = ''


@dataclasses.dataclass(frozen=True, eq=False)
class PromptExample:
  """A prompt to be answered: int32 ids with BOS, and the raw text."""

  ids: np.ndarray
  text: str
  user: str = ''


Example = np.ndarray | Demonstration | Ranking | PromptExample


def from_rows(
    rows: Iterable[rows_lib.Row],
    kind: str,
    vocabulary: Any,
    prompt_format: prompting.PromptFormat,
    *,
    name: str = 'rows',
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    allow_empty_responses: bool = False,
) -> list:
  """Rows in memory as examples; `loading.load` reads and cleans them as well.

  Args:
    rows: in the form of `rows.check`; optional fields may be absent.
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    vocabulary: a seqio Vocabulary with an EOS.
    prompt_format: what stands around prompts; not used for text.
    name: what log lines and errors call the rows.
    max_prompt_tokens: drops examples with a longer prompt, BOS included.
    max_response_tokens: cuts longer responses, EOS included.
    allow_empty_responses: whether responses may be empty, as sampled ones may.

  Returns:
    For text a list of int32 arrays, one a document, without BOS or EOS; else a
    list of `Demonstration`, `Ranking` or `PromptExample`. In the rows' order.

  Raises:
    RowError: a row is wrong.
    DataError: no example is left.
  """
  tokeniser = Tokeniser(
      vocabulary, prompt_format, max_prompt_tokens, max_response_tokens
  )
  account = Account()
  checked = []
  for number, row in enumerate(rows, start=1):
    where = f'{name}, row {number}'
    checked.append((
        where,
        rows_lib.check(row, kind, where, allow_empty=allow_empty_responses),
    ))
  account.rows_read = len(checked)
  account.keep('', len(checked))
  found = list(tokeniser.examples(checked, kind, account, ''))
  logging.info('%s: %s', name, account.line())
  if not found:
    raise nothing_left(name, kind, account)
  return found


def nothing_left(name: str, kind: str, account: Account) -> rows_lib.DataError:
  """The error for a data set that has no rows, or none that was kept."""
  return rows_lib.DataError(
      f'{name}: no {kind} left ({account.line()}): check max_prompt_tokens, '
      'the rules of data.hygiene and the split (a small file may have no '
      'validation rows: raise validation_share)'
  )


class Tokeniser:
  """Turns checked rows into examples.

  A response over its limit is cut to it and then **has no EOS**: the model is
  not taught to stop there. An example whose prompt is over its limit is
  dropped, as in the paper.
  """

  def __init__(
      self,
      vocabulary: Any,
      prompt_format: prompting.PromptFormat,
      max_prompt_tokens: int | None = None,
      max_response_tokens: int | None = None,
  ):
    """Takes limits in tokens, of prompts with BOS and responses with EOS."""
    if max_response_tokens is not None and max_response_tokens < 1:
      raise ValueError('max_response_tokens must be at least 1')
    self._vocabulary = vocabulary
    self._format = prompt_format
    self._max_prompt = max_prompt_tokens
    self._max_response = max_response_tokens
    self.eos = int(vocabulary.eos_id)
    self.bos = int(vocabulary.bos_id)
    self._cut = self._unknown = 0

  def examples(
      self,
      rows: Iterable[tuple[str, rows_lib.Row]],
      kind: str,
      account: Account,
      split: str,
  ) -> Iterator[Example]:
    """Examples of checked rows; tells the account what it drops and cuts.

    Args:
      rows: with where they stand.
      kind: a key of `rows.FIELDS`.
      account: has the rows as kept, in `split`.
      split: see there.
    """
    convert = {
        'text': self._text,
        'demonstrations': self._demonstration,
        'rankings': self._ranking,
        'prompts': self._prompt,
    }[kind]
    self._cut = self._unknown = 0
    for where, row in rows:
      example = convert(row)
      if example is None:
        account.unkeep(split, 'prompt_too_long', where, row['prompt'])
      else:
        yield example
    account.note(
        f'responses cut to {self._max_response} tokens, without EOS', self._cut
    )
    account.note('words not in the vocabulary', self._unknown)

  def _text(self, row: rows_lib.Row) -> np.ndarray:
    return np.array(self._encode(row['text']), np.int32)

  def _prompt(self, row: rows_lib.Row) -> PromptExample | None:
    ids = self._prompt_ids(row['prompt'])
    if ids is None:
      return None
    return PromptExample(ids, row['prompt'], row['user'])

  def _demonstration(self, row: rows_lib.Row) -> Demonstration | None:
    prompt_ids = self._prompt_ids(row['prompt'])
    if prompt_ids is None:
      return None
    return Demonstration(
        prompt_ids=prompt_ids,
        response_ids=self._response_ids(row['response']),
        prompt_text=row['prompt'],
        response_text=row['response'],
        user=row['user'],
    )

  def _ranking(self, row: rows_lib.Row) -> Ranking | None:
    prompt_ids = self._prompt_ids(row['prompt'])
    if prompt_ids is None:
      return None
    return Ranking(
        prompt_ids=prompt_ids,
        responses_ids=tuple(map(self._response_ids, row['responses'])),
        ranks=tuple(row['ranks']),
        prompt_text=row['prompt'],
        response_texts=tuple(row['responses']),
        labeler=row['labeler'],
        user=row['user'],
    )

  def _prompt_ids(self, text: str) -> np.ndarray | None:
    ids = [self.bos, *self._encode(self._format.prompt(text))]
    if self._max_prompt is not None and len(ids) > self._max_prompt:
      return None
    return np.array(ids, np.int32)

  def _response_ids(self, text: str) -> np.ndarray:
    ids = [*self._encode(self._format.response(text)), self.eos]
    if self._max_response is not None and len(ids) > self._max_response:
      self._cut += 1
      ids = ids[: self._max_response]
    return np.array(ids, np.int32)

  def _encode(self, text: str) -> Sequence[int]:
    ids = self._vocabulary.encode(text)
    if self._vocabulary.unk_id is not None:
      self._unknown += ids.count(self._vocabulary.unk_id)
    return ids
