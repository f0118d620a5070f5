# SPDX-License-Identifier: Apache-2.0
"""Config files as a command line names them, and the names of their fields.

What is wrong with one is said in words, and not by an exception.
"""

import difflib
import importlib.util
import os
import pathlib
import traceback
from typing import Any

from ml_collections import config_dict

from rlhf.problems import sources

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def load(spec: str) -> tuple[Any, str]:
  """The config of FILE or FILE:ARGUMENT, or None and what is wrong."""
  name, colon, argument = spec.partition(':')
  path = pathlib.Path(name)
  if not path.is_file():
    near = difflib.get_close_matches(
        path.stem, [pathlib.Path(one).stem for one in shipped()], n=1
    )
    hint = f'; did you mean configs/{near[0]}.py?' if near else ''
    names = ', '.join(shipped())
    return None, f'there is no such file: give one of {names}{hint}'
  try:
    loader = importlib.util.spec_from_file_location(path.stem, path)
    if loader is None or loader.loader is None:
      return None, 'is no Python file: give one that has get_config()'
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    config = module.get_config(*[argument] if colon else [])
  except Exception as error:
    return None, _why(error, path)
  if not isinstance(config, config_dict.ConfigDict):
    return None, 'get_config() returns no ConfigDict: let it return one'
  return config.lock(), ''


def _why(error: Exception, path: pathlib.Path) -> str:
  """A refusal in the config's own words, or where its code went wrong."""
  frames = traceback.extract_tb(error.__traceback__)
  if isinstance(error, ValueError) and str(error):
    return one_line(error)
  if isinstance(error, SyntaxError):
    return f'is no Python in line {error.lineno}: {error.msg}'
  whole = os.path.abspath(path)
  mine = [f.lineno for f in frames if os.path.abspath(f.filename) == whole]
  where = f' in line {mine[-1]}' if mine else ''
  what = f'{type(error).__name__}: {one_line(error)}'
  return f'get_config() fails{where}: {what}'


def shipped() -> list[str]:
  """The configs of this repository, from where it is run."""
  names = sorted(path.name for path in (_REPOSITORY / 'configs').glob('*.py'))
  hidden = ('__init__.py', 'common.py')
  return [f'configs/{name}' for name in names if name not in hidden]


def one_line(error: Exception) -> str:
  """What an error says, without the traceback that some carry."""
  what = error.args[0] if isinstance(error, LookupError) else error
  lines = str(what).strip().splitlines()
  if any('Traceback' in line for line in lines):
    lines = lines[-1:]
  return ' '.join(' '.join(lines).split()).removeprefix('ValueError: ')


def suggested(config: Any, key: str) -> list[str]:
  """Up to three fields of a config that `key` may have been meant to be."""
  if config is None:
    return []
  parent, _, last = key.rpartition('.')
  scores = {}
  for name in sources.leaves(config):
    above, _, leaf = name.rpartition('.')
    near = _alike(last, leaf)
    if near >= 0.6:
      # Of fields that are as near, the one of a section that is as well.
      scores[name] = near + 0.3 * _alike(parent, above) - 0.01 * len(name) / 80
  ranked = sorted(scores, key=lambda name: -scores[name])
  best = scores[ranked[0]] if ranked else 0.0
  return [name for name in ranked[:3] if scores[name] >= best - 0.25]


def _alike(given: str, name: str) -> float:
  """From 0 to 1: the same letters, or an abbreviation."""
  if given == name:
    return 1.0
  given, name = given.lower().replace('-', '_'), name.lower()
  initials = ''.join(word[:1] for word in name.split('_'))
  if len(given) > 1 and given in (initials, name.replace('_', '')):
    return 0.9
  return difflib.SequenceMatcher(None, given, name).ratio()
