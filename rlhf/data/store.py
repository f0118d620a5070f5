# SPDX-License-Identifier: Apache-2.0
"""Tokenised examples on disk, read by index: constant time, and no more memory
than their lengths take.

A folder that appears whole or not at all:

  examples.arrayrecord  one record an example (msgpack), or of text one record
                        for every 4,096 tokens (little-endian int32)
  index.npz             lengths in tokens, and ranks: what packing needs to know
  store.json            what was tokenised and how; the account of its rows

ArrayRecord reads and writes files of a disk or a mounted folder. A store on
gs:// is made and read on the hosts' own disks, by way of there.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgpack
import numpy as np
from etils import epath

from rlhf import hosts
from rlhf.data import rows as rows_lib
from rlhf.data.examples import Demonstration, Example, PromptExample, Ranking

# A change makes every store anew.
FORMAT = 1

_RECORDS, _INDEX, _FACTS = 'examples.arrayrecord', 'index.npz', 'store.json'
_CHUNK = 4096  # Tokens of text a record.
_DAY = 86_400.0  # Seconds that other hosts wait for the first to tokenise.


@dataclasses.dataclass(frozen=True)
class Index:
  """What is known of examples without reading them.

  Attributes:
    lengths: tokens of each of an example's sequences: (prompt, response, ...).
    ranks: of each ranking's responses; () for what is no ranking.
  """

  lengths: list[tuple[int, ...]]
  ranks: list[tuple[int, ...]]


def index_of(examples: Sequence[Example]) -> Index:
  """The index of a store, or of examples in memory."""
  if isinstance(examples, StoredExamples):
    return examples.outline
  return Index([_lengths(e) for e in examples], [_ranks(e) for e in examples])


class StoredExamples(Sequence):
  """Examples of a folder; reads those that are asked for."""

  def __init__(self, folder: str | os.PathLike):
    self._folder = pathlib.Path(folder)
    self.facts = _facts(self._folder)
    self._records = _Records(self._folder)
    try:
      # np.load refuses pickles unless it is told otherwise.
      with np.load(self._folder / _INDEX) as index:
        self.outline = Index(
            _ragged(index['lengths'], index['lengths_counts']),
            _ragged(index['ranks'], index['ranks_counts']),
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
      raise _broken(self._folder / _INDEX, 'cannot be read') from error

  def __len__(self) -> int:
    return len(self.outline.lengths)

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[j] for j in range(*i.indices(len(self)))]
    if not -len(self) <= i < len(self):
      raise IndexError(f'{self._folder} has {len(self)} examples, not {i}')
    number = int(i) % len(self)
    record = self._records[number]
    try:
      return _decode(record, self.facts['kind'])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
      raise self._records.broken(number) from error


class StoredTokens:
  """A run of text as token ids; `tokens[a:b]` reads what it has to, int32."""

  def __init__(self, folder: str | os.PathLike):
    self.facts = _facts(pathlib.Path(folder))
    self._records = _Records(pathlib.Path(folder))

  def __len__(self) -> int:
    return self.facts['tokens']

  def __getitem__(self, where: slice) -> np.ndarray:
    start, end, _ = where.indices(len(self))
    if end <= start:
      return np.zeros(0, np.int32)
    first = start // _CHUNK
    chunks = []
    for i in range(first, (end - 1) // _CHUNK + 1):
      chunks.append(self._records[i])
      if len(chunks[-1]) != 4 * min(_CHUNK, len(self) - i * _CHUNK):
        raise self._records.broken(i)
    tokens = np.frombuffer(b''.join(chunks), '<i4')
    return tokens[start - first * _CHUNK : end - first * _CHUNK]


def local(folder: str | os.PathLike) -> pathlib.Path:
  """The folder itself; of one in an object store, its copy on this host."""
  name = os.fspath(folder)
  if '://' not in name:
    return pathlib.Path(name)
  digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
  return pathlib.Path(tempfile.gettempdir()) / 'rlhf-stores' / digest


def build_once(folder: str | os.PathLike, build: Callable[[], None]) -> None:
  """Has the first host build a folder that is not there; the others wait.

  Args:
    folder: of a disk that all hosts share, or of an object store, of which each
      host then gets a copy.
    build: writes `local(folder)`.
  """
  shared, here = epath.Path(folder), local(folder)
  remote = os.fspath(here) != os.fspath(shared)
  there = hosts.agree(f'is {shared} there', (shared / _FACTS).exists)
  if not there:
    if hosts.is_first():
      build()
      if remote:
        _copy(epath.Path(here), shared)
    hosts.barrier(f'{shared} is tokenised', seconds=_DAY)
  if remote and not (here / _FACTS).exists():
    new = _new(here)
    _copy(shared, epath.Path(new))
    _settle(new, here)


def _copy(source: epath.Path, target: epath.Path) -> None:
  """Copies a store; what says that it is whole comes last."""
  target.mkdir(parents=True, exist_ok=True)
  for name in (_RECORDS, _INDEX, _FACTS):
    with (source / name).open('rb') as old, (target / name).open('wb') as new:
      shutil.copyfileobj(old, new, 2**24)


def write_examples(
    folder: str | os.PathLike,
    examples: Iterable[Example],
    facts: Callable[[], dict[str, Any]],
) -> None:
  """Writes examples as they come; `facts()` is asked when all have come."""
  index = Index([], [])

  def records():
    for example in examples:
      index.lengths.append(_lengths(example))
      index.ranks.append(_ranks(example))
      yield _encode(example)

  def finish(new: pathlib.Path) -> dict:
    lengths, lengths_counts = _flat(index.lengths)
    ranks, ranks_counts = _flat(index.ranks)
    np.savez(
        new / _INDEX,
        lengths=lengths,
        lengths_counts=lengths_counts,
        ranks=ranks,
        ranks_counts=ranks_counts,
    )
    return {'tokens': int(lengths.sum())}

  _write(pathlib.Path(folder), records(), finish, facts)


def write_tokens(
    folder: str | os.PathLike,
    documents: Iterable[np.ndarray],
    facts: Callable[[], dict[str, Any]],
) -> None:
  """Writes a run of text, given in pieces of any length."""
  total = 0

  def records():
    nonlocal total
    held, size = [], 0
    for piece in documents:
      held.append(np.asarray(piece, '<i4'))
      size += len(piece)
      total += len(piece)
      if size >= _CHUNK:
        tokens = np.concatenate(held)
        whole = size - size % _CHUNK
        for start in range(0, whole, _CHUNK):
          yield tokens[start : start + _CHUNK].tobytes()
        held, size = [tokens[whole:]], size - whole
    if size:
      yield np.concatenate(held).tobytes()

  _write(
      pathlib.Path(folder), records(), lambda new: {'tokens': total}, facts
  )


def _write(folder, records, finish, facts) -> None:
  array_record: Any = importlib.import_module(
      'array_record.python.array_record_module'
  )
  new = _new(folder)
  # One record a group: any of them is read without its neighbours.
  writer = array_record.ArrayRecordWriter(
      str(new / _RECORDS), 'group_size:1'
  )
  count = 0
  for record in records:
    writer.write(record)
    count += 1
  writer.close()
  found = finish(new) | {'format': FORMAT, 'records': count} | facts()
  (new / _FACTS).write_text(json.dumps(found, indent=2) + '\n')
  _settle(new, folder)


def _new(folder: pathlib.Path) -> pathlib.Path:
  """A folder beside it, of another name until it is whole."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  _remove_remains(folder)
  prefix = f'{folder.name}.new-'
  return pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))


