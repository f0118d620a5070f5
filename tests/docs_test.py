# SPDX-License-Identifier: Apache-2.0
"""What the documentation says exists: functions, tests, files, flags, numbers.

Commands are looked at, not run: the script and the config have to exist, and so
does every field that a flag sets.
"""

import ast
import functools
import pathlib
import re
import shlex

import pytest

from launch import pipeline
from tests.conftest import ROOT

README, DETAILS = ROOT / 'README.md', ROOT / 'docs' / 'details.md'
DOCUMENTS = [README, *sorted((ROOT / 'docs').rglob('*.md'))]
_IDS = {'ids': lambda path: path.relative_to(ROOT).as_posix()}
each_document = pytest.mark.parametrize('path', DOCUMENTS, **_IDS)


def _text(path: pathlib.Path) -> str:
  return path.read_text(encoding='utf-8')


# -- Functions and tests ------------------------------------------------------


@functools.cache
def _defined(file: str) -> frozenset[str]:
  """Top-level names of a file, and 'Class.name' for what a class holds."""
  names = set()

  def visit(body, prefix):
    for node in body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        names.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
          visit(node.body, f'{prefix}{node.name}.')
      targets = getattr(node, 'targets', [getattr(node, 'target', None)])
      names.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

  visit(ast.parse(_text(ROOT / file)).body, '')
  return frozenset(names)


@each_document
def test_what_is_named_file_and_function_exists(path):
  missing = []
  for file, name in re.findall(r'`([\w./]+\.py)::([\w.]+)`', _text(path)):
    if not (ROOT / file).exists() or name not in _defined(file):
      missing.append(f'{file}::{name}')
  assert not missing, f'{path.name} names what is not there: {missing}'


@each_document
def test_file_names_in_type_writer_face_exist(path):
  """A name with a folder, from the root: `rlhf/losses.py`, `configs/`."""
  missing = [
      name
      for name in re.findall(r'`([\w.]+/[\w./-]*)`', _text(path))
      if name.split('/')[0] in _OURS and not (ROOT / name).exists()
  ]
  assert not missing, f'{path.name} names what is not there: {missing}'


_OURS = {
    'benchmarks', 'configs', 'docs', 'launch', 'notebooks', 'rlhf', 'tests'
}


# -- The 42 details -----------------------------------------------------------


def _details() -> dict[int, str]:
  """Number to text of each detail."""
  parts = re.split(r'^### (\d+)\. ', _text(DETAILS), flags=re.MULTILINE)
  # A body ends at the next heading of any kind.
  bodies = [re.split(r'^#', body, flags=re.M)[0] for body in parts[2::2]]
  return dict(zip(map(int, parts[1::2]), bodies, strict=True))


def test_all_42_details_are_there_in_order():
  numbers = re.findall(r'^### (\d+)\. ', _text(DETAILS), re.MULTILINE)
  assert [int(n) for n in numbers] == list(range(1, 43))


@pytest.mark.parametrize('number', range(1, 43))
def test_a_detail_names_its_code_test_and_source(number):
  text = _details()[number]
  if 'Not applicable' in text and '- Code:' not in text:
    return
  entries = dict(
      re.findall(r'^- (\w+): ((?:.|\n  )+)', text, flags=re.MULTILINE)
  )
  assert {'Code', 'Test', 'Source'} <= set(entries), f'detail {number}'
  assert '.py::' in entries['Code'], f'detail {number}'
  assert re.search(r'`tests/[\w/]+_test\.py::test_\w+`', entries['Test'])


# -- Numbers ------------------------------------------------------------------


def _field_rows() -> list[tuple[str, str, str, str]]:
  """Config, field, value at 1.3B, value of the miniature."""
  row = r'^\| `(\w+)` \| `([\w.]+)` \| ([\w.+-]+) \| ([\w.+-]+) \|'
  return re.findall(row, _text(DETAILS), flags=re.MULTILINE)


def test_the_table_of_departures_is_that_of_the_configs():
  rows = _field_rows()
  assert len(rows) > 15, 'docs/details.md: the table was not found'
  wrong = []
  for name, field, *stated in rows:
    for size, value in zip(('1.3b', 'mini'), stated, strict=True):
      found = pipeline.load_config(f'configs/{name}.py:{size}')
      for part in field.split('.'):
        found = found[part]
      same = found == value if isinstance(found, str) else found == float(value)
      if not same:
        wrong.append(f'configs/{name}.py:{size} {field}: {value}, is {found}')
  assert not wrong, f'docs/details.md is not up to date: {wrong}'


