# SPDX-License-Identifier: Apache-2.0
"""The miniature's words."""

import numpy as np
import pytest
import tensorflow as tf

from rlhf.data import vocabularies
from tests.data.vocabularies import texts

WORDS = vocabularies.WordVocabulary(['a', 'fox', ':', '.'])


def test_words_have_the_ids_after_the_specials():
  assert (WORDS.pad_id, WORDS.eos_id, WORDS.unk_id) == (0, 1, 2)
  assert WORDS.vocab_size == 7
  assert WORDS.encode('a fox  :\n.') == [3, 4, 5, 6]
  assert WORDS.encode('a wolf <eos>') == [3, 2, 2]
  assert WORDS.decode([0, 0, 3, 4, 1, 6, 1]) == 'a fox .'
  assert WORDS.decode(np.array([4, 2, 99])) == 'fox <unk> <unk>'


@pytest.mark.parametrize('text', ['a fox :', '', '  a\t\n b ', 'fox\xa0a', 'é'])
def test_words_encode_alike_in_tensorflow(text):
  ids = WORDS.encode_tf(tf.constant(text)).numpy().tolist()
  assert ids == WORDS.encode(text)


def test_random_text_encodes_alike_in_tensorflow():
  drawn = texts.ALL
  lists = WORDS.encode_tf(tf.constant(drawn)).to_list()
  assert lists == [WORDS.encode(text) for text in drawn]
  assert not {WORDS.pad_id, WORDS.eos_id} & {i for ids in lists for i in ids}


def test_words_in_tensorflow_take_lists_and_datasets():
  lists = WORDS.encode_tf(tf.constant(['a fox', '', ': x']))
  assert lists.to_list() == [[3, 4], [], [5, 2]]
  decoded = WORDS.decode_tf(tf.constant([[0, 3, 4, 1], [6, 1, 0, 0]]))
  assert decoded.numpy().tolist() == [b'a fox', b'.']
  dataset = tf.data.Dataset.from_tensor_slices(['a', 'fox a']).map(
      vocabularies.WordVocabulary(['a', 'fox']).encode_tf
  )
  assert [x.tolist() for x in dataset.as_numpy_iterator()] == [[3], [4, 3]]


def test_words_are_equal_by_their_words():
  assert WORDS == vocabularies.WordVocabulary(['a', 'fox', ':', '.'])
  assert WORDS != vocabularies.WordVocabulary(['a'])


@pytest.mark.parametrize('words', [['a', 'a'], ['a b'], ['']])
def test_unusable_words_are_refused(words):
  with pytest.raises(ValueError, match='must be distinct and hold no white'):
    vocabularies.WordVocabulary(words)
