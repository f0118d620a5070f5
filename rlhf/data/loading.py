# SPDX-License-Identifier: Apache-2.0
"""A data set by its name, down to tokens: read, checked, cleaned, tokenised.

    source (a seqio task) -> rows -> checked -> cleaned -> split -> tokens

in memory, or once for all runs in a store on disk.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from rlhf.data import cleaning, examples, packing, prompting, store
from rlhf.data import rows as rows_lib
from rlhf.data.account import Account
from rlhf.data.cleaning import Reading
from rlhf.data.examples import Tokeniser


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
    separate_documents: bool = False,
    reading: Reading = cleaning.DEFAULT,
    folder: str = '',
    vocabulary_fingerprint: str = '',
) -> Any:
  """Reads a split of a data set.

  Args:
    name: a seqio task or mixture, `tfds:NAME`, or paths: see `sources`.
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    split: one that the source has; 'train', 'validation' or 'test' of one that
      has none (see `rows_by_split`); 'all' of files.
    vocabulary: a seqio Vocabulary with an EOS.
    prompt_format: what stands around prompts; not used for text.
    limit: takes only the split's first rows; a mixture needs one.
    max_prompt_tokens: drops examples with a longer prompt, BOS included.
    max_response_tokens: cuts longer responses, EOS included.
    separate_documents: of text, see `packing.joined`.
    reading: how rows are read and cleaned.
    folder: of stores: what is there is not tokenised again. '': in memory.
    vocabulary_fingerprint: tells the vocabulary from others, for the store.

  Returns:
    For text all documents as one run of tokens, int32 (numpy, or a
    `store.StoredTokens`); else a sequence of `Demonstration`, `Ranking` or
    `PromptExample`, in the order of the data.

  Raises:
    RowError: a row is wrong, and `reading.strict`.
    DataError: there is no such source, or nothing is left of it.
  """
  tokeniser = Tokeniser(
      vocabulary, prompt_format, max_prompt_tokens, max_response_tokens
  )
  account = Account(strict=reading.strict)

  def found() -> Iterator[Any]:
    found = clean_rows(name, kind, split, reading, account, limit)
    rows = ((where, row) for home, where, row in found if home == split)
    made: Any = tokeniser.examples(rows, kind, account, split)
    if kind != 'text':
      return made
    ends, apart = (tokeniser.bos, tokeniser.eos), separate_documents
    return (packing.joined([d], *ends, separate=apart) for d in made)

  def facts() -> dict[str, Any]:
    logging.info('%s, %s %s: %s', name, split, kind, account.line())
    if not account.kept.get(split):
      raise examples.nothing_left(f'{name}, {split}', kind, account)
    return {'kind': kind, 'account': account.to_json()}

  if folder:
    key = _key(name, kind, split, reading) | {
        'vocabulary': vocabulary_fingerprint,
        'prompt_format': vars(prompt_format),
        'limits': [limit, max_prompt_tokens, max_response_tokens],
        'separate_documents': separate_documents,
    }
    return _stored(folder, key, found, facts)
  loaded = list(found())
  facts()
  return np.concatenate(loaded) if kind == 'text' else loaded


def _stored(
    folder: str,
    key: dict[str, Any],
    found: Callable[[], Iterator[Any]],
    facts: Callable[[], dict[str, Any]],
) -> Any:
  """What the store of this key holds; made now, if it is not there."""
  digest = hashlib.blake2b(
      json.dumps(key, sort_keys=True).encode(), digest_size=8
  ).hexdigest()
  path = epath.Path(folder) / f'{key["kind"]}-{key["split"]}-{digest}'
  here = store.local(path)
  text = key['kind'] == 'text'
  write = store.write_tokens if text else store.write_examples
  store.build_once(
      path, lambda: write(here, found(), lambda: facts() | {'made_from': key})
  )
  return store.StoredTokens(here) if text else store.StoredExamples(here)


def clean_rows(
    name: str,
    kind: str,
    split: str | None,
    reading: Reading,
    account: Account,
    limit: int | None = None,
) -> Iterator[tuple[str, str, rows_lib.Row]]:
  """Clean rows of a source, each with its split and where it stands.

  Splits that a source has are taken as they are, and the rules for repeats and
  users' shares look at one split at a time. Files have no splits, nor does a
  task with 'train' alone: there the rules look at all rows, and then these are
  split by user.

  Args:
    name: see `load`.
    kind: see `load`.
    split: the one wanted, or None for all that there are. (Where rows are split
      by user, all come in any case: they have to be seen.)
    reading: how rows are read and cleaned.
    account: is told of every row.
    limit: takes only the first rows of each split.

  Yields:
    Split, where the row stands, the row.
  """
  from rlhf.data import sources  # Late: it imports TensorFlow.

  task = sources.resolve(name, kind, reading)
  there = sources.splits(task)
  undivided = there in (('all',), ('train',))
  by_user = undivided and split != 'all'
  for one in there if undivided or split is None else (split,):
    # Of a mixture, which never ends, or of a split that is taken as it is, no
    # more is read than is kept.
    first = None if by_user and not sources.is_mixture(task) else limit
    found = sources.read(task, kind, one, reading, first)
    yield from cleaning.clean(
        cleaning.counted(found, account),
        kind,
        reading,
        account,
        split=None if by_user else split or one,
        limit=limit if by_user else None,
    )


def rows_by_split(
    name: str,
    kind: str,
    split: str | None,
    reading: Reading,
    account: Account,
    limit: int | None = None,
) -> dict[str, list[tuple[str, rows_lib.Row]]]:
  """What `clean_rows` yields, by split; also splits that have no rows."""
  rows: dict[str, list] = {}
  before = set(account.kept)  # Of other splits, read to the same account.
  for home, where, row in clean_rows(
      name, kind, split, reading, account, limit
  ):
    rows.setdefault(home, []).append((where, row))
  return {
      home: rows.get(home, [])
      for home in account.kept
      if home in rows or home not in before
  }


def _key(name: str, kind: str, split: str, reading: Reading) -> dict[str, Any]:
  """What the rows of a split hang on."""
  from rlhf.data import sources

  task = sources.resolve(name, kind, reading)
  return {
      'format': store.FORMAT,
      'name': name,
      'kind': kind,
      'split': split,
      'source': sources.fingerprint(task, kind, reading),
      'reading': dataclasses.asdict(reading) | {'fields': dict(reading.fields)},
  }
