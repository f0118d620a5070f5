# SPDX-License-Identifier: Apache-2.0
"""A tokenizer.json, against the tokenizers library's own reading of it.

The files are trained here, small, and in the shape of public ones.
"""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from rlhf.data import vocabularies
from tests.data.vocabularies import texts

_CORPUS = ['hello world, the fox ate this text', 'end of </s> pad <pad>'] * 9
# Without '<', wide or not, no special token is spelled; the rest is below.
_UNSEEN = [t for t in texts.ALL if not {'<', '\uff1c'} & set(t)]


def _byte_level(special=('<|begin_of_text|>', '<|end_of_text|>')):
  """As Llama 3's: special tokens after the model's own."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.train_from_iterator(
      _CORPUS,
      trainers.BpeTrainer(
          vocab_size=280,
          initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
          show_progress=False,
      ),
  )
  made.add_special_tokens(list(special))
  return made


def _with_byte_fallback():
  """As Llama 2's: 3 special tokens, 256 bytes, then pieces with U+2581."""
  made = tokenizers.Tokenizer(
      models.BPE(byte_fallback=True, unk_token='<unk>', fuse_unk=True)
  )
  made.pre_tokenizer = pre_tokenizers.Metaspace(
      prepend_scheme='first', split=False
  )
  made.decoder = decoders.Sequence([
      decoders.Replace('\u2581', ' '), decoders.ByteFallback(),
      decoders.Fuse(), decoders.Strip(' ', 1, 0),
  ])  # fmt: skip
  reserved = ['<unk>', '<s>', '</s>', *(f'<0x{b:02X}>' for b in range(256))]
  made.train_from_iterator(
      _CORPUS[:1] * 9,
      trainers.BpeTrainer(
          vocab_size=300, special_tokens=reserved, show_progress=False
      ),
  )
  spec = json.loads(made.to_str())
  spec['added_tokens'] = spec['added_tokens'][:3]  # Bytes are not special.
  return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _unigram():
  """As T5's: pad 0, EOS 1, and special tokens among the model's pieces."""
  names = ['<pad>', '</s>', '<unk>', '\u2581', *'abcdefghijklmnoprstuwx</>']
  scores = [0.0, 0.0, 0.0, *(-3.0 - i / 10 for i in range(len(names) - 3))]
  pieces = [*zip(names, scores, strict=True), ('\u2581the', -2.0)]
  made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
  made.normalizer = normalizers.NFKC()
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Metaspace()
  made.add_special_tokens(['<pad>', '</s>', '<unk>', '<extra_id_0>'])
  return made


def _word_level():
  ids = {'[PAD]': 0, '[UNK]': 1, '[EOS]': 2, 'the': 3, 'fox': 4}
  made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token='[UNK]'))
  made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  made.add_special_tokens(['[PAD]', '[UNK]', '[EOS]'])
  return made


_MAKERS = (_byte_level, _with_byte_fallback, _unigram, _word_level)


def _write(folder, made, **configs):
  """tokenizer.json and configs in a folder; the former's path."""
  path = folder / 'tokenizer.json'
  spec = made if isinstance(made, dict) else json.loads(made.to_str())
  path.write_text(json.dumps(spec))
  for name, content in configs.items():
    (folder / f'{name}.json').write_text(json.dumps(content))
  return str(path)


def _ids(vocabulary):
  return vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id


@pytest.mark.parametrize('make', _MAKERS)
def test_ids_are_the_librarys_own(tmp_path, make):
  path = _write(tmp_path, make())
  vocabulary = vocabularies.vocabulary(path)
  oracle = tokenizers.Tokenizer.from_file(path)
  for text in _UNSEEN:
    ids = oracle.encode(text, add_special_tokens=False).ids
    assert vocabulary.encode(text) == ids
    known = oracle.decode(ids, skip_special_tokens=False)
    assert vocabulary.decode(ids) == known


@pytest.mark.parametrize('make', _MAKERS)
def test_it_does_what_every_vocabulary_does(tmp_path, make):
  texts.check(vocabularies.vocabulary(_write(tmp_path, make())))


def test_byte_level_text_comes_back_unchanged(tmp_path):
  vocabulary = vocabularies.vocabulary(_write(tmp_path, _byte_level()))
  for text in texts.ALL:
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_byte_fallback_text_comes_back_but_for_a_leading_space(tmp_path):
  vocabulary = vocabularies.vocabulary(_write(tmp_path, _with_byte_fallback()))
  for text in texts.ALL:
    came = vocabulary.decode(vocabulary.encode(text))
    assert came == text.removeprefix(' ')
  assert vocabulary.decode(vocabulary.encode('a\u2581b')) == 'a b'


