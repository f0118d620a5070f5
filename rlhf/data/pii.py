# SPDX-License-Identifier: Apache-2.0
r"""Personal information in a text that has a form of its own.

The paper filters prompts with personally identifying information from its
training split (Ouyang et al. 2022, section 3.2), and does not say how. Here a
pattern proposes and a rule decides: a checksum, a numbering plan or a strict
format, so that sums, scores, dates and book numbers stay. What is found:

  email        name@domain.tld, of examples too; not file names such as
               icon@2x.png, nor git@host:path
  phone        what libphonenumber calls valid: with + and a country code from
               anywhere, without from `regions`, and then grouped as people
               there write it, or after a word such as 'phone', or 11 digits
               that begin with 0, as no quantity does
  card         13 to 19 digits in a block or in a card's groups, of a known
               issuer and its length, with a right Luhn digit
  iban         with right check digits, of the country's length and structure
  ip           global addresses. Private, loopback, documentation and other
               special ranges say nothing about a person; nor do the public
               resolvers. Four numbers below 100, such as 1.2.3.4, are a version
               or a section unless 'IP', 'server' and the like stands before
               or :port or /bits after them; 2 % of addresses look so
  national_id  see below

One in how many random strings of the right shape passes (measured by
tests/data/pii_test.py), and what the shape is:

  card         37    16 digits, in a block or 4-4-4-4
  iban         97    a country's letters and length, digits where it has digits
  phone        2.7   000-000-0000, with region US; no checksum
  US SSN       1.1   000-00-0000, hence with its dashes only; no checksum
  GB NINO      12    AA 00 00 00 A; no checksum
  FR NIR       4200  15 digits; Corsica's have a letter
  ES DNI, NIE  26    00000000A, X0000000A
  IT codice    70    AAAAAA00A00A000A
  DE IdNr      290   11 digits
  BR CPF       100   000.000.000-00, hence with its points only
  GB NHS       11    10 digits; hence after 'NHS' only
  NL BSN       11    9 digits; hence after 'BSN' only

A list of numbers of four digits may hold a card's, then.

Not found: names, street addresses, birth dates, accounts without an address,
passport and driving licence numbers, the national numbers of other countries
(where, as in India's and Canada's, one in ten number passes), and anything that
is spelled out or disguised. This is hygiene, and no guarantee. (Recognisers of
names, such as Presidio's, need a language model, and still miss.)
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import phonenumbers
from phonenumbers import Leniency
from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.us import ssn

KINDS = ('email', 'phone', 'card', 'iban', 'ip', 'national_id')

# Where a number without a country code is looked up. English prompts (the
# paper's are 96 % English) come from here mostly, and both have plans of ten
# digits with known beginnings. Plans of seven or fewer (DE, AU) or with few
# closed beginnings (IN) take sums and prices for numbers.
REGIONS = ('US', 'GB')

_Span = tuple[int, int]


class Finding(NamedTuple):
  """text[start:end] is of `kind`, one of `KINDS`."""

  kind: str
  start: int
  end: int


def find(
    text: str,
    kinds: Sequence[str] = KINDS,
    *,
    regions: Sequence[str] = REGIONS,
) -> list[Finding]:
  """What the top of this file says of a text, by where it starts.

  Findings of different kinds may overlap. Per 1,000 characters it
  takes about 0.1 milliseconds of prose, 0.3 of worked sums, and 20 of nothing
  but numbers.

  Args:
    text: any string.
    kinds: those to look for, of `KINDS`.
    regions: ISO 3166 codes, such as 'US', for phone numbers that are written
      without a country code.

  Raises:
    ValueError: an unknown kind or region.
  """
  for kind in kinds:
    if kind not in KINDS:
      raise ValueError(f'kind is {kind!r}: use one of {", ".join(KINDS)}')
  for region in regions:
    if region not in phonenumbers.SUPPORTED_REGIONS:
      raise ValueError(
          f'region is {region!r}: use ISO 3166 codes in capitals, such as US'
      )
  found = set()
  has_digit = _DIGIT.search(text) is not None
  for kind in kinds:
    if kind == 'email':
      spans = _emails(text)
    elif not has_digit:
      continue
    elif kind == 'phone':
      spans = _phones(text, regions)
    else:
      spans = _FINDERS[kind](text)
    found.update(Finding(kind, *span) for span in spans)
  return sorted(found, key=lambda f: (f.start, f.end, f.kind))


_DIGIT = re.compile(r'\d')

# Of RFC 5322's characters those that are no quotes or brackets around one.
_LOCAL = re.compile(r"\w[\w%&'+~-]*(?:\.[\w%&'+~-]+)*\Z")
_DOMAIN = re.compile(
    r'(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}([^\W\d_]{2,63}|xn--[\w-]+)'
    r'(?![\w-]|\.\w|\()'
)
# icon@2x.png and the like are files.
_FILES = frozenset('gif jpeg jpg json js pdf png py svg ts txt webp'.split())


def _emails(text: str) -> Iterator[_Span]:
  at = text.find('@')
  while at >= 0:
    # Outwards from the @, and 64 characters back at most (RFC 5321, 4.5.3.1),
    # so that no text takes more than linear time.
    local = _LOCAL.search(text[max(0, at - 64) : at])
    domain = _DOMAIN.match(text, at + 1)
    if local and domain and domain[1].lower() not in _FILES:
      login = local[0] == 'git' and text[domain.end() : domain.end() + 1] == ':'
      if not login:
        yield at - len(local[0]), domain.end()
    at = text.find('@', at + 1)


# A shortest number has seven digits, country code included, and never has these
# signs or a line's end between them. The rest is not worth the matcher's time.
_SEVEN_DIGITS = re.compile(r'\d(?:[^\w\n,:;=<>$%*"]{0,6}\d){6}')
_LINE = re.compile(r'[^\n]+')
_PHONE_WORD = re.compile(
    r'\b(?:phone|telephone|tel|mobile|cell|call|dial|text|sms|fax|contact'
    r"|whatsapp|(?:my|his|her|their|your) number)\b[^\n\d]{0,24}\Z",
    re.IGNORECASE,
)


def _phones(text: str, regions: Sequence[str]) -> Iterator[_Span]:
  if not _SEVEN_DIGITS.search(text):
    return
  for line in _LINE.finditer(text):
    if not _SEVEN_DIGITS.search(line[0]):
      continue
    for region in regions or [None]:
      for match in phonenumbers.PhoneNumberMatcher(
          line[0], region, leniency=Leniency.VALID, min_candidate_length=7
      ):
        if _is_written_as_phone(line[0], match, region):
          yield line.start() + match.start, line.start() + match.end


def _is_written_as_phone(
    line: str, match: phonenumbers.PhoneNumberMatch, region: str | None
) -> bool:
  """Whether valid digits are also grouped, or announced, as a number is.

  Without it '28980 - 18480' and 2147483648 are valid numbers of the US.
  """
  raw = match.raw_string
  if raw.startswith('+'):
    return raw[1:2].isdigit() or raw[1:2] == '('
  if raw.isdigit():
    before = line[max(0, match.start - 48) : match.start]
    trunk = raw[0] == '0' and len(raw) > 10 and not before.endswith('.')
    return trunk or _PHONE_WORD.search(before) is not None
  return phonenumbers.PhoneNumberMatcher(
      raw, region, leniency=Leniency.STRICT_GROUPING
  ).has_next()


_CARD_DIGITS = re.compile(r'[0-9](?:[ -]?[0-9]){12}')
# Each shape at every place, for a number may stand right before a card's.
_CARD = re.compile(
    r'(?<!\w)(?<!\d[.-])(?=('
    r'[0-9]{13,19}'
    r'|[0-9]{4}([ -])[0-9]{4}\2[0-9]{4}\2[0-9]{4}(?:\2[0-9]{3})?'
    r'|[0-9]{4}([ -])[0-9]{6}\3[0-9]{4,5}'
    r')(?!\w|[.-]\d))'
)
# First digits and lengths: Visa; Mastercard; American Express; Diners Club;
# Discover; JCB; UnionPay; Maestro.
_ISSUERS = re.compile(
    r'4(?:\d{12}|\d{15}|\d{18})'
    r'|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}'
    r'|3[47]\d{13}'
    r'|(?:30[0-5]\d|3095|36\d\d|3[89]\d\d)(?:\d{10}|\d{12})'
    r'|(?:6011|64[4-9]\d|65\d\d)\d{12,15}'
    r'|35(?:2[89]|[3-8]\d)\d{12,15}'
    r'|62\d{14,17}'
    r'|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}'
)


def _cards(text: str) -> Iterator[_Span]:
  if not _CARD_DIGITS.search(text):
    return
  for match in _CARD.finditer(text):
    digits = re.sub('[ -]', '', match[1])
    if (
        _ISSUERS.fullmatch(digits)
        and len(set(digits)) > 1
        and luhn.is_valid(digits)
    ):
      yield match.span(1)


# Begins with a digit and looks back at the letters: they are everywhere.
_IBAN = re.compile(
    r'[0-9](?<=[A-Za-z]{2}[0-9])(?<![^\W_][A-Za-z]{2}[0-9])[0-9]'
    r'(?= ?[A-Za-z0-9])'
)
_IBAN_REST = re.compile(r'(?: ?[A-Za-z0-9]){1,30}')
_WORD_END = re.compile(r'(?<=[A-Za-z0-9])(?![^\W_])')


def _ibans(text: str) -> Iterator[_Span]:
  for match in _IBAN.finditer(text):
    start = match.start() - 2
    rest = _IBAN_REST.match(text, match.end())
    assert rest is not None  # By the pattern's last part.
    # Words that follow may look like more of it: try where each ends.
    for end in _WORD_END.finditer(text, match.end(), rest.end()):
      if iban.is_valid(text[start : end.start()]):
        yield start, end.start()
        break


_IPV4 = re.compile(
    r'\d(?<![\w.]\d)(?<![A-Za-z]/\d)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d)',
    re.ASCII,
)
_IPV6 = re.compile(
    r'[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,34}'
    r'(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])'
)
_IP_WORD = re.compile(
    r'\b(?:ip|ipv4|address|host|server|ping|ssh|login)\b[^\n\d]{0,16}\Z',
    re.IGNORECASE,
)
_PORT_OR_BITS = re.compile(r':\d{2,5}\b|/\d{1,2}\b')
# Google's, Cloudflare's, Quad9's: nobody's home.
_RESOLVERS = frozenset('8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9'.split())


def _ips(text: str) -> Iterator[_Span]:
  for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
    try:
      address = ipaddress.ip_address(match[0])
    except ValueError:
      continue
    if not address.is_global or address.is_multicast or address.is_reserved:
      continue
    if match[0] in _RESOLVERS:
      continue
    if address.version == 4 and _is_version(text, address, *match.span()):
      continue
    yield match.span()


def _is_version(
    text: str, address: ipaddress.IPv4Address, start: int, end: int
) -> bool:
  """Whether a dotted quad may be a version, and nothing says that it isn't."""
  return (
      max(address.packed) < 100
      and not _IP_WORD.search(text[max(0, start - 32) : start])
      and not _PORT_OR_BITS.match(text, end)
  )


