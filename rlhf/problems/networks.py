# SPDX-License-Identifier: Apache-2.0
"""The networks that a stage reads: are they there, do they fit the run?

Only their descriptions are read, never their weights. A network that an earlier
stage is still to make is judged by that stage's size, where its config's name
tells it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from rlhf import resume
from rlhf.model import SIZES, ModelConfig
from rlhf.problems import rules
from rlhf.problems.rules import Config, Problem

FIELDS = ('init_from', 'reward_model')


@dataclasses.dataclass(frozen=True)
class Network:
  """What is known of a network.

  Attributes:
    model: how to run it; None if it isn't there or can't be read.
    facts: that its stage wrote beside it.
    problem: why not, and what to do; '' if it is there, or will be made.
  """

  model: ModelConfig | None = None
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  problem: str = ''


def find(config: Config) -> Iterator[Problem]:
  """Networks that are missing, or don't go together."""
  seen = {}
  for field in FIELDS:
    path = path_of(config, field)
    if path:
      seen[field] = found = look(config, path)
      if found.problem:
        yield Problem(field, path, found.problem)
    elif path is not None and _needs(config, field):
      yield Problem(
          field, path, 'is not set: give the directory of a finished stage'
      )
  if all(field in seen and seen[field].model for field in FIELDS):
    yield from _vocabularies(config, seen['init_from'], seen['reward_model'])


def look(config: Config, path: Any) -> Network:
  """What is known of the network at `path`. Never raises."""
  try:
    about = _about(epath.Path(path))
    if about is not None:
      return Network(ModelConfig(**about['model']), dict(about['facts']))
  except Exception as error:
    # Whatever a broken file, or a store that nobody may read, makes of it.
    what = ' '.join(str(error).split())[:120]
    return Network(
        problem=f'cannot be read ({what}): give the directory of a finished'
        ' stage, or make that one anew'
    )
  if made_earlier(config, path):
    return Network()
  return Network(
      problem='there is no network: give the directory of a finished stage, its'
      ' model/, or a .safetensors file'
  )


def made_earlier(config: Config, path: Any) -> str:
  """The config of the earlier stage that makes `path`; '' if none does."""
  for name, spec in rules.section(config, 'requires').items():
    field = 'reward_root' if name == 'rm' else 'root'
    root = rules.get(config, field)
    if root is rules.ABSENT:
      root = rules.get(config, 'root')
    if not isinstance(root, str) or not isinstance(path, str):
      continue
    home, path_ = epath.Path(root) / name, epath.Path(path)
    if home == path_ or home in path_.parents:
      return str(spec)
  return ''


def contexts(config: Config) -> Iterator[tuple[str, int]]:
  """The field of each network of the stage, and its context if it is known."""
  described = rules.count(config, 'model.context')
  if described is not None and not path_of(config, 'init_from'):
    yield 'model', described
  for field in FIELDS:
    path = path_of(config, field)
    if not path:
      continue
    found = look(config, path)
    if found.model is not None:
      yield field, found.model.context
      continue
    _, colon, size = made_earlier(config, path).partition(':')
    if colon and size in SIZES:
      yield field, SIZES[size]['context']


def path_of(config: Config, field: str) -> Any:
  """Where a network of `FIELDS` is; '' if nothing says, None without a field.

  Without `init_from` a run goes on from the stage before it: see
  `rlhf.resume.start`.
  """
  path = rules.get(config, field)
  if path is rules.ABSENT:
    return None
  if not path and field == 'init_from':
    # Whatever odd values there are, they are problems of their own.
    with contextlib.suppress(Exception):
      return resume.start(config)[0]
  return path or ''


def _needs(config: Config, field: str) -> bool:
  if field == 'init_from':
    return rules.get(config, 'model') is rules.ABSENT
  return rules.get(config, 'stage') == 'ppo'


def _about(path: epath.Path) -> dict[str, Any] | None:
  """What a network says of itself; None where there is none."""
  if path.suffix == '.safetensors':
    if not path.exists():
      return None
    with path.open('rb') as file:
      size = int.from_bytes(file.read(8), 'little')
      if size > 100_000_000:
        raise ValueError('this is no .safetensors file')
      about = json.loads(file.read(size))['__metadata__']
    return {name: json.loads(about[name]) for name in ('model', 'facts')}
  for directory in (path, path / 'model'):
    file = directory / 'model.json'
    if file.exists():
      return json.loads(file.read_text())
  return None


def _vocabularies(
    config: Config, policy: Network, reward: Network
) -> Iterator[Problem]:
  """The reward model has to read what the policy writes."""
  assert policy.model is not None and reward.model is not None
  ours, theirs = policy.model.vocab_size, reward.model.vocab_size
  digests = policy.facts.get('vocabulary'), reward.facts.get('vocabulary')
  differs = ''
  if ours != theirs:
    differs = f'it has {theirs} tokens, and init_from has {ours}'
  elif all(digests) and digests[0] != digests[1]:
    differs = (
        f'its vocabulary is {str(digests[1])[:12]}..., and that of init_from is'
        f' {str(digests[0])[:12]}...'
    )
  if differs:
    yield Problem(
        'reward_model',
        rules.get(config, 'reward_model'),
        'reads other tokens than init_from='
        f'{rules.get(config, "init_from")}: {differs}: give one that was'
        " trained with the policy's tokenizer",
    )


def vocabulary(config: Config) -> Iterator[Problem]:
  """Whether the networks' tokens are those of data.vocabulary.

  Imports TensorFlow, and reads the vocabulary: for the end of all checks.
  """
  name = rules.get(config, 'data.vocabulary')
  paths = [(field, path_of(config, field)) for field in FIELDS]
  seen = [(field, path, look(config, path)) for field, path in paths if path]
  seen = [one for one in seen if one[2].model is not None]
  if not seen:
    return
  from rlhf.data import vocabularies

  try:
    size = vocabularies.vocabulary(name).vocab_size
    digest = vocabularies.fingerprint(name)
  except (ValueError, OSError) as error:
    what = ' '.join(str(error).split())
    yield Problem('data.vocabulary', name, f'cannot be read: {what}')
    return
  for field, path, found in seen:
    assert found.model is not None
    theirs = found.facts.get('vocabulary')
    what = ''
    if found.model.vocab_size != size:
      what = f'has {found.model.vocab_size} tokens, data.vocabulary {size}'
    elif theirs and theirs != digest:
      what = 'was trained with other tokens'
    if what:
      yield Problem(
          field,
          path,
          f'{what}: give a network that was trained with data.vocabulary='
          f'{name}, or the vocabulary that this one was',
      )
