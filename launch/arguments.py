# SPDX-License-Identifier: Apache-2.0
"""The command line, before absl and ml_collections parse it.

They stop at the first thing that is wrong, and some of what they say is a
traceback. Here everything that is wrong is collected, by name, with the nearest
right one; what is right is set on a config, whose own problems then join in.
"""

import ast
import collections
import dataclasses
import difflib
import fnmatch
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_dict
from ml_collections.config_flags import config_path, tuple_parser

from launch import config_files
from launch.config_files import one_line, suggested
from rlhf import problems
from rlhf.problems import Problem, rules

_FLAG = 'config'
_PREFIX = f'{_FLAG}.'
_HELP = ('help', 'helpfull', 'helpshort', 'helpxml', '?', 'h')
# Sections whose keys are the user's to choose.
_OPEN = (
    'data.limits', 'data.fields.*', 'data.planned', 'data.splits', 'model',
    'mesh', 'ppo.adaptive_kl', 'ppo.alarms', 'requires', 'run_model',
)  # fmt: skip


@dataclasses.dataclass
class Line:
  """A command line that was looked at.

  Attributes:
    name: what --config= gave, '' if nothing.
    config: with all that could be set; None if there is none.
    problems: of the command line alone.
  """

  name: str = ''
  config: Any = None
  problems: list[Problem] = dataclasses.field(default_factory=list)


def check(argv: Sequence[str], *, required: bool = True) -> list[Problem]:
  """All that is wrong with a command line, and with the config it makes.

  The config's own problems are told only beside those of the command line:
  without any, they are for whoever knows which stages will be run.

  Args:
    argv: program and arguments, as in sys.argv. Flags other than --config are
      those that absl knows by now.
    required: whether there has to be a --config.

  Raises:
    absl.flags.Error: for a flag file that can't be read.
  """
  line = read(argv, required=required)
  found = list(line.problems)
  if found and line.config is not None:
    told = ' '.join(map(str, found))
    for problem in problems.find(line.config):
      # What a misspelt flag was to set is not told of as missing.
      if problem.value or problem.key not in told:
        found.append(problem)
  return found


def parse(argv: Sequence[str]) -> list[str]:
  """For absl.app.run, as `flags_parser`: absl's own parsing, after `check`.

  What is wrong is printed together, and ends the program with code 2.
  """
  try:
    found = check(argv)
    if found:
      name = _spec(_arguments(argv)) or 'the command line'
      stop(problems.report(found, name))
    return flags.FLAGS(list(argv))
  except (flags.Error, ValueError, LookupError, AttributeError, TypeError,
          OSError) as error:  # fmt: skip
    stop(one_line(error))


