# SPDX-License-Identifier: Apache-2.0
"""What the four builders share: files in, checked and split rows out.

A builder reads every file of its manual folder whose format `formats` knows,
in the order of their names, and stops at the first bad row with the one line
that `rows.check` has for it; nothing is left behind then. All rows are read
and checked once before the first is written.

Rows keep the order of the files. Each goes to 'train', 'validation' or 'test'
by its user (`hygiene.split_key`), as it would if the files were read as they
are. TFDS knows no empty split: one that gets no rows is left out, and logged.

TFDS reuses what it has built: after a change of the files say `--overwrite`.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from rlhf.data import formats, hygiene
from rlhf.data import rows as rows_lib

# Fields that hold a list; all others are one string.
_LISTS: dict[str, Any] = {'responses': tfds.features.Text(), 'ranks': np.int32}


@dataclasses.dataclass
class Options(tfds.core.BuilderConfig):
  """How rows are read and split. On the command line, JSON after `--config=`.

  Attributes:
    name: a folder of the prepared data; made of the options if not given, so
      that data split in two ways lie in two places.
    validation, test: shares of the users (of the rows, where none is named).
    allow_empty_responses: whether a response may be '', as sampled ones may.
    template: of `chat.TEMPLATES`, for rows that hold messages.
    fields: our names of fields -> the files' own, where they differ.
  """

  name: str = ''
  validation: float = 0.05
  test: float = 0.05
  allow_empty_responses: bool = False
  template: str = 'dialogue'
  fields: dict[str, str] | None = None

  def __post_init__(self):
    # Refuses bad shares before a file is read.
    hygiene.split_of('', validation=self.validation, test=self.test)
    self.name = self.name or self._own_name()

  def _own_name(self) -> str:
    parts = [f'validation_{self.validation}', f'test_{self.test}']
    for name in ('allow_empty_responses', 'template', 'fields'):
      value = getattr(self, name)
      if value != getattr(Options, name):
        parts.append(re.sub(r'[^\w.]+', '_', f'{name}_{value}'))
    return '-'.join(parts)


class RowsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set of one kind of row; a subclass says which, and no more."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}
  BUILDER_CONFIGS = [Options(name='default')]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'Give --manual_dir=FOLDER, a folder of your files: '
      + ', '.join(formats.EXTENSIONS)
  )
  # Where the code lies, which TFDS wants for checksums of downloads only and,
  # in 4.9.10, finds by a package that it does not require.
  code_path = None
  # A key of `rows.FIELDS`.
  KIND: ClassVar[str]

  def _info(self) -> tfds.core.DatasetInfo:
    fields = (*rows_lib.FIELDS[self.KIND], *rows_lib.OPTIONAL)
    features = {
        name: tfds.features.Sequence(_LISTS[name])
        if name in _LISTS
        else tfds.features.Text()
        for name in fields
    }
    return tfds.core.DatasetInfo(
        builder=self,
        description=(
            f'{self.KIND.capitalize()} from local files, one row an example, '
            "split by user; '' where a row has no value."
        ),
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,  # A run shuffles; this keeps the files' order.
    )

  def _split_generators(
      self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, rows_lib.Row]]]:
    paths = _files(dl_manager.manual_dir)
    counts = collections.Counter(split for split, _, _ in self._rows(paths))
    for split in hygiene.SPLITS:
      if not counts[split]:
        logging.warning(
            '%s: no row falls into the split %r, so there is none: give more '
            'data or a larger share',
            self.info.full_name,
            split,
        )
    # Read once more for each split, for a list of all rows may be too large.
    filled = [split for split in hygiene.SPLITS if counts[split]]
    return {split: self._generate_examples(paths, split) for split in filled}

  def _generate_examples(
      self, paths: list[tfds.core.Path], split: str
  ) -> Iterator[tuple[str, rows_lib.Row]]:
    """Yields (key, row); a key is the file's name and the row's number."""
    for row_split, where, row in self._rows(paths):
      if row_split == split:
        yield where, row

  def _rows(
      self, paths: list[tfds.core.Path]
  ) -> Iterator[tuple[str, str, rows_lib.Row]]:
    """Yields (split, key, checked row); raises the first row's RowError."""
    options: Any = self.builder_config
    names = options.fields or {}
    lists = [names.get(name, name) for name in formats.LISTS]
    for path in paths:
      where = ''
      for where, raw in formats.read(str(path), lists=lists):
        if isinstance(raw, rows_lib.RowError):
          raise raw
        row = rows_lib.check(
            raw,
            self.KIND,
            where,
            allow_empty=options.allow_empty_responses,
            template=options.template,
            fields=options.fields,
        )
        split = hygiene.split_of(
            hygiene.split_key(row, self.KIND),
            validation=options.validation,
            test=options.test,
        )
        yield split, where.replace(str(path), path.name), row
      if not where:
        raise rows_lib.DataError(f'{path}: no rows: leave it out or fill it')


def _files(folder: tfds.core.Path) -> list[tfds.core.Path]:
  """The folder's files of a known format, by name; logs what it leaves out."""
  found = sorted(folder.iterdir())
  paths = [
      path
      for path in found
      # A shard, 'a.tfrecord-00000-of-00002', has its number at the end.
      if re.sub(r'-\d+-of-\d+$', '', path.name).endswith(formats.EXTENSIONS)
      and not path.is_dir()
  ]
  others = [path.name for path in found if path not in paths]
  known = ', '.join(formats.EXTENSIONS)
  if not paths:
    raise rows_lib.DataError(
        f'{folder}: no file of a known format ({known}), only '
        f'{", ".join(others)}: convert them or name another --manual_dir'
    )
  if others:
    logging.warning(
        '%s: not read, for only files that end in %s are: %s',
        folder,
        known,
        ', '.join(others),
    )
  return paths
