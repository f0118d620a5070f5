# SPDX-License-Identifier: Apache-2.0
"""One screen on a step whose numbers are not finite, and the batch to look at.

  nonfinite_step_<n>/
    report.txt          what `report` says
    numbers.json        the metrics of the step
    batch.safetensors   the batch, flat: `load_batch` reads it

A state that went bad lies beside it, where the loop puts it. On several hosts
all call these functions, because arrays may lie with others; the first one
writes. Directories may be gs://.
"""

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import numpy as safetensors

from rlhf import hosts, sharding

_WIDTH = 80
_STEPS, _LEAVES, _LARGEST, _ARRAYS, _SAMPLES = 8, 3, 5, 6, 3
# Columns of the table, after what is not finite and the stage's headline.
_USUAL = ('loss', 'grad_norm', 'kl', 'score', 'update_norm')
# A metric or a leaf that has grown so many times is said to grow.
_GROWTH = 10.0


def folder(directory: str | os.PathLike, step: int) -> epath.Path:
  """Where `save` puts what belongs to a step."""
  return epath.Path(directory) / f'nonfinite_step_{step}'


def report(
    *,
    title: str,
    step: int,
    numbers: Mapping[str, float],
    history: Sequence[Mapping[str, float]],
    state: Any,
    batch: Any,
    samples: Sequence[Mapping[str, Any]] = (),
    saved_in: str | os.PathLike = '',
    policy: str = 'stop',
    headline: Sequence[str] = (),
    before: Mapping[str, float] | None = None,
) -> str:
  """What is known of a step that is not finite: at most 40 lines of text.

  Args:
    title: of the stage.
    step: counted from 1.
    numbers: its metrics, by name.
    history: metrics of logged steps, each with its 'step', oldest first.
    state: any tree of arrays.
    batch: any tree of arrays, as the step was given it.
    samples: up to three are shown, of {prompt, response, score}.
    saved_in: the folder that the batch is saved in; '' if it is not.
    policy: `loop.nonfinite`: 'stop', 'skip' or 'rollback'.
    headline: metrics that the table should have, if there is room.
    before: `sizes` of the state at an earlier time, to tell what grows.

  Returns:
    Lines of at most 80 columns, but for paths.
  """
  found = sorted(
      (k for k, v in numbers.items() if not math.isfinite(v)), key=_cause
  )
  bad = ', '.join(f'{name} = {numbers[name]}' for name in found)
  lines = [f'{title}: step {step} is not finite']
  lines += textwrap.wrap(
      f'not finite: {bad}',
      80,
      subsequent_indent='  ',
      max_lines=3,
      placeholder=' ...',
  )
  rates = [
      f'{name} = {value:.4g}'
      for name, value in sorted(numbers.items())
      if name.endswith('learning_rate')
  ]
  if rates:
    lines.append(_clip(', '.join(rates)))
  lines += _history(step, numbers, history, [*found, *headline])
  lines += _state(state, before or {})
  lines += _batch(batch)
  for row in samples[:_SAMPLES]:
    lines.append(_clip(f'  | {_said(row)}'))
  if os.fspath(saved_in):
    lines.append(f'saved: {os.fspath(saved_in)}')
  return '\n'.join([*lines, *_advice(saved_in, policy)]) + '\n'


def sizes(state: Any) -> dict[str, float]:
  """The largest finite |x| of each leaf of floats, by name."""
  return {name: most for name, _, _, most in _measured(state)}


def save(
    directory: str | os.PathLike,
    *,
    step: int,
    batch: Any,
    text: str,
    numbers: Mapping[str, float] | None = None,
) -> str:
  """Writes a batch, its report and its numbers.

  Args:
    directory: the stage's.
    step: counted from 1.
    batch: any tree of arrays, on the host or on devices, of any dtype.
    text: from `report`.
    numbers: metrics of the step, by name.

  Returns:
    The folder; what was there of another try is replaced.

  Raises:
    OSError: as the file system does.
  """
  where = folder(directory, step)
  data = _pack(_arrays(batch))  # On all hosts: parts lie with others.
  if hosts.is_first():
    where.mkdir(parents=True, exist_ok=True)
    plain = {
        # JSON has no word for them.
        name: float(v) if math.isfinite(v) else str(float(v))
        for name, v in (numbers or {}).items()
    }
    (where / 'batch.safetensors').write_bytes(data)
    (where / 'numbers.json').write_text(json.dumps(plain, indent=2) + '\n')
    (where / 'report.txt').write_text(text)
  return os.fspath(where)


