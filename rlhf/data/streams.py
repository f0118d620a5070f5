# SPDX-License-Identifier: Apache-2.0
"""Batches by step: which examples form batch s follows from (seed, s) alone.

The examples of a stream are an endless sequence: epoch after epoch, each a
fresh permutation drawn from (seed, epoch). Batches take the next examples of
that sequence, across the ends of epochs, so that every batch is full and every
epoch holds every example once. `batch(step)` may be asked in any order, by a
resumed run too, and answers the same.

`once()` is for evaluation: every example once, in the order of the data, the
last batch padded.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from rlhf.data import batches, order, packing
from rlhf.data import examples as examples_lib

# One entry point for stages: examples in, batches out.
load = examples_lib.load

# Keeps streams of equal seed and length from sharing permutations.
_TEXT, _DEMONSTRATIONS, _RANKINGS, _PROMPTS = range(4)


class TextStream:
  """Rows of pretraining text, `rows` a batch."""

  def __init__(
      self, rows_MT: np.ndarray, *, rows: int, pad_id: int, seed: int
  ):
    """Takes the rows of `packing.text_rows`, int32 [M, T]."""
    self.rows, self.row_length = rows, rows_MT.shape[1]
    self._rows_MT = rows_MT
    self._pad_id = pad_id
    self._order = order.Order(len(rows_MT), seed, _TEXT, 'rows of text')

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every row has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs, a little of the next included."""
    return -(-epochs * len(self._rows_MT) // self.rows)

  def batch(self, step: int) -> batches.TextBatch:
    """The batch of a step."""
    return self.take(step, self.rows)

  def take(self, step: int, rows: int) -> batches.TextBatch:
    """The batch of a step where batches have `rows` rows."""
    picked = self._order.take(step * rows, (step + 1) * rows)
    return packing.text_batch(self._rows_MT[picked], rows, self._pad_id)

  def once(self) -> Iterator[batches.TextBatch]:
    """Every row once; padding fills the last batch."""
    for start in range(0, len(self._rows_MT), self.rows):
      rows_MT = self._rows_MT[start : start + self.rows]
      yield packing.text_batch(rows_MT, self.rows, self._pad_id)


class DemonstrationStream:
  """Demonstrations, with loss on the response and its EOS."""

  def __init__(
      self,
      demonstrations: Sequence[examples_lib.Demonstration],
      *,
      rows: int,
      row_length: int,
      pad_id: int,
      seed: int,
      pack: bool = True,
      mix: tuple[TextStream, int] | None = None,
  ):
    """Constructor.

    Args:
      demonstrations: what to learn from.
      rows: rows of demonstrations a batch.
      row_length: tokens of a row.
      pad_id: the vocabulary's pad id.
      seed: of the order.
      pack: several demonstrations a row (first-fit), or one.
      mix: pretraining text and its rows a batch, which follow the others.

    Raises:
      ValueError: nothing to learn from, a demonstration longer than a row, or
        rows of text of another length.
    """
    if mix and mix[0].row_length != row_length:
      raise ValueError(
          f'rows of text have {mix[0].row_length} tokens, those of '
          f'demonstrations {row_length}: make them equal'
      )
    self._examples = [
        (
            np.concatenate([d.prompt_ids, d.response_ids]),
            np.repeat([False, True], [len(d.prompt_ids), len(d.response_ids)]),
        )
        for d in demonstrations
    ]
    self._lengths = [[len(tokens)] for tokens, _ in self._examples]
    order.check_lengths('demonstration', self._lengths, rows, row_length)
    self.rows, self.row_length = rows, row_length
    self._pad_id, self._pack, self._mix = pad_id, pack, mix
    count = len(demonstrations)
    self._plan = order.Plan(
        order.Order(count, seed, _DEMONSTRATIONS, 'demonstrations'),
        self._fitting,
    )

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every demonstration has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs, a little of the next included."""
    return self._plan.steps(epochs)

  def batch(self, step: int) -> batches.TextBatch:
    """The batch of a step; rows of text, if mixed in, come last."""
    batch = self._pack_batch(self._plan.indices(step))
    if not self._mix:
      return batch
    text, rows = self._mix
    more = text.take(step, rows)
    return batches.TextBatch(
        np.concatenate([batch.tokens_BT, more.tokens_BT]),
        np.concatenate([batch.segment_ids_BT, more.segment_ids_BT]),
        np.concatenate([batch.loss_mask_BT, more.loss_mask_BT]),
    )

  def once(self) -> Iterator[batches.TextBatch]:
    """Every demonstration once, without text; padding fills the last batch."""
    for indices in order.once(len(self._examples), self._fitting):
      yield self._pack_batch(indices)

  def _fitting(self, indices: np.ndarray) -> int:
    if not self._pack:
      return min(self.rows, len(indices))
    lengths = order.Picked(self._lengths, indices)
    return len(packing.first_fit(lengths, self.rows, self.row_length))

  def _pack_batch(self, indices: np.ndarray) -> batches.TextBatch:
    return packing.pack_examples(
        [self._examples[i] for i in indices],
        self.rows,
        self.row_length,
        self._pad_id,
        pack=self._pack,
    )


class RankingStream:
  """Ranked responses; all those of a prompt are in one batch.

  A batch takes prompts until it has `max_prompts` or the next does not fit.
  """

  def __init__(
      self,
      rankings: Sequence[examples_lib.Ranking],
      *,
      rows: int,
      row_length: int,
      max_prompts: int,
      max_responses: int,
      pad_id: int,
      seed: int,
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

    Raises:
      ValueError: no rankings, or one that fits into no batch.
    """
    self._rankings = rankings
    self._lengths = [
        [len(r.prompt_ids) + len(ids) for ids in r.responses_ids]
        for r in rankings
    ]
    most = max(map(len, self._lengths), default=0)
    if most > max_responses:
      raise ValueError(
          f'a ranking has {most} responses but max_responses is {max_responses}'
          ': raise max_responses'
      )
    order.check_lengths('ranking', self._lengths, rows, row_length)
    self.rows, self.row_length = rows, row_length
    self.max_prompts, self.max_responses = max_prompts, max_responses
    self._pad_id = pad_id
    self._plan = order.Plan(
        order.Order(len(rankings), seed, _RANKINGS, 'rankings'), self._fitting
    )

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every ranking has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs, a little of the next included."""
    return self._plan.steps(epochs)

  def batch(self, step: int) -> batches.RankingBatch:
    """The batch of a step."""
    return self._pack_batch(self._plan.indices(step))

  def once(self) -> Iterator[batches.RankingBatch]:
    """Every ranking once; the last batch has masked prompts."""
    for indices in order.once(len(self._rankings), self._fitting):
      yield self._pack_batch(indices)

  def once_indices(self) -> Iterator[np.ndarray]:
    """Which rankings are in each batch of `once()`, in order of b."""
    return order.once(len(self._rankings), self._fitting)

  def _fitting(self, indices: np.ndarray) -> int:
    lengths = order.Picked(self._lengths, indices[: self.max_prompts])
    return len(packing.first_fit(lengths, self.rows, self.row_length))

  def _pack_batch(self, indices: np.ndarray) -> batches.RankingBatch:
    chosen = [self._rankings[i] for i in indices]
    return packing.pack_rankings(
        [(r.prompt_ids, r.responses_ids, r.ranks) for r in chosen],
        self.rows,
        self.row_length,
        self.max_prompts,
        self.max_responses,
        self._pad_id,
    )


class PromptStream:
  """Prompts to be answered, `batch_size` a batch, left-padded to `length`."""

  def __init__(
      self,
      prompts: Sequence[examples_lib.PromptExample],
      *,
      batch_size: int,
      length: int,
      pad_id: int,
      seed: int,
  ):
    """Takes prompts of at most `length` tokens, BOS included."""
    order.check_lengths('prompt', [[len(p.ids)] for p in prompts], 1, length)
    self.batch_size, self.length = batch_size, length
    self._prompts = prompts
    self._pad_id = pad_id
    self._order = order.Order(len(prompts), seed, _PROMPTS, 'prompts')

  @property
  def steps_per_epoch(self) -> int:
    """Steps until every prompt has been seen: `steps(1)`."""
    return self.steps(1)

  def steps(self, epochs: int) -> int:
    """Steps that cover `epochs` epochs, a little of the next included."""
    return -(-epochs * len(self._prompts) // self.batch_size)

  def indices(self, step: int) -> np.ndarray:
    """Which prompts are in the batch of a step; int64 [B]."""
    size = self.batch_size
    return self._order.take(step * size, (step + 1) * size)

  def batch(self, step: int) -> tuple[batches.PromptBatch, list[str]]:
    """The batch of a step, and its prompts' raw texts."""
    return self._pad(self.indices(step))

  def once(self) -> Iterator[tuple[batches.PromptBatch, list[str]]]:
    """Every prompt once. The last prompt is repeated to fill the last batch:
    as many rows count as there are texts."""
    for start in range(0, len(self._prompts), self.batch_size):
      rows = np.arange(start, start + self.batch_size)
      batch, texts = self._pad(np.minimum(rows, len(self._prompts) - 1))
      yield batch, texts[: len(self._prompts) - start]

  def _pad(self, indices) -> tuple[batches.PromptBatch, list[str]]:
    chosen = [self._prompts[i] for i in indices]
    tokens_BP, mask_BP = packing.left_pad(
        [p.ids for p in chosen], self.length, self._pad_id
    )
    return batches.PromptBatch(tokens_BP, mask_BP), [p.text for p in chosen]
