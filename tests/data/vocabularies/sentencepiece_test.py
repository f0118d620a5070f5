# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models, against the library's own reading of them."""

import io

import pytest
import sentencepiece

from rlhf.data import vocabularies
from tests.data.vocabularies import texts

_CORPUS = ['hello world, the fox ate this text', 'and </s> and <pad> too'] * 9
_T5 = {
    'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, 'vocab_size': 60,
    'model_type': 'unigram', 'hard_vocab_limit': False,
}  # fmt: skip
_LLAMA = {
    'unk_id': 0, 'bos_id': 1, 'eos_id': 2, 'pad_id': -1, 'vocab_size': 320,
    'model_type': 'bpe', 'byte_fallback': True,
    'normalization_rule_name': 'identity', 'remove_extra_whitespaces': False,
}  # fmt: skip


def _train(**options):
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(_CORPUS),
      model_writer=out,
      minloglevel=2,
      **options,
  )
  return out.getvalue()


@pytest.fixture(scope='module')
def models():
  return {'t5': _train(**_T5), 'llama': _train(**_LLAMA)}


@pytest.fixture(scope='module')
def t5(models):
  return vocabularies.SentencePieceVocabulary(models['t5'])


@pytest.fixture(scope='module')
def llama(models):
  return vocabularies.SentencePieceVocabulary(models['llama'])


@pytest.mark.parametrize('name', ['t5', 'llama'])
def test_ids_and_texts_are_the_librarys_own(tmp_path, models, name):
  path = tmp_path / 'any.model'
  path.write_bytes(models[name])
  vocabulary = vocabularies.vocabulary(str(path))
  oracle = sentencepiece.SentencePieceProcessor(model_file=str(path))
  for text in texts.ALL:
    ids = vocabulary.encode(text)
    assert ids == oracle.encode(text)
    assert vocabulary.decode(ids) == oracle.decode(ids)


def test_they_do_what_every_vocabulary_does(t5, llama):
  texts.check(t5)
  texts.check(llama)


def test_t5_begins_with_its_eos(t5):
  assert (t5.pad_id, t5.bos_id, t5.eos_id, t5.unk_id) == (0, 1, 1, 2)
  assert t5.decode(t5.encode('the fox ate')) == 'the fox ate'
  # The test's own words for what the docstring warns of.
  assert t5.decode(t5.encode(' the   fox\n')) == 'the fox'
  assert t5.decode(t5.encode('東')) == ' \u2047 '


def test_llama_gets_a_pad_after_its_last_id(llama):
  assert (llama.unk_id, llama.bos_id, llama.eos_id) == (0, 1, 2)
  assert (llama.pad_id, llama.vocab_size) == (320, 321)


def test_bytes_bring_any_text_back(llama):
  for text in texts.ALL:
    assert llama.decode(llama.encode(text)) == text
  assert 3 + 0xF0 in llama.encode('🦊'), 'bytes stand after the specials'
  assert llama.decode(llama.encode('a\u2581b')) == 'a b'


@pytest.mark.parametrize('text', ['</s>', '<s>', '<pad>', '<unk>', '<0x0A>'])
def test_text_spells_no_control_piece(llama, t5, text):
  for vocabulary in (llama, t5):
    ids = vocabulary.encode(f'{text} x {text}{text}')
    assert {vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id}.isdisjoint(
        ids
    )
  assert llama.decode(llama.encode(text)) == text
  assert llama.unk_id not in llama.encode(text)


@pytest.mark.parametrize(
    ('options', 'pad'),
    [
        ({'control_symbols': ['<x>', '<pad>']}, 4),
        ({'control_symbols': ['<x>']}, 'new'),
        # Text may spell this one, so that it is no padding.
        ({'user_defined_symbols': ['<pad>']}, 'new'),
        ({'pad_id': 3}, 3),
        ({'bos_id': -1, 'eos_id': 1, 'control_symbols': ['<pad>']}, 2),
    ],
)
def test_a_reserved_pad_is_used(options, pad):
  vocabulary = vocabularies.SentencePieceVocabulary(_train(**_LLAMA | options))
  assert vocabulary.pad_id == (320 if pad == 'new' else pad)
  assert vocabulary.vocab_size == (321 if pad == 'new' else 320)
  assert vocabulary.pad_id not in vocabulary.encode('<pad>')


def test_a_model_without_eos_is_refused(models, tmp_path):
  path = tmp_path / 'spiece.model'
  path.write_bytes(_train(**_LLAMA | {'eos_id': -1}))
  with pytest.raises(ValueError, match=r'spiece.model: no EOS \(eos_id is -1'):
    vocabularies.vocabulary(str(tmp_path))
  # An EOS that text spells is none to the library either.
  path = tmp_path / 'own.model'
  path.write_bytes(_train(**_LLAMA | {'user_defined_symbols': ['</s>']}))
  with pytest.raises(ValueError, match='own.model: no EOS'):
    vocabularies.vocabulary(str(path))


@pytest.mark.parametrize('data', [b'', b'not a model', None])
def test_a_broken_file_is_named(tmp_path, models, data):
  path = tmp_path / 'tokenizer.model'
  path.write_bytes(models['llama'][:-9] if data is None else data)
  with pytest.raises(ValueError, match='tokenizer.model is not a Sentence'):
    vocabularies.vocabulary(str(path))


def test_two_are_equal_by_their_model(models, t5, llama):
  assert vocabularies.SentencePieceVocabulary(models['t5']) == t5 != llama
