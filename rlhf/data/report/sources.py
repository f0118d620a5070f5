# SPDX-License-Identifier: Apache-2.0
"""Which data sets an experiment has, and reading them for a report.

A config's fields are read as its stage reads them (`rlhf.stages.setup`), but
all splits, always anew and never from a store.
"""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from rlhf.data import cleaning, loading, prompting, streams
from rlhf.data import rows as rows_lib
from rlhf.data.account import Account
from rlhf.data.examples import Tokeniser
from rlhf.data.report.layout import Layout
from rlhf.data.report.numbers import Kept

# Fields of a config's data section that name data sets, and what they hold.
FIELDS = {
    'text': 'text',
    'demonstrations': 'demonstrations',
    'rankings': 'rankings',
    'validation_rankings': 'rankings',
    'prompts': 'prompts',
}


@dataclasses.dataclass(frozen=True)
class DataSet:
  """A data set of an experiment.

  Attributes:
    names: the fields that name it, such as ('rankings',).
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    source: see `sources`; '' where it is not set.
    absent: why there is nothing to read, and what to do; '' if there is.
    layout: of its batches.
    whole: whether the stage reads all rows of it, undivided.
    limits: split -> rows that are taken; '' for splits that are not named.
  """

  names: tuple[str, ...]
  kind: str
  source: str
  absent: str = ''
  layout: Layout = Layout()
  whole: bool = False
  limits: Mapping[str, int] = dataclasses.field(default_factory=dict)


def of_config(config: Any) -> list[DataSet]:
  """The data sets of a stage's config; those of equal source are one."""
  data, found = config.data, {}
  for name, kind in FIELDS.items():
    if name not in data:
      continue
    source = data[name] or ''
    whole = data.get('splits', {}).get(name) == 'all'
    # Of two fields that take different limits each is its own.
    limits = _limits(data.get('limits', {}), name)
    key = (source or name, kind, whole, tuple(limits.items()))
    if key in found:
      names = (*found[key].names, name)
      found[key] = dataclasses.replace(found[key], names=names)
      continue
    found[key] = DataSet(
        names=(name,),
        kind=kind,
        source=source,
        absent=_absent(config, name, source),
        layout=layout(config, kind),
        whole=whole,
        limits=limits,
    )
  return list(found.values())


def layout(config: Any, kind: str) -> Layout:
  """How the config's stage lays out batches of a kind."""
  data = config.data
  row_tokens = data.row_tokens
  if kind == 'text' and config.stage == 'ppo':
    row_tokens = data.get('ptx_row_tokens', row_tokens)
  shape: dict[str, Any] = {}
  if kind == 'rankings' and config.stage == 'reward':
    shape = dict(
        rows=config.rows // config.micro_batches,
        max_prompts=config.batch // config.micro_batches,
        max_responses=config.k_max,
    )
  elif kind == 'prompts':
    shape = dict(prompt_lengths=streams.prompt_lengths(data))
    if config.stage == 'ppo':
      shape['max_prompts'] = config.ppo.batch
  return Layout(
      row_tokens=row_tokens,
      pack=data.pack,
      separate_documents=data.get('separate_documents', False),
      seed=config.seed,
      **shape,
  )


def read(
    dataset: DataSet,
    data: Mapping[str, Any],
    vocabulary: Any,
) -> tuple[dict[str, list[Kept]], Account]:
  """What is left of a data set, by split, and the account of the rest.

  Args:
    dataset: one that is there.
    data: a config's data section.
    vocabulary: a seqio Vocabulary.

  Raises:
    RowError: a row is bad, and `data.strict`.
    DataError: the source as a whole is wrong.
  """
  import tensorflow as tf  # Late: ten seconds.

  for module in data.get('modules', ()):
    importlib.import_module(module)  # Registers seqio tasks of the user's.
  account = Account(strict=data.get('strict', True))
  tokeniser = Tokeniser(
      vocabulary,
      prompting.PromptFormat(**data['prompt_format']),
      data['prompt_tokens'],
      data['response_tokens'],
  )
  try:
    rows = _rows(dataset, cleaning.reading(data, dataset.kind), account)
  except tf.errors.OpError as error:
    # As of a bucket that may not be read, or a record that is damaged.
    line = str(error.message).splitlines()[0][:200]
    raise rows_lib.DataError(
        f'{dataset.source}: cannot be read: {line}'
    ) from None
  kept = {
      split: list(_examples(tokeniser, of_split, dataset.kind, account, split))
      for split, of_split in rows.items()
  }
  return kept, account


def _rows(dataset: DataSet, reading: cleaning.Reading, account: Account):
  """Clean rows by split. What a limit takes off is in the account."""
  from rlhf.data import sources

  name, kind, limits = dataset.source, dataset.kind, dataset.limits
  if dataset.whole:
    return loading.rows_by_split(
        name, kind, 'all', reading, account, limits.get('all', limits.get(''))
    )
  task = sources.resolve(name, kind, reading)
  there = sources.splits(task)
  if there not in (('all',), ('train',)):
    # Splits of its own, each with a limit of its own.
    found = {}
    for split in there:
      limit = limits.get(split, limits.get(''))
      found |= loading.rows_by_split(
          name, kind, split, reading, account, limit
      )
    return found
  first = None
  if sources.is_mixture(task):
    first = limits.get('train', limits.get(''))
  found = loading.rows_by_split(name, kind, None, reading, account, first)
  for split, rows in found.items():
    limit = limits.get(split, limits.get(''))
    for where, _ in rows[limit:] if limit is not None else ():
      account.unkeep(split, 'over_limit', where, '')
    found[split] = rows[:limit]
  return found


def _examples(
    tokeniser: Tokeniser, rows, kind: str, account: Account, split: str
) -> Iterator[Kept]:
  """Each example with its row: the last one that the tokeniser took."""
  last = []

  def watched():
    for where, row in rows:
      last[:] = where, row
      yield where, row

  for example in tokeniser.examples(watched(), kind, account, split):
    where, row = last
    yield Kept(where, row, example)


def _limits(limits: Mapping[str, int], name: str) -> dict[str, int]:
  """'' -> the limit of every split, and those of single splits."""
  found = {'': limits[name]} if name in limits else {}
  for split in ('all', 'train', 'validation', 'test'):
    if f'{name}_{split}' in limits:
      found[split] = limits[f'{name}_{split}']
  return found


def _absent(config: Any, name: str, source: str) -> str:
  """Why there is no such data set, and what to do; '' if there may be one."""
  if not source:
    return f'not set: --config.data.{name}='
  for stage, spec in config.requires.items():
    folder = epath.Path(config.root) / stage
    for part in source.split(','):
      path = epath.Path(part.strip())
      if folder in path.parents and not path.exists():
        return (
            f'not there yet: python launch/train.py --config={spec} '
            f'--config.root={config.root} --config.seed={config.seed} makes it'
        )
  return ''
