# SPDX-License-Identifier: Apache-2.0
"""The cleaning of prompts against plain loops and written-down values."""

import fractions
import math
import random

import pytest

from rlhf.data import hygiene


def _repeats_by_pairs(prompts, characters, share):
  """`deduplicate` as its docstring says it: each against every kept one."""
  texts = [' '.join(p.split()).casefold() for p in prompts]
  share = fractions.Fraction(str(share))
  kept, result = [], []
  for q, text in enumerate(texts):
    found = -1
    for p in kept:
      common = 0
      while (
          common < min(len(texts[p]), len(text))
          and texts[p][common] == text[common]
      ):
        common += 1
      longer = max(len(texts[p]), len(text))
      if common >= characters or common >= share * longer:
        found = p
        break
    if found < 0:
      kept.append(q)
    result.append(found)
  return result


def _near_duplicates(rng, n, longest):
  """Strings over two letters: fresh ones, and others' cut, grown, changed."""
  alphabet = rng.choice(['a', 'ab', 'abc', 'aB\u00df ', 'ab \n', 'a\U0001f600'])

  def fresh():
    return ''.join(rng.choices(alphabet, k=rng.randint(0, longest)))

  made = ['', fresh()]
  while len(made) < n:
    text = rng.choice(made)
    at = rng.randint(0, len(text))
    made.append(
        rng.choice([
            fresh(),
            text,
            text[:at],
            text + fresh()[: rng.randint(0, 4)],
            text[:at] + rng.choice(alphabet) + text[at + 1 :],
            text.upper(),
        ])
    )
  rng.shuffle(made)
  return made


@pytest.mark.parametrize('seed', range(150))
def test_repeats_are_those_of_the_plain_loop(seed):
  rng = random.Random(seed)
  characters = rng.choice([1, 2, 7, 8, 9, 16, 10**9])
  share = rng.choice([0.05, 1 / 3, 0.5, 0.55, 0.7, 0.9, 0.95, 1, 1.0])
  prompts = _near_duplicates(rng, n=60, longest=rng.choice([4, 12, 24]))
  assert hygiene.deduplicate(
      prompts, characters=characters, share=share
  ) == _repeats_by_pairs(prompts, characters, share)


def test_defaults_are_those_of_the_plain_loop():
  rng = random.Random(0)
  prompts = [
      text + 'ab'[i % 2] * rng.randint(0, 40)
      for i, text in enumerate(_near_duplicates(rng, n=250, longest=400))
  ]
  repeats = hygiene.deduplicate(prompts)
  assert repeats == _repeats_by_pairs(prompts, 256, 0.9)
  assert 20 < sum(r >= 0 for r in repeats) < 230, 'the data say nothing'


@pytest.mark.parametrize(
    ('prompts', 'repeats'),
    [
        ([], []),
        ([''], [-1]),
        (['', ' \n', ''], [-1, 0, 0]),
        (['', 'a'], [-1, -1]),
        (['Hello  there', ' hello\tTHERE\n'], [-1, 0]),
        (['Stra\u00dfe', 'STRASSE'], [-1, 0]),
        # 9 of 10 characters are 0.9 of the longer; 8 of 9 are less.
        (['a' * 9, 'a' * 10], [-1, 0]),
        (['a' * 10, 'a' * 9], [-1, 0]),
        (['a' * 8, 'a' * 9], [-1, -1]),
        (['a' * 9 + 'b', 'a' * 9 + 'c'], [-1, 0]),
        (['b' + 'a' * 99, 'c' + 'a' * 99], [-1, -1]),
        # The far end of a chain is compared with the kept one alone.
        (['a' * 81, 'a' * 90, 'a' * 100], [-1, 0, -1]),
        # 256 characters are enough, however different the rest.
        (['a' * 256 + 'b' * 999, 'a' * 256 + 'c' * 99], [-1, 0]),
        (['a' * 255 + 'b' * 999, 'a' * 255 + 'c' * 99], [-1, -1]),
        (['a' * 256, 'a' * 256 + 'c' * 9999], [-1, 0]),
        # Two kept prompts fit; the earlier is named.
        (['a' * 90 + 'b' * 10, 'a' * 80, 'a' * 88], [-1, -1, 1]),
        (['a' * 95 + 'bbbbb', 'a' * 85, 'a' * 94], [-1, -1, 0]),
        # Half a surrogate pair is compared like any character.
        (['\ud800', '\ud800', '\ud801'], [-1, 0, -1]),
    ],
)
def test_edges(prompts, repeats):
  assert hygiene.deduplicate(prompts) == repeats
  assert _repeats_by_pairs(prompts, 256, 0.9) == repeats


def test_only_equal_prompts_repeat_if_so_wished():
  prompts = ['a' * 999 + 'b', 'a' * 999, 'A' * 999]
  repeats = hygiene.deduplicate(prompts, characters=10**12, share=1)
  assert repeats == [-1, -1, 1]


