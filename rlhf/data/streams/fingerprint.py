# SPDX-License-Identifier: Apache-2.0
"""What tells data from other data, for a run that is resumed: 16 hex digits.

All lengths and ranks count, and the tokens of up to 1,000 items that are evenly
spaced, so that of a large store little is read. Neither where the data lie (in
memory, in a store) nor on how many hosts makes a difference.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf.data import store
from rlhf.data.examples import Demonstration, Example, PromptExample, Ranking

# Items whose tokens are read; of text, pieces of so many tokens.
_ITEMS = 1000
_PIECE = 256


def of_examples(examples: Sequence[Example]) -> str:
  """Of demonstrations, rankings or prompts, in memory or in a store."""
  digest = hashlib.blake2b(digest_size=8)
  index = store.index_of(examples)
  for ragged in (index.lengths, index.ranks):
    digest.update(_bytes([len(row) for row in ragged]))
    digest.update(_bytes([value for row in ragged for value in row]))
  for i in _spaced(len(examples)):
    for ids in _sequences(examples[i]):
      digest.update(_bytes(ids))
  return digest.hexdigest()


def of_text(tokens: Any) -> str:
  """Of one run of text: an array, or a `store.StoredTokens`."""
  digest = hashlib.blake2b(digest_size=8)
  digest.update(_bytes([len(tokens) >> 31, len(tokens) % 2**31]))
  for i in _spaced(-(-len(tokens) // _PIECE)):
    digest.update(_bytes(tokens[i * _PIECE : (i + 1) * _PIECE]))
  return digest.hexdigest()


def _spaced(count: int) -> list[int]:
  """Up to `_ITEMS` numbers of range(count), the first and the last included."""
  return np.linspace(0, count - 1, min(count, _ITEMS)).astype(int).tolist()


def _sequences(example: Example) -> tuple[np.ndarray, ...]:
  if isinstance(example, PromptExample):
    return (example.ids,)
  if isinstance(example, Demonstration):
    return example.prompt_ids, example.response_ids
  if isinstance(example, Ranking):
    return example.prompt_ids, *example.responses_ids
  return (example,)


def _bytes(values: Any) -> bytes:
  return np.asarray(values, '<i4').tobytes()
