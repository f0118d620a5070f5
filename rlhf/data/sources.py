# SPDX-License-Identifier: Apache-2.0
"""What a config's data set name stands for: always a seqio task.

A name is that of a registered seqio task or mixture, `tfds:NAME` with TFDS's
name of a data set, or one or more paths or globs, comma separated, of files
(`formats.EXTENSIONS` lists them) with rows such as

    text            {"text": ...}
    demonstrations  {"prompt": ..., "response": ...}
    rankings        {"prompt": ..., "responses": [K], "ranks": [K]}
                    {"prompt": ..., "chosen": ..., "rejected": ...}, K = 2
    prompts         {"prompt": ...}

or with `messages`, and optionally `id`, `user`, `labeler`, `use_case` and
`source`. Files become a task on the fly, of raw text, because the vocabulary
and the prompt format belong to the run and not to the data. Paths may be
whatever TensorFlow opens, gs:// included.
"""

import difflib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from rlhf.data import formats, tfds_tasks, vocabularies
from rlhf.data import rows as rows_lib
from rlhf.data.cleaning import DEFAULT, Found, Reading

_BATCH = 2048  # Rows a step from TensorFlow to numpy; only speed hangs on it.
_PROBED = 256  # Rows that tell whether a task is still what it was.
_TFDS = 'tfds:'


def resolve(name: str, kind: str, reading: Reading = DEFAULT) -> str:
  """The name of the seqio task or mixture; registers one for files and TFDS.

  Args:
    name: see the top of this file.
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    reading: how rows are read. Files have one split, 'all'.

  Raises:
    DataError: unknown kind, no such task, data set or file.
  """
  from rlhf.data import tasks  # Here, because it reads this module's features.

  if kind not in rows_lib.FIELDS:
    kinds = ', '.join(rows_lib.FIELDS)
    raise rows_lib.DataError(f'kind is {kind!r}: use one of {kinds}')
  tasks.register()
  if name in known_names():
    return name
  if name.startswith(_TFDS):
    return tfds_tasks.register(name, data_dir=reading.tfds_dir)
  paths = tuple(_paths(name, kind))
  options = (paths, kind, reading)
  digest = hashlib.blake2b(repr(options).encode(), digest_size=6).hexdigest()
  task = f'{kind}_{digest}'
  if task not in seqio.TaskRegistry.names():
    source: Any = _Files(paths, kind, reading)
    seqio.TaskRegistry.add(
        task,
        source=source,
        output_features=text_features(kind),
        preprocessors=[],
    )
  return task


def splits(task: str) -> tuple[str, ...]:
  """Splits that a registered task or mixture has."""
  return tuple(seqio.get_mixture_or_task(task).splits)


def is_mixture(task: str) -> bool:
  return task in seqio.MixtureRegistry.names()


def read(
    task: str,
    kind: str,
    split: str,
    reading: Reading = DEFAULT,
    limit: int | None = None,
) -> Iterator[Found]:
  """Checked rows of a registered task or mixture, in its own order.

  A tokenised feature is read from its `*_pretokenized` copy. A mixture needs a
  limit: it keeps its rates by repeating its tasks without end. (Read once, it
  would stop where its first task runs out, and lose the rest of the others.)

  Yields:
    Where a row stands, and the row in the form of `rows.check`, or the RowError
    of one that is not what it should be.

  Raises:
    DataError: there is no such split, a feature has no raw text, or a mixture
      comes without a limit.
  """
  provider = seqio.get_mixture_or_task(task)
  if split not in provider.splits:
    known = ', '.join(provider.splits)
    raise rows_lib.DataError(
        f'{task} has no split {split!r}: use one of {known}'
    )
  source = getattr(provider, 'source', None)
  if isinstance(source, _Files):
    yield from itertools.islice(source.rows(), limit)
    return
  options: dict[str, Any] = {'num_epochs': 1}
  if isinstance(provider, seqio.Mixture):
    if limit is None:
      raise rows_lib.DataError(
          f'{task} is a mixture, which has no end: set limit'
      )
    options = {
        'num_epochs': None,
        'copy_pretokenized': True,
        'passthrough_features': _PASSED,
    }
  dataset = provider.get_dataset(
      sequence_length=None, split=split, shuffle=False, **options
  )
  if limit is not None:
    dataset = dataset.take(limit)
  names = _names(task, kind, dataset.element_spec)
  for number, row in enumerate(_rows(dataset, names), start=1):
    where = f'{task}, split {split}, row {number}'
    yield where, _checked(row, kind, where, reading)


