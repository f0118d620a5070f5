# SPDX-License-Identifier: Apache-2.0
"""Demonstrations, batch by batch, with pretraining text mixed in if asked."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlhf.data import batches, order, packing, store
from rlhf.data.examples import Demonstration
from rlhf.data.streams import fingerprint
from rlhf.data.streams.text import TextStream


class DemonstrationStream:
  """Demonstrations, with loss on the response and its EOS.

  Which of them share a row is settled once, for all epochs; which rows share a
  batch is drawn anew in each.
  """

  def __init__(
      self,
      demonstrations: Sequence[Demonstration],
      *,
      rows: int,
      row_length: int,
      pad_id: int,
      seed: int,
      pack: bool = True,
      mix: tuple[TextStream, int] | None = None,
      local: np.ndarray | None = None,
  ):
    """Constructor.

    Args:
      demonstrations: what to learn from.
      rows: rows of demonstrations a batch.
      row_length: tokens of a row.
      pad_id: the vocabulary's pad id.
      seed: of the order, and of which equally long ones share a row.
      pack: several demonstrations a row (`packing.best_fit`), or one.
      mix: pretraining text and its rows a batch, which follow the others.
      local: bool [rows and those of text], see the top of this file.

    Raises:
      ValueError: nothing to learn from, a demonstration longer than a row, or
        rows of text of another length.
    """
    if mix and mix[0].row_length != row_length:
      raise ValueError(
          f'rows of text have {mix[0].row_length} tokens, those of '
          f'demonstrations {row_length}: make them equal'
      )
    lengths = [sum(each) for each in store.index_of(demonstrations).lengths]
    packing.check_lengths(
        'demonstration', [[n] for n in lengths], rows, row_length
    )
    self.rows, self.row_length = rows, row_length
    self._demonstrations = demonstrations
    self._pad_id, self._mix, self._local = pad_id, mix, local
    if pack:
      rng = np.random.default_rng((seed, order.Tag.PACKING))
      ties = rng.permutation(len(lengths))
      self._packs = packing.best_fit(lengths, row_length, ties)
    else:
      self._packs = [[i] for i in range(len(lengths))]
    self._order = order.Order(
        len(self._packs), seed, order.Tag.DEMONSTRATIONS, 'demonstrations'
    )

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every demonstration has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs, a little of the next included."""
    return -(-epochs * len(self._packs) // self.rows)

  def batch(self, step: int) -> batches.TextBatch:
    """The batch of a step; rows of text, if mixed in, come last."""
    picked = self._order.take(step * self.rows, (step + 1) * self.rows)
    batch = self._batch(picked.tolist())
    if not self._mix:
      return batch
    text, rows = self._mix
    local = None if self._local is None else self._local[self.rows :]
    more = text.take(step, rows, local)
    return batches.TextBatch(
        np.concatenate([batch.tokens_BT, more.tokens_BT]),
        np.concatenate([batch.segment_ids_BT, more.segment_ids_BT]),
        np.concatenate([batch.loss_mask_BT, more.loss_mask_BT]),
    )

  def position(self, step: int) -> dict[str, Any]:
    """Where it stands before a step; items are rows, with 'text' of its own for
    what is mixed in. See the top of this folder."""
    count = len(self._packs)
    epoch, taken = divmod(step * self.rows, count)
    found = {'epoch': epoch, 'taken': taken, 'of': count, 'data': self._data}
    if self._mix:
      text, rows = self._mix
      found['text'] = text.position(step, rows)
    return found

  @functools.cached_property
  def _data(self) -> str:
    return fingerprint.of_examples(self._demonstrations)

  def once(self) -> Iterator[batches.TextBatch]:
    """Every demonstration once, without text; padding fills the last batch."""
    for start in range(0, len(self._packs), self.rows):
      end = min(start + self.rows, len(self._packs))
      yield self._batch(range(start, end))

  def _batch(self, picked: Sequence[int]) -> batches.TextBatch:
    packs = [
        [_with_targets(self._demonstrations[i]) for i in self._packs[index]]
        if self._local is None or self._local[row]
        else []
        for row, index in enumerate(picked)
    ]
    return packing.pack_examples(
        packs, self.rows, self.row_length, self._pad_id
    )


def _with_targets(
    demonstration: Demonstration,
) -> tuple[np.ndarray, np.ndarray]:
  """Its tokens, and which of them are to be learnt: the response's."""
  prompt, response = demonstration.prompt_ids, demonstration.response_ids
  is_target = np.repeat([False, True], [len(prompt), len(response)])
  return np.concatenate([prompt, response]), is_target
