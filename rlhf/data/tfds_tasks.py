# SPDX-License-Identifier: Apache-2.0
"""Prepared TFDS data sets as seqio tasks of raw rows.

A data set is named `tfds:NAME`, with `/CONFIG` and `:VERSION` after it or not,
and has to lie prepared in TFDS's folder ($TFDS_DATA_DIR, ~/tensorflow_datasets
by default): nothing here downloads, and no code of the data set is needed.
`builders` makes such data sets of local files. TFRecord and ArrayRecord files
are read alike.

The task's features are the data set's own, untouched: text stays text, for the
vocabulary and the prompt format belong to the run.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.utils import file_utils

from rlhf.data import rows as rows_lib

PREFIX = 'tfds:'
_BATCH = 256  # Records a read of ArrayRecord files; only speed hangs on it.
_NAME = re.compile(r'tfds:(\w+)(?:/([\w.\-]+))?(?::([\d.*]+))?')
_BUILD = 'python -m rlhf.data.builders'
# Those that the repository builds from files.
_BUILDERS = tuple(f'rlhf_{kind}' for kind in rows_lib.FIELDS)


def register(name: str, *, data_dir: str | None = None) -> str:
  """Adds a prepared data set to seqio's registry, unless it is there.

  Single values and (ragged) tensors become the task's output features, which
  pass through as they are. A dictionary, such as the {role, content} of
  messages, is kept in every example beside them, for seqio has no feature of
  that form; a data set within an example is dropped. Both are logged.

  Args:
    name: see the top of this file. Without a config the data set's default,
      without a version the newest that is prepared.
    data_dir: the folder of prepared data sets, if not TFDS's own.

  Returns:
    The task's name, such as 'tfds_imdb_reviews_plain_text_1_0_0'. A data_dir
    adds a digest, so that two folders make two tasks.

  Raises:
    DataError: the name is malformed or unknown, or not prepared here.
  """
  builder = _prepared(name, data_dir)
  full_name = builder.info.full_name
  task = 'tfds_' + re.sub(r'\W', '_', full_name)
  # Two folders, or the configs a-b and a_b, are two data sets.
  if data_dir or not re.fullmatch(r'\w+(/\w+)?/[\d.]+', full_name):
    key = repr((full_name, data_dir)).encode()
    task += '_' + hashlib.blake2b(key, digest_size=4).hexdigest()
  if task in seqio.TaskRegistry.names():
    return task
  source = _source(builder, data_dir)
  features, kept = _features(source, name)

  def keep(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda example: {key: example[key] for key in kept})

  seqio.TaskRegistry.add(
      task, source=source, output_features=features, preprocessors=[keep]
  )
  return task


def splits(task: str) -> dict[str, int]:
  """Number of examples of each split of a task that `register` made.

  Raises:
    DataError: there is no such task.
  """
  if task not in seqio.TaskRegistry.names():
    raise rows_lib.DataError(f'there is no seqio task {task}: register it')
  source = seqio.TaskRegistry.get(task).source
  # seqio says infinity of an empty split.
  sizes = {name: source.num_input_examples(name) for name in source.splits}
  return {name: int(n) if n and n < np.inf else 0 for name, n in sizes.items()}


def raw_row(example: Mapping[str, Any]) -> rows_lib.Row:
  """An example as a plain row, for `rows.check`.

  Args:
    example: of tensors or numpy values, as `as_numpy_iterator`, `tfds.as_numpy`
      or `as_data_source` give them.

  Returns:
    Strings, ints, floats, bools, lists and dictionaries only. Bytes become
    text; those that are not UTF-8 become lone surrogates, which `rows.check`
    reports as invalid_unicode. A dictionary of lists of one length, as which
    TFDS gives a sequence of dictionaries, becomes a list of dictionaries:
    {'role': ['user'], 'content': ['Hi']} is [{'role': 'user', ...}].
  """
  return {name: _plain(value) for name, value in example.items()}


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    fields = {name: _plain(part) for name, part in value.items()}
    lists = [part for part in fields.values() if isinstance(part, list)]
    if not lists or len(lists) < len(fields) or len({*map(len, lists)}) > 1:
      return fields
    turns = zip(*lists, strict=True)
    # Once more, for a turn may hold lists in its turn.
    return [_plain(dict(zip(fields, turn, strict=True))) for turn in turns]
  if hasattr(value, 'to_list'):  # A ragged tensor, or its numpy counterpart.
    value = value.to_list()
  elif isinstance(value, tf.Tensor):
    value = value.numpy()
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, bytes):
    return value.decode(errors='surrogateescape')
  if isinstance(value, list):
    return [_plain(part) for part in value]
  return value


def _prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  """A builder that only reads, made from the prepared files."""
  match = _NAME.fullmatch(name)
  if not match:
    raise rows_lib.DataError(
        f'{name!r} names no TFDS data set: write tfds:NAME, tfds:NAME/CONFIG '
        'or tfds:NAME/CONFIG:1.0.0'
    )
  try:
    return read_only_builder.builder_from_files(
        name.removeprefix(PREFIX), data_dir=data_dir
    )
  except tfds.core.DatasetNotFoundError:
    message = _not_found(name, match[1], match[2], data_dir)
  except (ValueError, AssertionError, OSError) as error:
    # Prepared twice, or by a TFDS that is too old to read.
    message = f'{name}: TFDS cannot read it: {" ".join(str(error).split())}'
  raise rows_lib.DataError(message)


def _not_found(
    name: str, dataset: str, config: str | None, data_dir: str | None
) -> str:
  """What is missing, and the command that makes it."""
  dirs = file_utils.list_data_dirs(data_dir)
  folders = [str(folder).rstrip('/') for folder in dirs]
  where = ' or '.join(folders)
  prepared = sorted(
      found
      for folder in folders
      for found in _list_prepared(folder)
      if re.split('[/:]', found)[0] == dataset
  )
  if prepared:
    return (
        f'{name}: not prepared in {where}, but others are: use '
        + ' or '.join(PREFIX + found for found in prepared)
    )
  options = f' --data_dir={folders[0]}'
  if dataset in _BUILDERS:
    return (
        f'{name}: not prepared in {where}: make it of your files with '
        f'`{_BUILD} {dataset} --manual_dir=FOLDER{options}`'
    )
  known = tfds.list_builders(with_community_datasets=False)
  if dataset in known:
    whole = f'{dataset}/{config}' if config else dataset
    return (
        f'{name}: not prepared in {where}, and a run does not download: do it '
        f'first with `{_BUILD} {whole}{options}`'
    )
  known += [re.split('[/:]', p)[0] for f in folders for p in _list_prepared(f)]
  near = difflib.get_close_matches(dataset, {*known, *_BUILDERS}, n=3)
  hint = f'did you mean {" or ".join(near)}? If not, ' if near else ''
  return (
      f'{name}: TFDS knows no data set {dataset!r} and {where} holds none: '
      f'{hint}name the folder it was prepared in'
  )


def _list_prepared(folder: str) -> list[str]:
  """Names such as 'a/default:1.0.0' of the data sets in a folder."""
  found = []
  for pattern in ('*/*/dataset_info.json', '*/*/*/dataset_info.json'):
    for path in tf.io.gfile.glob(f'{folder}/{pattern}'):
      *names, version = path.removeprefix(f'{folder}/').split('/')[:-1]
      found.append('/'.join(names) + f':{version}')
  return found


def _source(builder: Any, data_dir: str | None) -> Any:
  """The seqio source: TfdsDataSource, or its like for ArrayRecord files."""
  if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    return seqio.TfdsDataSource(
        tfds_name=builder.get_reference().tfds_name(include_version=True),
        tfds_data_dir=data_dir,
        read_only=True,
    )
  found = builder.info.splits
  sizes = {name: found[name].num_examples for name in found}

  # TFDS reads ArrayRecord files by index only, and seqio wants a tf.data one.
  def dataset(split: str, shuffle_files: bool, seed: int | None = None):
    records = builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    order = np.arange(len(records))
    if shuffle_files:
      order = np.random.default_rng(seed).permutation(order)

    def batches():
      for start in range(0, len(order), _BATCH):
        yield records.__getitems__(order[start : start + _BATCH].tolist())

    spec = tf.TensorSpec([None], tf.string)
    records_ds = tf.data.Dataset.from_generator(batches, output_signature=spec)
    examples = records_ds.unbatch().map(
        builder.info.features.deserialize_example
    )
    return examples.apply(tf.data.experimental.assert_cardinality(len(order)))

  return seqio.FunctionDataSource(
      dataset, splits=tuple(sizes), num_input_examples=sizes
  )


def _features(source: Any, name: str) -> tuple[dict[str, Any], list[str]]:
  """The task's output features, and the keys that its examples keep."""
  split = next(iter(source.splits), None)
  if split is None:
    raise rows_lib.DataError(f'{name}: it has no splits: prepare it again')
  spec = source.get_dataset(split, shuffle=False).element_spec
  if not isinstance(spec, dict):
    raise rows_lib.DataError(
        f'{name}: its examples are no dictionaries but {spec}: it cannot serve'
    )
  features, nested, dropped = {}, [], []
  for key, part in spec.items():
    leaves = tf.nest.flatten(part)
    tensors = (tf.TensorSpec, tf.RaggedTensorSpec)
    if not all(isinstance(leaf, tensors) for leaf in leaves):
      dropped.append(key)
    elif isinstance(part, dict) or part.shape.rank is None:
      nested.append(key)
    else:
      features[key] = seqio.Feature(
          seqio.PassThroughVocabulary(size=0),
          add_eos=False,
          dtype=part.dtype,
          rank=part.shape.rank,
      )
  if nested:
    logging.info(
        '%s: %s are in the examples, but are no features of the seqio task (a '
        'mixture drops them)',
        name,
        ', '.join(nested),
    )
  if dropped:
    logging.warning(
        '%s: dropped %s: seqio cannot take them', name, ', '.join(dropped)
    )
  return features, [*features, *nested]
