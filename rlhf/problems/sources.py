# SPDX-License-Identifier: Apache-2.0
"""What a config's data section names: is it there, and are its rules known?

Without TensorFlow, which takes ten seconds to import: names of seqio tasks that
a user's modules register are taken on trust, and so are paths beyond the disk.
"""

import fnmatch
import glob
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from rlhf.data import chat, formats, pii, prompting
from rlhf.data import rows as rows_lib
from rlhf.problems import networks, ranges, rules
from rlhf.problems.rules import Config, Problem

# Fields that name data sets, and the kind of each.
KINDS = {
    'text': 'text',
    'demonstrations': 'demonstrations',
    'rankings': 'rankings',
    'validation_rankings': 'rankings',
    'prompts': 'prompts',
}
# rlhf.data.tasks registers them.
TASKS = ('miniature_text', 'miniature_demonstrations', 'miniature_prompts')
# What a vocabulary's folder holds one of: as in rlhf.data.vocabularies.
VOCABULARY_FILES = (
    'tokenizer.json', 'encoder.json', 'encoder.json.gz', 'vocab.bpe',
    'vocab.bpe.gz', 'tokenizer.model', 'spiece.model',
)  # fmt: skip


def find(config: Config) -> Iterator[Problem]:
  """What is wrong with the data, and with where the run writes."""
  yield from _root(config)
  folder = rules.get(config, 'folder')
  if isinstance(folder, str) and not _there(folder):
    message = 'there is no such folder: give that of the data'
    yield Problem('folder', folder, message)
  else:
    folder = None
  for problem in (*_vocabulary(config), *_needed(config)):
    # One line tells of a folder that is missing, and not one for each file.
    if folder is None or not str(problem.value).startswith(folder):
      yield problem
  yield from _modules(config)
  yield from _tracking(config)
  yield from _template(config)
  yield from _hygiene(config)
  yield from _fields(config)
  yield from _limits(config)
  yield from _changed(config)


def needs(config: Config) -> tuple[str, ...]:
  """The fields of the data sets that a stage reads."""
  stage = rules.get(config, 'stage')
  if stage == 'sft':
    names = ['demonstrations']
    if rules.get(config, 'pretraining_share'):
      names.append('text')
    if rules.get(config, 'loop.best') == 'validation/rm_score':
      names.append('prompts')
    return tuple(names)
  if stage == 'ppo':
    ptx = rules.get(config, 'ppo.ptx_coefficient')
    return ('prompts', 'text') if ptx else ('prompts',)
  return {
      'pretrain': ('text',),
      'reward': ('rankings', 'validation_rankings', 'demonstrations'),
  }.get(str(stage), ())


def _root(config: Config) -> Iterator[Problem]:
  root = rules.get(config, 'root')
  if not isinstance(root, str) or not root.strip() or '://' in root:
    return
  path = pathlib.Path(root).absolute()
  above = next(p for p in (path, *path.parents) if p.exists())
  if not above.is_dir():
    message = f'{above} is a file: give a folder'
  elif not os.access(above, os.W_OK):
    message = f'{above} may not be written to: give another folder'
  else:
    return
  yield Problem('root', root, message)


def _vocabulary(config: Config) -> Iterator[Problem]:
  key = 'data.vocabulary'
  name = rules.get(config, key)
  if name is rules.ABSENT or name in ('miniature', 'bytes'):
    return
  remedy = (
      'give a folder with encoder.json and vocab.bpe, a tokenizer.json, a'
      " SentencePiece .model file, or 'bytes'"
  )
  if not name or not isinstance(name, str):
    yield Problem(key, name, f'is not set: {remedy}')
  elif not _there(name):
    yield Problem(key, name, f'there is no such vocabulary: {remedy}')
  elif os.path.isdir(name):
    if not any(os.path.exists(os.path.join(name, f)) for f in VOCABULARY_FILES):
      yield Problem(key, name, f'holds no vocabulary: {remedy}')
  elif '://' not in name and not name.endswith(('.json', '.model')):
    yield Problem(key, name, f'is no vocabulary: {remedy}')


def _needed(config: Config) -> Iterator[Problem]:
  told = set()
  for name in needs(config):
    key = f'data.{name}'
    value = rules.get(config, key)
    # Fields that are the same files, or are both not set, are told of once.
    if value is rules.ABSENT or (KINDS[name], str(value)) in told:
      continue
    told.add((KINDS[name], str(value)))
    if not value or not isinstance(value, str):
      kind = KINDS[name]
      yield Problem(
          key,
          value,
          f'is not set, and this stage reads {kind}: give --config.{key}= files'
          ' or globs, tfds:NAME, or a seqio task',
      )
      continue
    for part in filter(None, (part.strip() for part in value.split(','))):
      message = _source(config, part)
      if message:
        yield Problem(key, part, message)


