# SPDX-License-Identifier: Apache-2.0
"""Pretraining text, batch by batch."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from rlhf.data import batches, order, packing
from rlhf.data.streams import fingerprint


class TextStream:
  """Rows of pretraining text, `rows` a batch."""

  def __init__(
      self,
      tokens: Any,
      *,
      row_length: int,
      rows: int,
      pad_id: int,
      seed: int,
      bos_and_eos: tuple[int, int] | None = None,
      local: np.ndarray | None = None,
  ):
    """Constructor.

    Args:
      tokens: one run of text, int32: an array, or a `store.StoredTokens`. It is
        cut every `row_length` tokens, and what is left over dropped.
      row_length: tokens of a row.
      rows: of a batch.
      pad_id: the vocabulary's pad id.
      seed: of the order.
      bos_and_eos: see `packing.text_batch`: documents are segments, or rows.
      local: bool [rows], see the top of this file.
    """
    self.rows, self.row_length = rows, row_length
    self.count = len(tokens) // row_length  # Of rows.
    self._tokens, self._local = tokens, local
    self._pad_id, self._bos_and_eos = pad_id, bos_and_eos
    self._order = order.Order(self.count, seed, order.Tag.TEXT, 'rows of text')

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every row has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs, a little of the next included."""
    return -(-epochs * self.count // self.rows)

  def batch(self, step: int) -> batches.TextBatch:
    """The batch of a step."""
    return self.take(step, self.rows, self._local)

  def take(
      self, step: int, rows: int, local: np.ndarray | None = None
  ) -> batches.TextBatch:
    """The batch of a step where batches have `rows` rows."""
    picked = self._order.take(step * rows, (step + 1) * rows)
    return self._batch(picked, rows, local)

  def position(self, step: int, rows: int = 0) -> dict[str, Any]:
    """Where it stands before a step; items are rows. See the top of this
    folder. `rows`: of a batch, if others than the stream's own."""
    count = self.count
    epoch, taken = divmod(step * (rows or self.rows), count)
    return {'epoch': epoch, 'taken': taken, 'of': count, 'data': self._data}

  @functools.cached_property
  def _data(self) -> str:
    return fingerprint.of_text(self._tokens)

  def once(self) -> Iterator[batches.TextBatch]:
    """Every row once; padding fills the last batch."""
    for start in range(0, self.count, self.rows):
      picked = np.arange(start, min(start + self.rows, self.count))
      yield self._batch(picked, self.rows, self._local)

  def _batch(self, picked, rows: int, local) -> batches.TextBatch:
    length = self.row_length
    tokens_BT = np.full((len(picked), length), self._pad_id, np.int32)
    for row, index in enumerate(picked.tolist()):
      if local is None or local[row]:
        tokens_BT[row] = self._tokens[index * length : (index + 1) * length]
    return packing.text_batch(
        tokens_BT, rows, self._pad_id, bos_and_eos=self._bos_and_eos
    )
