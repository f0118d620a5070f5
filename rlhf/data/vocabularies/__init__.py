# SPDX-License-Identifier: Apache-2.0
"""Vocabularies: text as token ids and back, by the name in a config.

All are `seqio.Vocabulary`s. In each, pad and EOS are different ids: were they
one, masking the padding would hide the EOS from every loss. Which ids they are
differs, so ask the vocabulary. One that has no BOS uses its EOS, as GPT-2 and 3
do, where it stands between documents. Text cannot spell any of the three.

`decode` here skips pad, BOS and EOS and stops at none (seqio's own stops at the
first EOS): where a response ends is the sampler's mask to say.

`gpt2`, `huggingface`, `sentencepiece`, `byte_level` and `words` hold one kind
each and say how true to the text they are.
"""

import functools
import os

import seqio
import tensorflow as tf

from rlhf.data.rows import DataError
from rlhf.data.vocabularies import (
    base,
    byte_level,
    gpt2,
    huggingface,
    sentencepiece,
    words,
)
from rlhf.data.vocabularies.base import ragged
from rlhf.data.vocabularies.byte_level import ByteVocabulary
from rlhf.data.vocabularies.gpt2 import Gpt2Vocabulary, gpt2_bpe
from rlhf.data.vocabularies.huggingface import HuggingFaceVocabulary
from rlhf.data.vocabularies.sentencepiece import SentencePieceVocabulary
from rlhf.data.vocabularies.words import WordVocabulary

__all__ = [
    'ByteVocabulary',
    'Gpt2Vocabulary',
    'HuggingFaceVocabulary',
    'SentencePieceVocabulary',
    'WordVocabulary',
    'fingerprint',
    'gpt2_bpe',
    'ragged',
    'vocabulary',
]

# What a folder may hold, in the order in which it is looked for.
_IN_A_FOLDER = (
    (huggingface, ('tokenizer.json',)),
    (gpt2, gpt2.FILES),
    (sentencepiece, ('tokenizer.model', 'spiece.model')),
)


@functools.lru_cache(maxsize=8)
def vocabulary(name: str) -> seqio.Vocabulary:
  """The vocabulary of a name; the same object when asked again.

  Args:
    name: 'miniature', the words of `rlhf.world`; 'bytes'; a tokenizer.json or a
      SentencePiece .model file; or a folder with tokenizer.json, or with
      encoder.json and vocab.bpe (gzipped or not), or with tokenizer.model or
      spiece.model. Of several in a folder the first in this order counts.

  Raises:
    DataError: there is no such vocabulary, or its files are not right.
  """
  if name == 'miniature':
    return words.WordVocabulary(_miniature())
  if name == 'bytes':
    return byte_level.ByteVocabulary()
  kind, path = _find(name)
  return kind.load(path)


def fingerprint(name: str) -> str:
  """Hex digest of what a vocabulary is, to tell when cached ids are stale.

  It changes when a byte of the vocabulary's files does (for 'miniature', a
  word), and not with where they are. The files are read anew at each call.

  Args:
    name: as for `vocabulary`.

  Raises:
    DataError: there is no such vocabulary.
  """
  if name == 'miniature':
    return base.digest('words', {'words': '\n'.join(_miniature()).encode()})
  if name == 'bytes':
    return base.digest('bytes', {})
  kind, path = _find(name)
  return kind.fingerprint(path)


def _miniature() -> tuple[str, ...]:
  from rlhf.world import lexicon  # Only here: real runs need no world.

  return lexicon.WORDS


def _find(name: str):
  """The module that reads a vocabulary, and the file or folder to read."""
  gfile = tf.io.gfile
  if name and gfile.exists(name) and not gfile.isdir(name):
    if name.endswith('.json'):
      return huggingface, name
    if name.endswith('.model'):
      return sentencepiece, name
  elif name:
    for kind, files in _IN_A_FOLDER:
      for file in files:
        path = os.path.join(name, file)
        if gfile.exists(path):
          return kind, name if kind is gpt2 else path
  looked_for = ', '.join(file for _, files in _IN_A_FOLDER for file in files)
  raise DataError(
      f"no vocabulary {name!r}: use 'miniature', 'bytes', a tokenizer.json or "
      f'.model file, or a folder with one of {looked_for}'
  )
