# SPDX-License-Identifier: Apache-2.0
"""What a problem is, and the rules that single values follow.

A rule is a function of a value: '' if it may be so, else what is wrong with it
and, after a colon, what to do.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Rule = Callable[[Any], str]
# An ml_collections.ConfigDict, whose fields no type checker can know.
Config = Any

# What `get` says of a field that a config does not have.
ABSENT = object()
_LONGEST = 160  # Characters of a value that are shown.


@dataclasses.dataclass(frozen=True)
class Problem:
  """Something in a config, or on a command line, that can't be.

  Attributes:
    key: the field, such as 'ppo.batch'.
    value: what it is now.
    message: what is wrong, a colon, and what to do.
    run: of an earlier stage, which; '' for the stage itself.
  """

  key: str
  value: Any
  message: str
  run: str = ''

  def __str__(self) -> str:
    where = f'{self.run}: ' if self.run else ''
    return f'{where}{self.key}={shown(self.value)}: {self.message}'


def shown(value: Any) -> str:
  """A value on one line, as it would be given."""
  if hasattr(value, 'to_dict'):
    value = value.to_dict()
  text = str(value)
  if not text or not text.isprintable():
    text = repr(value)
  if len(text) > _LONGEST:
    text = text[: _LONGEST // 2] + '...' + text[-_LONGEST // 2 :]
  return text


def get(config: Config, key: str) -> Any:
  """The value of a dotted key, or ABSENT. Never raises."""
  for name in key.split('.'):
    try:
      if name not in config:
        return ABSENT
      config = config[name]
    except (AttributeError, KeyError, TypeError, ValueError):
      # No section, or a reference whose other end can't be computed with.
      return ABSENT
  return config


def section(config: Config, key: str) -> dict[str, Any]:
  """The fields of a section; {} where there is none."""
  found = get(config, key)
  if not isinstance(found, Mapping) and not hasattr(found, 'to_dict'):
    return {}
  return {str(name): get(found, str(name)) for name in found}


def count(config: Config, key: str) -> int | None:
  """A field that is an integer of 1 or more; None if it is anything else.

  What fits together is asked only of values that are good by themselves.
  """
  value = get(config, key)
  return value if is_integer(value) and value >= 1 else None


def is_integer(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
  """Whether it is an integer or a float, finite."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return is_integer(value) or math.isfinite(value)


def near(name: Any, names: Iterable[str]) -> str:
  """'; did you mean ...?', or '' if nothing is near."""
  close = difflib.get_close_matches(str(name), list(names), n=1)
  return f'; did you mean {close[0]!r}?' if close else ''


# -- Rules --------------------------------------------------------------------


def integer(low: int) -> Rule:
  """An integer of `low` or more."""
  remedy = f'give an integer of {low} or more'

  def wrong(value):
    if not is_integer(value):
      return f'is no integer: {remedy}'
    return f'is below {low}: {remedy}' if value < low else ''

  return wrong


def number(words: str, good: Callable[[float], bool]) -> Rule:
  """A finite number for which `good` holds; `words` say so."""
  remedy = f'give a number {words}'.rstrip()

  def wrong(value):
    if isinstance(value, float) and not math.isfinite(value):
      return f'is not finite: {remedy}'
    if not is_number(value):
      return f'is no number: {remedy}'
    return '' if good(value) else f'is out of range: {remedy}'

  return wrong


def optional(rule: Rule) -> Rule:
  """`rule`, or None for off."""
  return lambda value: '' if value is None else rule(value)


def one_of(*choices: str) -> Rule:
  def wrong(value):
    if isinstance(value, str) and value in choices:
      return ''
    names = ', '.join(choices)
    return f'is unknown: give one of {names}{near(value, choices)}'

  return wrong


def some_of(*choices: str) -> Rule:
  """A tuple of them, without repeats."""

  def wrong(value):
    remedy = f'give a tuple of some of {", ".join(choices)}'
    if not isinstance(value, tuple | list):
      return f'is no tuple: {remedy}'
    for name in value:
      if not isinstance(name, str) or name not in choices:
        return f'has the unknown {name!r}: {remedy}{near(name, choices)}'
    return f'repeats itself: {remedy}' if len({*value}) < len(value) else ''

  return wrong


def text(value: Any) -> str:
  """Any text that is not empty."""
  good = isinstance(value, str) and value.strip()
  return '' if good else 'is empty: give a name'


def texts(value: Any) -> str:
  """A tuple of texts, which may be empty."""
  if not isinstance(value, tuple | list):
    return 'is no tuple: give names or patterns, as in "(\'NAME\',)"'
  return next((text(one) for one in value if text(one)), '')


def switch(value: Any) -> str:
  return '' if isinstance(value, bool) else 'is neither: give True or False'


def follow(
    config: Config, table: Iterable[tuple[str, Rule]]
) -> Iterable[Problem]:
  """What breaks a table of (key, rule); fields that aren't there don't."""
  for key, rule in table:
    value = get(config, key)
    message = '' if value is ABSENT else rule(value)
    if message:
      yield Problem(key, value, message)