def fingerprint(task: str, kind: str, reading: Reading) -> str:
  """Tells a task's data from what it was: files by size and time of change,
  other tasks by the first rows of each split."""
  provider = seqio.get_mixture_or_task(task)
  digest = hashlib.blake2b(digest_size=8)
  source = getattr(provider, 'source', None)
  if isinstance(source, _Files):
    for path in source.paths:
      status = tf.io.gfile.stat(path)
      digest.update(f'{path} {status.length} {status.mtime_nsec}\n'.encode())
  else:
    for split in splits(task):
      rows = read(task, kind, split, reading, _PROBED)
      text = json.dumps(list(rows), default=repr, sort_keys=True)
      digest.update(f'{task} {split} {text}\n'.encode())
  return digest.hexdigest()


def function_source(
    dataset_fn: Callable[..., tf.data.Dataset], splits: Iterable[str], **options
) -> Any:
  """seqio's FunctionDataSource, whose types do not fit seqio's own Task."""
  return seqio.FunctionDataSource(dataset_fn, splits, **options)


def text_features(kind: str) -> dict[str, Any]:
  """Features of a task of raw text: strings, and integer ranks."""
  features = {}
  for name in rows_lib.FIELDS[kind]:
    features[name] = seqio.Feature(
        seqio.PassThroughVocabulary(size=0),
        add_eos=False,
        dtype=tf.int32 if name == 'ranks' else tf.string,
        rank=1 if name in ('responses', 'ranks') else 0,
    )
  return features


def dataset_of(rows: list[rows_lib.Row], kind: str) -> tf.data.Dataset:
  """Checked rows as a dataset of strings (and ranks)."""
  columns: Any = {}
  for name in (*rows_lib.FIELDS[kind], *rows_lib.OPTIONAL):
    values = [row[name] for row in rows]
    if name in ('responses', 'ranks'):
      dtype = tf.int32 if name == 'ranks' else tf.string
      columns[name] = vocabularies.ragged(
          tf.constant([v for vs in values for v in vs], dtype),
          tf.constant([len(vs) for vs in values], tf.int64),
      )
    elif any(values) or name in rows_lib.FIELDS[kind]:
      columns[name] = tf.constant(values, tf.string)
  return tf.data.Dataset.from_tensor_slices(columns)


def known_names() -> set[str]:
  """Names of all registered tasks and mixtures."""
  return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


# What a row may have for any kind; `rows.check` makes one form of them.
_RAW = ('chosen', 'rejected', 'messages')
_PASSED = tuple(
    dict.fromkeys((
        *itertools.chain(*rows_lib.FIELDS.values()),
        *rows_lib.OPTIONAL,
        *_RAW,
    ))
)


