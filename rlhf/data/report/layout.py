# SPDX-License-Identifier: Apache-2.0
"""A data set as a stage's batches: how full they are, and what is in them.

Batches are those of `streams`, made as a stage makes them. A few are written
out with specials as ⟨BOS⟩ and ⟨EOS⟩ and with what is learnt apart from what is
only read.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlhf.data import packing, streams

_ROW_TOKENS = 2048  # GPT-3's context, where nobody says otherwise.
_TEXT_ROWS = 64  # Rows of text that are counted at a time.


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a stage lays out its batches by. Attributes:

    row_tokens: tokens of a row; None: GPT-3's 2,048, or what the longest needs.
    rows: packed rows of a batch of rankings; None: as many as may be needed.
    max_prompts: prompts of such a batch, or of a batch of prompts.
    max_responses: of a ranking; None: what there is.
    prompt_lengths: that prompts are padded to; (): to the longest.
    pack: whether demonstrations share rows.
    separate_documents: whether documents of a row are apart.
    seed: of the order.
  """

  row_tokens: int | None = None
  rows: int | None = None
  max_prompts: int = 8
  max_responses: int | None = None
  prompt_lengths: tuple[int, ...] = ()
  pack: bool = True
  separate_documents: bool = False
  seed: int = 0


def batches(
    kind: str,
    examples: Sequence[Any],
    vocabulary: Any,
    layout: Layout,
    show: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """How a split's examples fill their batches, and the first few of them.

  Args:
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    examples: of one split, at least one.
    vocabulary: a seqio Vocabulary.
    layout: of the batches.
    show: how many to write out, from the batch of step 0.

  Returns:
    What is filled: `row_tokens`, `rows` (of an epoch), `fill` (the share of
    their positions that holds tokens) and `loss_tokens` (learnt, or of rankings
    scored). And examples: see `_text` and `_rankings`.

  Raises:
    ValueError: the examples do not fit the layout, as the stage would say it.
  """
  function = {
      'text': _text,
      'demonstrations': _demonstrations,
      'rankings': _rankings,
      'prompts': _prompts,
  }[kind]
  return function(examples, vocabulary, layout, show)


def runs(
    ids: np.ndarray, marks: np.ndarray, vocabulary: Any
) -> list[dict[str, Any]]:
  """A segment's tokens as text, cut where the mark changes.

  Args:
    ids: int [n].
    marks: bool [n], whether each is learnt.
    vocabulary: a seqio Vocabulary.

  Returns:
    [{'text', 'loss'}]: one after another they are the segment.
  """
  eos = int(vocabulary.eos_id)
  bos = int(vocabulary.bos_id)
  names = [_special(token, eos, bos, vocabulary.pad_id) for token in ids]
  if len(ids) and int(ids[0]) == bos:
    names[0] = '⟨BOS⟩'
  found: list[dict[str, Any]] = []
  start = 0  # Of the tokens since the last special one.
  for at, (name, mark) in enumerate(zip(names, marks.tolist(), strict=True)):
    last = at + 1 == len(names)
    if name:
      text, start = name, at + 1
    elif last or names[at + 1] or marks[at + 1] != mark:
      text = vocabulary.decode(ids[start : at + 1].tolist())
      before = _decoded_before(names, marks, start, at)
      if before > start:
        # What this run adds: words are joined by a space that neither has.
        head = vocabulary.decode(ids[start:before].tolist())
        if text.startswith(head):
          text = text[len(head) :]
        else:  # A character's bytes are in both.
          text = vocabulary.decode(ids[before : at + 1].tolist())
    else:
      continue  # Whole runs: a token may be a part of a character.
    if found and found[-1]['loss'] == mark:
      found[-1]['text'] += text
    else:
      found.append({'text': text, 'loss': mark})
  return found


def _decoded_before(names, marks, start: int, at: int) -> int:
  """Where the run of equal marks begins that ends at `at`, from `start` on."""
  while at > start and not names[at - 1] and marks[at - 1] == marks[at]:
    at -= 1
  return at


def _special(token: int, eos: int, bos: int, pad: int) -> str:
  return {bos: '⟨BOS⟩', eos: '⟨EOS⟩', pad: '⟨PAD⟩'}.get(int(token), '')


def _text(documents, vocabulary, layout: Layout, show: int):
  """{'pad', 'segments': [{'tokens', 'loss_tokens', 'runs'}]} a row."""
  eos = int(vocabulary.eos_id)
  bos = int(vocabulary.bos_id)
  separate = layout.separate_documents
  tokens = packing.joined(documents, bos, eos, separate=separate)
  stream = streams.TextStream(
      tokens,
      row_length=layout.row_tokens or _ROW_TOKENS,
      rows=_TEXT_ROWS,
      pad_id=vocabulary.pad_id,
      seed=layout.seed,
      bos_and_eos=(bos, eos) if separate else None,
  )
  facts = {
      'tokens': len(tokens),
      'row_tokens': stream.row_length,
      'rows': stream.count,
      'fill': 1.0,  # What is left over is dropped.
      'tokens_left_over': len(tokens) - stream.count * stream.row_length,
      'loss_tokens': sum(int(b.loss_mask_BT.sum()) for b in stream.once()),
  }
  batch = stream.take(0, min(show, stream.count)) if show else None
  return facts, _rows(batch, vocabulary)


def _demonstrations(demonstrations, vocabulary, layout: Layout, show: int):
  """{'pad', 'segments': [{'tokens', 'loss_tokens', 'runs'}]} a row."""
  lengths = [len(d.prompt_ids) + len(d.response_ids) for d in demonstrations]
  # A row a batch: rows come in this order whatever the batch.
  stream = streams.DemonstrationStream(
      demonstrations,
      rows=1,
      row_length=layout.row_tokens or max(_ROW_TOKENS, *lengths, 0),
      pad_id=vocabulary.pad_id,
      seed=layout.seed,
      pack=layout.pack,
  )
  rows = stream.steps_per_epoch
  facts = {
      'row_tokens': stream.row_length,
      'rows': rows,
      'fill': sum(lengths) / (rows * stream.row_length),
      'loss_tokens': sum(len(d.response_ids) for d in demonstrations),
  }
  shown = []
  for step in range(min(show, rows)):
    shown += _rows(stream.batch(step), vocabulary)
  return facts, shown


def _rows(batch: Any, vocabulary: Any) -> list[dict[str, Any]]:
  """Every row of a TextBatch, segment by segment."""
  if batch is None:
    return []
  shown = []
  for tokens, segment_ids, marks in zip(
      batch.tokens_BT, batch.segment_ids_BT, batch.loss_mask_BT, strict=True
  ):
    segments = []
    for number in range(1, int(segment_ids.max(initial=0)) + 1):
      here = segment_ids == number
      segments.append({
          'tokens': int(here.sum()),
          'loss_tokens': int(marks[here].sum()),
          'runs': runs(tokens[here], marks[here], vocabulary),
      })
    shown.append({'segments': segments, 'pad': int((segment_ids == 0).sum())})
  return shown


def _rankings(rankings, vocabulary, layout: Layout, show: int):
  """{'responses': [{'rank', 'tokens', 'row', 'position', 'scored', 'runs'}]} a
  prompt: `scored` is the token at `position` of `row`, where the reward is
  read, and in `runs` 'loss' marks the response."""
  lengths = [
      len(r.prompt_ids) + len(ids) for r in rankings for ids in r.responses_ids
  ]
  most = layout.max_responses or max(len(r.ranks) for r in rankings)
  stream = streams.RankingStream(
      rankings,
      # A row for each response holds whatever comes.
      rows=layout.rows or most * layout.max_prompts,
      row_length=layout.row_tokens or max(_ROW_TOKENS, *lengths, 0),
      max_prompts=layout.max_prompts,
      max_responses=most,
      pad_id=vocabulary.pad_id,
      seed=layout.seed,
  )
  batches_an_epoch = stream.steps_per_epoch
  rows = batches_an_epoch * stream.rows
  facts = {
      'row_tokens': stream.row_length,
      'rows': rows,
      'batches': batches_an_epoch,
      'prompts_a_batch': len(rankings) / batches_an_epoch,
      'fill': sum(lengths) / (rows * stream.row_length),
      'loss_tokens': len(lengths),
  }
  shown = _ranked(stream.batch(0), vocabulary)[:show] if show else []
  return facts, shown


def _ranked(batch: Any, vocabulary: Any) -> list[dict[str, Any]]:
  shown = []
  for ends, ranks, mask in zip(
      batch.end_BK, batch.ranks_BK, batch.mask_BK, strict=True
  ):
    responses = []
    for end, rank in zip(ends[mask], ranks[mask], strict=True):
      row, position = divmod(int(end), batch.tokens_MT.shape[1])
      segment_ids = batch.segment_ids_MT[row]
      here = segment_ids == segment_ids[position]
      tokens, marks = batch.tokens_MT[row], batch.response_mask_MT[row]
      one = np.array([position])
      scored = runs(tokens[one], marks[one], vocabulary)[0]['text']
      if int(tokens[position]) == int(vocabulary.eos_id):
        scored = '⟨EOS⟩'  # Which may be the BOS as well.
      responses.append({
          'rank': int(rank),
          'tokens': int(here.sum()),
          'row': row,
          'position': position,
          'scored': scored,
          'runs': runs(tokens[here], marks[here], vocabulary),
      })
    if responses:
      shown.append({'responses': responses})
  return shown


def _prompts(prompts, vocabulary, layout: Layout, show: int):
  """{'pad', 'segments': [...]} a prompt; padding comes first."""
  lengths = [len(p.ids) for p in prompts]
  stream = streams.PromptStream(
      prompts,
      batch_size=layout.max_prompts,
      lengths=layout.prompt_lengths or (max(lengths),),
      pad_id=vocabulary.pad_id,
      seed=layout.seed,
  )
  buckets = np.array(stream.lengths)
  homes = np.searchsorted(buckets, lengths)
  facts = {
      'row_tokens': int(buckets[-1]),
      'rows': len(prompts),
      'fill': sum(lengths) / int(buckets[homes].sum()),
      'prompts_by_length': {
          str(n): int((homes == i).sum()) for i, n in enumerate(buckets)
      },
      'loss_tokens': 0,
  }
  return facts, list(_padded(stream, vocabulary, min(show, len(prompts))))


def _padded(
    stream: streams.PromptStream, vocabulary: Any, show: int
) -> Iterable[dict[str, Any]]:
  if not show:
    return
  batch, _ = stream.batch(0)
  for tokens, mask in itertools.islice(
      zip(batch.tokens_BP, batch.mask_BP, strict=True), show
  ):
    ids = tokens[mask]
    text = runs(ids, np.zeros(len(ids), bool), vocabulary)
    segment = {'tokens': len(ids), 'loss_tokens': 0, 'runs': text}
    yield {'segments': [segment], 'pad': int((~mask).sum())}
