# SPDX-License-Identifier: Apache-2.0
"""From lists of token ids to batches: padding and packing, in plain numpy.

Packing puts several short examples into one row, each in a segment of its own,
so that few positions are spent on padding. It is first-fit in the order given
and stops at the first example that fits nowhere, so that what is in a batch
depends on the order alone and nothing is skipped.
"""

from collections.abc import Sequence

import numpy as np

from rlhf.data import batches

Tokens = Sequence[int] | np.ndarray


def left_pad(
    prompts: Sequence[Tokens], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Prompts as (tokens_BP int32, mask_BP bool), real tokens to the right."""
  tokens_BP = np.full((len(prompts), length), pad_id, np.int32)
  mask_BP = np.zeros((len(prompts), length), bool)
  for row, prompt in enumerate(prompts):
    _check_length(f'prompt {row}', len(prompt), length, 'length')
    if not len(prompt):
      raise ValueError(f'prompt {row} has no tokens: it needs at least a BOS')
    tokens_BP[row, length - len(prompt) :] = prompt
    mask_BP[row, length - len(prompt) :] = True
  return tokens_BP, mask_BP


def right_pad(
    sequences: Sequence[Tokens], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Sequences as (tokens_BT int32, segment_ids_BT int32 in {0, 1})."""
  tokens_BT = np.full((len(sequences), length), pad_id, np.int32)
  segment_ids_BT = np.zeros((len(sequences), length), np.int32)
  for row, sequence in enumerate(sequences):
    _check_length(f'sequence {row}', len(sequence), length, 'length')
    tokens_BT[row, : len(sequence)] = sequence
    segment_ids_BT[row, : len(sequence)] = 1
  return tokens_BT, segment_ids_BT


def text_rows(
    documents: Sequence[Tokens], row_length: int, eos_id: int
) -> np.ndarray:
  """Documents as full rows of pretraining text, int32 tokens_BT.

  They are joined as EOS doc EOS doc ... and cut every `row_length` tokens, as
  GPT-3 does; what does not fill a last row is dropped. There are no rows, shape
  (0, T), if all documents together are shorter than one.
  """
  eos = np.array([eos_id], np.int32)
  parts = [part for d in documents for part in (eos, np.asarray(d, np.int32))]
  tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
  count = len(tokens) // row_length
  return tokens[: count * row_length].reshape(count, row_length)


def text_batch(
    tokens_BT: np.ndarray, rows: int, pad_id: int
) -> batches.TextBatch:
  """Full rows of text, and empty rows up to `rows`, as a TextBatch.

  Loss is on every token but a row's first, which nothing precedes. Documents
  of a row see those before them, as in GPT-3: they share segment 1.
  """
  count, row_length = tokens_BT.shape
  _check_length('the batch', count, rows, 'rows')
  padded_BT = np.full((rows, row_length), pad_id, np.int32)
  padded_BT[:count] = tokens_BT
  segment_ids_BT = np.zeros((rows, row_length), np.int32)
  segment_ids_BT[:count] = 1
  loss_mask_BT = segment_ids_BT > 0
  loss_mask_BT[:, 0] = False
  return batches.TextBatch(padded_BT, segment_ids_BT, loss_mask_BT)


def first_fit(
    groups: Sequence[Sequence[int]], rows: int, row_length: int
) -> list[list[int]]:
  """Places groups of segments, given by their lengths, into rows.

  Each segment goes into the first row with room for it. A group goes in whole
  or not at all; at the first that does not go in, placing stops.

  Args:
    groups: lengths in tokens of each group's segments.
    rows: how many rows there are.
    row_length: tokens of a row.

  Returns:
    For each group placed, the row of each of its segments: the first
    `len(result)` groups fit.
  """
  free = [row_length] * rows
  placed = []
  for lengths in groups:
    after, chosen = list(free), []
    for length in lengths:
      row = next((r for r, room in enumerate(after) if length <= room), None)
      if row is None:
        return placed
      after[row] -= length
      chosen.append(row)
    free = after
    placed.append(chosen)
  return placed


def pack_examples(
    examples: Sequence[tuple[Tokens, Sequence[bool] | np.ndarray]],
    rows: int,
    row_length: int,
    pad_id: int,
    *,
    pack: bool = True,
) -> batches.TextBatch:
  """Examples with their targets as a TextBatch of `rows` rows.

  Args:
    examples: (tokens, is_target) pairs of equal length each; is_target is True
      where the token is to be learnt. An example longer than a row is cut.
    rows: rows of the batch; those left over are padding.
    row_length: tokens of a row.
    pad_id: the vocabulary's pad id.
    pack: first-fit packing if True; else one example a row.

  Returns:
    The batch, one segment an example.

  Raises:
    ValueError: the examples do not all fit.
  """
  lengths = [[min(len(tokens), row_length)] for tokens, _ in examples]
  if pack:
    placed = first_fit(lengths, rows, row_length)
  else:
    placed = [[row] for row in range(min(rows, len(examples)))]
  _check_fit('examples', len(placed), len(examples), rows, row_length)

  packer = _Packer(rows, row_length, pad_id)
  for (tokens, is_target), (row,) in zip(examples, placed, strict=True):
    if len(tokens) != len(is_target):
      raise ValueError(
          f'an example has {len(tokens)} tokens but {len(is_target)} target '
          'flags: give one flag a token'
      )
    packer.add(row, tokens[:row_length], is_target[:row_length])
  # Nothing before it in its segment: the first token cannot be predicted.
  packer.marks[packer.starts] = False
  return batches.TextBatch(packer.tokens, packer.segment_ids, packer.marks)


def pack_rankings(
    rankings: Sequence[tuple[Tokens, Sequence[Tokens], Sequence[int]]],
    rows: int,
    row_length: int,
    max_prompts: int,
    max_responses: int,
    pad_id: int,
) -> batches.RankingBatch:
  """Ranked responses as a RankingBatch of M = `rows` packed rows.

  Args:
    rankings: (prompt ids with BOS, ids of each response with its EOS, ranks)
      of each prompt.
    rows: packed rows, M.
    row_length: tokens of a row, T.
    max_prompts: B of the batch; those left over are masked.
    max_responses: K of the batch, at least that of any ranking.
    pad_id: the vocabulary's pad id.

  Returns:
    The batch; each response is a segment `prompt + response`.

  Raises:
    ValueError: the rankings do not all fit.
  """
  groups = [[len(p) + len(r) for r in rs] for p, rs, _ in rankings]
  _check_length('the batch', len(rankings), max_prompts, 'max_prompts')
  placed = first_fit(groups, rows, row_length)
  _check_fit('rankings', len(placed), len(rankings), rows, row_length)

  packer = _Packer(rows, row_length, pad_id)
  shape_BK = (max_prompts, max_responses)
  end_BK, ranks_BK = np.zeros(shape_BK, np.int32), np.zeros(shape_BK, np.int32)
  mask_BK = np.zeros(shape_BK, bool)
  for b, ((prompt, responses, ranks), chosen) in enumerate(
      zip(rankings, placed, strict=True)
  ):
    count = len(responses)
    _check_length(f'ranking {b}', count, max_responses, 'max_responses')
    for k, (response, row) in enumerate(zip(responses, chosen, strict=True)):
      tokens = np.concatenate([prompt, response]).astype(np.int32)
      last = packer.add(row, tokens, np.arange(len(tokens)) >= len(prompt))
      end_BK[b, k] = row * row_length + last
    ranks_BK[b, : len(ranks)] = ranks
    mask_BK[b, :count] = True
  return batches.RankingBatch(
      tokens_MT=packer.tokens,
      segment_ids_MT=packer.segment_ids,
      response_mask_MT=packer.marks,
      end_BK=end_BK,
      ranks_BK=ranks_BK,
      mask_BK=mask_BK,
  )


class _Packer:
  """Rows being filled from the left, one segment after another."""

  def __init__(self, rows: int, row_length: int, pad_id: int):
    self.tokens = np.full((rows, row_length), pad_id, np.int32)
    self.segment_ids = np.zeros((rows, row_length), np.int32)
    self.marks = np.zeros((rows, row_length), bool)
    self.starts = np.zeros((rows, row_length), bool)
    self._used = [0] * rows
    self._segments = [0] * rows

  def add(self, row: int, tokens: Tokens, marks) -> int:
    """Adds a segment to a row; returns the position of its last token."""
    start = self._used[row]
    end = start + len(tokens)
    self._used[row] = end
    self._segments[row] += 1
    self.tokens[row, start:end] = tokens
    self.segment_ids[row, start:end] = self._segments[row]
    self.marks[row, start:end] = marks
    self.starts[row, start : start + 1] = True
    return end - 1


def _check_length(what: str, length: int, limit: int, setting: str) -> None:
  if length > limit:
    raise ValueError(
        f'{what} has {length} entries but {setting} is {limit}: raise {setting}'
        ' or give less'
    )


def _check_fit(what, placed, count, rows, row_length) -> None:
  if placed < count:
    raise ValueError(
        f'{placed} of {count} {what} fit into {rows} rows of {row_length} '
        'tokens: raise rows or row_length, or give fewer'
    )