def _is_cpf(number: str) -> bool:
  return cpf.is_valid(number) and len(set(number) - set('.-')) > 1


def _always(number: str) -> bool:
  del number  # The pattern is all there is to check.
  return True


# Name: (pattern whose group 'id' is the number, rule).
_NATIONAL_IDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    'US SSN': (r'(?P<id>\d{3}-\d{2}-\d{4})', ssn.is_valid),
    # HMRC's manual, NIM39110: letters and pairs of letters that are not given.
    'GB NINO': (
        r'(?P<id>(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]'
        r'( ?)\d\d\2\d\d\2\d\d\2[A-D])',
        _always,
    ),
    'GB NHS': (
        r'NHS\b[^\d\n]{0,24}(?P<id>\d{3}[ -]?\d{3}[ -]?\d{4})', nhs.is_valid
    ),
    'FR NIR': (
        r'(?P<id>[12] ?\d\d ?(?:0[1-9]|1[0-2]) ?(?:\d\d|2[AB]) ?\d{3} ?\d{3}'
        r' ?\d\d)',
        nir.is_valid,
    ),
    'ES DNI': (r'(?P<id>\d{8}-?[A-Z])', dni.is_valid),
    'ES NIE': (r'(?P<id>[XYZ]-?\d{7}-?[A-Z])', nie.is_valid),
    'IT codice fiscale': (
        r'(?P<id>[A-Z]{6}[0-9A-Z]{2}[A-Z][0-9A-Z]{2}[A-Z][0-9A-Z]{3}[A-Z])',
        codicefiscale.is_valid,
    ),
    'DE IdNr': (r'(?P<id>\d{11}|\d\d \d{3} \d{3} \d{3})', idnr.is_valid),
    'NL BSN': (
        r'(?:BSN|[Bb]urgerservicenummer)\b[^\d\n]{0,24}'
        r'(?P<id>\d{9}|\d{4}\.\d\d\.\d{3})',
        bsn.is_valid,
    ),
    'BR CPF': (r'(?P<id>\d{3}\.\d{3}\.\d{3}-\d\d)', _is_cpf),
}
_NATIONAL_ID_RULES = [
    # Not within a longer number, a code or a decimal fraction.
    (re.compile(rf'(?<!\w)(?<!\w-)(?<!\d\.){p}(?!\w|[.-]\d)', re.A), rule)
    for p, rule in _NATIONAL_IDS.values()
]
# Every number above has one of these in it, and little else does.
_ID_PARTS = (
    re.compile(r'[0-9](?:[ .-]?[0-9]){5}'),
    re.compile(r'[A-Z]{6}[0-9L-V]{2}[A-T]'),
)


def _national_ids(text: str) -> Iterator[_Span]:
  if not any(part.search(text) for part in _ID_PARTS):
    return
  for pattern, rule in _NATIONAL_ID_RULES:
    for match in pattern.finditer(text):
      if rule(match['id']):
        yield match.span('id')


_FINDERS: dict[str, Callable[[str], Iterator[_Span]]] = {
    'card': _cards,
    'iban': _ibans,
    'ip': _ips,
    'national_id': _national_ids,
}
