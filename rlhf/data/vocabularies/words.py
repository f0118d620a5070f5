# SPDX-License-Identifier: Apache-2.0
"""Whole words between white space: the vocabulary of the miniature."""

import functools
from collections.abc import Iterable, Sequence

import tensorflow as tf

from rlhf.data.rows import DataError
from rlhf.data.vocabularies import base


class WordVocabulary(base.TextVocabulary):
  """Words between white space; ids 0 pad, 1 EOS, 2 unknown, then the words.

  Decoding puts one space between words, so a text comes back unchanged if it
  has single spaces and known words only.
  """

  def __init__(self, words: Sequence[str]):
    repeated = sorted({w for w in words if words.count(w) > 1})
    unusable = [w for w in words if w.encode().split() != [w.encode()]]
    if repeated or unusable:
      raise DataError(
          'words must be distinct and hold no white space; repeated: '
          f'{repeated}, unusable: {unusable}'
      )
    self.words = tuple(words)
    self._words_by_id = ('<pad>', '<eos>', '<unk>', *self.words)
    super().__init__(
        size=len(self._words_by_id),
        pad_id=0,
        bos_id=None,
        eos_id=1,
        unk_id=2,
        digest=base.digest('words', {'words': '\n'.join(words).encode()}),
    )
    # As bytes, because TensorFlow splits at ASCII white space only, which is
    # what bytes.split does and str.split does not.
    self._ids = {w.encode(): i for i, w in enumerate(self.words, start=3)}

  def _encode(self, s: str) -> list[int]:
    return [self._ids.get(word, 2) for word in s.encode().split()]

  def _decode(self, ids: Iterable[int]) -> str:
    return ' '.join(self._words_by_id[i] for i in ids)

  def decode(self, ids: Iterable[int]) -> str:
    """Ids as text; skips pad and EOS. An id of no word is `<unk>`."""
    known = range(self.vocab_size)
    return super().decode([i if i in known else 2 for i in base.as_list(ids)])

  @functools.cached_property
  def _table(self) -> tf.lookup.StaticHashTable:
    # Made outside of the tf.data function that first asks for it.
    with tf.init_scope():
      return tf.lookup.StaticHashTable(
          tf.lookup.KeyValueTensorInitializer(
              tf.constant(list(self._ids), tf.string),
              tf.constant(list(self._ids.values()), tf.int32),
          ),
          default_value=2,
      )

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    words = tf.strings.split(s)
    if isinstance(words, tf.RaggedTensor):
      return words.with_flat_values(self._table.lookup(words.flat_values))
    return self._table.lookup(words)
