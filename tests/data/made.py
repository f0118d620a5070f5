# SPDX-License-Identifier: Apache-2.0
"""Examples that carry their own number, so that batches tell what is in them.

Token ids from `MARK` up are numbers: `MARK + i` stands once in each sequence of
example i, and in each token of row i of text. Ids below are noise, and 1 is
both BOS and EOS.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlhf.data import batches, store
from rlhf.data.examples import Demonstration, PromptExample, Ranking
from rlhf.data.streams import (
    DemonstrationStream,
    PromptStream,
    RankingStream,
    TextStream,
)

PAD, BOS, EOS, MARK = 0, 1, 1, 100
T = 24  # Tokens of a row.
N = 40  # Examples of each kind.


def demonstrations(n: int = N, seed: int = 9) -> list[Demonstration]:
  """Of 4 to 14 tokens; the mark is the response's first."""
  rng = np.random.default_rng(seed)
  return [
      Demonstration(
          _ids(BOS, *_noise(rng, 1, 5)),
          _ids(MARK + i, *_noise(rng, 0, 6), EOS),
          f'prompt {i}',
          f'response {i}',
          f'user {i % 7}',
      )
      for i in range(n)
  ]


def rankings(n: int = N, seed: int = 9) -> list[Ranking]:
  """Of K = 2 to 9 responses, with ties; the mark is the prompt's second."""
  rng = np.random.default_rng(seed)
  found = []
  for i in range(n):
    k = int(rng.integers(2, 10))
    found.append(
        Ranking(
            prompt_ids=_ids(BOS, MARK + i, *_noise(rng, 2, 3)),
            responses_ids=tuple(_ids(*_noise(rng, 0, 5), EOS)
                                for _ in range(k)),
            ranks=(1, 2, *rng.integers(1, 4, k - 2).tolist()),
            prompt_text=f'prompt {i}',
            response_texts=tuple(f'{i} says {j}' for j in range(k)),
            labeler=f'labeler {i % 3}',
        )
    )
  return found


def prompts(
    n: int = N, lengths: Sequence[int] = (2, 3, 4, 5)
) -> list[PromptExample]:
  """Prompt i has `lengths[i % len(lengths)]` tokens; the mark is the last."""
  return [
      PromptExample(
          _ids(BOS, *[7] * (lengths[i % len(lengths)] - 2), MARK + i),
          f'text {i}',
      )
      for i in range(n)
  ]


def text(rows: int = 10, left_over: int = 5) -> np.ndarray:
  """Rows of text, each token the mark of its row, and a little more."""
  return MARK + np.repeat(np.arange(rows + 1), T)[: rows * T + left_over]


class Recorder(Sequence):
  """A sequence that remembers which of its items were read."""

  def __init__(self, items: Any):
    self.items, self.read = items, set()

  def __len__(self):
    return len(self.items)

  def __getitem__(self, where):
    if isinstance(where, slice):  # Of text.
      self.read.add(where.start // T)
    else:
      self.read.add(int(where))
    return self.items[where]


def text_stream(seed: int = 0, *, items: Any = None, **options) -> TextStream:
  options = dict[str, Any](rows=3, row_length=T, pad_id=PAD) | options
  return TextStream(text() if items is None else items, seed=seed, **options)


def demonstration_stream(
    seed: int = 0, *, items: Any = None, **options
) -> DemonstrationStream:
  options = dict[str, Any](rows=4, row_length=T, pad_id=PAD) | options
  return DemonstrationStream(
      demonstrations() if items is None else items, seed=seed, **options
  )


def ranking_stream(
    seed: int = 0, *, items: Any = None, **options
) -> RankingStream:
  options = dict[str, Any](
      rows=16, row_length=T, max_prompts=4, max_responses=9, pad_id=PAD
  ) | options  # fmt: skip
  return RankingStream(
      rankings() if items is None else items, seed=seed, **options
  )


def prompt_stream(
    seed: int = 0, *, items: Any = None, **options
) -> PromptStream:
  options = dict[str, Any](batch_size=4, lengths=(6,), pad_id=PAD) | options
  return PromptStream(
      prompts(10) if items is None else items, seed=seed, **options
  )


def arrays(batch: Any) -> Any:
  """A stream's batch without the texts that come with prompts."""
  return batch[0] if isinstance(batch, tuple) else batch


def tokens(batch: Any) -> np.ndarray:
  """The tokens of a batch of any kind."""
  batch = arrays(batch)
  if isinstance(batch, batches.TextBatch):
    return batch.tokens_BT
  if isinstance(batch, batches.RankingBatch):
    return batch.tokens_MT
  return batch.tokens_BP


def marks(ids: Any) -> list[int]:
  """Numbers of the examples whose marks are in some tokens, in their order."""
  return [t - MARK for t in np.asarray(ids).ravel().tolist() if t >= MARK]


def equal(a: Any, b: Any) -> bool:
  """Two batches are the same, bit for bit, texts too."""
  if isinstance(a, tuple):
    return list(a[1]) == list(b[1]) and equal(a[0], b[0])
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def equal_examples(a: Any, b: Any) -> bool:
  """Two examples are the same, bit for bit."""
  assert type(a) is type(b)
  for name, want in vars(a).items():
    got = vars(b)[name]
    if name.endswith('ids'):
      parts = zip(want, got, strict=True) if name[:9] == 'responses' else (
          [(want, got)]
      )  # fmt: skip
      if any(x.dtype != y.dtype or x.tolist() != y.tolist() for x, y in parts):
        return False
    elif want != got or type(want) is not type(got):
      return False
  return store.index_of([a]) == store.index_of([b])


def _ids(*ids: int) -> np.ndarray:
  return np.array(ids, np.int32)


def _noise(rng: np.random.Generator, least: int, most: int) -> list[int]:
  return rng.integers(2, 90, rng.integers(least, most + 1)).tolist()
