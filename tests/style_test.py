# SPDX-License-Identifier: Apache-2.0
"""The rules of the codebase that a linter doesn't know (CONTRIBUTING.md)."""

import ast
import functools
import pathlib
import re
from collections.abc import Iterator

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_SOURCE = ('rlhf', 'launch', 'configs')
_CODE = (*_SOURCE, 'tests', 'benchmarks')
_SPDX = '# SPDX-License-Identifier: Apache-2.0'

# Packages, and the only folder of the source that imports them.
_HOME = {
    'flax': 'rlhf/model',
    'seqio': 'rlhf/data',
    'tensorflow': 'rlhf/data',
    'tensorflow_datasets': 'rlhf/data',
    'tensorflow_text': 'rlhf/data',
}
# They run code that a file brings.
_UNSAFE_IMPORTS = {'cloudpickle', 'dill', 'marshal', 'pickle', 'shelve'}
_UNSAFE_CALLS = {'eval', 'exec'}


def _name(path: pathlib.Path) -> str:
  return path.relative_to(_ROOT).as_posix()


def _python(*folders: str) -> list[pathlib.Path]:
  return sorted(p for f in folders for p in (_ROOT / f).rglob('*.py'))


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
  return ast.parse(path.read_text(encoding='utf-8'), filename=str(path))


def _functions(path: pathlib.Path) -> Iterator[ast.FunctionDef]:
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      yield node


def _imports(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Line and dotted name of every import, lazy ones too."""
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      yield node.lineno, node.module or ''


def test_every_file_names_its_licence():
  files = _python(*_CODE) + [
      path
      for pattern in ('*.py', '*.toml', '*.txt', '*.sh', 'Makefile', '.ci/run')
      for path in _ROOT.glob(pattern)
  ]
  files += [p for f in _CODE for p in (_ROOT / f).rglob('*.sh')]
  missing = [
      _name(path)
      for path in files
      # The first line, or the second after `#!`.
      if _SPDX not in path.read_text(encoding='utf-8').splitlines()[:2]
  ]
  assert not missing, f'first line is not {_SPDX!r}: {missing}'


def test_source_files_are_short():
  lengths = {
      _name(path): len(path.read_text(encoding='utf-8').splitlines())
      for path in _python(*_SOURCE)
  }
  long = {name: length for name, length in lengths.items() if length > 400}
  assert not long, f'over 400 lines; probably two ideas: {long}'


def test_functions_are_short():
  long = []
  for path in _python(*_SOURCE):
    limit = 150 if _name(path).startswith('launch/') else 80
    for function in _functions(path):
      lines = (function.end_lineno or 0) - function.lineno + 1
      if lines > limit:
        long.append(f'{_name(path)}:{function.lineno} {function.name} {lines}')
  assert not long, f'over 80 lines (150 in launch/): {long}'


def test_nothing_is_left_for_later():
  # In pieces, so that this file doesn't find itself.
  words = ('TO' 'DO', 'FIX' 'ME', 'Not' 'ImplementedError')
  pattern = re.compile(rf'\b({"|".join(words)})\b')
  found = [
      f'{_name(path)}:{number}'
      for path in _python(*_CODE)
      for number, line in enumerate(
          path.read_text(encoding='utf-8').splitlines(), 1
      )
      if pattern.search(line)
  ]
  assert not found, found


@pytest.mark.parametrize('package', _HOME)
def test_framework_is_imported_in_its_folder_only(package):
  home = _HOME[package] + '/'
  found = [
      f'{_name(path)}:{line}'
      for path in _python(*_SOURCE)
      for line, module in _imports(path)
      if module.split('.')[0] == package and not _name(path).startswith(home)
  ]
  assert not found, f'{package} belongs to {home}: {found}'


def test_imports_point_downwards():
  """launch -> planning, stages -> the rest; nothing in rlhf/ knows a config."""
  found = []
  for path in _python('rlhf'):
    for line, module in _imports(path):
      up = module.split('.')[0] in ('configs', 'launch', 'tests')
      above = _name(path).startswith(
          ('rlhf/stages/', 'rlhf/evaluation/', 'rlhf/planning/')
      )
      up |= module.startswith('rlhf.stages') and not above
      if up:
        found.append(f'{_name(path)}:{line} {module}')
  assert not found, found


def test_no_file_can_bring_code():
  found = []
  for path in _python(*_CODE):
    found += [
        f'{_name(path)}:{line} {module}'
        for line, module in _imports(path)
        if module.split('.')[0] in _UNSAFE_IMPORTS
    ]
    for node in ast.walk(_tree(path)):
      if not isinstance(node, ast.Call):
        continue
      if isinstance(node.func, ast.Name) and node.func.id in _UNSAFE_CALLS:
        found.append(f'{_name(path)}:{node.lineno} {node.func.id}()')
      if any(keyword.arg == 'allow_pickle' for keyword in node.keywords):
        found.append(f'{_name(path)}:{node.lineno} allow_pickle')
  assert not found, found


def _alphabet() -> set[str]:
  """The letters that rlhf/dims.py defines, and 1 for a broadcast axis."""
  table = ast.get_docstring(_tree(_ROOT / 'rlhf/dims.py')) or ''
  return {*re.findall(r'^ {2}([A-Z]) {2}\S', table, re.MULTILINE), '1'}


def test_dimension_suffixes_use_the_alphabet():
  alphabet = _alphabet()
  assert {'B', 'T', 'V'} <= alphabet, 'rlhf/dims.py: the table was not found'
  found = set()
  for path in _python('rlhf'):
    if _name(path).startswith('rlhf/world/'):
      continue  # Its axes (labelers, features) are its own.
    for node in ast.walk(_tree(path)):
      name = getattr(node, 'id', None) or getattr(node, 'arg', None) or ''
      suffix = re.fullmatch(r'_?[a-z][a-z0-9_]*_([A-Z][A-Z0-9]*)', name)
      if suffix and not set(suffix[1]) <= alphabet:
        found.add(f'{_name(path)} {name}')
  assert not found, f'letters that rlhf/dims.py does not define: {found}'


@pytest.mark.parametrize('file', ['rlhf/losses.py', 'rlhf/advantages.py'])
def test_array_arguments_state_their_shape(file):
  """By a suffix, or in the docstring: `scores: float [B]`, 'scalar', 'any'."""
  found = []
  for function in _tree(_ROOT / file).body:
    if not isinstance(function, ast.FunctionDef) or function.name[0] == '_':
      continue
    text = ast.get_docstring(function) or ''
    for arg in (*function.args.args, *function.args.kwonlyargs):
      if arg.annotation is None or ast.unparse(arg.annotation) != 'jax.Array':
        continue
      suffixed = re.search(r'_[A-Z][A-Z0-9]*$', arg.arg)
      stated = rf'\b{arg.arg}: .*(\[[A-Z, ]*\]|scalar|any shape)'
      if not suffixed and not re.search(stated, text):
        found.append(f'{file}:{arg.lineno} {function.name}({arg.arg})')
  assert not found, found