@pytest.mark.parametrize(
    ('make', 'pad_bos_eos', 'size'),
    [
        (_byte_level, (282, 280, 281), 283),  # Pad is new.
        (_with_byte_fallback, (300, 1, 2), 301),
        (_unigram, (0, 1, 1), 31),  # No BOS.
        (_word_level, (0, 2, 2), 5),
    ],
)
def test_alone_it_goes_by_well_known_names(tmp_path, make, pad_bos_eos, size):
  vocabulary = vocabularies.vocabulary(_write(tmp_path, make()))
  assert _ids(vocabulary) == pad_bos_eos
  assert vocabulary.vocab_size == size


def _named(tmp_path, special, **configs):
  """Ids of pad, BOS and EOS, by their names; a new pad is 'new'."""
  path = _write(tmp_path, _byte_level(special), **configs)
  names = dict(enumerate(special, start=280))
  found = _ids(vocabularies.vocabulary(path))
  return tuple(names.get(i, 'new') for i in found)


def test_the_configs_beside_it_name_the_specials(tmp_path):
  special = ('<|endoftext|>', '<|im_end|>', '<|im_start|>', '</s>', '<s>')
  # As Qwen's: EOS ends a turn, there is no BOS, and the pad is declared.
  qwen = {
      'eos_token': {'content': '<|im_end|>', 'special': True},
      'bos_token': None,
      'pad_token': '<|endoftext|>',
  }
  found = _named(
      tmp_path,
      special,
      tokenizer_config=qwen,
      # Later files don't overrule it, though they name a BOS.
      special_tokens_map={'eos_token': '</s>', 'bos_token': '<s>'},
      config={'eos_token_id': 283, 'bos_token_id': 284, 'pad_token_id': 282},
  )
  assert found == ('<|endoftext|>', '<|im_end|>', '<|im_end|>')


@pytest.mark.parametrize('name', ['tokenizer_config', 'special_tokens_map'])
def test_each_config_serves(tmp_path, name):
  special = ('</s>', '<a>', '<b>', '<c>')
  names = {'eos_token': '<a>', 'bos_token': '<b>', 'pad_token': '<c>'}
  found = _named(tmp_path, special, **{name: names})
  assert found == ('<c>', '<b>', '<a>')


def test_ids_in_config_may_be_lists(tmp_path):
  # As Llama 3's: several tokens end a response; the first is meant.
  config = {'eos_token_id': [281, 282], 'bos_token_id': 280}
  found = _named(tmp_path, ('<x>', '<y>', '<z>'), config=config)
  assert found == ('new', '<x>', '<y>')


@pytest.mark.parametrize(
    ('special', 'declared', 'expected'),
    [
        (('</s>', '<s>'), '</s>', 'new'),
        (('</s>', '<s>'), '<s>', 'new'),
        (('</s>', '<s>'), None, 'new'),
        (('</s>', '<s>'), '<not there>', 'new'),
        (('</s>', '<s>', '<mine>'), '<mine>', '<mine>'),
        (('</s>', '<s>', '<pad>'), '</s>', '<pad>'),
        (('</s>', '<s>', '<|finetune_right_pad_id|>'), None,
         '<|finetune_right_pad_id|>'),
        (('</s>', '<s>', '<|endoftext|>'), None, '<|endoftext|>'),
        (('<s>', '<|endoftext|>'), None, 'new'),
    ],
)  # fmt: skip
def test_pad_is_neither_eos_nor_bos(tmp_path, special, declared, expected):
  config = {'pad_token': declared}
  assert _named(tmp_path, special, tokenizer_config=config)[0] == expected


def test_gemmas_html_tags_are_not_its_specials(tmp_path):
  made = _byte_level(('<pad>', '<eos>', '<bos>'))
  made.add_tokens(['<s>', '</s>'])
  vocabulary = vocabularies.vocabulary(_write(tmp_path, made))
  assert _ids(vocabulary) == (280, 282, 281)
  assert vocabulary.encode('</s>') == [284]
  assert vocabulary.decode([284]) == '</s>'


@pytest.mark.parametrize('make', _MAKERS)
def test_text_spells_no_special_token(tmp_path, make):
  path = _write(tmp_path, make())
  vocabulary = vocabularies.vocabulary(path)
  oracle = tokenizers.Tokenizer.from_file(path)
  added = oracle.get_added_tokens_decoder()
  for i, token in added.items():
    for text in (token.content, f'a {token.content} b', token.content * 2):
      assert i in oracle.encode(text, add_special_tokens=False).ids
      # What is unknown may well become the unknown token.
      assert i == vocabulary.unk_id or i not in vocabulary.encode(text)