@pytest.mark.parametrize(
    'options',
    [
        {'characters': 0},
        {'characters': -1},
        {'share': 0},
        {'share': 1.01},
        {'share': -0.5},
        {'share': math.nan},
    ],
)
def test_options_out_of_range(options):
  (name,) = options
  with pytest.raises(ValueError, match=f'^{name} is .*: use'):
    hygiene.deduplicate(['a'], **options)


def test_over_user_limit():
  rng = random.Random(1)
  users = rng.choices(['', 'a', 'b', 'c'], k=500)
  for limit in (1, 3, 200, 10**6):
    over = hygiene.over_user_limit(users, limit)
    for i, user in enumerate(users):
      assert over[i] == (user != '' and users[:i].count(user) >= limit)
  assert hygiene.over_user_limit([], 1) == []
  with pytest.raises(ValueError, match='^limit is 0: use 1 or more'):
    hygiene.over_user_limit(['a'], 0)


# Rows, kinds, and u * 2**64, written down when the split was first published.
# If one changes, everyone's validation rows move into training.
_HI = (
    '\n\nHuman: Say hello.\n\nAssistant: Hello!'
    '\n\nHuman: Again.\n\nAssistant:'
)
_TALE = 'It was the best of times, it was the worst of times, it was the '
_GOLDEN = [
    ({'user': 'u1', 'prompt': 'x'}, 'prompts', 0xE7F6DB282A2C0291),
    ({'user': '42', 'prompt': 'x'}, 'rankings', 0x135B88B6BF831C7E),
    ({'user': 'J\u00f6rg', 'text': 'x'}, 'text', 0xBB406F9861E67679),
    ({'user': 'a b', 'prompt': _HI}, 'demonstrations', 0x65FD35C47EA12A0A),
    ({'user': '', 'prompt': 'Say hello.'}, 'prompts', 0x20628F5A367B7221),
    ({'user': '', 'prompt': ' Say hello.\n'}, 'rankings', 0x20628F5A367B7221),
    ({'user': '', 'prompt': _HI}, 'demonstrations', 0x20628F5A367B7221),
    (
        {'user': '', 'prompt': 'Human: Who?\n\nAssistant:'},
        'prompts',
        0xCED7EBCE3FDB9C88,
    ),
    ({'user': '', 'text': _TALE + 'age of'}, 'text', 0x04128F5AE5D786EC),
    ({'user': '', 'text': ' \n a b'}, 'text', 0x27E10F4CD48226D8),
]


@pytest.mark.parametrize(('row', 'kind', 'number'), _GOLDEN)
def test_rows_stay_in_the_split_they_were_first_given(row, kind, number):
  key, u = hygiene.split_key(row, kind), number / 2**64
  above, below = u * (1 + 1e-12), u * (1 - 1e-12)
  assert hygiene.split_of(key, validation=above, test=0) == 'validation'
  assert hygiene.split_of(key, validation=below, test=0) == 'train'
  assert hygiene.split_of(key, validation=0, test=1 - below) == 'test'
  assert hygiene.split_of(key, validation=0, test=1 - above) == 'train'


def _splits(keys, **shares):
  return [hygiene.split_of(key, **shares) for key in keys]


def test_no_user_is_in_two_splits_and_the_shares_come_out():
  rng = random.Random(2)
  seen = {}
  for user in range(10_000):
    for _ in range(5):
      kind = rng.choice(['text', 'prompts', 'demonstrations', 'rankings'])
      text = str(rng.random())
      row = {'user': f'{user:x}', 'text': text, 'prompt': text}
      key = hygiene.split_key(row, kind)
      split = hygiene.split_of(key, validation=0.1, test=0.2)
      assert seen.setdefault(user, split) == split
  counts = [list(seen.values()).count(name) for name in hygiene.SPLITS]
  for count, share in zip(counts, (0.7, 0.1, 0.2), strict=True):
    deviation = math.sqrt(10_000 * share * (1 - share))
    assert abs(count - 10_000 * share) < 4 * deviation, counts


def test_a_larger_share_takes_users_from_train_alone():
  keys = [f'user {n}' for n in range(5000)]
  small = _splits(keys, validation=0.05, test=0.1)
  for grown, name in (
      ({'validation': 0.25, 'test': 0.1}, 'validation'),
      ({'validation': 0.05, 'test': 0.4}, 'test'),
  ):
    moves = {
        (before, after)
        for before, after in zip(small, _splits(keys, **grown), strict=True)
        if before != after
    }
    assert moves == {('train', name)}


def test_shares_of_zero_take_no_one():
  keys = [f'user {n}' for n in range(2000)]
  assert set(_splits(keys, validation=0, test=0)) == {'train'}
  assert set(_splits(keys, validation=0.5, test=0)) == {'train', 'validation'}
  assert set(_splits(keys, validation=0, test=0.5)) == {'train', 'test'}


@pytest.mark.parametrize(
    'shares', [(-0.1, 0), (0, -0.1), (0.5, 0.5), (1, 0), (math.nan, 0), (0, 2)]
)
def test_shares_out_of_range(shares):
  with pytest.raises(ValueError, match='for validation and .* for test: use'):
    hygiene.split_of('user a', validation=shares[0], test=shares[1])
