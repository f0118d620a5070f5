# SPDX-License-Identifier: Apache-2.0
"""From what a source holds to the rows of each split, and an account of them.

The paper's order (Ouyang et al. 2022, section 3.2): prompts that repeat others
are dropped, then those beyond a user's share, then the rest is split by user,
and what names a person leaves the training split. `hygiene` and `pii` have the
rules; here they are applied, and every row that goes is counted.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf.data import chat, formats, hygiene, pii, prompting
from rlhf.data import rows as rows_lib
from rlhf.data.account import Account

# Where a row stands, and the checked row, or what is wrong with it.
Found = tuple[str, Any]


@dataclasses.dataclass(frozen=True)
class Hygiene:
  """Rules for rows that are well-formed; all are off by default.

  Attributes:
    prefix_characters: drop a prompt that shares its first so many characters
      with an earlier one, white space and case apart; 0 drops none.
    prefix_share: or that shares this much of the longer of the two.
    per_user: keep so many prompts of a user, the first ones; 0 keeps all.
    pii: kinds of personal data, of `pii.KINDS`, that no prompt of the training
      split may contain.
  """

  prefix_characters: int = 0
  prefix_share: float = 0.9
  per_user: int = 0
  pii: tuple[str, ...] = ()

  def __post_init__(self):
    unknown = set(self.pii) - set(pii.KINDS)
    if unknown:
      raise rows_lib.DataError(
          f'pii names {", ".join(sorted(unknown))}: use some of '
          f'{", ".join(pii.KINDS)}'
      )
    if self.prefix_characters < 0 or self.per_user < 0:
      raise rows_lib.DataError(
          f'prefix_characters is {self.prefix_characters} and per_user '
          f'{self.per_user}: use 0, for off, or more'
      )
    if not 0 < self.prefix_share <= 1:
      raise rows_lib.DataError(
          f'prefix_share is {self.prefix_share}: use a share above 0, at most 1'
      )


@dataclasses.dataclass(frozen=True)
class Reading:
  """How rows are read and cleaned: a config's data section, one kind of it.

  Attributes:
    strict: a bad row stops the run; else it is counted and left out.
    allow_empty_responses: as sampled ones may be.
    template: of `chat.TEMPLATES`, for rows with `messages`; '': there are none.
    fields: our name of a field -> the source's.
    validation_share, test_share: of users, where a source has no such splits.
    hygiene: rules for well-formed rows.
    tfds_dir: where TFDS data sets lie; None for TFDS's own default.
  """

  strict: bool = True
  allow_empty_responses: bool = False
  template: str = 'dialogue'
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  validation_share: float = 0.05
  test_share: float = 0.0
  hygiene: Hygiene = Hygiene()
  tfds_dir: str | None = None

  def __post_init__(self):
    for name in ('validation_share', 'test_share'):
      share = getattr(self, name)
      if not 0 <= share < 1:
        raise rows_lib.DataError(
            f'{name} is {share}: use a share from 0 to below 1'
        )
    if self.validation_share + self.test_share >= 1:
      raise rows_lib.DataError(
          f'validation_share {self.validation_share} and test_share '
          f'{self.test_share} leave nothing to train: use smaller ones'
      )


DEFAULT = Reading()


def reading(data: Mapping[str, Any], kind: str) -> Reading:
  """What a config's data section says of one kind of data."""
  rules = dict(data.get('hygiene', {}).get(kind, {}))
  template = data.get('chat_template', '')
  if template and 'prompt_format' in data:
    chat.check_format(template, prompting.PromptFormat(**data['prompt_format']))
  if 'pii' in rules:
    rules['pii'] = tuple(rules['pii'])
  return Reading(
      strict=data.get('strict', True),
      # Rankings are of sampled responses, and a model may have said nothing.
      allow_empty_responses=kind == 'rankings',
      template=template,
      fields=dict(data.get('fields', {}).get(kind, {})),
      validation_share=data.get('validation_share', 0.05),
      test_share=data.get('test_share', 0.0),
      hygiene=Hygiene(**rules),
      tfds_dir=data.get('tfds_dir') or None,
  )


def counted(
    found: Iterable[Found], account: Account
) -> Iterator[tuple[str, rows_lib.Row]]:
  """Well-formed rows with where they stand, each id once.

  Raises:
    RowError: at the first bad row, if the account is strict.
  """
  ids: dict[str, str] = {}
  for where, row in found:
    account.rows_read += 1
    if isinstance(row, rows_lib.RowError):
      account.bad(row)
      if row.reason in formats.ENDING:
        account.note('files cut off there: what follows cannot be read')
      continue
    first = ids.setdefault(row['id'], where) if row['id'] else where
    if first != where:
      problem = (
          f'{row["id"]!r} is also that of {first}: give every row an id of its '
          'own, or none'
      )
      account.bad(rows_lib.RowError('duplicate_id', where, problem, "'id'"))
      continue
    yield where, row


def clean(
    rows: Iterable[tuple[str, rows_lib.Row]],
    kind: str,
    reading: Reading,
    account: Account,
    *,
    split: str | None = None,
    limit: int | None = None,
) -> Iterator[tuple[str, str, rows_lib.Row]]:
  """Rows that no rule drops, in their order, each with its split.

  All rows are in memory at once only for the rules that compare them, which
  text has none of.

  Args:
    rows: of `counted`.
    kind: a key of `rows.FIELDS`.
    reading: the rules.
    account: is told of every row.
    split: the one that all rows are in; None splits them by user.
    limit: the most rows of a split, the first ones.

  Yields:
    Split, where the row stands, the row.
  """
  rules = reading.hygiene
  if kind != 'text':
    rows = _without_repeats(rows, rules, account)
    rows = _without_excess(rows, rules, account)
  taken = dict.fromkeys((split,) if split else hygiene.SPLITS, 0)
  for name in taken:
    account.keep(name, 0)
  for where, row in rows:
    home = split or hygiene.split_of(
        hygiene.split_key(row, kind),
        validation=reading.validation_share,
        test=reading.test_share,
    )
    if rules.pii and home == 'train':
      text = row['text' if kind == 'text' else 'prompt']
      findings = pii.find(text, rules.pii)
      if findings:
        # Which kind, and not what: accounts are kept, and shown.
        kinds = ', '.join(dict.fromkeys(f.kind for f in findings))
        account.drop('personal_data', where, kinds)
        continue
    if limit is not None and taken[home] >= limit:
      account.drop('over_limit', where, home)
      continue
    taken[home] += 1
    account.keep(home)
    yield home, where, row


def _without_repeats(rows: Iterable, rules: Hygiene, account: Account):
  if not rules.prefix_characters:
    return rows
  rows = list(rows)
  repeats = hygiene.deduplicate(
      [row['prompt'] for _, row in rows],
      characters=rules.prefix_characters,
      share=rules.prefix_share,
  )
  kept = []
  for (where, row), earlier in zip(rows, repeats, strict=True):
    if earlier < 0:
      kept.append((where, row))
    else:
      what = f'as {rows[earlier][0]}: {row["prompt"]}'
      account.drop('repeated_prompt', where, what)
  return kept


def _without_excess(rows: Iterable, rules: Hygiene, account: Account):
  if not rules.per_user:
    return rows
  rows = list(rows)
  users = [row['user'] for _, row in rows]
  over = hygiene.over_user_limit(users, rules.per_user)
  for (where, row), dropped in zip(rows, over, strict=True):
    if dropped:
      account.drop('over_user_limit', where, f'user {row["user"]}')
  return [row for row, dropped in zip(rows, over, strict=True) if not dropped]
