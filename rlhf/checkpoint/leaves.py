# SPDX-License-Identifier: Apache-2.0
"""A state as leaves with names, and whether a saved one fits it."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlhf import sharding

# Of a kind, in a message; the rest is counted.
_SHOWN = 20


def named(tree: Any) -> dict[str, Any]:
  """A tree's leaves by name, as 'policy/params/embed/tokens/table'."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def kind(leaf: Any) -> list:
  """`[shape, dtype]` of an array or a number, JSON-able."""
  return [list(jnp.shape(leaf)), str(jnp.result_type(leaf))]


def words(kind: Sequence[Any]) -> str:
  """'float32[2, 3]', of a `kind` or what begins like one."""
  return f'{kind[1]}{kind[0]}'


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape, dtype and sharding; what has none goes to the first device."""
  where = getattr(leaf, 'sharding', None)
  if where is None:
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def shapes(tree: Any) -> Any:
  """The tree of its leaves' shapes, dtypes and shardings."""
  return jax.tree.map(abstract, tree)


def free(tree: Any) -> None:
  """Gives back the memory of arrays, for others to be read in their place."""
  for leaf in jax.tree.leaves(tree):
    leaf.delete()


def compare(
    saved: Mapping[str, Sequence[Any]],
    wanted: Mapping[str, Any],
    missing: Sequence[str],
    left_over: Sequence[str],
) -> tuple[list[str], list[str], list[str]]:
  """What a checkpoint lacks, what only it has, and what of that is wrong.

  Args:
    saved: shape and dtype of each leaf of the checkpoint, as of `kind`.
    wanted: the leaves of the state.
    missing: patterns (as of files) of leaves that the checkpoint may lack.
    left_over: patterns of leaves that only it may have.

  Returns:
    Names of the leaves that it lacks, of those that only it has, and lines
    that name each that no pattern allows or that is of another kind, and say
    what to do. No lines: they fit.
  """
  lacking = [name for name in wanted if name not in saved]
  extra = [name for name in saved if name not in wanted]
  other = [
      f'{name}: {words(saved[name])} there, {words(kind(leaf))} here'
      for name, leaf in wanted.items()
      if name in saved and list(saved[name][:2]) != kind(leaf)
  ]
  bad_lacking = _unmatched(lacking, missing)
  bad_extra = _unmatched(extra, left_over)
  lines = [
      *_listed('it lacks', bad_lacking),
      *_listed('only it has', bad_extra),
      *_listed('another shape or dtype:', other),
  ]
  if lines:
    lines.append(
        'Configure the run as it was, or start anew in another directory'
    )
  for field, names, patterns, what in (
      ('missing', bad_lacking, missing, 'begin with new values of these'),
      ('left_over', bad_extra, left_over, 'drop these'),
  ):
    if names and not other:
      flag = (*patterns, *_patterns(names))
      lines.append(f'To {what}: --config.resume.{field}="{flag}"')
  return lacking, extra, lines


def _unmatched(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
  return [
      name
      for name in names
      if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
  ]


def _listed(words: str, names: Sequence[str]) -> list[str]:
  lines = [f'  {words} {name}' for name in names[:_SHOWN]]
  if len(names) > _SHOWN:
    lines.append(f'  {words} {len(names) - _SHOWN} more like these')
  return lines


def _patterns(names: Sequence[str]) -> list[str]:
  """A few patterns for many leaves: 'policy/ema/*'."""
  found = set()
  for name in names:
    first, *rest = name.split('/')
    found.add('/'.join([first, *rest[:1], *(['*'] if rest[1:] else [])]))
  return sorted(found)
