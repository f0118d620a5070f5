# SPDX-License-Identifier: Apache-2.0
"""Which prompts to keep, and which split each belongs to.

The paper's cleaning (Ouyang et al. 2022, section 3.2 and appendix A): prompts
that share a long prefix with an earlier one are dropped, a user gives at most
200, and training, validation and test prompts come from different users. Each
step is a function of strings that says what it found; who calls it drops the
rows and counts them. Personal information is in pii.py.
"""

import fractions
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SPLITS = ('train', 'validation', 'test')

_HUMAN, _ASSISTANT = '\n\nHuman:', '\n\nAssistant:'
# A change of this key, of `split_key` or of `split_of` moves rows between the
# splits of everyone's data.
_SPLIT_HASH_KEY = b'rlhf split'
# 120 bits: among ten million prompts, a few hundred million prefixes, two
# different ones have the same hash with probability 1e-19. (CPython gives 15
# bytes no more memory than 8.)
_DIGEST_SIZE = 15


def deduplicate(
    prompts: Sequence[str], *, characters: int = 256, share: float = 0.9
) -> list[int]:
  """Which earlier prompt each prompt repeats.

  Two prompts repeat each other if, white space collapsed and case folded, the
  prefix that they have in common is at least `characters` long or at least
  `share` of the longer one; equal ones always do. The first in the order of
  the data is kept, and later ones are compared with kept ones only, so that a
  chain of small changes does not drop its far end.

  Takes time in proportion to the text, not to the pairs: up to
  `(1 - share) * length + 1` hashes a prompt, and as many dictionary entries of
  about 150 bytes (27 at most with the defaults).

  Args:
    prompts: texts in the order of the data.
    characters: common prefix that is enough however long the prompts, >= 1.
      With `share=1` and this beyond every length, only equal prompts repeat.
    share: of the longer prompt, in (0, 1].

  Returns:
    For each prompt the index of the earliest kept prompt that it repeats, or
    -1 if it is kept itself.

  Raises:
    ValueError: `characters` or `share` is out of range.
  """
  if characters < 1:
    raise ValueError(f'characters is {characters}: use 1 or more')
  if not 0 < share <= 1:
    raise ValueError(f'share is {share}: use a share above 0, at most 1')
  # As written in decimal: 0.55 * 20 in floats is above 11.
  exact = fractions.Fraction(str(float(share)))
  # Write c for `characters`, need(l) for min(c, ceil(share * l)), and L for the
  # length of the longest common prefix of p and q, of lengths |p| and |q|. By
  # definition they repeat each other if L >= c or L >= share * max(|p|, |q|),
  # that is, L being whole, if
  #
  #   (1)  L >= need(max(|p|, |q|)) = max(need(|p|), need(|q|)),
  #
  # the last because need never falls. Each prompt of length l stands for its
  # prefixes of lengths need(l) ... min(c, l). p and q have one in common if
  # and only if there is a length m, in both ranges, at which they agree:
  #
  #   (2)  max(need(|p|), need(|q|)) <= m <= min(c, |p|, |q|, L).
  #
  # L <= |p|, |q|, so the right side is min(c, L); and need <= c, so such an m
  # exists if and only if max(need(|p|), need(|q|)) <= L, which is (1).
  #
  # A kept prompt repeats no kept one, so no two kept ones register one prefix,
  # and the smallest index that is found is the earliest of all.
  kept: dict[bytes, int] = {}
  repeats = []
  for index, prompt in enumerate(prompts):
    digests = list(_prefixes(_normal(prompt), characters, exact))
    earliest = min((kept[d] for d in digests if d in kept), default=-1)
    if earliest < 0:
      kept.update(dict.fromkeys(digests, index))
    repeats.append(earliest)
  return repeats


def over_user_limit(users: Sequence[str], limit: int) -> list[bool]:
  """True for the rows of a user after the first `limit` of them.

  The paper's limit is 200. '' is an unknown user: nobody says that two such
  rows come from one person, so they are never over.

  Raises:
    ValueError: `limit` is below 1.
  """
  if limit < 1:
    raise ValueError(f'limit is {limit}: use 1 or more')
  seen: dict[str, int] = {}
  over = []
  for user in users:
    seen[user] = seen.get(user, 0) + 1
    over.append(bool(user) and seen[user] > limit)
  return over


def split_key(row: Mapping[str, Any], kind: str) -> str:
  """What of a checked row decides its split; see `split_of`.

  The user, so that no user is in two splits. Without one, for kind 'text' the
  first 64 characters; for others the first turn of the prompt, so that
  dialogues that begin alike stay together, as do a prompt's rows of every kind.
  """
  if row['user']:
    return f'user {row["user"]}'
  if kind == 'text':
    return f'text {row["text"][:64]}'
  return f'prompt {_first_turn(row["prompt"])}'


def split_of(key: str, *, validation: float, test: float) -> str:
  """'train', 'validation' or 'test', by a keyed hash of `split_key`'s key.

  The hash is a number u, uniform over keys in [0, 1): u < validation is
  validation, u >= 1 - test is test, the rest train. It depends on nothing but
  the key, so the same user is in the same split in every file and run, more
  data move no one, and a larger share takes its users from train alone.

  Args:
    key: see `split_key`.
    validation: expected share of keys, >= 0.
    test: likewise; both together below 1.

  Raises:
    ValueError: the shares are out of range.
  """
  if not (validation >= 0 and test >= 0 and validation + test < 1):
    raise ValueError(
        f'the shares are {validation} for validation and {test} for test: use '
        'shares from 0 that leave something to train'
    )
  digest = hashlib.blake2b(
      key.encode(), key=_SPLIT_HASH_KEY, digest_size=8
  ).digest()
  number = int.from_bytes(digest, 'big')  # u * 2**64
  if number < validation * 2**64:
    return 'validation'
  return 'test' if number >= (1 - test) * 2**64 else 'train'


def _normal(prompt: str) -> str:
  return ' '.join(prompt.split()).casefold()


def _prefixes(
    text: str, characters: int, share: fractions.Fraction
) -> Iterator[bytes]:
  """Hashes of the prefixes of lengths need(l) ... min(characters, l)."""
  length = len(text)
  least = -(-share.numerator * length // share.denominator)  # Rounded up.
  most = min(characters, length)
  least = min(least, most)
  # Four bytes a character, so that a slice of bytes is one of characters.
  # Half a surrogate pair is no reason to fail here: rows.check refuses it.
  data = text[:most].encode('utf-32-le', 'surrogatepass')
  prefix = hashlib.blake2b(data[: 4 * least], digest_size=_DIGEST_SIZE)
  yield prefix.digest()
  for at in range(4 * least, 4 * most, 4):
    prefix.update(data[at : at + 4])
    yield prefix.digest()


def _first_turn(prompt: str) -> str:
  prompt = prompt.strip()
  if prompt.startswith(_HUMAN.strip()):
    prompt = prompt.removeprefix(_HUMAN.strip())
    prompt = prompt.split(_ASSISTANT, 1)[0]
  return prompt.strip()
