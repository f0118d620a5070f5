# SPDX-License-Identifier: Apache-2.0
"""The report on a data set: what became of its rows, and what the rest is.

    rows ─► kept, or dropped and why ─► sizes, lengths, languages ─► batches

`sources` reads what an experiment names, `describe` makes a dict for JSON of
it, and `text` prints that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data import language
from rlhf.data.account import Account
from rlhf.data.report import layout as layout_lib
from rlhf.data.report import numbers
from rlhf.data.report.numbers import Kept

# Languages are told of so many prompts: a second or two.
_TOLD = 1000


class AccountError(RuntimeError):
  """Rows are lost or counted twice: a fault of the program, not of the data."""


def describe(
    kind: str,
    splits: Mapping[str, Sequence[Kept]],
    account: Account,
    vocabulary: Any,
    layout: layout_lib.Layout,
    *,
    examples: int = 3,
) -> dict[str, Any]:
  """Everything that is to be said of one data set.

  Args:
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    splits: what is left of each split.
    account: of the reading that left it.
    vocabulary: a seqio Vocabulary, of the examples' tokens.
    layout: of batches.
    examples: how many rows of a batch to write out.

  Returns:
    `rows_read`, `rows_kept`, `dropped` and the rest of `Account.to_json`; then
    `splits`, `shared`, `sources`, `use_cases`, `lengths`, `languages`; of kinds
    with responses `responses`; of rankings `rankings`; and `examples` of the
    first split. A split has what `numbers.sizes` and, under `batches`,
    `layout.batches` say; where these can't be made, a `problem`.

  Raises:
    AccountError: the account does not add up.
  """
  check(splits, account)
  found = account.to_json()
  found['splits'] = numbers.sizes(splits)
  shown: list[dict[str, Any]] = []
  for split, kept in splits.items():
    if not kept:
      continue
    show = 0 if shown else examples
    try:
      facts, rows = layout_lib.batches(
          kind, [k.example for k in kept], vocabulary, layout, show
      )
    except ValueError as error:
      found['splits'][split]['problem'] = str(error)
      continue
    # Of text with what stands between documents, once they are joined.
    tokens = facts.pop('tokens', found['splits'][split]['tokens'])
    found['splits'][split] |= {'tokens': tokens, 'batches': facts}
    shown += [{'split': split} | row for row in rows]
  found['shared'] = numbers.shared(splits)
  found['sources'] = numbers.sources(splits)
  found['use_cases'] = numbers.use_cases(splits)
  found['lengths'] = numbers.lengths(splits)
  texts = [k.text for kept in splits.values() for k in kept]
  found['languages'] = language.shares(texts, most=_TOLD)
  if kind in ('demonstrations', 'rankings'):
    found['responses'] = numbers.responses(splits, int(vocabulary.eos_id))
  if kind == 'rankings':
    found['rankings'] = numbers.rankings(splits)
  found['examples'] = shown
  return found


def check(splits: Mapping[str, Sequence[Kept]], account: Account) -> None:
  """Raises AccountError unless every row that was read is kept or dropped."""
  dropped = sum(account.dropped.values())
  if account.rows_read != account.rows_kept + dropped:
    raise AccountError(
        f'{account.rows_read} rows were read, but {account.rows_kept} kept and '
        f'{dropped} dropped: this is a fault of rlhf/data, please report it'
    )
  for split in {*splits, *account.kept}:
    here, said = len(splits.get(split, ())), account.kept.get(split, 0)
    if here != said:
      raise AccountError(
          f'split {split} has {here} rows, but {said} are said to be kept: '
          'this is a fault of rlhf/data, please report it'
      )
