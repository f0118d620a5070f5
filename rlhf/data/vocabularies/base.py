# SPDX-License-Identifier: Apache-2.0
"""What the vocabularies share: their ids, decoding, and work in TensorFlow."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from rlhf.data.rows import DataError

# Tokens that models reserve for padding, the likeliest first. The last stands
# between documents where another token ends a response.
PAD_NAMES = (
    '<pad>', '[PAD]', '<|pad|>', '<|finetune_right_pad_id|>', '<|endoftext|>'
)  # fmt: skip


class TextVocabulary(seqio.Vocabulary):
  """A seqio Vocabulary that decodes past EOS, whose pad is never its EOS.

  A subclass says how text becomes ids (`_encode`) and how ids that are tokens,
  none of them pad, BOS or EOS, become text (`_decode`). Attributes:

    digest: hex, equal for two vocabularies of a class that are the same.
  """

  def __init__(
      self,
      *,
      size: int,
      pad_id: int,
      bos_id: int | None,
      eos_id: int,
      unk_id: int | None,
      digest: str,
      extra_ids: int = 0,
  ):
    """Takes the ids; `size` counts them all but extra_ids. No BOS: the EOS."""
    super().__init__(extra_ids=extra_ids)
    self._size = size
    self._pad_id, self._eos_id, self._unk_id = pad_id, eos_id, unk_id
    self._bos_id = eos_id if bos_id is None else bos_id
    self.digest = digest
    if pad_id in (self._bos_id, self._eos_id):
      raise DataError(f'the pad id {pad_id} is also that of BOS or EOS')

  @property
  def pad_id(self) -> int:
    return self._pad_id

  @property
  def eos_id(self) -> int:
    return self._eos_id

  @property
  def bos_id(self) -> int:
    return self._bos_id

  @property
  def unk_id(self) -> int | None:
    return self._unk_id

  @property
  def _base_vocab_size(self) -> int:
    return self._size

  def decode(self, ids: Iterable[int]) -> str:
    """Ids [T] as text; skips pad, BOS, EOS and ids of no token.

    It stops at none of them, as seqio's own does at EOS: where a response ends
    is the sampler's mask to say. Broken UTF-8 becomes U+FFFD.
    """
    specials = (self.pad_id, self.bos_id, self.eos_id)
    size = self.vocab_size
    return self._decode(
        [i for i in as_list(ids) if 0 <= i < size and i not in specials]
    )

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    def encode(texts):
      ids = [self._encode(text.decode()) for text in np.ravel(texts)]
      flat = np.array([i for row in ids for i in row], np.int32)
      return flat, np.array([len(row) for row in ids], np.int64)

    flat, lengths = tf.numpy_function(encode, [s], (tf.int32, tf.int64))
    flat.set_shape([None])
    if s.shape.rank == 0:
      return flat
    lengths.set_shape([None])
    return ragged(flat, lengths)

  def encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    """A string as int32 ids [T], strings [N] as a ragged [N, T]; no EOS."""
    return self._encode_tf(s)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(ids):
      # Not -1: numpy can't tell the number of rows where there are no tokens.
      rows = ids.reshape(math.prod(ids.shape[:-1]), ids.shape[-1])
      texts = [self.decode(row).encode() for row in rows]
      return np.array(texts, object).reshape(ids.shape[:-1])

    texts = tf.numpy_function(decode, [ids], tf.string)
    texts.set_shape(ids.shape[:-1])
    return texts

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Ids [..., T] as strings [...], each as `decode` gives it."""
    return self._decode_tf(ids)

  def __eq__(self, other) -> bool:
    return type(other) is type(self) and other.digest == self.digest

  def __hash__(self) -> int:
    return hash(self.digest)


def choose_pad(
    declared: int | None, reserved: Iterable[int | None], taken: set, size: int
) -> int:
  """The pad id: the declared one, a reserved one, or else a new one.

  Args:
    declared: what the tokenizer calls its pad token; None if nothing.
    reserved: ids of unused tokens that could serve, the best first; or None.
    taken: ids that pad must not be: EOS and BOS, for the mask that hides
      padding would hide them too, and the unknown token, for text has those.
    size: the id after the last token's.
  """
  for candidate in (declared, *reserved):
    if candidate is not None and candidate not in taken:
      return candidate
  return size


def refuse_spelling(
    vocabulary: TextVocabulary, names: Mapping[int, str], path: str
) -> None:
  """Raises ValueError if text can spell pad, BOS or EOS.

  Args:
    vocabulary: whose `encode` is tried.
    names: how the tokens are written; an id without a name can't be spelled.
    path: what the error calls the vocabulary.
  """
  for i in (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id):
    name = names.get(i)
    if name is not None and i in vocabulary.encode(name):
      raise DataError(
          f'{path}: the text {name!r} becomes the special token {i}, so that '
          'data could end a response or hide as padding: use a vocabulary '
          'where ordinary pieces cannot make it up'
      )


def digest(kind: str, files: Mapping[str, bytes]) -> str:
  """SHA-256 of a kind of vocabulary and its files, in hex."""
  hasher = hashlib.sha256(kind.encode())
  for name, data in sorted(files.items()):
    # Lengths, so that bytes moved from a file to the next make a difference.
    hasher.update(f'\n{name} {len(data)}\n'.encode())
    hasher.update(data)
  return hasher.hexdigest()


def read(path: str) -> bytes:
  """The bytes of a file, which may be in an object store."""
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


def ragged(flat: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
  """Rows of `lengths` from their values one after another."""
  tensor_type: Any = tf.RaggedTensor  # The type stubs lack its constructors.
  return tensor_type.from_row_lengths(flat, lengths)


def as_list(ids: Any) -> list[int]:
  """Ids of any kind, tensors included, as a list of int."""
  if isinstance(ids, (tf.Tensor, np.ndarray)):
    return np.asarray(ids).tolist()
  return [int(i) for i in ids]