def _settle(new: pathlib.Path, folder: pathlib.Path) -> None:
  """Gives a folder that is whole its name."""
  new.chmod(0o755)  # mkdtemp lets nobody else in.
  try:
    new.rename(folder)
  except OSError:
    # Another run was faster, and wrote the same; or an unfinished one is there.
    if not (folder / _FACTS).exists():
      raise
    shutil.rmtree(new)


def _remove_remains(folder: pathlib.Path) -> None:
  """Deletes what runs that were killed a day ago or longer left unfinished."""
  for remains in folder.parent.glob(f'{folder.name}.new-*'):
    if time.time() - remains.stat().st_mtime > _DAY:
      shutil.rmtree(remains, ignore_errors=True)


class _Records:
  """Records by number, with errors that name the file."""

  def __init__(self, folder: pathlib.Path):
    # Late: a second to import.
    from grain.sources import ArrayRecordDataSource

    self._path = folder / _RECORDS
    try:
      self._source: Any = ArrayRecordDataSource([str(self._path)])
      count = len(self._source)
    except Exception as error:  # Whatever the reader's C++ raises.
      raise _broken(self._path, 'cannot be opened') from error
    expected = _facts(folder)['records']
    if count != expected:
      what = f'has {count} records instead of {expected}'
      raise _broken(self._path, what)

  def __getitem__(self, i: int) -> bytes:
    try:
      # Empty, of a file that has been cut short since it was opened.
      return self._source[i]
    except Exception as error:
      raise self.broken(i) from error

  def broken(self, i: int) -> rows_lib.DataError:
    """The error of a record that is not what was written."""
    what = f'record {i} cannot be read: is its disk still there? If it is'
    return _broken(self._path, what)


