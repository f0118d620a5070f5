# SPDX-License-Identifier: Apache-2.0
"""The two vocabularies: whole words, and the byte-pair encoding of GPT-2 and 3.

In both, pad and EOS are different ids: were they one, masking the padding would
hide the EOS from every loss. Which ids they are differs, so ask the vocabulary.
EOS also serves as BOS, as in GPT-2 and 3, where it stands between documents.

`decode` here skips pad and EOS and stops at neither (seqio's own stops at the
first EOS): where a response ends is the sampler's mask to say.
"""

import functools
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tokenizers


class WordVocabulary(seqio.Vocabulary):
  """Words between white space; ids 0 pad, 1 EOS, 2 unknown, then the words."""

  def __init__(self, words: Sequence[str]):
    super().__init__()
    repeated = sorted({w for w in words if words.count(w) > 1})
    unusable = [w for w in words if w.encode().split() != [w.encode()]]
    if repeated or unusable:
      raise ValueError(
          'words must be distinct and hold no white space; repeated: '
          f'{repeated}, unusable: {unusable}'
      )
    self.words = tuple(words)
    self._words_by_id = ('<pad>', '<eos>', '<unk>', *self.words)
    # As bytes, because TensorFlow splits at ASCII white space only, which is
    # what bytes.split does and str.split does not.
    self._ids = {w.encode(): i for i, w in enumerate(self.words, start=3)}

  @property
  def pad_id(self) -> int:
    return 0

  @property
  def eos_id(self) -> int:
    return 1

  @property
  def bos_id(self) -> int:
    return self.eos_id

  @property
  def unk_id(self) -> int:
    return 2

  @property
  def _base_vocab_size(self) -> int:
    return len(self._words_by_id)

  def _encode(self, s: str) -> list[int]:
    return [self._ids.get(word, self.unk_id) for word in s.encode().split()]

  def _decode(self, ids: Iterable[int]) -> str:
    specials = (self.pad_id, self.eos_id)
    return ' '.join(self._words_by_id[i] for i in ids if i not in specials)

  def decode(self, ids: Iterable[int]) -> str:
    """Ids as text; skips pad and EOS. An id of no word is `<unk>`."""
    size = self.vocab_size
    return self._decode(
        [i if 0 <= i < size else self.unk_id for i in _as_list(ids)]
    )

  @functools.cached_property
  def _table(self) -> tf.lookup.StaticHashTable:
    # Made outside of the tf.data function that first asks for it.
    with tf.init_scope():
      return tf.lookup.StaticHashTable(
          tf.lookup.KeyValueTensorInitializer(
              tf.constant(list(self._ids), tf.string),
              tf.constant(list(self._ids.values()), tf.int32),
          ),
          default_value=self.unk_id,
      )

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    words = tf.strings.split(s)
    if isinstance(words, tf.RaggedTensor):
      return words.with_flat_values(self._table.lookup(words.flat_values))
    return self._table.lookup(words)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return _decode_tf(self, ids)

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Ids [..., T] as strings [...]; skips pad and EOS."""
    return self._decode_tf(ids)

  def __eq__(self, other) -> bool:
    return isinstance(other, WordVocabulary) and other.words == self.words

  def __hash__(self) -> int:
    return hash(self.words)


class Gpt2Vocabulary(seqio.Vocabulary):
  """Byte-level BPE with the published ids; EOS `<|endoftext|>`, then a pad id.

  Any valid Unicode text goes through encode and decode unchanged, byte for
  byte. Text cannot spell the EOS: "<|endoftext|>" in it becomes seven ordinary
  tokens. Published are 50,257 ids (EOS is 50256); pad is one more (50257).
  """

  _EOS = '<|endoftext|>'

  def __init__(self, ids: dict[str, int], merges: list[tuple[str, str]]):
    """Takes encoder.json's mapping and the pairs of vocab.bpe, in order."""
    super().__init__()
    if sorted(ids.values()) != list(range(len(ids))) or self._EOS not in ids:
      raise ValueError(
          f'the encoder must map {len(ids)} tokens, {self._EOS} among them, to '
          f'the ids 0..{len(ids) - 1}: is encoder.json the published file?'
      )
    self._eos_id = ids[self._EOS]
    self._pad_id = len(ids)
    model = tokenizers.models.BPE(vocab=ids, merges=merges)
    self._tokenizer = tokenizers.Tokenizer(model)
    self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    self._tokenizer.decoder = tokenizers.decoders.ByteLevel()
    self._key = zlib.crc32(repr((sorted(ids.items()), merges)).encode())

  @property
  def pad_id(self) -> int:
    return self._pad_id

  @property
  def eos_id(self) -> int:
    return self._eos_id

  @property
  def bos_id(self) -> int:
    return self._eos_id

  @property
  def unk_id(self) -> None:
    return None  # Bytes leave nothing unknown.

  @property
  def _base_vocab_size(self) -> int:
    return self._pad_id + 1

  def _encode(self, s: str) -> list[int]:
    return self._tokenizer.encode(s).ids

  def _decode(self, ids: Iterable[int]) -> str:
    # Both specials have the two highest ids, and ids beyond them mean nothing.
    known = [i for i in ids if 0 <= i < self._pad_id and i != self._eos_id]
    return self._tokenizer.decode(known, skip_special_tokens=False)

  def decode(self, ids: Iterable[int]) -> str:
    """Ids as text; skips pad and EOS. Broken UTF-8 becomes U+FFFD."""
    return self._decode(_as_list(ids))

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

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return _decode_tf(self, ids)

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Ids [..., T] as strings [...]; skips pad and EOS."""
    return self._decode_tf(ids)

  def __eq__(self, other) -> bool:
    return isinstance(other, Gpt2Vocabulary) and other._key == self._key

  def __hash__(self) -> int:
    return self._key


def gpt2_bpe(folder: str) -> Gpt2Vocabulary:
  """Reads encoder.json and vocab.bpe, either of them gzipped or not.

  Raises:
    ValueError: a file is missing or is not what it should be; names it.
  """
  encoder = _read(folder, 'encoder.json')
  merges = []
  for number, line in enumerate(_read(folder, 'vocab.bpe').split('\n'), 1):
    if not line or line.startswith('#version'):
      continue
    pair = tuple(line.split(' '))
    if len(pair) != 2:
      raise ValueError(
          f'{folder}: vocab.bpe, line {number}: {line!r} is not two tokens '
          'with a space between: get the published vocab.bpe'
      )
    merges.append(pair)
  try:
    ids = json.loads(encoder)
  except json.JSONDecodeError as error:
    raise ValueError(
        f'{folder}: encoder.json is not JSON ({error}): get the published file'
    ) from error
  if not isinstance(ids, dict):
    raise ValueError(f'{folder}: encoder.json is not an object of token ids')
  return Gpt2Vocabulary(ids, merges)


@functools.lru_cache(maxsize=8)
def vocabulary(name: str) -> seqio.Vocabulary:
  """'miniature', or the folder of a GPT-2 byte-pair vocabulary."""
  if name == 'miniature':
    from rlhf.world import lexicon  # Only here: real runs need no world.

    return WordVocabulary(lexicon.WORDS)
  return gpt2_bpe(name)


def ragged(flat: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
  """Rows of `lengths` from their values one after another."""
  tensor_type: Any = tf.RaggedTensor  # The type stubs lack its constructors.
  return tensor_type.from_row_lengths(flat, lengths)


def _read(folder: str, name: str) -> str:
  for path in (os.path.join(folder, name), os.path.join(folder, name + '.gz')):
    if tf.io.gfile.exists(path):
      with tf.io.gfile.GFile(path, 'rb') as file:
        data = file.read()
      try:
        data = gzip.decompress(data) if path.endswith('.gz') else data
        return data.decode()
      except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        message = f'{path} cannot be read ({error}): copy it again'
        raise ValueError(message) from error
  raise ValueError(
      f'the vocabulary folder {folder!r} has neither {name} nor {name}.gz: '
      "name a folder with GPT-2's encoder.json and vocab.bpe, or 'miniature'"
  )


def _decode_tf(vocabulary: seqio.Vocabulary, ids: tf.Tensor) -> tf.Tensor:
  def decode(ids):
    rows = ids.reshape(-1, ids.shape[-1])
    texts = [vocabulary.decode(row).encode() for row in rows]
    return np.array(texts, object).reshape(ids.shape[:-1])

  return tf.numpy_function(decode, [ids], tf.string)


def _as_list(ids) -> list[int]:
  if isinstance(ids, (tf.Tensor, np.ndarray)):
    return np.asarray(ids).tolist()
  return [int(i) for i in ids]
