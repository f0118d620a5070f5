# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models: those of T5 and mT5, Llama 1 and 2, and their kin."""

from collections.abc import Iterable

import sentencepiece

from rlhf.data.rows import DataError
from rlhf.data.vocabularies import base

_EOS_NAMES, _BOS_NAMES = ('</s>', '<eos>'), ('<s>', '<bos>')


class SentencePieceVocabulary(base.TextVocabulary):
  """A SentencePiece model with the model's own ids, and a pad that isn't EOS.

  Which ids: EOS, BOS, unknown and pad are those the model names. A model
  without BOS (T5: pad 0, EOS 1, unknown 2) begins with its EOS. A model without
  pad (Llama: unknown 0, BOS 1, EOS 2, pad -1), or whose pad is also its EOS,
  BOS or unknown, gets a control or unused piece that is named for padding, as
  '<pad>', if it has one, else one id after its last.

  Text cannot spell control pieces: "</s>" in it becomes ordinary pieces, or
  unknown ones. It can spell what the model calls user-defined.

  Does text come back unchanged? **Exactly** only from a model trained with
  the normalisation 'identity', remove_extra_whitespaces=False and byte_fallback
  (Llama's is such a one), and even there U+2581, which stands for the space
  inside of pieces, comes back as a space. Models such as T5's (nmt_nfkc or
  nfkc, no byte_fallback) turn compatibility characters into others (a 'fi'
  ligature into two letters), drop control characters, merge and strip white
  space (line breaks too), and show what they don't know as ' \\u2047 '.

  A model puts a space before a text and takes it off in decoding, each time:
  the ids of a prompt and then of a response are not those of the two as one.
  """

  def __init__(self, model: bytes, *, name: str = 'the model'):
    """Takes the bytes of a .model file, and what errors call it."""
    self._processor = _load(model, name)
    sp, size = self._processor, self._processor.vocab_size()
    eos_id = _special(sp, sp.eos_id(), _EOS_NAMES)
    if eos_id is None:
      raise DataError(
          f'{name}: no EOS (eos_id is {sp.eos_id()}, no control piece of '
          f'{_EOS_NAMES}): train the model with eos_id set'
      )
    bos_id, unk_id = _special(sp, sp.bos_id(), _BOS_NAMES), sp.unk_id()
    pad_id = base.choose_pad(
        None if sp.pad_id() < 0 else sp.pad_id(),
        (_control(sp, piece) for piece in base.PAD_NAMES),
        {bos_id, eos_id, unk_id},
        size,
    )
    super().__init__(
        size=max(size, pad_id + 1),
        pad_id=pad_id,
        bos_id=bos_id,
        eos_id=eos_id,
        unk_id=unk_id,
        digest=base.digest('sentencepiece', {'model': model}),
    )
    specials = {pad_id, self.bos_id, eos_id} - {size}
    names = {i: sp.id_to_piece(i) for i in specials}
    base.refuse_spelling(self, names, name)

  def _encode(self, s: str) -> list[int]:
    return self._processor.encode(s, out_type=int)

  def _decode(self, ids: Iterable[int]) -> str:
    return self._processor.decode(list(ids))


def load(path: str) -> SentencePieceVocabulary:
  """Reads a .model file.

  Raises:
    DataError: it is not a SentencePiece model, or has no EOS; names it.
  """
  return SentencePieceVocabulary(base.read(path), name=path)


def fingerprint(path: str) -> str:
  """Hex digest of a .model file."""
  return base.digest('sentencepiece', {'model': base.read(path)})


def _load(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
  message = f'{name} is not a SentencePiece model: copy it again'
  try:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  except (RuntimeError, ValueError) as error:
    raise DataError(f'{message} ({error})') from error
  if not model or not processor.vocab_size():
    raise DataError(f'{message} (it is empty)')
  return processor


def _special(
    sp: sentencepiece.SentencePieceProcessor, declared: int, names: Iterable
) -> int | None:
  if declared >= 0:
    return declared
  found = (_control(sp, name) for name in names)
  return next((i for i in found if i is not None), None)


def _control(
    sp: sentencepiece.SentencePieceProcessor, name: str
) -> int | None:
  """The id of a piece that text cannot spell, or None."""
  found = sp.piece_to_id(name)
  if sp.id_to_piece(found) != name:
    return None  # The library's answer is the unknown piece.
  return found if sp.is_control(found) or sp.is_unused(found) else None