def _facts(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / _FACTS
  try:
    facts = json.loads(path.read_text())
    if {'records', 'tokens'} <= facts.keys():
      return facts
  except (OSError, ValueError, AttributeError) as error:
    raise _broken(path, 'cannot be read') from error
  raise _broken(path, 'has no number of records')


def _broken(path: pathlib.Path, what: str) -> rows_lib.DataError:
  return rows_lib.DataError(
      f'{path}: {what}: delete its folder, and it is made again'
  )


def _lengths(example: Example) -> tuple[int, ...]:
  if isinstance(example, PromptExample):
    return (len(example.ids),)
  if isinstance(example, Demonstration):
    return len(example.prompt_ids), len(example.response_ids)
  if isinstance(example, Ranking):
    return len(example.prompt_ids), *map(len, example.responses_ids)
  return (len(example),)


def _ranks(example: Example) -> tuple[int, ...]:
  return tuple(example.ranks) if isinstance(example, Ranking) else ()


def _flat(rows: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
  values = np.array([v for row in rows for v in row], np.int32)
  return values, np.array([len(row) for row in rows], np.int32)


def _ragged(values: np.ndarray, counts: np.ndarray) -> list[tuple[int, ...]]:
  ends = np.cumsum(counts).tolist()
  flat = values.tolist()
  return [
      tuple(flat[end - count : end])
      for end, count in zip(ends, counts.tolist(), strict=True)
  ]


def _encode(example: Example) -> bytes:
  if isinstance(example, PromptExample):
    ids, texts, extra = [example.ids], [example.text], [example.user]
  elif isinstance(example, Demonstration):
    ids = [example.prompt_ids, example.response_ids]
    texts = [example.prompt_text, example.response_text]
    extra = [example.user]
  elif isinstance(example, Ranking):
    ids = [example.prompt_ids, *example.responses_ids]
    texts = [example.prompt_text, *example.response_texts]
    extra = [example.user, example.labeler, list(example.ranks)]
  else:
    raise TypeError(f'{type(example).__name__} is text: use write_tokens')
  raw = [np.asarray(i, '<i4').tobytes() for i in ids]
  record = msgpack.packb([raw, texts, extra])
  assert record is not None  # Of which the type stubs are not sure.
  return record


def _decode(record: bytes, kind: str) -> Example:
  raw, texts, extra = msgpack.unpackb(record)
  ids = [np.frombuffer(i, '<i4').astype(np.int32) for i in raw]
  if kind == 'prompts':
    return PromptExample(ids[0], texts[0], *extra)
  if kind == 'demonstrations':
    prompt, response = ids
    return Demonstration(prompt, response, *texts, *extra)
  user, labeler, ranks = extra
  return Ranking(
      prompt_ids=ids[0],
      responses_ids=tuple(ids[1:]),
      ranks=tuple(ranks),
      prompt_text=texts[0],
      response_texts=tuple(texts[1:]),
      labeler=labeler,
      user=user,
  )
