# SPDX-License-Identifier: Apache-2.0
"""From lists of token ids to batches: padding and packing, in plain numpy.

Packing puts several short examples into one row, each in a segment of its own,
so that few positions are spent on padding. Where each goes follows from the
lengths alone, so that a host can lay out a batch of which it reads only a part:
`local` marks the rows that are to be filled (None: all), the others are left
padding.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rlhf.data import batches
from rlhf.data.rows import DataError

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


def joined(
    documents: Iterable[Tokens],
    bos_id: int,
    eos_id: int,
    *,
    separate: bool = False,
) -> np.ndarray:
  """Documents as one run of pretraining text, int32 tokens.

  BOS doc EOS BOS doc EOS ...; where EOS serves as BOS there is one of them
  between two documents, as in GPT-3, unless these are to be separate: then each
  has an end of its own to learn.
  """
  before = np.array([bos_id], np.int32)
  after = np.array([eos_id][: separate or bos_id != eos_id], np.int32)
  parts = [
      part
      for document in documents
      for part in (before, np.asarray(document, np.int32), after)
  ]
  return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def text_rows(
    documents: Sequence[Tokens], row_length: int, eos_id: int
) -> np.ndarray:
  """Documents as full rows of pretraining text, int32 tokens_BT.

  They are joined as EOS doc EOS doc ... and cut every `row_length` tokens, as
  GPT-3 does; what does not fill a last row is dropped. There are no rows, shape
  (0, T), if all documents together are shorter than one.
  """
  tokens = joined(documents, eos_id, eos_id)
  count = len(tokens) // row_length
  return tokens[: count * row_length].reshape(count, row_length)


def text_batch(
    tokens_BT: np.ndarray,
    rows: int,
    pad_id: int,
    *,
    bos_and_eos: tuple[int, int] | None = None,
) -> batches.TextBatch:
  """Full rows of text, and empty ones up to `rows`, as a TextBatch.

  Args:
    tokens_BT: int32, the rows.
    rows: of the batch.
    pad_id: the vocabulary's pad id.
    bos_and_eos: what documents begin and end with, if each is to be a segment
      of its own (`joined` has made them separate); loss is on every token but a
      segment's first. None: documents of a row see those before them, as in
      GPT-3, and share segment 1; loss is on every token but the row's first.
  """
  count, row_length = tokens_BT.shape
  _check_length('the batch', count, rows, 'rows')
  padded_BT = np.full((rows, row_length), pad_id, np.int32)
  padded_BT[:count] = tokens_BT
  starts_BT = np.zeros((rows, row_length), bool)
  if bos_and_eos is not None:
    bos, eos = bos_and_eos
    starts_BT[:count, 1:] = tokens_BT[:, 1:] == bos
    starts_BT[:count, 1:] &= tokens_BT[:, :-1] == eos
  starts_BT[:count, 0] = True
  segment_ids_BT = np.cumsum(starts_BT, axis=1, dtype=np.int32)
  return batches.TextBatch(
      padded_BT, segment_ids_BT, (segment_ids_BT > 0) & ~starts_BT
  )


def best_fit(
    lengths: Sequence[int], row_length: int, order: Sequence[int] | np.ndarray
) -> list[list[int]]:
  """Which examples share a row: longest first, each where it fits best.

  Best-fit decreasing (Krell et al. 2021 call it longest-pack-first) leaves
  about a hundredth of the positions empty, and takes a microsecond or two an
  example whatever their number.

  Args:
    lengths: tokens of each example, at most row_length.
    row_length: tokens of a row.
    order: a permutation of the examples; those of one length take their turn
      in it.

  Returns:
    Of each row the indices of its examples.
  """
  order = np.asarray(order)
  longest = order[np.argsort(-np.asarray(lengths)[order], kind='stable')]
  rows: list[list[int]] = []
  with_room: dict[int, list[int]] = {}  # Room left -> rows that have it.
  rooms = 0  # Bit r is set while some row has room r: the search is one shift.
  for index in longest.tolist():
    length = lengths[index]
    fitting = rooms >> length
    if fitting and length:
      room = length + (fitting & -fitting).bit_length() - 1
      row = with_room[room].pop()
      if not with_room[room]:
        rooms &= ~(1 << room)
    else:
      room, row = row_length, len(rows)
      rows.append([])
    rows[row].append(index)
    left = room - length
    with_room.setdefault(left, []).append(row)
    rooms |= 1 << left
  return rows


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
    packs: Sequence[Sequence[tuple[Tokens, Sequence[bool] | np.ndarray]]],
    rows: int,
    row_length: int,
    pad_id: int,
) -> batches.TextBatch:
  """Packed rows of examples with their targets, as a TextBatch.

  Args:
    packs: of each row the (tokens, is_target) pairs of equal length that it
      holds; is_target is True where the token is to be learnt.
    rows: rows of the batch; those left over are padding.
    row_length: tokens of a row.
    pad_id: the vocabulary's pad id.

  Returns:
    The batch, one segment an example. No segment's first token is a target,
    for nothing precedes it.

  Raises:
    ValueError: a row overflows, or there are more of them than `rows`.
  """
  _check_length('the batch', len(packs), rows, 'rows')
  packer = _Packer(rows, row_length, pad_id)
  for row, pack in enumerate(packs):
    for tokens, is_target in pack:
      if len(tokens) != len(is_target):
        raise ValueError(
            f'an example has {len(tokens)} tokens but {len(is_target)} target '
            'flags: give one flag a token'
        )
      packer.add(row, len(tokens))
      packer.fill(tokens, is_target)
  packer.marks[packer.starts] = False
  return batches.TextBatch(packer.tokens, packer.segment_ids, packer.marks)


def pack_rankings(
    lengths: Sequence[Sequence[int]],
    ranks: Sequence[Sequence[int]],
    read: Callable[[int], tuple[Tokens, Sequence[Tokens]]],
    rows: int,
    row_length: int,
    max_prompts: int,
    max_responses: int,
    pad_id: int,
    local: np.ndarray | None = None,
) -> batches.RankingBatch:
  """Ranked responses as a RankingBatch of M = `rows` packed rows.

  Args:
    lengths: of each ranking, the tokens of `prompt + response` of each of its
      responses.
    ranks: of each ranking.
    read: `read(b)` gives ranking b's prompt ids, with BOS, and the ids of each
      response, with its EOS; called only where a row of it is local.
    rows: packed rows, M.
    row_length: tokens of a row, T.
    max_prompts: B of the batch; those left over are masked.
    max_responses: K of the batch, at least that of any ranking.
    pad_id: the vocabulary's pad id.
    local: bool [rows], see the top of this file. What has B is whole anyway.

  Returns:
    The batch; each response is a segment `prompt + response`.

  Raises:
    ValueError: the rankings do not all fit.
  """
  _check_length('the batch', len(lengths), max_prompts, 'max_prompts')
  placed = first_fit(lengths, rows, row_length)
  _check_fit('rankings', len(placed), len(lengths), rows, row_length)

  packer = _Packer(rows, row_length, pad_id)
  shape_BK = (max_prompts, max_responses)
  end_BK, ranks_BK = np.zeros(shape_BK, np.int32), np.zeros(shape_BK, np.int32)
  mask_BK = np.zeros(shape_BK, bool)
  for b, chosen in enumerate(placed):
    count = len(chosen)
    _check_length(f'ranking {b}', count, max_responses, 'max_responses')
    here = local is None or local[chosen].any()
    prompt, responses = read(b) if here else ((), ())
    for k, row in enumerate(chosen):
      last = packer.add(row, lengths[b][k])
      end_BK[b, k] = row * row_length + last
      if here and (local is None or local[row]):
        tokens = np.concatenate([prompt, responses[k]]).astype(np.int32)
        packer.fill(tokens, np.arange(len(tokens)) >= len(prompt))
    ranks_BK[b, :count] = ranks[b]
    mask_BK[b, :count] = True
  return batches.RankingBatch(
      tokens_MT=packer.tokens,
      segment_ids_MT=packer.segment_ids,
      response_mask_MT=packer.marks,
      end_BK=end_BK,
      ranks_BK=ranks_BK,
      mask_BK=mask_BK,
  )


def check_lengths(
    what: str, groups: Sequence[Sequence[int]], rows: int, row_length: int
) -> None:
  """Raises unless every group fits into an empty batch.

  Otherwise packing would never end.
  """
  for index, lengths in enumerate(groups):
    if max(lengths) > row_length:
      raise DataError(
          f'{what} {index} has {max(lengths)} tokens but a row has '
          f'{row_length}: lower max_prompt_tokens or max_response_tokens, or '
          'lengthen the row'
      )
    if len(lengths) > 1 and not first_fit([lengths], rows, row_length):
      raise DataError(
          f'{what} {index} ({sum(lengths)} tokens) does not fit into {rows} '
          f'rows of {row_length}: raise rows'
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
    self._last = (0, slice(0))

  def add(self, row: int, length: int) -> int:
    """Makes room for a segment; returns the position of its last token."""
    start = self._used[row]
    end = start + length
    _check_length(f'row {row}', end, self.tokens.shape[1], 'row_length')
    self._used[row] = end
    self._segments[row] += 1
    self._last = row, slice(start, end)
    return end - 1

  def fill(self, tokens: Tokens, marks: Sequence[bool] | np.ndarray) -> None:
    """Writes the segment that was added last."""
    row, where = self._last
    self.tokens[row, where] = tokens
    self.segment_ids[row, where] = self._segments[row]
    self.marks[row, where] = marks
    self.starts[row, where.start : where.start + 1] = True


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
