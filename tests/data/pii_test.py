# SPDX-License-Identifier: Apache-2.0
"""Personal information by examples, chance hits by counting, and real text."""

import collections
import gzip
import json
import random
import string

import pytest

from rlhf.data import pii

# The numbers are the examples of their standards, registries and test suites;
# none is anyone's.
_POSITIVES = [
    ('email', 'joe@example.com'),
    ('email', "Joe.O'Brien+tag_1%x@mail-2.example.co.uk"),
    ('email', 'a@b.io'),
    ('email', 'jörg@bücher.example'),
    ('email', 'info@xn--bcher-kva.example'),
    ('email', 'x' * 64 + '@example.com'),
    ('phone', '(212) 555-0123'),
    ('phone', '212-555-0123'),
    ('phone', '212.555.0123'),
    ('phone', '1-800-555-0199'),
    ('phone', '+1 212 555 0123'),
    ('phone', '020 7946 0958'),
    ('phone', '02079460958'),
    ('phone', '07400 123456'),
    ('phone', '07400 123 456'),
    ('phone', '+44 (0)20 7946 0958'),
    ('phone', '+442079460958'),
    ('phone', '+33 1 42 68 53 00'),
    ('phone', '+91 98765 43210'),
    ('phone', '+81-3-3580-3311'),
    ('card', '4111111111111111'),
    ('card', '4111 1111 1111 1111'),
    ('card', '4111-1111-1111-1111'),
    ('card', '5555555555554444'),
    ('card', '2223003122003222'),
    ('card', '378282246310005'),
    ('card', '3782 822463 10005'),
    ('card', '3056 930902 5904'),
    ('card', '6011111111111117'),
    ('card', '3530111333300000'),
    ('card', '6200000000000005'),
    ('card', '4222222222222'),
    ('iban', 'GB29 NWBK 6016 1331 9268 19'),
    ('iban', 'GB29NWBK60161331926819'),
    ('iban', 'de89370400440532013000'),
    ('iban', 'FR14 2004 1010 0505 0001 3M02 606'),
    ('iban', 'NL91ABNA0417164300'),
    ('iban', 'MT84MALT011000012345MTLCAST001S'),
    ('iban', 'NO93 8601 1117 947'),
    ('ip', '93.184.216.34'),
    ('ip', '193.0.6.139'),
    ('ip', '2606:2800:220:1:248:1893:25c8:1946'),
    ('ip', '2620:fe::9'),
    ('national_id', '536-90-4399'),
    ('national_id', 'AB123456C'),
    ('national_id', 'AB 12 34 56 C'),
    ('national_id', '2 95 10 99 126 111 93'),
    ('national_id', '295109912611193'),
    ('national_id', '253072B07300470'),
    ('national_id', '54362315K'),
    ('national_id', '54362315-K'),
    ('national_id', 'X2482300W'),
    ('national_id', 'RCCMNL83S18D969H'),
    ('national_id', '36574261809'),
    ('national_id', '36 574 261 809'),
    ('national_id', '390.533.447-05'),
]


@pytest.mark.parametrize(
    'around', ['{}', 'It is {}.', '"{}", he said', 'x,{}\n']
)
@pytest.mark.parametrize(('kind', 'value'), _POSITIVES)
def test_found_at_its_place(kind, value, around):
  text = around.format(value)
  start = around.index('{')
  found = pii.find(text, [kind])
  assert found == [pii.Finding(kind, start, start + len(value))], text
  assert set(found) <= set(pii.find(text))