def stop(message: str) -> NoReturn:
  """Ends the program because of what it was told."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def read(argv: Sequence[str], *, required: bool = True) -> Line:
  """Looks at every argument; never stops at the first that is wrong."""
  arguments = _arguments(argv)
  line = Line(_spec(arguments))
  if any(one[:1] == '-' and one.lstrip('-') in _HELP for one in arguments):
    return line  # absl prints it.
  if line.name:
    line.config, message = config_files.load(line.name)
    if message:
      line.problems.append(Problem('--config', line.name, message))
  elif required:
    message = f'is not set: give one of {", ".join(config_files.shipped())}'
    line.problems.append(Problem('--config', '', message))
  line.problems += _walk(line.config, arguments)
  return line


def _walk(config: Any, arguments: list[str]) -> Iterator[Problem]:
  """Problems of the arguments; sets what is right on the config."""
  rest = collections.deque(arguments)
  seen = False
  while rest:
    argument = rest.popleft()
    if argument == '--' or argument[:1] != '-' or argument == '-':
      yield Problem(
          'argument',
          argument,
          'stands alone: give flags, as in --config.batch=8, with quotes around'
          ' a value that has spaces',
      )
      continue
    written, equals, value = argument.lstrip('-').partition('=')
    if written == _FLAG:
      seen = True
      if not equals and rest:
        rest.popleft()
      continue
    negated = written.startswith(f'no{_PREFIX}')
    name = written.removeprefix('no') if negated else written
    takes = False if negated else _takes_value(config, name)
    if not equals:
      # A flag that nobody knows has what follows, if that is no flag.
      follows = bool(rest) and (takes or rest[0][:1] != '-')
      if takes and not follows:
        yield Problem(f'--{name}', '', f'has no value: give --{name}=VALUE')
        continue
      value = str(not negated).lower()
      if takes is not False:
        value = rest.popleft() if follows else ''
    if not name.startswith(_PREFIX):
      yield from _flag(config, name, value)
      continue
    key = name.removeprefix(_PREFIX)
    if not seen:
      yield Problem(key, value, 'comes before --config=: put it after that')
    elif config is not None:
      yield from _field(config, key, value, negated=negated)


def _takes_value(config: Any, name: str) -> bool | None:
  """Whether a flag needs a value; None if nobody knows the flag."""
  if name.startswith(_PREFIX):
    kind = _type(config, name.removeprefix(_PREFIX))
    return None if kind is None else kind is not bool
  flag, _ = _known(name)
  return None if flag is None else not flag.boolean


def _known(name: str) -> tuple[Any, bool]:
  """An absl flag, and whether `name` is its negation; None if there is none."""
  if name in flags.FLAGS:
    return flags.FLAGS[name], False
  bare = name.removeprefix('no')
  if bare != name and bare in flags.FLAGS and flags.FLAGS[bare].boolean:
    return flags.FLAGS[bare], True
  return None, False


def _flag(config: Any, name: str, value: str) -> Iterator[Problem]:
  """A flag of the program itself."""
  flag, negated = _known(name)
  if flag is None:
    near = difflib.get_close_matches(name, list(flags.FLAGS), n=1, cutoff=0.75)
    right = [f'--{one}' for one in near]
    right += [f'--{_PREFIX}{one}' for one in suggested(config, name)]
    hint = f': did you mean {" or ".join(right[:3])}?' if right else ''
    yield Problem(
        f'--{name}', value, f'is no flag{hint or ": leave it out"}'
    )
  elif not negated:
    try:
      flag.parser.parse(value)
    except (ValueError, TypeError) as error:
      yield Problem(f'--{name}', value, f'is not possible: {one_line(error)}')


# -- Fields of the config -----------------------------------------------------


def _field(
    config: Any, key: str, value: str, *, negated: bool
) -> Iterator[Problem]:
  """Sets a field, or says why not."""
  kind = _type(config, key)
  if kind is None:
    yield Problem(key, value, _unknown(config, key))
    return
  if negated and kind is not bool:
    message = f'is not on or off: give --{_PREFIX}{key}=VALUE'
    yield Problem(f'no{_PREFIX}{key}', value, message)
    return
  try:
    parsed = _PARSERS.get(kind, _literal)(value)
  except (ValueError, TypeError, SyntaxError):
    yield Problem(key, value, f'want {_wanted(config, key, kind)}')
    return
  if kind is config_dict.ConfigDict:
    message = _section(config, key, parsed)
    if message:
      yield Problem(key, value, message)
      return
  if parsed == 'None' and kind is str:
    message = 'is the word None: leave the flag out, or give a name'
    yield Problem(key, value, message)
    return
  try:
    config_path.set_value(key, config, parsed)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    yield Problem(key, value, f'can not be set: {one_line(error)}')


def _type(config: Any, key: str) -> Any:
  """The type of a field, None if there is no such field."""
  if config is None:
    return None
  try:
    kind = config_path.get_type(key, config)
  except (ValueError, TypeError, LookupError, AttributeError):
    return None
  if isinstance(kind, type) and issubclass(kind, config_dict.ConfigDict):
    return config_dict.ConfigDict
  return kind


def _dictionary(value: str) -> dict:
  parsed = ast.literal_eval(value)
  if not isinstance(parsed, dict):
    raise ValueError(value)
  return parsed


def _literal(value: str) -> Any:
  try:
    return ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return value


# As ml_collections parses them.
_PARSERS: dict[Any, Callable[[str], Any]] = {
    bool: flags.BooleanParser().parse,
    int: flags.IntegerParser().parse,
    float: flags.FloatParser().parse,
    str: str,
    tuple: tuple_parser.TupleParser().parse,
    config_dict.ConfigDict: _dictionary,
}


def _wanted(config: Any, key: str, kind: Any) -> str:
  if kind is config_dict.ConfigDict:
    fields = [f'--{_PREFIX}{key}.{name}=' for name in _names(config, key)]
    one = f': set one of its fields, such as {fields[0]}' if fields else ''
    return f"a dict, as in {{'NAME': VALUE}}, for it is a section{one}"
  return {
      bool: 'true or false',
      int: 'an integer',
      float: 'a number: without the flag it stays as the config has it',
      tuple: "a tuple, as in \"('NAME',)\" or \"(128, 512)\"",
  }.get(kind, 'another type')


def _section(config: Any, key: str, parsed: dict) -> str:
  """What is wrong with a dict that takes the place of a whole section."""
  if any(fnmatch.fnmatch(key, pattern) for pattern in _OPEN):
    return ''
  names = _names(config, key)
  strange = [str(name) for name in parsed if name not in names]
  if strange:
    hint = rules.near(strange[0], names)
    return f'has the unknown {strange[0]!r}: use {", ".join(names)}{hint}'
  lost = [name for name in names if name not in parsed]
  if lost:
    return (
        f'would lose {", ".join(lost)}: give those too, or set single fields,'
        f' such as --{_PREFIX}{key}.{next(iter(parsed), lost[0])}='
    )
  return ''


def _names(config: Any, key: str) -> list[str]:
  return [*rules.section(config, key)]


def _unknown(config: Any, key: str) -> str:
  """What to say of a key that no field has."""
  parts = key.split('.')
  for end in range(1, len(parts)):
    parent = '.'.join(parts[:end])
    kind = _type(config, parent)
    if kind is not None and kind is not config_dict.ConfigDict:
      return f'{parent} is a value and no section: give --{_PREFIX}{parent}='
  right = suggested(config, key)
  if right:
    names = ' or '.join(f'--{_PREFIX}{one}' for one in right)
    return f'is no field: did you mean {names}?'
  parent = '.'.join(parts[:-1])
  names = _names(config, parent) if parent else []
  if not names:
    names = [str(name) for name in config]
  return f'is no field: use one of {", ".join(names)}'


def _arguments(argv: Sequence[str]) -> list[str]:
  """Without the program's name, and with the lines of flag files."""
  return flags.FLAGS.read_flags_from_files(list(argv[1:]), force_gnu=False)


def _spec(arguments: Sequence[str]) -> str:
  """What --config= gives, the last time that it does; '' if nothing."""
  found = ''
  for number, argument in enumerate(arguments, start=1):
    name, equals, value = argument.lstrip('-').partition('=')
    if argument.startswith('-') and name == _FLAG:
      found = value if equals else ''.join(arguments[number : number + 1])
  return found
