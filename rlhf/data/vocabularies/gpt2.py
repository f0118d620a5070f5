# SPDX-License-Identifier: Apache-2.0
"""The byte-pair encoding of GPT-2 and 3, from its two published files."""

import gzip
import json
import os
import zlib
from collections.abc import Iterable

import tensorflow as tf
import tokenizers

from rlhf.data.rows import DataError
from rlhf.data.vocabularies import base

_ENCODER, _MERGES = 'encoder.json', 'vocab.bpe'
FILES = tuple(n + end for n in (_ENCODER, _MERGES) for end in ('', '.gz'))


class Gpt2Vocabulary(base.TextVocabulary):
  """Byte-level BPE with the published ids; EOS `<|endoftext|>`, then a pad id.

  Any valid Unicode text goes through encode and decode unchanged, byte for
  byte. Text cannot spell the EOS: "<|endoftext|>" in it becomes seven ordinary
  tokens. Published are 50,257 ids (EOS is 50256); pad is one more (50257). EOS
  also serves as BOS, as it did in training, where it stands between documents.
  """

  _EOS = '<|endoftext|>'

  def __init__(self, ids: dict[str, int], merges: list[tuple[str, str]]):
    """Takes encoder.json's mapping and the pairs of vocab.bpe, in order."""
    if sorted(ids.values()) != list(range(len(ids))) or self._EOS not in ids:
      raise DataError(
          f'the encoder must map {len(ids)} tokens, {self._EOS} among them, to '
          f'the ids 0..{len(ids) - 1}: is encoder.json the published file?'
      )
    content = repr((sorted(ids.items()), merges)).encode()
    super().__init__(
        size=len(ids) + 1,
        pad_id=len(ids),
        bos_id=None,
        eos_id=ids[self._EOS],
        unk_id=None,  # Bytes leave nothing unknown.
        digest=base.digest('gpt2', {'content': content}),
    )
    model = tokenizers.models.BPE(vocab=ids, merges=merges)
    self._tokenizer = tokenizers.Tokenizer(model)
    self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    self._tokenizer.decoder = tokenizers.decoders.ByteLevel()

  def _encode(self, s: str) -> list[int]:
    return self._tokenizer.encode(s).ids

  def _decode(self, ids: Iterable[int]) -> str:
    return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def gpt2_bpe(folder: str) -> Gpt2Vocabulary:
  """Reads encoder.json and vocab.bpe, either of them gzipped or not.

  Raises:
    DataError: a file is missing or is not what it should be; names it.
  """
  encoder = _read(folder, _ENCODER)
  merges = []
  for number, line in enumerate(_read(folder, _MERGES).split('\n'), 1):
    if not line or line.startswith('#version'):
      continue
    pair = tuple(line.split(' '))
    if len(pair) != 2:
      raise DataError(
          f'{folder}: vocab.bpe, line {number}: {line!r} is not two tokens '
          'with a space between: get the published vocab.bpe'
      )
    merges.append(pair)
  try:
    ids = json.loads(encoder)
  except json.JSONDecodeError as error:
    raise DataError(
        f'{folder}: encoder.json is not JSON ({error}): get the published file'
    ) from error
  if not isinstance(ids, dict):
    raise DataError(f'{folder}: encoder.json is not an object of token ids')
  return Gpt2Vocabulary(ids, merges)


load = gpt2_bpe  # What each kind of vocabulary calls its reader.


def fingerprint(folder: str) -> str:
  """Hex digest of both files, the same whether they are gzipped or not."""
  files = {name: _read(folder, name).encode() for name in (_ENCODER, _MERGES)}
  return base.digest('gpt2', files)


def _read(folder: str, name: str) -> str:
  for path in (os.path.join(folder, name), os.path.join(folder, name + '.gz')):
    if tf.io.gfile.exists(path):
      data = base.read(path)
      try:
        data = gzip.decompress(data) if path.endswith('.gz') else data
        return data.decode()
      except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        message = f'{path} cannot be read ({error}): copy it again'
        raise DataError(message) from error
  raise DataError(
      f'the vocabulary folder {folder!r} has neither {name} nor {name}.gz: '
      "name a folder with GPT-2's encoder.json and vocab.bpe, or 'miniature'"
  )