@pytest.mark.parametrize(
    ('kind', 'text', 'value'),
    [
        ('phone', 'Call 2125550123 now', '2125550123'),
        ('phone', 'my number is: 2125550123', '2125550123'),
        ('national_id', 'My NHS number is 943 476 5870.', '943 476 5870'),
        ('national_id', 'BSN: 111222333', '111222333'),
        ('ip', 'ssh root@ 63.45.67.89', '63.45.67.89'),
        ('ip', '63.45.67.89:8080 is up', '63.45.67.89'),
        ('ip', 'http://93.184.216.34/a', '93.184.216.34'),
        ('card', 'In 2024 4111 1111 1111 1111', '4111 1111 1111 1111'),
        ('iban', 'DE89 3704 0044 0532 0130 00 IS MY IBAN 12', None),
        ('email', "const x = 'joe@example.com';", 'joe@example.com'),
        ('email', 'mailto:joe@example.com?subject=x', 'joe@example.com'),
        ('email', '<joe@example.com>', 'joe@example.com'),
    ],
)
def test_found_by_what_is_around(kind, text, value):
  value = value or 'DE89 3704 0044 0532 0130 00'
  found = [text[f.start : f.end] for f in pii.find(text, [kind])]
  assert found == [value]


@pytest.mark.parametrize(
    'text',
    [
        '',
        'Meet me @ the corner. @joe, see a @ b, C@D and W@x.T',
        'icon@2x.png, react@18.2.0, https://example.com/@joe.doe',
        'git@github.com:owner/project.git and (A@B.mean())',
        # Wrong check digits.
        '4111111111111112, 4111 1111 1111 1112, 378282246310006',
        'GB29 NWBK 6016 1331 9268 18, DE89370400440532013001',
        '36574261890 and 231.002.999-00 and 2 95 10 99 126 111 99',
        '54362315Z, X2482300A, RCCMNL83S18D969A, NHS 9434765871',
        # Right ones, of no issuer, length or country.
        '9111111111111117, 1234567812345670, 0000000000000000',
        '41111111111111111, 4111111111111111111',
        'ZZ29NWBK60161331926819, GB29NWBK6016133192681',
        'QQ 12 34 56 C, GB123456A, AB123456E, ab123456c',
        '000-12-3456, 666-12-3456, 900-12-3456, 078-05-1120',
        '111.111.111-11',
        # Longer numbers, codes and fractions.
        'a4111111111111111, 4111111111111111b, 0.4111111111111111',
        '1536-90-4399, 536-90-43991, part-54362315K, 12.36574261809',
        # Prices, sums, dates, scores, book numbers, times, measures.
        '$1,234,567.89 plus 28980 - 18480 = 10500, <<28980-18480=10500>>',
        '2147483648, 1609459200, 1609459200000, 3.141592653589793',
        'From 2024-01-31 12:34:56 to 31/01/2024, 1990-1995, 2001 2002 2003',
        'ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, 0306406152, 10.1000/182',
        '5.02079460958 and UPC 036000291452',
        '(A) 371.587 + 46.32 - 217.907, 6-4, 7-5, 6-3; 21:15 and 10:20:30',
        '1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20',
        '2125550123 * 4155550123 = 8832777277265129',
        '911, 112, 999, 123-456-7890, (123) 456-7890',
        # Versions, sections, private and special addresses, code.
        'version 1.2.3.4, 1.3.6.1.4.1, Chrome/120.0.0.0, section 4.3.2.1',
        '192.168.1.1, 10.0.0.1, 172.16.0.1, 127.0.0.1, 0.0.0.0, 203.0.113.9',
        '255.255.255.255, 224.0.0.251, 256.1.1.1, 100.64.0.1, 8.8.8.8, 1.1.1.1',
        '::1, fe80::1, fd00::1, 2001:db8::1, ff02::1, std::dec, x[::2], a::b',
        '00:1b:44:11:3a:b7, 550e8400-e29b-41d4-a716-446655440000',
    ],
)
def test_not_found(text):
  assert [text[f.start : f.end] for f in pii.find(text)] == []


def test_kinds_regions_and_order():
  text = 'joe@example.com, 536-90-4399, joe@example.org'
  assert [f.kind for f in pii.find(text)] == ['email', 'national_id', 'email']
  assert [f.kind for f in pii.find(text, ['national_id'])] == ['national_id']
  assert pii.find(text, []) == []
  german = '030 901820'
  assert pii.find(german, ['phone']) == []
  assert len(pii.find(german, ['phone'], regions=['DE', 'US'])) == 1
  both = '+49 30 901820 or 212-555-0123'
  assert len(pii.find(both, ['phone'], regions=[])) == 1
  assert len(pii.find(both, ['phone'])) == 2
  with pytest.raises(ValueError, match="^kind is 'name': use one of email, "):
    pii.find('', ['email', 'name'])
  with pytest.raises(ValueError, match="^region is 'us': use ISO 3166"):
    pii.find('', regions=['us'])


