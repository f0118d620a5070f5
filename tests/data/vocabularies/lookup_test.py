# SPDX-License-Identifier: Apache-2.0
"""Which vocabulary a name means, and when it has changed."""

import gzip
import io
import json

import pytest
import sentencepiece
import tokenizers

from rlhf.data import vocabularies
from rlhf.data.vocabularies import base

_ENCODER = json.dumps({'a': 0, 'b': 1, 'ab': 2, '<|endoftext|>': 3})


@pytest.fixture(scope='module')
def files():
  """A tiny file of each kind by its name."""
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['a b c']), model_writer=out, minloglevel=2,
      model_type='char', vocab_size=8, hard_vocab_limit=False,
  )  # fmt: skip
  ids = {'a': 0, 'b': 1, 'c': 2, '</s>': 3}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
  tokenizer.decoder = tokenizers.decoders.Fuse()
  return {
      'tokenizer.json': tokenizer.to_str().encode(),
      'encoder.json': _ENCODER.encode(),
      'encoder.json.gz': gzip.compress(_ENCODER.encode()),
      'vocab.bpe': b'#version: 0.2\na b\n',
      'vocab.bpe.gz': gzip.compress(b'#version: 0.2\na b\n'),
      'tokenizer.model': out.getvalue(),
      'spiece.model': out.getvalue(),
  }


@pytest.fixture
def put(tmp_path, files):
  """`put('a', names)` makes a folder 'a' of the files of those names."""

  def run(folder, names):
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in names.split():
      (tmp_path / folder / name).write_bytes(files[name])
    return str(tmp_path / folder)

  return run


def test_miniature_is_the_worlds_lexicon():
  from rlhf.world import lexicon

  vocabulary = vocabularies.vocabulary('miniature')
  assert vocabulary.words == lexicon.WORDS
  assert vocabulary is vocabularies.vocabulary('miniature')


_GPT2 = vocabularies.Gpt2Vocabulary
_HF = vocabularies.HuggingFaceVocabulary
_SP = vocabularies.SentencePieceVocabulary


@pytest.mark.parametrize(
    ('names', 'kind'),
    [
        ('tokenizer.json', _HF),
        ('encoder.json vocab.bpe', _GPT2),
        ('encoder.json.gz vocab.bpe', _GPT2),
        ('tokenizer.model', _SP),
        ('spiece.model', _SP),
        ('tokenizer.json encoder.json vocab.bpe tokenizer.model', _HF),
        ('encoder.json vocab.bpe.gz tokenizer.model', _GPT2),
    ],
)
def test_a_folder_is_what_it_holds_in_this_order(put, names, kind):
  folder = put('a', names)
  vocabulary = vocabularies.vocabulary(folder)
  assert type(vocabulary) is kind
  assert vocabulary is vocabularies.vocabulary(folder)
  assert vocabulary.decode(vocabulary.encode('aba')) == 'aba'
  assert vocabulary.pad_id not in (vocabulary.eos_id, vocabulary.bos_id)


@pytest.mark.parametrize(
    ('name', 'kind'),
    [('tokenizer.json', _HF), ('tokenizer.model', _SP), ('spiece.model', _SP)],
)
def test_a_file_serves_by_its_path(put, name, kind):
  path = f'{put("a", "tokenizer.json tokenizer.model spiece.model")}/{name}'
  assert type(vocabularies.vocabulary(path)) is kind


def test_what_is_no_vocabulary_says_what_was_looked_for(put, tmp_path):
  folder = put('empty', '')
  (tmp_path / 'notes.txt').write_text('')
  for name in (folder, f'{folder}/not', str(tmp_path / 'notes.txt'), ''):
    for function in (vocabularies.vocabulary, vocabularies.fingerprint):
      with pytest.raises(ValueError) as raised:
        function(name)
      message = str(raised.value)
      assert message.startswith(f'no vocabulary {name!r}: use ')
      for wanted in (
          "'miniature'", "'bytes'", 'tokenizer.json', 'encoder.json',
          'vocab.bpe', 'tokenizer.model', 'spiece.model',
      ):  # fmt: skip
        assert wanted in message
  with pytest.raises(ValueError, match='neither vocab.bpe nor vocab.bpe.gz'):
    vocabularies.vocabulary(put('half', 'encoder.json'))


_KINDS = ('tokenizer.json', 'encoder.json vocab.bpe', 'spiece.model')


def test_fingerprints_tell_vocabularies_apart(put):
  names = ['miniature', 'bytes', *(put(k.split('.')[0], k) for k in _KINDS)]
  found = [vocabularies.fingerprint(name) for name in names]
  assert len(set(found)) == len(names)
  assert found == [vocabularies.fingerprint(name) for name in names]
  assert all(int(digest, 16) >= 0 and len(digest) == 64 for digest in found)


@pytest.mark.parametrize('kind', _KINDS)
def test_a_fingerprint_goes_by_content_not_by_place(put, kind, tmp_path):
  first, again = put('a', kind), put('b', kind)
  digest = vocabularies.fingerprint(first)
  assert digest == vocabularies.fingerprint(again)
  changed = tmp_path / 'b' / kind.split()[-1]
  changed.write_bytes(changed.read_bytes() + b' ')
  assert digest != vocabularies.fingerprint(again)


def test_a_fingerprint_sees_the_configs_and_not_the_gzip(put, tmp_path):
  folder = put('a', 'tokenizer.json')
  digest = vocabularies.fingerprint(folder)
  assert digest == vocabularies.fingerprint(f'{folder}/tokenizer.json')
  (tmp_path / 'a' / 'config.json').write_text('{"eos_token_id": 2}')
  assert digest != vocabularies.fingerprint(folder)
  plain = vocabularies.fingerprint(put('plain', 'encoder.json vocab.bpe'))
  zipped = put('zipped', 'encoder.json.gz vocab.bpe.gz')
  assert plain == vocabularies.fingerprint(zipped)


def test_the_miniatures_fingerprint_is_that_of_its_words(monkeypatch):
  from rlhf.world import lexicon

  digest = vocabularies.fingerprint('miniature')
  monkeypatch.setattr(lexicon, 'WORDS', lexicon.WORDS[::-1])
  assert digest != vocabularies.fingerprint('miniature')


def test_a_digest_knows_where_a_file_ends():
  one = base.digest('kind', {'a': b'xy', 'b': b'z'})
  assert one == base.digest('kind', {'b': b'z', 'a': b'xy'})
  assert one != base.digest('kind', {'a': b'x', 'b': b'yz'})
  assert one != base.digest('other', {'a': b'xy', 'b': b'z'})


@pytest.mark.parametrize(
    ('declared', 'reserved', 'pad'),
    [(7, [], 7), (2, [8], 8), (1, [None, 2, 8], 8), (None, [0], 0), (2, [], 9)],
)
def test_pad_is_chosen_apart_from_what_is_taken(declared, reserved, pad):
  assert base.choose_pad(declared, reserved, {1, 2, None}, 9) == pad


def test_a_pad_that_is_eos_is_refused():
  class Wrong(vocabularies.ByteVocabulary):
    pass

  with pytest.raises(ValueError, match='pad id 1 is also that of BOS or EOS'):
    base.TextVocabulary.__init__(
        Wrong(), size=3, pad_id=1, bos_id=None, eos_id=1, unk_id=None, digest=''
    )
