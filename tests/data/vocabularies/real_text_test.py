# SPDX-License-Identifier: Apache-2.0
"""Real text: ids against another construction, and back byte for byte."""

import gzip
import json

import pytest
import tokenizers

from rlhf.data import vocabularies

_TEXTS = (
    'gutenberg_books', 'tiny_shakespeare', 'wikitext2_test', 'wikitext2_valid'
)  # fmt: skip
_CONVERSATIONS = (
    'hh_rlhf/harmless_base_rankings', 'oasst/rankings', 'oasst/demonstrations',
    'oasst/prompts', 'code_alpaca/demonstrations',
)  # fmt: skip


@pytest.fixture(scope='module')
def files(shared_data, tmp_path_factory):
  """A folder of GPT-2's files as others want them, by their usual names."""
  folder = tmp_path_factory.mktemp('gpt2')
  sources = {'vocab.json': 'encoder.json', 'merges.txt': 'vocab.bpe'}
  for name, source in sources.items():
    data = (shared_data / 'gpt2_bpe' / f'{source}.gz').read_bytes()
    (folder / name).write_bytes(gzip.decompress(data))
  return folder


@pytest.fixture(scope='module')
def oracle(files):
  """The tokenizers library's own GPT-2, which reads the files itself."""
  return tokenizers.ByteLevelBPETokenizer(
      str(files / 'vocab.json'), str(files / 'merges.txt')
  )


@pytest.fixture(scope='module')
def names(shared_data, files, oracle):
  """The three vocabularies that give back every text, by name."""
  oracle.save(str(files / 'tokenizer.json'))
  return [str(shared_data / 'gpt2_bpe'), str(files / 'tokenizer.json'), 'bytes']


def _rows(shared_data, name):
  data = gzip.decompress((shared_data / f'{name}.jsonl.gz').read_bytes())
  # Not splitlines: JSON strings may hold U+2028 and its like.
  return [json.loads(line) for line in data.decode().split('\n') if line]


def _check(drawn, names, oracle):
  """Every text: the oracle's ids, and itself again."""
  expected = [encoding.ids for encoding in oracle.encode_batch(drawn)]
  for name in names:
    vocabulary = vocabularies.vocabulary(name)
    for number, (text, ids) in enumerate(zip(drawn, expected, strict=True)):
      where = f'{name}, text {number}'
      found = vocabulary.encode(text)
      if name != 'bytes':
        assert found == ids, where
      assert vocabulary.decode(found) == text, where
      assert vocabulary.eos_id not in found, where
      assert vocabulary.pad_id not in found, where


def test_no_file_of_text_is_left_out(shared_data):
  found = {p.name.split('.')[0] for p in (shared_data / 'text').iterdir()}
  assert found == set(_TEXTS)


@pytest.mark.parametrize('name', _TEXTS)
def test_every_text_has_the_ids_of_gpt2_and_comes_back(
    shared_data, names, oracle, name
):
  drawn = [row['text'] for row in _rows(shared_data, f'text/{name}')]
  assert len(drawn) > 40
  _check(drawn, names, oracle)


@pytest.mark.parametrize('name', _CONVERSATIONS)
def test_prompts_and_responses_have_the_ids_of_gpt2_and_come_back(
    shared_data, names, oracle, name
):
  rows = _rows(shared_data, name)
  drawn = []
  for row in rows[:: max(1, len(rows) // 150)]:
    drawn += [row['prompt'], *row.get('responses', ())]
    drawn += [row['response']] if 'response' in row else []
  # The lines of JSON themselves as well, with escapes.
  drawn += [json.dumps(row) for row in rows[:20]]
  assert len(drawn) > 100
  _check(drawn, names, oracle)


def test_a_tokenizer_json_of_gpt2_is_gpt2_with_a_pad(names):
  gpt2, converted, _ = map(vocabularies.vocabulary, names)
  assert isinstance(converted, vocabularies.HuggingFaceVocabulary)
  assert (converted.eos_id, converted.bos_id, converted.pad_id) == (
      gpt2.eos_id, gpt2.bos_id, gpt2.pad_id
  )  # fmt: skip
  assert converted.vocab_size == gpt2.vocab_size == 50258
