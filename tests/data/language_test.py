# SPDX-License-Identifier: Apache-2.0
"""Shares of languages, by sentences whose language is known."""

import gzip
import json

import pytest

from rlhf.data import language

# 'Please explain to a child of ten how photosynthesis works.'
_SENTENCES = {
    'en': 'Please explain to a child of ten how photosynthesis works.',
    'fr': 'Expliquez à un enfant de dix ans comment marche la photosynthèse.',
    'de': 'Bitte erkläre einem zehnjährigen Kind, wie die Photosynthese geht.',
    'es': 'Por favor, explica a un niño de diez años qué es la fotosíntesis.',
    'it': 'Spiega a un bambino di dieci anni come funziona la fotosintesi.',
    'pt': 'Explique a uma criança de dez anos como funciona a fotossíntese.',
    'nl': 'Leg aan een kind van tien jaar uit hoe de fotosynthese werkt.',
    'pl': 'Proszę wyjaśnij dziesięcioletniemu dziecku, czym jest fotosynteza.',
    'ru': 'Пожалуйста, объясни ребёнку десяти лет, как работает фотосинтез.',
    'el': 'Εξηγήστε σε ένα δεκάχρονο παιδί πώς λειτουργεί η φωτοσύνθεση.',
    'ar': 'من فضلك اشرح لطفل في العاشرة من عمره كيف تعمل عملية التمثيل الضوئي.',
    'hi': 'कृपया दस साल के बच्चे को समझाएं कि प्रकाश संश्लेषण कैसे काम करता है।',
    'zh': '请向一个十岁的孩子解释光合作用是如何进行的。',
    'ja': '十歳の子供に光合成の仕組みを説明してください。',
    'ko': '열 살짜리 아이에게 광합성이 어떻게 작동하는지 설명해 주세요.',
}


@pytest.mark.parametrize('code', _SENTENCES)
def test_sentences(code):
  text = _SENTENCES[code]
  assert language.language(text) == code
  assert language.language(f'\n\nHuman: {text}\n\nAssistant:') == code
  # Whatever follows the first thousand characters.
  assert language.language(text * 40 + _SENTENCES['en'] * 999) == code


@pytest.mark.parametrize(
    'text',
    [
        '',
        ' \n',
        '1 + 1 = 2; 3 * 3 = 9; 17 / 5 = 3.4; 12345678901234567890',
        'Hi',
        'What is a dog, hm?',  # 12 letters.
        'Как дела?',  # 7 letters of two bytes.
        '今天天气',  # 4 letters of three bytes.
        '\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Yes\n\nAssistant:',
        '\ud800' * 40,
    ],
)
def test_texts_that_are_too_short(text):
  assert language.language(text) == 'unknown'


def test_length_is_in_bytes_of_letters():
  assert language.language('今天天气怎么样') == 'zh'  # 7 of 3 bytes.
  assert language.language('a b ' * 9 + 'a') == 'unknown'  # 19.
  assert language.language('a b ' * 9 + 'a b') != 'unknown'  # 20.


def test_shares_are_sorted_and_sum_to_one():
  texts = ['Hi', *[_SENTENCES['fr']] * 3, *[_SENTENCES['en']] * 5]
  texts += [_SENTENCES['de']]
  found = language.shares(texts)
  assert found == {
      'n': 10, 'shares': {'en': 0.5, 'fr': 0.3, 'de': 0.1, 'unknown': 0.1}
  }
  assert list(found['shares']) == ['en', 'fr', 'de', 'unknown']
  assert language.shares([]) == {'n': 0, 'shares': {}}


def test_the_sample_is_evenly_spaced_over_all_texts(monkeypatch):
  seen = []
  monkeypatch.setattr(language, 'language', lambda t: seen.append(t) or 'en')
  texts = [str(i) for i in range(1003)]
  assert language.shares(texts, most=10)['n'] == 10
  steps = [int(b) - int(a) for a, b in zip(seen, seen[1:], strict=False)]
  assert seen[0] == '0' and set(steps) <= {100, 101} and len(seen) == 10
  seen.clear()
  assert language.shares(texts)['n'] == len(texts)
  assert seen == texts
  with pytest.raises(ValueError, match='^most is 0: use 1 or more'):
    language.shares(texts, most=0)


@pytest.mark.parametrize(
    ('file', 'field'),
    [
        ('gsm8k/test', 'question'),
        ('self_instruct/seed_demonstrations', 'prompt'),
    ],
)
def test_real_prompts_are_english(shared_data, file, field):
  with gzip.open(shared_data / f'{file}.jsonl.gz', 'rt') as lines:
    texts = [json.loads(line)[field] for line in lines]
  found = language.shares(texts, most=150)['shares']
  assert found['en'] > 0.96
