# SPDX-License-Identifier: Apache-2.0
"""The order of examples: which of them a step sees, from (seed, step) alone.

Every position of these endless sequences is computed by itself, in constant
time and memory, so that a resumed run, or another host, goes straight to it.
"""

import enum
import functools
from collections.abc import Sequence

import numpy as np

from rlhf.data.rows import DataError


class Tag(enum.IntEnum):
  """What an order is of. Those of one seed and size are not alike."""

  TEXT = 0
  DEMONSTRATIONS = 1
  RANKINGS = 2
  PROMPTS = 3
  PACKING = 4


class Order:
  """An endless sequence of indices: one permutation of range(n) after another.

  Each epoch has a permutation of its own, over the whole range and not within
  a window, drawn from (seed, tag, epoch). It is never written down: grain's
  `index_shuffle`, a keyed permutation in the manner of a block cipher, says
  what stands at any position of it.
  """

  def __init__(self, n: int, seed: int, tag: int, what: str):
    """Constructor.

    Args:
      n: how many there are, below 2**31.
      seed: of the run.
      tag: keeps orders of one seed and size from being alike.
      what: what an error calls them.

    Raises:
      DataError: there are none.
    """
    if n < 1:
      raise DataError(
          f'there are no {what}: give more data, or use shorter rows'
      )
    self.n = n
    # A batch spans two epochs at most, unless the data are very few.
    self._key = functools.lru_cache(maxsize=4)(
        lambda epoch: int(
            np.random.SeedSequence((seed, tag, epoch)).generate_state(1)[0]
        )
    )

  def take(self, start: int, end: int) -> np.ndarray:
    """Indices at positions start to end - 1 of the sequence; int64."""
    from grain.experimental import index_shuffle  # Late: a second to import.

    taken = np.empty(end - start, np.int64)
    for i, position in enumerate(range(start, end)):
      epoch, offset = divmod(position, self.n)
      taken[i] = index_shuffle(
          offset, max_index=self.n - 1, seed=self._key(epoch), rounds=_ROUNDS
      )
    return taken


# Of the cipher; as many as grain's own shuffle uses. Its blocks are of 16 bits
# or more, and it walks on until it is below n: some microseconds an index from
# a few thousand on, 40 for n = 200, 8 milliseconds for n = 2.
_ROUNDS = 4


class Turns:
  """Steps shared out among several sequences, in proportion to weights.

  After any number of steps each sequence has had its share of them to within
  one for every sequence that stands before it, and one. Two sequences take
  turns as Bresenham's line does; the second of them may itself be shared.
  """

  def __init__(self, weights: Sequence[int]):
    """Takes positive integers."""
    self._weights = list(weights)
    self._rests = [sum(weights[i:]) for i in range(len(weights))]

  def at(self, step: int) -> tuple[int, int]:
    """Whose turn a step is, and how many that one has had before it."""
    last = len(self._weights) - 1
    for turn, (weight, rest) in enumerate(
        zip(self._weights, self._rests, strict=True)
    ):
      # Halves are added so that a rare one comes in mid-interval.
      before = (step * weight + rest // 2) // rest
      if turn == last or ((step + 1) * weight + rest // 2) // rest > before:
        return turn, step if turn == last else before
      step -= before
    raise ValueError('there are no sequences')