def _source(config: Config, part: str) -> str:
  """What is wrong with one of a data set's names; '' if nothing is."""
  if part.startswith('tfds:'):
    return '' if part != 'tfds:' else 'names no data set: give tfds:NAME'
  if part in TASKS or '://' in part or networks.made_earlier(config, part):
    return ''
  extensions = ', '.join(formats.EXTENSIONS)
  found = glob.glob(part)
  if not found:
    if rules.get(config, 'data.modules') and re.fullmatch(r'[\w.:-]+', part):
      return ''  # A task of the user's, for all that is known here.
    folder = os.path.dirname(part) or '.'
    names = os.listdir(folder) if os.path.isdir(folder) else []
    paths = [os.path.join(os.path.dirname(part), name) for name in names]
    hint = rules.near(part, (*paths, *TASKS))
    return (
        'there is no such file, nor such a task: give paths or globs of'
        f' {extensions} files, tfds:NAME, or a task of data.modules{hint}'
    )
  for path in found:
    bare = re.sub(r'-\d+-of-\d+$', '', path)
    if not bare.endswith(formats.EXTENSIONS):
      return f'{path} has no known extension: give one of {extensions}'
  return ''


def _modules(config: Config) -> Iterator[Problem]:
  key = 'data.modules'
  modules = rules.get(config, key)
  if not isinstance(modules, tuple | list):
    return
  for name in modules:
    try:
      there = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError, TypeError):
      there = False
    if not there:
      message = f'there is no module {name!r}: give one that Python can import'
      yield Problem(key, modules, message)


def _tracking(config: Config) -> Iterator[Problem]:
  key = 'loop.wandb'
  project = rules.get(config, key)
  if project is rules.ABSENT or project == '':
    return
  if rules.text(project):
    yield Problem(key, project, 'is no name: give a project, or leave it empty')
  elif importlib.util.find_spec('wandb') is None:
    message = "needs the package wandb: pip install 'rlhf[wandb]', or leave it"
    yield Problem(key, project, f'{message} empty')


def _template(config: Config) -> Iterator[Problem]:
  key = 'data.chat_template'
  name = rules.get(config, key)
  if name is rules.ABSENT or name == '':
    return
  if not isinstance(name, str) or name not in chat.TEMPLATES:
    yield Problem(key, name, rules.one_of(*chat.TEMPLATES)(name))
    return
  marks = rules.section(config, 'data.prompt_format')
  if not marks or not all(isinstance(mark, str) for mark in marks.values()):
    return
  try:
    chat.check_format(name, prompting.PromptFormat(**marks))
  except rows_lib.DataError:
    right = chat.prompt_format(name)
    flags = ' '.join(
        f'--config.data.prompt_format.{mark}={value!r}'
        for mark, value in vars(right).items()
    )
    message = f'does not go with data.prompt_format: give {flags}'
    yield Problem(key, name, message)
  except TypeError as error:
    yield Problem('data.prompt_format', marks, f'is not one: {error}')


_HYGIENE = (
    ('prefix_characters', rules.integer(0)),
    (
        'prefix_share',
        rules.number('above 0, at most 1', lambda x: 0 < x <= 1),
    ),
    ('per_user', rules.integer(0)),
    ('pii', rules.some_of(*pii.KINDS)),
)


def _hygiene(config: Config) -> Iterator[Problem]:
  for kind in rows_lib.FIELDS:
    section = f'data.hygiene.{kind}'
    yield from rules.follow(
        config, [(f'{section}.{name}', rule) for name, rule in _HYGIENE]
    )


def _fields(config: Config) -> Iterator[Problem]:
  for kind, fields in rows_lib.FIELDS.items():
    known = (
        *fields, *rows_lib.OPTIONAL, 'messages', 'chosen', 'rejected'
    )  # fmt: skip
    for name, its in rules.section(config, f'data.fields.{kind}').items():
      key = f'data.fields.{kind}.{name}'
      if name not in known:
        message = f'is no field of {kind}: give one of {", ".join(known)}'
        yield Problem(key, its, message + rules.near(name, known))
      elif rules.text(its):
        yield Problem(key, its, "is no name: give the source's name of it")


def _limits(config: Config) -> Iterator[Problem]:
  known = [*KINDS, *(f'{n}_{s}' for n in KINDS for s in ranges.SPLITS)]
  for name, value in rules.section(config, 'data.limits').items():
    key = f'data.limits.{name}'
    if name not in known:
      message = (
          f'is no data set: give one of {", ".join(KINDS)}, or that and a split'
          ' as in prompts_validation'
      )
      yield Problem(key, value, message + rules.near(name, known))
    else:
      yield from rules.follow(config, [(key, rules.integer(1))])


def _changed(config: Config) -> Iterator[Problem]:
  """Patterns of `resume.changed` that are of no field."""
  key = 'resume.changed'
  patterns = rules.get(config, key)
  if not isinstance(patterns, tuple | list):
    return
  names = [*leaves(config)]
  for pattern in patterns:
    if not isinstance(pattern, str) or not pattern:
      continue
    known = re.compile(_expression(pattern))
    if not any(known.fullmatch(name) for name in names):
      message = f'no field is called {pattern!r}: give a full name, such as'
      yield Problem(
          key, patterns, f'{message} ppo.batch{rules.near(pattern, names)}'
      )


def _expression(pattern: str) -> str:
  """A regular expression for a pattern, or for a whole section of that name."""
  return f'{fnmatch.translate(pattern)}|{re.escape(pattern)}\\..*'


def leaves(config: Any, prefix: str = '') -> Iterator[str]:
  """Dotted names of all values of a config, of sections too."""
  for name in config if hasattr(config, 'keys') else ():
    value = rules.get(config, name) if isinstance(name, str) else None
    yield f'{prefix}{name}'
    yield from leaves(value, f'{prefix}{name}.')


def _there(path: str) -> bool:
  return '://' in path or os.path.exists(path)
