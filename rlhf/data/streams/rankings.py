# SPDX-License-Identifier: Apache-2.0
"""Rankings, batch by batch."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlhf.data import batches, order, packing, store
from rlhf.data.examples import Ranking
from rlhf.data.rows import DataError
from rlhf.data.streams import fingerprint


class RankingStream:
  """Ranked responses; all those of a prompt are in one batch.

  A batch takes prompts until it has `max_prompts` or the next does not fit.
  Which prompts share a batch is drawn once, for all epochs; the order of the
  batches is drawn anew in each.
  """

  def __init__(
      self,
      rankings: Sequence[Ranking],
      *,
      rows: int,
      row_length: int,
      max_prompts: int,
      max_responses: int,
      pad_id: int,
      seed: int,
      local: np.ndarray | None = None,
  ):
    """Constructor.

    Args:
      rankings: what to learn from.
      rows: packed rows a batch, M.
      row_length: tokens of a row, T.
      max_prompts: most prompts a batch, B.
      max_responses: most responses of a prompt, K.
      pad_id: the vocabulary's pad id.
      seed: of the order.
      local: bool [rows], see the top of this file.

    Raises:
      DataError: no rankings, or one that fits into no batch.
    """
    index = store.index_of(rankings)
    self._rankings, self._ranks = rankings, index.ranks
    self._lengths = [
        [prompt + response for response in responses]
        for prompt, *responses in index.lengths
    ]
    most = max(map(len, self._lengths), default=0)
    if most > max_responses:
      raise DataError(
          f'a ranking has {most} responses but max_responses is {max_responses}'
          ': raise max_responses'
      )
    packing.check_lengths('ranking', self._lengths, rows, row_length)
    self.rows, self.row_length = rows, row_length
    self.max_prompts, self.max_responses = max_prompts, max_responses
    self._pad_id, self._seed, self._local = pad_id, seed, local
    drawn = order.Order(len(rankings), seed, order.Tag.PACKING, 'rankings')
    self._packs = list(self._packed(drawn.take(0, len(rankings))))
    self._order = order.Order(
        len(self._packs), seed, order.Tag.RANKINGS, 'rankings'
    )

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every ranking has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs."""
    return epochs * len(self._packs)

  def indices(self, step: int) -> np.ndarray:
    """Which rankings are in the batch of a step, in order of b."""
    return self._packs[self._order.take(step, step + 1)[0]]

  def batch(self, step: int) -> batches.RankingBatch:
    """The batch of a step."""
    return self._batch(self.indices(step))

  def position(self, step: int) -> dict[str, Any]:
    """Where it stands before a step; items are batches. See the top of this
    folder."""
    count = len(self._packs)
    epoch, taken = divmod(step, count)
    return {'epoch': epoch, 'taken': taken, 'of': count, 'data': self._data}

  @functools.cached_property
  def _data(self) -> str:
    return fingerprint.of_examples(self._rankings)

  def once(self) -> Iterator[batches.RankingBatch]:
    """Every ranking once, in the order of the data; the last batch has masked
    prompts."""
    for indices in self.once_indices():
      yield self._batch(indices)

  def once_indices(self) -> Iterator[np.ndarray]:
    """Which rankings are in each batch of `once()`, in order of b."""
    return self._packed(np.arange(len(self._rankings)))

  def _packed(self, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Indices, in their order, of one batch after another."""
    while len(indices):
      lengths = [self._lengths[i] for i in indices[: self.max_prompts]]
      taken = len(packing.first_fit(lengths, self.rows, self.row_length))
      yield indices[:taken]
      indices = indices[taken:]

  def _batch(self, indices: np.ndarray) -> batches.RankingBatch:
    def read(b):
      ranking = self._rankings[int(indices[b])]
      return ranking.prompt_ids, ranking.responses_ids

    return packing.pack_rankings(
        [self._lengths[i] for i in indices],
        [self._ranks[i] for i in indices],
        read,
        self.rows,
        self.row_length,
        self.max_prompts,
        self.max_responses,
        self._pad_id,
        self._local,
    )
