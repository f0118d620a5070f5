# SPDX-License-Identifier: Apache-2.0
"""Texts that vocabularies get wrong, and what is asked of every vocabulary."""

import random

import numpy as np
import tensorflow as tf

HARD = [
    'hello world',
    " I'll  say it's\n\n\tok...   ",
    'Ünïcödé 東京 🦊 \u200d \u2028\x00\r\n',
    'e\u0301 \u00e9 \ufb01 \uff1c/s\uff1e \u3000 \ufeff \ufffd \U0010ffff',
    'def f(x):\n    return x**2  # 3.14159',
    '<|endoftext|> and <|endoftext|></s><s><pad><unk>[PAD]<0x0A>',
    ' ',
    '',
]

_ALPHABETS = [
    lambda rng: chr(rng.randrange(128)),
    lambda rng: rng.choice(' \n\t\r\xa0\u3000\u2028'),
    lambda rng: chr(rng.randrange(0x2000)),
    lambda rng: chr(rng.randrange(0x4E00, 0xA000)),
    lambda rng: rng.choice('🦊👩\u200d🚀🏽\ufe0f'),
    lambda rng: chr(rng.randrange(0xE000, 0x110000)),
    lambda rng: rng.choice(HARD),
]


def mixed(count: int, seed: int = 0) -> list[str]:
  """Random Unicode texts of up to 24 characters or hard pieces; no U+2581."""
  rng = random.Random(seed)
  drawn = [
      ''.join(rng.choice(_ALPHABETS)(rng) for _ in range(rng.randrange(24)))
      for _ in range(count)
  ]
  return [text.replace('\u2581', '_') for text in drawn]


ALL = [*HARD, *mixed(300)]


def check(vocabulary, texts=None) -> None:
  """What holds for every vocabulary, whatever its tokens are."""
  texts = texts or ALL[:60]
  pad, bos, eos = vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id
  assert pad not in (bos, eos), 'padding and its mask would hide the EOS'
  assert {pad, bos, eos} <= set(range(vocabulary.vocab_size))
  for text in texts:
    ids = vocabulary.encode(text)
    assert {pad, bos, eos}.isdisjoint(ids), f'{text!r} spells a special token'
    assert all(0 <= i < vocabulary.vocab_size for i in ids)
    alike = vocabulary.encode_tf(tf.constant(text))
    assert alike.dtype == tf.int32 and alike.numpy().tolist() == ids
    plain = vocabulary.decode(ids)
    half = len(ids) // 2
    dotted = [pad, bos, *ids[:half], eos, pad, *ids[half:], eos]
    assert vocabulary.decode([*dotted, -1, vocabulary.vocab_size + 5]) == plain
    assert vocabulary.decode(np.array(dotted)) == plain
    assert vocabulary.decode_tf(tf.constant(dotted)).numpy().decode() == plain

  together = vocabulary.encode_tf(tf.constant(list(texts)))
  assert together.to_list() == [vocabulary.encode(text) for text in texts]
  padded = together.to_tensor(default_value=pad)
  decoded = vocabulary.decode_tf(padded).numpy().tolist()
  expected = [vocabulary.decode(vocabulary.encode(text)) for text in texts]
  assert [text.decode() for text in decoded] == expected
  assert vocabulary.decode_tf(tf.zeros([2, 0], tf.int32)).shape == [2]
  # Shapes are known in a tf.data pipeline as well, where batching needs them.
  dataset = tf.data.Dataset.from_tensor_slices(['a', 'b a'])
  for text, ids in zip(
      ['a', 'b a'], dataset.map(vocabulary.encode_tf), strict=True
  ):
    assert ids.numpy().tolist() == vocabulary.encode(text)