def load_batch(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a batch that `save` wrote, by its leaves' names.

  Args:
    path: the folder, or batch.safetensors in it.

  Raises:
    FileNotFoundError: naming the file.
  """
  file = epath.Path(path)
  if file.suffix != '.safetensors':
    file = file / 'batch.safetensors'
  if not file.exists():
    raise FileNotFoundError(f'no batch: {file} does not exist')
  data = file.read_bytes()
  header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
  dtypes = json.loads(header['__metadata__']['dtypes'])
  arrays = safetensors.load(data)
  for name, dtype in dtypes.items():
    raw = arrays[name]
    whole = np.frombuffer(raw.tobytes(), jnp.dtype(dtype))
    arrays[name] = whole.reshape(raw.shape[:-1])
  return arrays


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Safetensors; dtypes that numpy does not know by itself go as bytes."""
  packed, dtypes = {}, {}
  for name, array in arrays.items():
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.kind == 'V':  # bf16 and the like, of ml_dtypes.
      dtypes[name] = array.dtype.name
      raw = np.frombuffer(array.tobytes(), np.uint8)
      array = raw.reshape(*array.shape, array.dtype.itemsize)
    packed[name] = array
  return safetensors.save(packed, {'dtypes': json.dumps(dtypes)})


def _arrays(tree: Any) -> dict[str, np.ndarray]:
  """Leaves on the host, by name; keys as their data, and no texts."""
  named = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    if _is_key(leaf):
      leaf = jax.random.key_data(leaf)
    array = np.asarray(sharding.fetch(leaf))
    if array.dtype.kind not in 'OSUT':
      named[sharding.path_name(path) or 'batch'] = array
  return named


def _is_key(leaf: Any) -> bool:
  dtype = getattr(leaf, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _measured(tree: Any) -> list[tuple[str, int, int, float]]:
  """(name, values that are not finite, values, largest finite |x|) of leaves
  of floats."""
  found = []
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    if _is_key(leaf) or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      continue
    if np.size(leaf):
      # Where it lies: a state may be larger than a host.
      bad, most = sharding.fetch(_measure(leaf))
      name = sharding.path_name(path)
      found.append((name, int(bad), np.size(leaf), float(most)))
  return found


@jax.jit
def _measure(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  finite = jnp.isfinite(x)
  # In f32, because int32 would overflow on large stacked weights.
  bad = jnp.sum(~finite, dtype=jnp.float32)
  return bad, jnp.max(jnp.where(finite, jnp.abs(x), 0).astype(jnp.float32))


def _cause(name: str) -> tuple[int, str]:
  """Sorts causes before effects: what was drawn, losses, gradients, updates."""
  if name.startswith('rollout/'):
    return 0, name
  return 1 if name.endswith('loss') else 2, name


def _history(step, numbers, history, wanted) -> list[str]:
  """A table: the last logged steps, and this one."""
  rows = [row for row in history if row.get('step', 0) < step]
  rows = [*rows[-_STEPS + 1 :], {**numbers, 'step': step}]
  usual = [
      name
      for end in _USUAL
      for name in sorted(numbers)
      if name.split('/')[-1] == end
  ]
  names, width = [], 8
  for name in dict.fromkeys([*wanted, *usual]):
    room = max(len(name), 9) + 2
    if name in numbers and width + room <= _WIDTH:
      names.append(name)
      width += room
  lines = ['the last logged steps, and this one:', _row('step', names, names)]
  for row in rows:
    values = [f'{row[n]:.4g}' if n in row else '' for n in names]
    lines.append(_row(f'{int(row["step"])}', values, names))
  grown = []
  for name in names:
    values = [abs(row[name]) for row in rows if name in row]
    values = [value for value in values if math.isfinite(value)]
    if len(values) > 1 and 0 < values[0] * _GROWTH < values[-1]:
      grown.append(f'{name}, {values[-1] / values[0]:.0f} times')
  if grown:
    lines.append(_clip(f'  grown: {_listed(grown)}'))
  return lines


def _row(step: str, values: Sequence[str], names: Sequence[str]) -> str:
  cells = [
      f'{value:>{max(len(name), 9) + 2}}'
      for value, name in zip(values, names, strict=True)
  ]
  return f'{step:>8}' + ''.join(cells)


def _state(state: Any, before: Mapping[str, float]) -> list[str]:
  measured = _measured(state)
  bad = [leaf for leaf in measured if leaf[1]]
  lines = [f'the state: {len(bad)} of {len(measured)} leaves are not finite']
  if len(bad) > _LEAVES:
    lines[0] += f', such as these {_LEAVES}'
  for name, count, size, _ in bad[:_LEAVES]:
    lines.append(_clip(f'  {name}', f'  {count} of {size} are not finite'))
  largest = sorted(measured, key=lambda leaf: -leaf[3])[:_LARGEST]
  for name, _, _, most in largest:
    was = before.get(name)
    end = f'  |x| up to {most:.4g}'
    if was is not None:
      grows = ': it grows' if most > _GROWTH * was > 0 else ''
      end += f', was {was:.4g}{grows}'
    lines.append(_clip(f'  {name}', end))
  return lines


def _batch(batch: Any) -> list[str]:
  arrays = _arrays(batch)
  # What is not finite first, and then tokens and masks.
  order = sorted(
      arrays.items(),
      key=lambda item: (
          _not_finite(item[1]) == 0,
          not any(word in item[0] for word in ('tokens', 'mask')),
      ),
  )
  lines = [f'the batch: {len(arrays)} arrays']
  if len(order) > _ARRAYS:
    lines[0] += f', such as these {_ARRAYS}'
  for name, array in order[:_ARRAYS]:
    shape = 'x'.join(map(str, array.shape)) or 'scalar'
    end = f'  {array.dtype} {shape}  {_content(array)}'
    lines.append(_clip(f'  {name}', end))
  return lines


def _not_finite(array: np.ndarray) -> int:
  if not jnp.issubdtype(array.dtype, jnp.inexact):
    return 0
  return int((~np.isfinite(array)).sum())


def _content(array: np.ndarray) -> str:
  if not array.size:
    return 'empty'
  if array.dtype == np.bool_:
    return f'{array.mean():.0%} true'
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    array = np.abs(array)
  bad = _not_finite(array)
  floats = jnp.issubdtype(array.dtype, jnp.floating)
  kept = array[np.isfinite(array)].astype(np.float64) if floats else array
  between = 'nothing finite'
  if kept.size:
    shown = (lambda x: f'{x:.4g}') if floats else str
    between = f'{shown(kept.min())} to {shown(kept.max())}'
  return f'{between}, {bad} not finite' if bad else between


def _said(row: Mapping[str, Any]) -> str:
  prompt, response = (
      ' '.join(str(row.get(key, '')).split()) for key in ('prompt', 'response')
  )
  score = row.get('score')
  end = f' [{score:.4g}]' if isinstance(score, int | float) else ''
  room = _WIDTH - 8 - len(end)
  prompt = textwrap.shorten(prompt, room // 2, placeholder='...')
  response = response[: room - len(prompt)]
  return f'{prompt} -> {response}{end}'


def _advice(saved_in: str | os.PathLike, policy: str) -> list[str]:
  lines = ['what to do:']
  if os.fspath(saved_in):
    where = os.fspath(saved_in)
    lines.append(f'  look at it: rlhf.watching.diagnosis.load_batch({where!r})')
  lines.append(
      '  lower optimizer.learning_rate or clip_norm, or take more warmup_steps'
  )
  if policy == 'stop':
    lines += [
        '  or have --config.loop.nonfinite=skip leave such updates out, or',
        '  =rollback go back to the newest checkpoint, past this batch',
    ]
  else:
    lines.append(
        f'  loop.nonfinite={policy} bears up to loop.nonfinite_bound of them'
    )
  return lines


def _listed(parts: Sequence[str]) -> str:
  """The first of them, and how many more there are."""
  shown = list(parts[:1])
  for part in parts[1:]:
    if len(', '.join([*shown, part])) > 50:
      break
    shown.append(part)
  more = len(parts) - len(shown)
  return ', '.join(shown) + (f' and {more} more' if more else '')


def _clip(text: str, end: str = '') -> str:
  """A line of at most 80 columns: the front of `text` gives way to `end`."""
  room = _WIDTH - len(end)
  if len(text) > room:
    text = '  ...' + text[-(room - 5) :] if end else text[: room - 3] + '...'
  return text + end

