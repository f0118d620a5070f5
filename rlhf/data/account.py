# SPDX-License-Identifier: Apache-2.0
"""What became of every row of a data set: kept, or dropped and why."""

import dataclasses
from typing import Any

from rlhf.data import rows as rows_lib

_EXAMPLES = 5  # Dropped rows that are named, of each reason.
_SHOWN = 100  # Characters of each.


@dataclasses.dataclass
class Account:
  """Adds up: `rows_read == rows_kept + rows_dropped`, always.

  Attributes:
    strict: stop at the first bad row, instead of counting it.
    rows_read: rows of the source, of all its splits that were looked at.
    kept: split -> rows.
    dropped: reason -> rows.
    examples: reason -> a few of those rows, [{'where', 'what'}].
    notes: what was done to rows that were kept -> how often.
  """

  strict: bool = True
  rows_read: int = 0
  kept: dict[str, int] = dataclasses.field(default_factory=dict)
  dropped: dict[str, int] = dataclasses.field(default_factory=dict)
  examples: dict[str, list[dict]] = dataclasses.field(default_factory=dict)
  notes: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def rows_kept(self) -> int:
    return sum(self.kept.values())

  def bad(self, error: rows_lib.RowError) -> None:
    """Counts a row that is not what it should be.

    Raises:
      RowError: the error given, if `strict`.
    """
    if self.strict:
      raise error
    self.drop(error.reason, error.where, str(error))

  def drop(self, reason: str, where: str, what: str) -> None:
    """Counts a good row that a rule leaves out."""
    self.dropped[reason] = self.dropped.get(reason, 0) + 1
    examples = self.examples.setdefault(reason, [])
    if len(examples) < _EXAMPLES:
      what = what if len(what) <= _SHOWN else what[:_SHOWN] + '...'
      examples.append({'where': where, 'what': what})

  def keep(self, split: str, count: int = 1) -> None:
    self.kept[split] = self.kept.get(split, 0) + count

  def unkeep(self, split: str, reason: str, where: str, what: str) -> None:
    """Counts a row as dropped that an earlier rule had kept."""
    self.kept[split] -= 1
    self.drop(reason, where, what)

  def note(self, what: str, count: int = 1) -> None:
    if count:
      self.notes[what] = self.notes.get(what, 0) + count

  def to_json(self) -> dict[str, Any]:
    """Counts and examples; reasons with the most rows first."""
    reasons = sorted(self.dropped, key=lambda r: (-self.dropped[r], r))
    return {
        'rows_read': self.rows_read,
        'rows_kept': self.rows_kept,
        'kept': dict(self.kept),
        'dropped': {r: self.dropped[r] for r in reasons},
        'dropped_examples': {r: self.examples[r] for r in reasons},
        'notes': dict(self.notes),
    }

  def line(self) -> str:
    """What was kept, dropped and done, in one line."""
    parts = [f'{self.rows_kept} of {self.rows_read} rows kept']
    parts += [
        f'{count} dropped: {reason.replace("_", " ")}'
        for reason, count in self.to_json()['dropped'].items()
    ]
    parts += [f'{count} {what}' for what, count in self.notes.items() if count]
    return '; '.join(parts)
