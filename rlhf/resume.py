# SPDX-License-Identifier: Apache-2.0
"""What a run is, and what of it has to hold still when it goes on.

A stage starts from the first of these that is there:

  1. the newest whole checkpoint of its own work directory
  2. `init_from`
  3. the run of the stage before it, which the config requires
  4. scratch, where the config describes a model

A checkpoint holds the state, the config, the random key, the position of every
data stream with a fingerprint of its data, fingerprints of the networks that
the stage reads, and the versions of code and libraries. A run that goes on
compares: it stops at what would make it another run, and says in one line what
can only change its last digits.
"""

import dataclasses
import fnmatch
import functools
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

# Fields that don't change what is computed, only where, when, or what is told.
HARMLESS = (
    'root',
    'loop.*',
    'resume.*',
    'mesh.*',
    'prerequisites',
    'requires.*',
    'labeler_agreement',
    'ppo.alarms.*',
    'data.store',
    'data.tfds_dir',
    'data.planned.*',
)
# But these do: which state is handed on hangs on them.
_NOT_HARMLESS = ('loop.best', 'loop.evaluate_every')

_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


class ResumeError(Exception):
  """The checkpoint is of another run; a message fit to be printed alone."""


@dataclasses.dataclass(frozen=True)
class Identity:
  """What makes a run this run, besides its data.

  Attributes:
    config: the stage's, nested.
    key: the random key, in words.
    networks: fingerprint of each network that the stage reads, by path.
    changed: patterns of fields that may differ from the checkpoint's.
    missing: patterns of leaves that a checkpoint may lack.
    left_over: patterns of leaves that it may have beyond the state's.
  """

  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  key: str = ''
  networks: Mapping[str, str] = dataclasses.field(default_factory=dict)
  changed: Sequence[str] = ()
  missing: Sequence[str] = ()
  left_over: Sequence[str] = ()

  def facts(self) -> dict[str, Any]:
    """What a checkpoint keeps of it, JSON-able."""
    return {
        'config': flat(self.config),
        'key': self.key,
        'networks': dict(self.networks),
        'versions': versions(),
        'devices': devices(),
    }


def stage_before(config: Any) -> str | None:
  """The required stage whose network is trained on, if there is one."""
  # The others are read, and nothing is made of them.
  policies = [name for name in config.requires if name not in _READ_ONLY]
  return policies[0] if policies else None


_READ_ONLY = ('rm', 'comparisons')

# Of a run that says nothing of itself.
NOBODY = Identity()


def start(config: Any) -> tuple[str, str]:
  """What a stage without a checkpoint starts from: `(path, words)`.

  Returns:
    The path of a network and where that was said; '' and 'scratch' if there is
    none and the config describes a model.

  Raises:
    ValueError: if nothing says what to start from.
  """
  before = stage_before(config)
  previous = str(epath.Path(config.root) / before) if before else ''
  if config.init_from:
    words = 'the stage before' if config.init_from == previous else 'init_from'
    return config.init_from, words
  if previous:
    return previous, 'the stage before'
  if 'model' in config:
    return '', 'scratch'
  raise ValueError(
      f'init_from={config.init_from!r}: nothing says what {config.run} starts'
      ' from: give --config.init_from='
  )


def below_root(path: str, root: str) -> str:
  """`path` as it is wherever the folder of all runs may be moved."""
  return '{root}' + path[len(root) :] if path.startswith(f'{root}/') else path


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
  """A nested config as dotted names, with values as JSON has them."""
  found: dict[str, Any] = {}

  def plain(value):
    if not isinstance(value, str):
      return value
    return below_root(value, config.get('root', ''))

  def walk(prefix, node):
    if isinstance(node, Mapping) and node:
      for name, value in node.items():
        walk(f'{prefix}.{name}' if prefix else str(name), value)
    else:
      found[prefix] = plain(json.loads(json.dumps(node, default=str)))

  walk('', config)
  return found


def key_words(key: jax.Array) -> str:
  """A random key as text: its kind and its numbers."""
  numbers = np.asarray(jax.random.key_data(key)).reshape(-1)
  return f'{jax.random.key_impl(key)}:{"-".join(map(str, numbers))}'


def compare(
    facts: Mapping[str, Any],
    identity: Identity,
    data: Mapping[str, Any],
    where: str,
) -> list[str]:
  """Compares a checkpoint's facts with the run that is to go on from it.

  Args:
    facts: of the checkpoint.
    identity: of the run.
    data: positions of the run's streams at the checkpoint's step.
    where: the checkpoint's path.

  Returns:
    Lines about what can change the last digits only: versions and devices.

  Raises:
    ResumeError: naming everything else that differs and that the config does
      not allow to.
  """
  then = {**facts.get('config', {}), **_named(facts, facts.get('data', {}))}
  here = identity.facts()
  now = {**here['config'], **_named(here, json.loads(json.dumps(data)))}
  stops = [
      f'  {name}: was {_value(then, name)}, is {_value(now, name)}'
      for name in sorted(then.keys() | now.keys())
      if then.get(name) != now.get(name)
      and not _may_change(name, identity.changed)
  ]
  if stops:
    names = sorted({line.split(':')[0].strip() for line in stops})
    raise ResumeError('\n'.join([
        f'{where} is of another run:',
        *stops,
        'Undo that to go on from it; or start anew with another --config.root=;'
        ' or go on with the change, knowing what it does, by',
        f'  --config.resume.changed="({", ".join(map(repr, names))},)"',
    ]))
  return [
      f'{name} was {json.dumps(before)} and is {json.dumps(after)}: numbers may'
      ' differ in their last digits'
      for what in ('versions', 'devices')
      for name, after in here[what].items()
      if (before := facts.get(what, {}).get(name)) != after
  ]


def _named(facts, data):
  """What is no config field, under names that `resume.changed` can give."""
  named = {f'stream.{name}': position for name, position in data.items()}
  for path, fingerprint in facts.get('networks', {}).items():
    named[f'network.{path}'] = fingerprint
  return named | {'key': facts.get('key')}


def _may_change(name: str, allowed: Sequence[str]) -> bool:
  def matches(patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

  harmless = matches(HARMLESS) and name not in _NOT_HARMLESS
  return harmless or matches(allowed)


def _value(values: Mapping[str, Any], name: str) -> str:
  return json.dumps(values[name]) if name in values else 'nothing'


@functools.cache
def versions() -> dict[str, str]:
  """Of Python, of the libraries that compute, and of this code."""
  found = {'python': platform.python_version(), 'code': _commit()}
  return found | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _commit() -> str:
  """The commit of this checkout, with '+' for later changes; or ''."""
  folder = pathlib.Path(__file__).resolve().parent

  def git(*words):
    return subprocess.run(
        ('git', '-C', str(folder), *words),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout.strip()

  try:
    git('ls-files', '--error-unmatch', __file__)
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', '--short=12', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.SubprocessError):
    return ''  # Installed, not cloned.


def devices() -> dict[str, Any]:
  """How many of which kind, on how many hosts."""
  found = jax.devices()
  return {
      'kind': found[0].device_kind,
      'count': len(found),
      'hosts': jax.process_count(),
  }
