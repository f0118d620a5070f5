# SPDX-License-Identifier: Apache-2.0
"""GPT-2's BPE against its algorithm."""

import functools
import gzip
import json

import pytest
import tensorflow as tf

from rlhf.data import vocabularies
from tests.data.vocabularies import texts


@pytest.fixture(scope='module')
def bpe(shared_data):
  return vocabularies.vocabulary(str(shared_data / 'gpt2_bpe'))


@pytest.fixture(scope='module')
def reference(shared_data):
  """The published algorithm, written again: byte letters, then merges."""
  regex = pytest.importorskip('regex')
  folder = shared_data / 'gpt2_bpe'
  ids = json.loads(gzip.decompress((folder / 'encoder.json.gz').read_bytes()))
  lines = gzip.decompress((folder / 'vocab.bpe.gz').read_bytes()).decode()
  pairs = [tuple(line.split()) for line in lines.split('\n')[1:] if line]
  rank = {pair: i for i, pair in enumerate(pairs)}
  # Printable bytes stand for themselves, the other 68 for U+0100 and on.
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in printable]
  letter = {b: chr(b) for b in printable}
  letter |= {b: chr(256 + n) for n, b in enumerate(others)}
  pattern = regex.compile(
      r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
      r'|\s+(?!\S)|\s+'
  )

  @functools.cache
  def merge(word):
    parts = [letter[b] for b in word.encode()]
    while len(parts) > 1:
      best = min(
          range(len(parts) - 1),
          key=lambda i: rank.get((parts[i], parts[i + 1]), 1 << 30),
      )
      if (parts[best], parts[best + 1]) not in rank:
        break
      parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [ids[part] for part in parts]

  return lambda text: [i for w in pattern.findall(text) for i in merge(w)]


def test_bpe_has_the_published_ids(bpe):
  assert bpe.encode('hello world') == [31373, 995]
  assert (bpe.eos_id, bpe.pad_id, bpe.vocab_size) == (50256, 50257, 50258)
  assert bpe.unk_id is None


@pytest.mark.parametrize('text', texts.ALL[:40])
def test_bpe_follows_the_published_algorithm(bpe, reference, text):
  ids = bpe.encode(text)
  assert ids == reference(text)
  assert bpe.decode(ids) == text
  assert bpe.eos_id not in ids, 'text must not be able to spell the EOS'


@pytest.mark.parametrize(
    'name',
    [
        'text/wikitext2_valid', 'text/gutenberg_books', 'oasst/demonstrations',
        'code_alpaca/demonstrations', 'hh_rlhf/harmless_base_rankings',
    ],
)  # fmt: skip
def test_real_text_follows_the_published_algorithm(
    bpe, reference, shared_data, name
):
  data = gzip.decompress((shared_data / f'{name}.jsonl.gz').read_bytes())
  # The lines of JSON themselves: as real, and with escapes.
  for line in data.decode().split('\n')[:24]:
    text = line[:4000]
    ids = bpe.encode(text)
    assert ids == reference(text)
    assert bpe.decode(ids).encode() == text.encode()


def test_bpe_decoding_skips_specials_and_survives_half_a_character(bpe):
  ids = bpe.encode('hello world')
  mixed = [50257, 50257, ids[0], 50256, ids[1], 50256, 50257, 60000]
  assert bpe.decode(mixed) == 'hello world'
  assert '\ufffd' in bpe.decode(bpe.encode('🦊')[:1])


def test_bpe_does_what_every_vocabulary_does(bpe):
  texts.check(bpe)
  lists = bpe.encode_tf(tf.constant(['hello world', '', ' world']))
  assert lists.to_list() == [[31373, 995], [], [995]]
  decoded = bpe.decode_tf(tf.constant([[31373, 995], [995, 50257]]))
  assert decoded.numpy().tolist() == [b'hello world', b' world']


def test_a_response_starts_a_new_token(bpe):
  prompt, response = '\n\nHuman: Hi?\n\nAssistant:', ' Yes, 12.'
  joined = bpe.encode(prompt + response)
  assert joined == bpe.encode(prompt) + bpe.encode(response)


def _folder(tmp_path, encoder=None, merges=None):
  if encoder is not None:
    (tmp_path / 'encoder.json').write_text(encoder)
  if merges is not None:
    (tmp_path / 'vocab.bpe').write_text(merges)
  return str(tmp_path)


def test_a_plain_folder_of_any_size_serves(tmp_path):
  ids = {'a': 0, 'b': 1, 'ab': 2, '<|endoftext|>': 3}
  folder = _folder(tmp_path, json.dumps(ids), '#version: 0.2\na b\n')
  small = vocabularies.gpt2_bpe(folder)
  assert small.encode('aba') == [2, 0]
  assert (small.eos_id, small.pad_id, small.vocab_size) == (3, 4, 5)


@pytest.mark.parametrize(
    ('encoder', 'merges', 'message'),
    [
        (None, 'a b', 'neither encoder.json nor encoder.json.gz'),
        ('{"a": 0}', None, 'neither vocab.bpe nor vocab.bpe.gz'),
        ('{"a": ', 'a b', 'encoder.json is not JSON'),
        ('[]', 'a b', 'encoder.json is not an object'),
        ('{"a": 0, "<|endoftext|>": 2}', '', 'must map 2 tokens'),
        ('{"a": 0, "b": 1}', '', 'must map 2 tokens'),
        ('{"a": 0}', '#version\na b\nabc', "line 3: 'abc' is not two tokens"),
    ],
)
def test_a_bad_folder_is_named(tmp_path, encoder, merges, message):
  folder = _folder(tmp_path, encoder, merges)
  with pytest.raises(ValueError, match=message):
    vocabularies.gpt2_bpe(folder)


def test_a_broken_gzip_is_named(tmp_path):
  (tmp_path / 'encoder.json.gz').write_bytes(gzip.compress(b'{}')[:-5])
  with pytest.raises(ValueError, match='encoder.json.gz cannot be read'):
    vocabularies.gpt2_bpe(str(tmp_path))
