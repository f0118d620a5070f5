# SPDX-License-Identifier: Apache-2.0
"""Are two finished runs the same, apart from their clocks?

Read from the files alone, by orbax and json: no code of a run is trusted to
read what it wrote.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# Names of numbers that tell of time.
_CLOCKS = re.compile(r'(.*/)?seconds|time/.*|tokens_per_second')
_LINES = ('metrics.jsonl', 'samples.jsonl', 'warnings.jsonl')


def differences(want: pathlib.Path, got: pathlib.Path) -> list[str]:
  """What of the run in `got` is not as in `want`; [] if all is, to the bit.

  Args:
    want: the work directory of an unbroken run.
    got: of one that was broken off and gone on with.
  """
  return list(_differences(want, got))


def _differences(want: pathlib.Path, got: pathlib.Path) -> Iterator[str]:
  for name in _LINES:
    yield from _of_lines(name, lines(want / name), lines(got / name))
  for name in ('results.json', 'model/model.json'):
    yield from _of_values(name, _json(want / name), _json(got / name))
  yield from _of_arrays('model', want / 'model/params', got / 'model/params')
  yield from _of_checkpoints(want / 'checkpoints', got / 'checkpoints')


def lines(path: pathlib.Path) -> list[Any]:
  """The lines of a file without their clocks; [] if it is not there."""
  if not path.exists():
    return []
  return [_timeless(_parsed(line)) for line in path.read_text().splitlines()]


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array below an orbax directory, by its name, as numpy."""
  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(path).tree
  how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  read = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=how))
  return {
      jax.tree_util.keystr(keys, simple=True, separator='/'): np.asarray(leaf)
      for keys, leaf in jax.tree_util.tree_leaves_with_path(read)
  }


def _parsed(line: str) -> Any:
  try:
    return json.loads(line)
  except ValueError:
    return {'not JSON': line}


def _json(path: pathlib.Path) -> Any:
  return _timeless(json.loads(path.read_text())) if path.exists() else None


def _timeless(value: Any) -> Any:
  if not isinstance(value, Mapping):
    return value
  return {
      name: _timeless(inner)
      for name, inner in value.items()
      if not _CLOCKS.fullmatch(name)
  }


def _of_lines(name: str, want: list, got: list) -> Iterator[str]:
  for number, (a, b) in enumerate(zip(want, got, strict=False), 1):
    if _text(a) != _text(b):
      yield from _of_values(f'{name}, line {number}', a, b)
      return
  if len(want) != len(got):
    yield f'{name}: {len(want)} lines, now {len(got)}'


def _of_values(name: str, want: Any, got: Any) -> Iterator[str]:
  if _text(want) == _text(got):
    return
  if isinstance(want, Mapping) and isinstance(got, Mapping):
    keys = [
        key
        for key in sorted({*want, *got})
        if _text(want.get(key)) != _text(got.get(key))
    ]
    want = {key: want.get(key) for key in keys}
    got = {key: got.get(key) for key in keys}
  yield f'{name}: {_text(want)[:300]}, now {_text(got)[:300]}'


def _text(value: Any) -> str:
  # As text, in which NaN is equal to itself and 1 is not 1.0.
  return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _of_arrays(
    name: str, want: pathlib.Path, got: pathlib.Path
) -> Iterator[str]:
  if not want.exists() and not got.exists():
    return
  if not want.exists() or not got.exists():
    yield f'{name}: only in {want if want.exists() else got}'
    return
  first, second = arrays(want), arrays(got)
  for leaf in sorted({*first, *second}):
    a, b = first.get(leaf), second.get(leaf)
    if a is None or b is None:
      yield f'{name}: {leaf} is only in {got if a is None else want}'
    elif a.dtype != b.dtype or a.shape != b.shape:
      yield f'{name}: {leaf} is {a.dtype}{a.shape}, now {b.dtype}{b.shape}'
    elif a.tobytes() != b.tobytes():
      apart = int(np.sum(a != b))
      yield f'{name}: {leaf} differs in {apart} of {a.size} numbers'


def _of_checkpoints(want: pathlib.Path, got: pathlib.Path) -> Iterator[str]:
  names = [sorted(p.name for p in path.iterdir()) for path in (want, got)]
  yield from _of_values('checkpoints', *names)
  steps = [max(_steps(path), default=None) for path in (want, got)]
  if None in steps or steps[0] != steps[1]:
    yield f'the last checkpoint is {steps[0]}, now {steps[1]}'
    return
  last = str(steps[0])
  yield from _of_arrays(
      f'checkpoints/{last}', want / last / 'state', got / last / 'state'
  )
  facts = [_facts(path / last) for path in (want, got)]
  yield from _of_values(f'checkpoints/{last}/facts', *facts)


def _steps(path: pathlib.Path) -> list[int]:
  return [int(p.name) for p in path.iterdir() if p.name.isdigit()]


def _facts(path: pathlib.Path) -> Any:
  """How far the run was: not when, nor under which name it ran."""
  found = _json(path / 'facts' / 'metadata') or {}
  facts = found.get('facts', {})
  return {name: facts.get(name) for name in ('step', 'data', 'progress')}
