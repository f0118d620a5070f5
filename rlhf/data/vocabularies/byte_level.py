# SPDX-License-Identifier: Apache-2.0
"""Bytes as tokens: no files, any text, and long sequences."""

from collections.abc import Iterable

import tensorflow as tf

from rlhf.data.vocabularies import base

_FIRST = 3  # The id of byte 0.
# ByT5's ids for the gaps of span corruption. Nothing here makes them; they are
# counted so that its published embeddings fit.
_EXTRA_IDS = 125


class ByteVocabulary(base.TextVocabulary):
  """UTF-8 bytes with the ids of ByT5: 0 pad, 1 EOS, 2 unknown, 3 + byte.

  They are those of `seqio.ByteVocabulary`; 125 extra ids on top make 384 in
  all. EOS also serves as BOS. Any valid Unicode text goes through encode and
  decode unchanged, and none of it can spell an id below 3.
  """

  def __init__(self):
    super().__init__(
        size=_FIRST + 256,
        extra_ids=_EXTRA_IDS,
        pad_id=0,
        bos_id=None,
        eos_id=1,
        unk_id=2,
        digest=base.digest('bytes', {}),
    )

  def _encode(self, s: str) -> list[int]:
    return [_FIRST + byte for byte in s.encode()]

  def _decode(self, ids: Iterable[int]) -> str:
    known = bytes(i - _FIRST for i in ids if _FIRST <= i < _FIRST + 256)
    return known.decode(errors='replace')

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    if s.shape.rank == 0:
      return _FIRST + tf.cast(tf.io.decode_raw(s, tf.uint8), tf.int32)
    joined = tf.io.decode_raw(tf.strings.reduce_join(s), tf.uint8)
    lengths = tf.cast(tf.strings.length(s), tf.int64)
    return base.ragged(_FIRST + tf.cast(joined, tf.int32), lengths)
