# SPDX-License-Identifier: Apache-2.0
"""The order of examples: which of them a step sees, from (seed, step) alone."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlhf.data import packing


def epoch_order(n: int, seed: int, epoch: int, tag: int = 0) -> np.ndarray:
  """The permutation of range(n) of an epoch; int64 [n]."""
  return np.random.default_rng((seed, epoch, tag)).permutation(n)


class Order:
  """An endless sequence of example indices: one permutation after another."""

  def __init__(self, n: int, seed: int, tag: int, what: str):
    """Takes the number of examples, and what to call them in an error."""
    if n < 1:
      raise ValueError(
          f'there are no {what}: give more data, or use shorter rows'
      )
    self.n = n
    # A batch spans two epochs at most, unless the data are very few.
    self._epoch = functools.lru_cache(maxsize=4)(
        lambda epoch: epoch_order(n, seed, epoch, tag)
    )

  def take(self, start: int, end: int) -> np.ndarray:
    """Indices at positions start to end - 1 of the sequence; int64."""
    parts = [np.zeros(0, np.int64)]
    while start < end:
      epoch, offset = divmod(start, self.n)
      parts.append(self._epoch(epoch)[offset : offset + end - start])
      start += len(parts[-1])
    return np.concatenate(parts)


class Plan:
  """Where in the sequence each packed batch begins.

  How many examples fit depends on their lengths, so batches are found one
  after another from the first, and their beginnings are kept. Finding them
  takes lengths only, microseconds an example, and is the same in every run.
  """

  def __init__(self, order: Order, fitting: Callable[[np.ndarray], int]):
    """`fitting(indices)` says how many of them, in order, fill a batch."""
    self._order = order
    self._fitting = fitting
    self._starts = [0]
    self._window = 64  # Examples looked at; grows until a batch is full.

  def indices(self, step: int) -> np.ndarray:
    """Which examples are in the batch of a step."""
    while len(self._starts) <= step + 1:
      self._extend()
    return self._order.take(self._starts[step], self._starts[step + 1])

  def steps(self, epochs: int) -> int:
    """How many batches it takes to see `epochs` epochs."""
    end = epochs * self._order.n
    while self._starts[-1] < end:
      self._extend()
    return int(np.searchsorted(self._starts, end))

  def _extend(self) -> None:
    start = self._starts[-1]
    while True:
      taken = self._fitting(self._order.take(start, start + self._window))
      if taken < self._window:
        self._starts.append(start + taken)
        return
      self._window *= 2


class Picked(Sequence):
  """`values[i] for i in indices`, looked up only when asked for."""

  def __init__(self, values: Sequence, indices: np.ndarray):
    self._values, self._indices = values, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, position):
    return self._values[int(self._indices[position])]


def once(
    count: int, fitting: Callable[[np.ndarray], int]
) -> Iterator[np.ndarray]:
  """Indices of each batch of one pass in the data's own order."""
  start = 0
  while start < count:
    indices = np.arange(start, count)
    taken = fitting(indices)
    yield indices[:taken]
    start += taken


def check_lengths(
    what: str, groups: Sequence[Sequence[int]], rows: int, row_length: int
) -> None:
  """Raises unless every group fits into an empty batch.

  Otherwise planning would never end.
  """
  for index, lengths in enumerate(groups):
    if max(lengths) > row_length:
      raise ValueError(
          f'{what} {index} has {max(lengths)} tokens but a row has '
          f'{row_length}: lower max_prompt_tokens or max_response_tokens, or '
          'lengthen the row'
      )
    if not packing.first_fit([lengths], rows, row_length):
      raise ValueError(
          f'{what} {index} ({sum(lengths)} tokens) does not fit into {rows} '
          f'rows of {row_length}: raise rows'
      )
