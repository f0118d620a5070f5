# SPDX-License-Identifier: Apache-2.0
"""Prompts, batch by batch, those of about one length together."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlhf.data import batches, order, packing, store
from rlhf.data.examples import PromptExample
from rlhf.data.streams import fingerprint


def prompt_lengths(data: Any) -> tuple[int, ...]:
  """Tokens that a config's data section pads prompts to, the longest last."""
  longest = data.prompt_tokens
  buckets = data.get('prompt_buckets', ())
  return *sorted(n for n in buckets if n < longest), longest


class PromptStream:
  """Prompts to be answered, `batch_size` a batch, padded on the left.

  With several lengths, prompts are in buckets: each is in that of the shortest
  length that holds it, a batch is of one bucket, and buckets take turns in
  proportion to their prompts. A short batch is then not paid for at the length
  of the longest prompt. A bucket with less than a batch of prompts joins the
  next longer one.
  """

  def __init__(
      self,
      prompts: Sequence[PromptExample],
      *,
      batch_size: int,
      lengths: Sequence[int],
      pad_id: int,
      seed: int,
      local: np.ndarray | None = None,
  ):
    """Constructor.

    Args:
      prompts: to be answered.
      batch_size: prompts a batch, B.
      lengths: of the buckets, in tokens with BOS; the longest holds all.
      pad_id: the vocabulary's pad id.
      seed: of the order.
      local: bool [batch_size], see the top of this file; texts are whole.

    Raises:
      ValueError: no prompts, or one that is longer than every bucket.
    """
    tokens = [length for (length,) in store.index_of(prompts).lengths]
    packing.check_lengths('prompt', [[n] for n in tokens], 1, max(lengths))
    self.batch_size = batch_size
    self._prompts, self._pad_id, self._local = prompts, pad_id, local
    buckets = _buckets(tokens, sorted(lengths), batch_size)
    self.lengths = [length for length, _ in buckets]
    self._buckets = [np.array(indices) for _, indices in buckets]
    self._orders = [
        order.Order(len(indices), seed, order.Tag.PROMPTS + (i << 8), 'prompts')
        for i, indices in enumerate(self._buckets)
    ]
    self._turns = order.Turns([len(indices) for indices in self._buckets])

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every prompt has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs, a little of the next included; with
    several buckets to within a batch of each."""
    return -(-epochs * len(self._prompts) // self.batch_size)

  def indices(self, step: int) -> np.ndarray:
    """Which prompts are in the batch of a step; int64 [B]."""
    return self._of(step)[1]

  def batch(self, step: int) -> tuple[batches.PromptBatch, Sequence[str]]:
    """The batch of a step, and its prompts' raw texts, read as asked for."""
    length, indices = self._of(step)
    return self._pad(indices, length), _Texts(self._prompts, indices)

  def position(self, step: int) -> dict[str, Any]:
    """Where it stands before a step; items are prompts, over all buckets. See
    the top of this folder."""
    count = len(self._prompts)
    epoch, taken = divmod(step * self.batch_size, count)
    return {'epoch': epoch, 'taken': taken, 'of': count, 'data': self._data}

  @functools.cached_property
  def _data(self) -> str:
    return fingerprint.of_examples(self._prompts)

  def example(self, length: int) -> batches.PromptBatch:
    """Some batch of a bucket, by its length."""
    bucket = self._buckets[self.lengths.index(length)]
    return self._pad(np.resize(bucket, self.batch_size), length)

  def once(self) -> Iterator[tuple[batches.PromptBatch, Sequence[str]]]:
    """Every prompt once, in the order of the data, at the longest length. The
    last prompt is repeated to fill the last batch: as many rows count as there
    are texts."""
    last = len(self._prompts) - 1
    for start in range(0, last + 1, self.batch_size):
      rows = np.arange(start, start + self.batch_size)
      batch = self._pad(np.minimum(rows, last), self.lengths[-1])
      yield batch, _Texts(self._prompts, rows[rows <= last])

  def _of(self, step: int) -> tuple[int, np.ndarray]:
    """Length and indices of a step."""
    bucket, turn = self._turns.at(step)
    size = self.batch_size
    taken = self._orders[bucket].take(turn * size, (turn + 1) * size)
    return self.lengths[bucket], self._buckets[bucket][taken]

  def _pad(self, indices: np.ndarray, length: int) -> batches.PromptBatch:
    bos = np.full(1, self._pad_id, np.int32)  # Stands in for rows of others.
    ids = [
        self._prompts[int(i)].ids
        if self._local is None or self._local[row]
        else bos
        for row, i in enumerate(indices)
    ]
    return batches.PromptBatch(*packing.left_pad(ids, length, self._pad_id))


class _Texts(Sequence):
  """The texts of some prompts, read when they are asked for."""

  def __init__(self, prompts: Sequence, indices: np.ndarray):
    self._prompts, self._indices = prompts, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[j] for j in range(*i.indices(len(self)))]
    return self._prompts[int(self._indices[i])].text


def _buckets(
    tokens: Sequence[int], lengths: Sequence[int], least: int
) -> list[tuple[int, list[int]]]:
  """(length, indices) of every bucket; lengths ascend."""
  homes = np.searchsorted(lengths, tokens)
  buckets: list[tuple[int, list[int]]] = []
  carried: list[int] = []
  for home, length in enumerate(lengths):
    carried += np.flatnonzero(homes == home).tolist()
    if len(carried) >= least:
      buckets.append((length, sorted(carried)))
      carried = []
  if carried or not buckets:
    # Too few long prompts for a bucket: those of the bucket before join them.
    before = buckets.pop()[1] if buckets else []
    most = max((tokens[i] for i in carried), default=0)
    length = next(length for length in lengths if length >= most)
    buckets.append((length, sorted(before + carried)))
  return buckets