# Kind, shape, draws, and the share that passes by counting: issuers' prefixes,
# one check digit of 10, one of 97 pairs, of 26 letters, of 11 remainders.
_ISSUED = 0.1 + 0.05 + 0.05 + 0.0361 + 0.0161 + 0.0062 + 0.01 + 0.0009
_SHAPES = [
    ('card', '0000000000000000', 4000, _ISSUED / 10),
    ('card', '0000 0000 0000 0000', 4000, _ISSUED / 10),
    ('iban', 'DE00000000000000000000', 6000, 1 / 97),
    ('national_id', '000-00-0000', 2000, 0.898 * 0.99 * 0.9999),
    ('national_id', 'AA 00 00 00 A', 4000, 373 / 26**2 * 4 / 26),
    ('national_id', '000000000000000', 20_000, 0.2 * 0.12 / 100),
    ('national_id', '00000000A', 4000, 1 / 26),
    ('national_id', 'X0000000A', 4000, 1 / 26),
    ('national_id', '000.000.000-00', 6000, 1 / 100),
    ('national_id', 'NHS 000 000 0000', 3000, 1 / 11),
    ('national_id', 'BSN 000000000', 3000, 1 / 11),
    # One digit twice, in 45 places, or thrice, in 120, and no other repeats:
    # 10! (45 / 1! + 120 / 2!) of 10**10. One in ten begins with 0.
    ('national_id', '00000000000', 20_000, 0.9 * 105 * 3628800e-10 / 10),
    # 12 letters are a month's; about 81 of 100 days are days, less a few.
    ('national_id', 'AAAAAA00A00A000A', 10_000, 12 / 26 * 0.8 / 26),
    # Measured: it follows the numbering plan, which changes.
    ('phone', '000-000-0000', 1000, 1 / 2.7),
]


@pytest.mark.parametrize(('kind', 'shape', 'draws', 'share'), _SHAPES)
def test_chance_hits(kind, shape, draws, share):
  rng = random.Random(shape)
  alphabets = {'0': string.digits, 'A': string.ascii_uppercase}
  hits = 0
  for _ in range(draws):
    text = ''.join(
        rng.choice(alphabets[c]) if c in alphabets else c for c in shape
    )
    hits += bool(pii.find(text, [kind]))
  deviation = (draws * share * (1 - share)) ** 0.5
  assert abs(hits - draws * share) < 4 * deviation + 1, (hits, draws * share)


def _texts(folder, file, field):
  with gzip.open(folder / f'{file}.jsonl.gz', 'rt', encoding='utf-8') as lines:
    return [json.loads(line)[field] for line in lines]


def test_encyclopedia_and_sums_hold_none(shared_data):
  texts = _texts(shared_data, 'text/wikitext2_test', 'text')
  texts += _texts(shared_data, 'gsm8k/train_demonstrations', 'prompt')
  texts += _texts(shared_data, 'gsm8k/train_demonstrations', 'response')
  assert sum(map(len, texts)) > 1_500_000
  found = [t[f.start : f.end] for t in texts for f in pii.find(t)]
  assert found == []


def test_dialogues_hold_what_was_read_there(shared_data):
  """Each was looked at: all are what they are called, or made up as such."""
  texts = _texts(shared_data, 'hh_rlhf/harmless_base_rankings', 'prompt')
  kinds = collections.Counter(
      kind for t in texts for kind in {f.kind for f in pii.find(t)}
  )
  assert kinds == {'email': 4, 'phone': 6}


def test_needs_no_tensorflow(fresh_python):
  code = 'from rlhf.data import hygiene, language, pii; import sys; '
  code += "print(*{'tensorflow', 'seqio', 'jax', 'py3langid'} & {*sys.modules})"
  assert fresh_python(code).split() == []
