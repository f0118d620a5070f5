# SPDX-License-Identifier: Apache-2.0
"""Bytes as tokens, against seqio's own."""

import seqio
import tensorflow as tf

from rlhf.data import vocabularies
from tests.data.vocabularies import texts

BYTES = vocabularies.vocabulary('bytes')


def test_bytes_have_the_ids_of_byt5():
  theirs = seqio.ByteVocabulary(extra_ids=125)
  assert BYTES.vocab_size == theirs.vocab_size == 384
  assert (BYTES.pad_id, BYTES.eos_id, BYTES.unk_id) == (0, 1, 2)
  assert (theirs.pad_id, theirs.eos_id, theirs.unk_id) == (0, 1, 2)
  assert BYTES.bos_id == BYTES.eos_id
  assert BYTES.encode('aé') == [3 + 97, 3 + 0xC3, 3 + 0xA9]
  for text in texts.ALL:
    ids = BYTES.encode(text)
    assert ids == theirs.encode(text) == [3 + byte for byte in text.encode()]
    assert BYTES.decode(ids) == theirs.decode(ids) == text


def test_bytes_do_what_every_vocabulary_does():
  texts.check(BYTES)


def test_bytes_decode_what_is_not_utf8():
  fox = BYTES.encode('🦊')
  assert BYTES.decode(fox[:3]) == '\ufffd'
  assert BYTES.decode([3 + 0xFF, *BYTES.encode('a'), fox[0]]) == '\ufffda\ufffd'
  # Unknown, and the ids beyond the bytes, are no text.
  assert BYTES.decode([2, 3 + 97, 3 + 256, 383]) == 'a'
  two = BYTES.decode_tf(tf.constant([fox[:2] + [1], [100, 1, 101]]))
  assert two.numpy().tolist() == ['\ufffd'.encode(), b'ab']


def test_bytes_are_equal_by_what_they_are():
  assert vocabularies.ByteVocabulary() == BYTES
  assert vocabularies.WordVocabulary(['a']) != BYTES
  assert len({vocabularies.ByteVocabulary(), BYTES}) == 1
