# SPDX-License-Identifier: Apache-2.0
"""What a config's data set name stands for: always a seqio task.

A name is that of a registered seqio task or mixture, or one or more paths or
globs, comma separated, of .jsonl or .jsonl.gz files with rows such as

    text            {"text": ...}
    demonstrations  {"prompt": ..., "response": ...}
    rankings        {"prompt": ..., "responses": [K], "ranks": [K]}
                    {"prompt": ..., "chosen": ..., "rejected": ...}, K = 2
    prompts         {"prompt": ...}

and optionally `user` and `labeler`. Files become a task on the fly, of raw
text, because the vocabulary and the prompt format belong to the run and not to
the data. Paths may be whatever TensorFlow opens, gs:// included.
"""

import difflib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from rlhf.data import rows as rows_lib
from rlhf.data import vocabularies

_BATCH = 2048  # Rows a step from TensorFlow to numpy; only speed hangs on it.
_SPLITS = ('train', 'validation', 'all')


def resolve(
    name: str,
    kind: str,
    *,
    validation_share: float = 0.05,
    allow_empty_responses: bool = False,
) -> str:
  """The name of the seqio task or mixture; registers one for files.

  Args:
    name: see the top of this file.
    kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
    validation_share: of the rows of files, in [0, 1); `rows.is_validation` says
      which. Their splits are 'train', 'validation' and 'all' (both).
    allow_empty_responses: whether a file's responses may be empty, as sampled
      ones may.

  Raises:
    ValueError: unknown kind, no such task or file, or a share out of range.
  """
  from rlhf.data import tasks  # Here, because it reads this module's features.

  if kind not in rows_lib.FIELDS:
    kinds = ', '.join(rows_lib.FIELDS)
    raise ValueError(f'kind is {kind!r}: use one of {kinds}')
  if not 0 <= validation_share < 1:
    raise ValueError(
        f'validation_share is {validation_share}: use a share from 0 to below 1'
    )
  tasks.register()
  if name in known_names():
    return name
  paths = tuple(_paths(name, kind))
  options = (paths, kind, validation_share, allow_empty_responses)
  digest = hashlib.blake2b(repr(options).encode(), digest_size=6).hexdigest()
  task = f'{kind}_{digest}'
  if task not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
        task,
        source=function_source(
            functools.partial(_file_dataset, *options), _SPLITS
        ),
        output_features=text_features(kind),
        preprocessors=[],
    )
  return task


def read(
    task: str, kind: str, split: str, limit: int | None = None
) -> Iterator[rows_lib.Row]:
  """Rows of raw text of a registered task or mixture, in its own order.

  A tokenised feature is read from its `*_pretokenized` copy. A mixture needs a
  limit: it keeps its rates by repeating its tasks without end. (Read once, it
  would stop where its first task runs out, and lose the rest of the others.)

  Raises:
    ValueError: there is no such split, a feature has no raw text, or a mixture
      comes without a limit.
  """
  provider = seqio.get_mixture_or_task(task)
  if split not in provider.splits:
    splits = ', '.join(provider.splits)
    raise ValueError(f'{task} has no split {split!r}: use one of {splits}')
  fields = rows_lib.FIELDS[kind]
  options: dict[str, Any] = {'num_epochs': 1}
  if isinstance(provider, seqio.Mixture):
    if limit is None:
      raise ValueError(
          f'{task} is a mixture, which has no end: set limit'
      )
    options = {
        'num_epochs': None,
        'copy_pretokenized': True,
        'passthrough_features': (*fields, *rows_lib.OPTIONAL),
    }
  dataset = provider.get_dataset(
      sequence_length=None, split=split, shuffle=False, **options
  )
  keys = _keys(task, kind, dataset.element_spec)
  dataset = dataset.map(lambda ex: {f: ex[key] for f, key in keys.items()})
  if limit is not None:
    dataset = dataset.take(limit)
  for batch in dataset.ragged_batch(_BATCH):
    columns = {name: _column(values) for name, values in batch.items()}
    for values in zip(*columns.values(), strict=True):
      yield dict(zip(columns, values, strict=True))


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
    else:
      columns[name] = tf.constant(values, tf.string)
  return tf.data.Dataset.from_tensor_slices(columns)


def known_names() -> set[str]:
  """Names of all registered tasks and mixtures."""
  return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _file_dataset(
    paths: tuple[str, ...],
    kind: str,
    validation_share: float,
    allow_empty_responses: bool,
    split: str,
    shuffle_files: bool,
) -> tf.data.Dataset:
  del shuffle_files  # The order is the files'; streams shuffle.
  kept = []
  for path in paths:
    with tf.io.gfile.GFile(path, 'rb') as file:
      rows = list(
          rows_lib.read(file, path, kind, allow_empty=allow_empty_responses)
      )
    if not rows:
      raise ValueError(f'{path}: no rows: leave the file out or fill it')
    for row in rows:
      held_out = rows_lib.is_validation(row, kind, validation_share)
      if split == 'all' or held_out == (split == 'validation'):
        kept.append(row)
  return dataset_of(kept, kind)


def _paths(name: str, kind: str) -> list[str]:
  paths = []
  for pattern in filter(None, (part.strip() for part in name.split(','))):
    found = sorted(tf.io.gfile.glob(pattern))
    if not found:
      near = difflib.get_close_matches(pattern, sorted(known_names()), n=1)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise ValueError(
          f'no file and no registered task is called {pattern!r}: give {kind} '
          f'as paths or globs of .jsonl or .jsonl.gz files, or a task{hint}'
      )
    paths += found
  for path in paths:
    if not path.endswith(('.jsonl', '.jsonl.gz')):
      raise ValueError(f'{path}: not a .jsonl or .jsonl.gz file: convert it')
  if not paths:
    raise ValueError(f'no {kind} are named: the data set name is {name!r}')
  return list(dict.fromkeys(paths))


def _keys(task: str, kind: str, spec) -> dict[str, str]:
  """Which feature of the task holds the raw value of each field."""
  keys = {}
  for name in rows_lib.FIELDS[kind]:
    wanted = (tf.int32, tf.int64) if name == 'ranks' else (tf.string,)
    for key in (f'{name}_pretokenized', name):
      if key in spec and spec[key].dtype in wanted:
        keys[name] = key
        break
    else:
      raise ValueError(
          f'task {task} cannot serve as {kind}: it has no raw {name!r}, only '
          f'{", ".join(sorted(spec))}: let its preprocessor be '
          'seqio.preprocessors.tokenize, which keeps *_pretokenized'
      )
  keys |= {name: name for name in rows_lib.OPTIONAL if name in spec}
  return keys


def _column(values: Any) -> list:
  if isinstance(values, tf.RaggedTensor):
    flat = _column(values.flat_values)
    splits = values.row_splits.numpy().tolist()
    return [flat[a:b] for a, b in zip(splits, splits[1:], strict=False)]
  array = values.numpy()
  if array.dtype == np.object_:
    return [text.decode() for text in array.tolist()]
  return array.tolist()
