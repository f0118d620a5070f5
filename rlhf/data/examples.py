# SPDX-License-Identifier: Apache-2.0
"""Examples: rows of a data set as token ids, ready to be packed.

Every sequence starts with BOS, which in these vocabularies is the EOS id, and a
response ends with EOS. `prompt_ids` hold the BOS and `response_ids` the EOS, so
that a sequence is the one followed by the other.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging

from rlhf.data import prompting
from rlhf.data import rows as rows_lib


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


def load(
    name: str,
    kind: str,
    split: str,
    vocabulary: Any,
    prompt_format: prompting.PromptFormat,
    *,
    limit: int | None = None,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    validation_share: float = 0.05,
    allow_empty_responses: bool = False,
) -> list:
  """Reads a split of a data set into memory.

  Args:
    name: a seqio task or mixture, or paths of .jsonl files: see `sources`.
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    split: 'train' or 'validation'; files also have 'all', tasks what they have.
    vocabulary: a seqio Vocabulary with an EOS.
    prompt_format: what stands around prompts; not used for text.
    limit: reads only the split's first rows; a mixture needs one.
    max_prompt_tokens: drops examples with a longer prompt, BOS included.
    max_response_tokens: cuts longer responses, EOS included.
    validation_share: of a file's rows; not used for registered tasks.
    allow_empty_responses: whether responses may be empty, as sampled ones may.

  Returns:
    For text a list of int32 arrays, one a document, without EOS; else a list of
    `Demonstration`, `Ranking` or `PromptExample`. In the order of the data.

  Raises:
    ValueError: the name or a row is wrong, or no example is left.
  """
  from rlhf.data import sources  # Late: this imports TensorFlow.

  task = sources.resolve(
      name,
      kind,
      validation_share=validation_share,
      allow_empty_responses=allow_empty_responses,
  )
  return from_rows(
      sources.read(task, kind, split, limit),
      kind,
      vocabulary,
      prompt_format,
      name=f'{name}, split {split}',
      max_prompt_tokens=max_prompt_tokens,
      max_response_tokens=max_response_tokens,
      allow_empty_responses=allow_empty_responses,
  )


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
  """Tokenises rows; `load` without the reading.

  A response over max_response_tokens is cut to that many and then **has no
  EOS**: the model is not taught to stop there. An example whose prompt is over
  max_prompt_tokens is dropped, as in the paper. So is a ranking in which all
  ranks are equal, for it compares nothing. What was cut and dropped is logged.

  Args:
    rows: in the form of `rows.check`; labeler and user may be absent.
    kind: as for `load`, like every argument not named here.
    name: what log lines and errors call the rows.

  Returns:
    As `load`.

  Raises:
    ValueError: a row is wrong, or no example is left.
  """
  if kind not in rows_lib.FIELDS:
    kinds = ', '.join(rows_lib.FIELDS)
    raise ValueError(f'kind is {kind!r}: use one of {kinds}')
  tokeniser = _Tokeniser(
      vocabulary, prompt_format, max_prompt_tokens, max_response_tokens
  )
  convert = {
      'text': tokeniser.text,
      'demonstrations': tokeniser.demonstration,
      'rankings': tokeniser.ranking,
      'prompts': tokeniser.prompt,
  }[kind]
  examples, total = [], 0
  for total, row in enumerate(rows, start=1):
    where = f'{name}, row {total}'
    row = rows_lib.check(row, kind, where, allow_empty=allow_empty_responses)
    example = convert(row)
    if example is not None:
      examples.append(example)
  tokeniser.log(name, kind, len(examples), total)
  if not examples:
    raise ValueError(
        f'{name}: no {kind} left of {total} rows: check max_prompt_tokens and '
        'the split (a small file may have no validation rows: raise '
        "validation_share or read split 'all')"
    )
  return examples


class _Tokeniser:
  """Turns checked rows into examples and counts what it drops and cuts."""

  def __init__(self, vocabulary, prompt_format, max_prompt, max_response):
    if max_response is not None and max_response < 1:
      raise ValueError('max_response_tokens must be at least 1')
    self._vocabulary = vocabulary
    self._format = prompt_format
    self._max_prompt = max_prompt
    self._max_response = max_response
    self._eos = int(vocabulary.eos_id)
    self._long_prompts = self._cut = self._tied = self._unknown = 0

  def text(self, row: rows_lib.Row) -> np.ndarray:
    return np.array(self._encode(row['text']), np.int32)

  def prompt(self, row: rows_lib.Row) -> PromptExample | None:
    ids = self._prompt_ids(row['prompt'])
    if ids is None:
      return None
    return PromptExample(ids, row['prompt'], row['user'])

  def demonstration(self, row: rows_lib.Row) -> Demonstration | None:
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

  def ranking(self, row: rows_lib.Row) -> Ranking | None:
    if len(set(row['ranks'])) == 1:
      self._tied += 1
      return None
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

  def log(self, name: str, kind: str, kept: int, total: int) -> None:
    """One line that says what was kept, dropped and cut."""
    counts = {
        f'dropped for a prompt over {self._max_prompt} tokens': (
            self._long_prompts
        ),
        'dropped because all ranks are equal': self._tied,
        f'responses cut to {self._max_response} tokens, without EOS': self._cut,
        'words not in the vocabulary': self._unknown,
    }
    notes = [f'{count} {what}' for what, count in counts.items() if count]
    notes = [f'{kept} of {total} {kind}', *notes]
    logging.info('%s: %s', name, '; '.join(notes))

  def _prompt_ids(self, text: str) -> np.ndarray | None:
    ids = [self._eos, *self._encode(self._format.prompt(text))]
    if self._max_prompt is not None and len(ids) > self._max_prompt:
      self._long_prompts += 1
      return None
    return np.array(ids, np.int32)

  def _response_ids(self, text: str) -> np.ndarray:
    ids = [*self._encode(self._format.response(text)), self._eos]
    if self._max_response is not None and len(ids) > self._max_response:
      self._cut += 1
      ids = ids[: self._max_response]
    return np.array(ids, np.int32)

  def _encode(self, text: str) -> Sequence[int]:
    ids = self._vocabulary.encode(text)
    if self._vocabulary.unk_id is not None:
      self._unknown += ids.count(self._vocabulary.unk_id)
    return ids