def test_text_spells_no_eos_that_the_file_does_not_call_special(tmp_path):
  made = _byte_level(('<pad>',))
  made.add_tokens(['<stop>', '<tool>'])
  path = _write(tmp_path, made, tokenizer_config={'eos_token': '<stop>'})
  vocabulary = vocabularies.vocabulary(path)
  assert vocabulary.eos_id == 281 not in vocabulary.encode('<stop>')
  assert vocabulary.encode('<tool>') == [282], 'but other tokens it spells'


def test_whole_words_that_are_special_are_not_found(tmp_path):
  """Llama 3's `ignore_merges` looks a word up before it is cut into bytes."""
  spec = json.loads(_byte_level(('<|end_of_text|>',)).to_str())
  spec['model']['ignore_merges'] = True
  spec['model']['vocab']['</s'] = len(spec['model']['vocab'])
  spec['added_tokens'][0] |= {'id': 280, 'content': '</s'}
  config = {'eos_token': '</s'}
  path = _write(tmp_path, spec, tokenizer_config=config)
  assert tokenizers.Tokenizer.from_file(path).encode('</s').ids == [280]
  vocabulary = vocabularies.vocabulary(path)
  assert vocabulary.eos_id == 280 not in vocabulary.encode('</s')
  assert vocabulary.decode(vocabulary.encode('</s')) == '</s'


def test_templates_padding_and_truncation_of_the_file_are_off(tmp_path):
  made = _byte_level()
  made.post_processor = tokenizers.processors.TemplateProcessing(
      single='<|begin_of_text|> $A',
      special_tokens=[('<|begin_of_text|>', 280)],
  )
  made.enable_padding(length=64, pad_id=280, pad_token='<|begin_of_text|>')
  made.enable_truncation(max_length=8)
  vocabulary = vocabularies.vocabulary(_write(tmp_path, made))
  for text in ('a', 'a long text, longer than eight tokens for sure'):
    ids = vocabulary.encode(text)
    assert 280 not in ids and vocabulary.decode(ids) == text


def test_two_are_equal_by_what_they_hold(tmp_path):
  (tmp_path / 'b').mkdir()
  first = vocabularies.vocabulary(_write(tmp_path, _byte_level()))
  again = vocabularies.vocabulary(_write(tmp_path / 'b', _byte_level()))
  assert first is not again and first == again and hash(first) == hash(again)
  (tmp_path / 'c').mkdir()
  config = {'bos_token': None}
  path = _write(tmp_path / 'c', _byte_level(), tokenizer_config=config)
  assert vocabularies.vocabulary(path) != first


@pytest.mark.parametrize(
    ('special', 'configs', 'message'),
    [
        (('<x>',), {}, 'tokenizer_config.json with "eos_token" beside it'),
        (('<x>',), {'tokenizer_config': {'eos_token': None}}, 'which token is'),
        (('<x>',), {'tokenizer_config': {'eos_token': '<y>'}},
         "eos token is '<y>' in a file beside it, but"),
        (('</s>',), {'config': {'bos_token_id': 4000}}, 'bos token is 4000'),
        (('</s>',), {'config': {'eos_token_id': []}},
         r'config.json: the eos token is \[\]: use its text or its id'),
        (('</s>',), {'config': [1]}, 'config.json is not a JSON object'),
        (('</s>',), {'tokenizer_config': {'eos_token': 'he'}},
         "the text 'he' becomes the special token"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(
    tmp_path, special, configs, message
):
  made = _byte_level(special)
  assert made.token_to_id('he') is not None
  with pytest.raises(ValueError, match=message):
    vocabularies.vocabulary(_write(tmp_path, made, **configs))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"model": ', 'tokenizer.json is not JSON'),
        ('{"a": 0}', 'has no "model" with a "vocab"'),
        ('{"model": {"vocab": 3}}', 'is not a tokenizer.json that can be used'),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
  (tmp_path / 'tokenizer.json').write_text(content)
  with pytest.raises(ValueError, match=message):
    vocabularies.vocabulary(str(tmp_path))


def test_added_tokens_with_gaps_are_refused(tmp_path):
  spec = json.loads(_byte_level().to_str())
  spec['added_tokens'][1]['id'] += 5
  with pytest.raises(ValueError, match='has id 286 but would be read as 281'):
    vocabularies.vocabulary(_write(tmp_path, spec))