# -- Commands -----------------------------------------------------------------


def _commands(path: pathlib.Path) -> list[list[str]]:
  """Every `python launch/...` of a document or docstring, as words."""
  joined = re.sub(r'\\\n\s*', '', _text(path))
  lines = re.findall(r'^[ $]*(python launch/.*)$', joined, flags=re.MULTILINE)
  return [shlex.split(line, comments=True) for line in lines]


_WITH_COMMANDS = [
    *DOCUMENTS,
    *sorted((ROOT / 'configs').glob('*.py')),
    *sorted((ROOT / 'launch').glob('*.py')),
]


@pytest.mark.parametrize('path', _WITH_COMMANDS, **_IDS)
def test_commands_name_scripts_configs_and_flags_that_exist(path):
  for _, script, *arguments in _commands(path):
    assert (ROOT / script).exists(), f'{path.name}: no {script}'
    config = None
    for argument in arguments:
      name, _, value = argument.removeprefix('--').partition('=')
      if name == 'config':
        config = pipeline.load_config(value)
      elif name.startswith('config.'):
        assert config is not None, f'{path.name}: {argument} before --config='
        # Raises, with the nearest right name, for a field that is not there.
        found = config
        for part in name.split('.')[1:]:
          found = found[part]
      else:
        defined = rf"DEFINE_\w+\(\s*'{name.removeprefix('no')}'"
        assert re.search(defined, _text(ROOT / script)), (
            f'{path.name}: {script} has no flag --{name}'
        )


def test_readme_shows_commands_of_every_stage():
  configs = {
      word.removeprefix('--config=').partition(':')[0]
      for command in _commands(README)
      for word in command
      if word.startswith('--config=')
  }
  for stage in ('sft', 'rm', 'ppo', 'ppo_ptx'):
    assert f'configs/{stage}.py' in configs


@each_document
def test_make_targets_exist(path):
  makefile = _text(ROOT / 'Makefile')
  named = re.findall(r'^ *make ([a-z ]+)', _text(path), flags=re.MULTILINE)
  named += re.findall(r'`make ([a-z ]+)', _text(path))
  for target in ' '.join(named).split():
    assert re.search(rf'^{target}:', makefile, re.MULTILINE), target


def test_readme_begins_with_demo_and_test():
  assert re.findall(r'^ +make (\w+)', _text(README), re.MULTILINE)[:2] == [
      'demo', 'test'
  ]


# -- Links --------------------------------------------------------------------


def _anchors(path: pathlib.Path) -> set[str]:
  """The anchors that GitHub gives to a document's headings."""
  code = re.compile(r'^(```|~~~).*?^\1', re.MULTILINE | re.DOTALL)
  headings = re.findall(
      r'^#+ (.*)$', code.sub('', _text(path)), flags=re.MULTILINE
  )
  plain = [re.sub(r'[^\w\- ]', '', h.lower()) for h in headings]
  return {h.replace(' ', '-') for h in plain}


@each_document
def test_relative_links_resolve(path):
  broken = []
  for link in re.findall(r'\]\(([^)\s]+)\)', _text(path)):
    if '://' in link:
      continue
    name, _, anchor = link.partition('#')
    target = (path.parent / name).resolve() if name else path
    known = target.exists()
    if known and anchor:
      known = target.suffix == '.md' and anchor in _anchors(target)
    if not known:
      broken.append(link)
  assert not broken, f'{path.name}: {broken}'


@each_document
def test_no_machine_is_named(path):
  found = re.findall(r'/(?:work|root|home)/\S*', _text(path))
  assert not found, f'{path.name} names a path of one machine: {found}'


def test_the_figure_is_what_its_script_draws():
  """By its words: matplotlib writes each beside the outlines of its letters."""
  svg = _text(ROOT / 'docs' / 'method.svg')
  script = _text(ROOT / 'docs' / 'method.py')
  drawn = set(re.findall(r'<!-- (.*?) -->', svg))
  stale = [words for words in drawn if words not in script]
  assert len(drawn) > 20 and not stale, f'python docs/method.py: {stale}'