class _Files(seqio.FunctionDataSource):
  """Checked rows of files, as `rows()` and as what seqio asks for."""

  def __init__(self, paths: tuple[str, ...], kind: str, reading: Reading):
    self.paths, self._kind, self._reading = paths, kind, reading
    dataset_fn: Any = self._dataset  # The type stubs want a seed as well.
    super().__init__(dataset_fn, ('all',))

  def rows(self) -> Iterator[Found]:
    """See `read`; never all of them in memory."""
    renamed = self._reading.fields
    lists = {renamed.get(name, name) for name in formats.LISTS}
    for path in self.paths:
      empty = True
      for where, raw in formats.read(path, lists=lists):
        empty = False
        yield where, _checked(raw, self._kind, where, self._reading)
      if empty:
        raise rows_lib.DataError(
            f'{path}: no rows: leave the file out or fill it'
        )

  def _dataset(self, split: str, shuffle_files: bool) -> tf.data.Dataset:
    """The good rows, for a mixture that a user makes of this task."""
    del split, shuffle_files  # The order is the files'; streams shuffle.
    rows = []
    for _, row in self.rows():
      if not isinstance(row, rows_lib.RowError):
        rows.append(row)
      elif self._reading.strict:
        raise row
    return dataset_of(rows, self._kind)


def _checked(
    row: Any, kind: str, where: str, reading: Reading
) -> rows_lib.Row | rows_lib.RowError:
  if isinstance(row, rows_lib.RowError):
    return row
  try:
    return rows_lib.check(
        row,
        kind,
        where,
        allow_empty=reading.allow_empty_responses,
        template=reading.template,
        fields=reading.fields,
    )
  except rows_lib.RowError as error:
    return error


def _paths(name: str, kind: str) -> list[str]:
  paths = []
  for pattern in filter(None, (part.strip() for part in name.split(','))):
    found = sorted(tf.io.gfile.glob(pattern))
    if not found:
      near = difflib.get_close_matches(pattern, sorted(known_names()), n=1)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise rows_lib.DataError(
          f'no file and no registered task is called {pattern!r}: give {kind} '
          f'as paths or globs of {", ".join(formats.EXTENSIONS)} files, as '
          f'tfds:NAME, or as a task{hint}'
      )
    paths += found
  if not paths:
    raise rows_lib.DataError(
        f'no {kind} are named: the data set name is {name!r}'
    )
  return list(dict.fromkeys(paths))


def _names(task: str, kind: str, spec) -> dict[str, str]:
  """Feature -> the name of its raw value in a row."""
  names = {name: name for name in spec}
  for name in spec:
    raw = name.removesuffix('_pretokenized')
    if raw != name:
      names[name] = raw
      names.pop(raw, None)
  held = {raw: spec[name] for name, raw in names.items()}
  for name in rows_lib.FIELDS[kind]:
    tokenised = (
        name != 'ranks'
        and isinstance(held.get(name), (tf.TensorSpec, tf.RaggedTensorSpec))
        and held[name].dtype != tf.string
    )
    if tokenised:
      raise rows_lib.DataError(
          f'task {task} cannot serve as {kind}: it has no raw {name!r}, only '
          f'{", ".join(sorted(spec))}: let its preprocessor be '
          'seqio.preprocessors.tokenize, which keeps *_pretokenized'
      )
  return names


def _rows(dataset: Any, names: dict[str, str]) -> Iterator[dict]:
  """Rows of a dataset as plain values, in batches where they allow it."""
  spec = {name: dataset.element_spec[name] for name in names}
  flat = all(
      isinstance(s, tf.TensorSpec) and s.shape.rank in (0, 1)
      for s in spec.values()
  )
  if not flat:
    for example in dataset.as_numpy_iterator():
      row = tfds_tasks.raw_row(example)
      yield {name: row[key] for key, name in names.items() if key in row}
    return
  dataset = dataset.map(lambda ex: {name: ex[name] for name in names})
  for batch in dataset.ragged_batch(_BATCH):
    columns = {names[key]: _column(values) for key, values in batch.items()}
    for values in zip(*columns.values(), strict=True):
      yield dict(zip(columns, values, strict=True))


def _column(values: Any) -> list:
  if isinstance(values, tf.RaggedTensor):
    flat = _column(values.flat_values)
    ends = values.row_splits.numpy().tolist()
    return [flat[a:b] for a, b in itertools.pairwise(ends)]
  array = values.numpy()
  if array.dtype == np.object_:
    return [text.decode(errors='surrogateescape') for text in array.tolist()]
  return array.tolist()
