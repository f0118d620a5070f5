# SPDX-License-Identifier: Apache-2.0
"""Messages as text: which marks stand around the turns of a dialogue.

Messages are a list of {'role': ..., 'content': ...}, or of {'from': ...,
'value': ...} as in ShareGPT; other keys are not read. A dialogue may begin with
a system turn, and then a user and the assistant speak in turn, the user first.
"""

import dataclasses
import difflib
from typing import Any

from rlhf.data import prompting
from rlhf.data.rows import DataError, RowError, shown

# Role and content.
Turn = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Template:
  """How turns are written. Attributes:

    user: what stands before and after a user's turn.
    assistant: the same, of the assistant's turn.
    system: the same, of the system's turn; None where there must be none.
    answer: what opens the assistant's answer at the end of a prompt.
    marks: what no turn may hold, for it would read as the end of the turn.
    trim: whether outer white space of turns is dropped.
    one_turn: whether there is a single turn, a user's, but for the response.
  """

  user: tuple[str, str]
  assistant: tuple[str, str]
  system: tuple[str, str] | None
  answer: str
  marks: tuple[str, ...] = ()
  trim: bool = True
  one_turn: bool = False


def _llama3(role: str) -> tuple[str, str]:
  return f'<|start_header_id|>{role}<|end_header_id|>\n\n', '<|eot_id|>'


def _chatml(role: str) -> tuple[str, str]:
  return f'<|im_start|>{role}\n', '<|im_end|>\n'


TEMPLATES = {
    # Of Anthropic's hh-rlhf. The space before an answer's first word is the
    # PromptFormat's: see `prompting`.
    'dialogue': Template(
        user=('\n\nHuman: ', ''),
        assistant=('\n\nAssistant: ', ''),
        system=('', ''),
        answer='\n\nAssistant:',
        marks=('\n\nHuman:', '\n\nAssistant:'),
    ),
    # github.com/openai/openai-python, chatml.md of v0.28.
    'chatml': Template(
        user=_chatml('user'),
        assistant=_chatml('assistant'),
        system=_chatml('system'),
        answer=_chatml('assistant')[0],
        marks=('<|im_start|>', '<|im_end|>'),
        trim=False,
    ),
    # Model card of Llama 3. Its <|begin_of_text|> is the BOS, which every
    # sequence gets when it is tokenised.
    'llama3': Template(
        user=_llama3('user'),
        assistant=_llama3('assistant'),
        system=_llama3('system'),
        answer=_llama3('assistant')[0],
        marks=(
            '<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>',
            '<|eot_id|>', '<|end_of_text|>',
        ),
    ),  # fmt: skip
    'plain': Template(
        user=('', ''),
        assistant=('', ''),
        system=None,
        answer='',
        trim=False,
        one_turn=True,
    ),
}

_PROBE = 'PROBE'
_KEYS = (('role', 'content'), ('from', 'value'))
_ROLES = {
    'user': 'user',
    'human': 'user',
    'assistant': 'assistant',
    'gpt': 'assistant',
    'model': 'assistant',
    'system': 'system',
}


def template(name: str) -> Template:
  """The template of that name.

  Raises:
    DataError: there is none.
  """
  if name not in TEMPLATES:
    near = difflib.get_close_matches(str(name), TEMPLATES, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    names = ', '.join(TEMPLATES)
    raise DataError(f'template is {name!r}: use one of {names}{hint}')
  return TEMPLATES[name]


def prompt_format(name: str) -> prompting.PromptFormat:
  """The format that makes of a bare prompt what the template makes of it."""
  style = template(name)
  if style.one_turn:
    return prompting.PromptFormat(response_prefix='')
  before, after = prompt([{'role': 'user', 'content': _PROBE}], name).split(
      _PROBE
  )
  # Marks that end in white space leave none for the response to begin with.
  space = '' if style.answer != style.answer.rstrip() else ' '
  return prompting.PromptFormat(before, after, space)


def check_format(name: str, given: prompting.PromptFormat) -> None:
  """Refuses a format that would put marks of its own around a template's.

  Raises:
    DataError: with a format that goes with the template.
  """
  if template(name).one_turn:
    return
  whole = prompt([{'role': 'user', 'content': _PROBE}], name)
  if given.prompt(whole) != whole:
    right = prompt_format(name)
    raise DataError(
        f'data.chat_template={name!r} and data.prompt_format do not agree, a '
        'prompt would get marks twice: set data.prompt_format to '
        f'{dataclasses.asdict(right)}'
    )


def render(
    messages: Any,
    template_name: str,
    where: str = 'dialogue',
    field: str = "'messages'",
) -> str:
  """All turns as text, an answer too if it is the last.

  Args:
    messages: as at the top of this file.
    template_name: a key of `TEMPLATES`.
    where: what an error calls the row, such as 'a.jsonl, row 3'.
    field: what an error calls the field, with quotes.

  Raises:
    RowError: for the reason 'bad_messages'.
    DataError: there is no such template.
  """
  found = turns(messages, where, field)
  return _written(found, template(template_name), where, field)


def prompt(
    messages: Any,
    template_name: str,
    where: str = 'dialogue',
    field: str = "'messages'",
) -> str:
  """All turns, of which the last is a user's, and what opens the answer.

  Arguments and errors are those of `render`.
  """
  found = turns(messages, where, field)
  if found[-1][0] != 'user':
    raise _bad(
        f"the last turn is the {found[-1][0]}'s: a prompt ends with a user's",
        where,
        field,
    )
  style = template(template_name)
  return _written(found, style, where, field) + style.answer


def prompt_and_response(
    messages: Any,
    template_name: str,
    where: str = 'dialogue',
    field: str = "'messages'",
) -> tuple[str, str]:
  """The prompt before the last turn, and that, which is the assistant's.

  The response is the turn's text without marks; it may be empty. Arguments and
  errors are those of `render`.
  """
  found, response = reply(messages, where, field)
  if not found:
    raise _bad('there is only an answer: give what it answers', where, field)
  style = template(template_name)
  return _written(found, style, where, field) + style.answer, response


def reply(
    messages: Any, where: str, field: str
) -> tuple[list[Turn], str]:
  """The turns before the last, maybe none, and the last one's text.

  Raises:
    RowError: the last turn is not the assistant's, or as `turns`.
  """
  found = turns(messages, where, field, any_first=True)
  if found[-1][0] != 'assistant':
    raise _bad(
        f"the last turn is the {found[-1][0]}'s: end with the assistant's",
        where,
        field,
    )
  if len(found) > 1:
    _check_order(found, where, field)
  return found[:-1], found[-1][1]


def turns(
    messages: Any, where: str, field: str, *, any_first: bool = False
) -> list[Turn]:
  """Role and content of each message; an empty system turn is left out.

  Raises:
    RowError: for the reason 'bad_messages': something is no message, a turn is
      empty, or they are out of order (unless any_first).
  """
  if not isinstance(messages, list):
    raise _bad(f'{shown(messages)}: give a list of messages', where, field)
  found = []
  for n, message in enumerate(messages, start=1):
    role, content = _turn(message, where, f'{field}, turn {n}')
    if not content.strip():
      if role == 'system':
        continue
      if role == 'user' or n < len(messages):
        text = f'the {role} says nothing: fill it in or leave the row out'
        raise _bad(text, where, f'{field}, turn {n}')
    found.append((role, content))
  if not found:
    raise _bad('there are no turns: give at least one', where, field)
  if not any_first:
    _check_order(found, where, field)
  return found


def _turn(message: Any, where: str, field: str) -> Turn:
  if not isinstance(message, dict):
    text = f'{shown(message)}: give an object with role and content'
    raise _bad(text, where, field)
  keys = next((k for k in _KEYS if k[0] in message and k[1] in message), None)
  if keys is None:
    there = ', '.join(str(key)[:30] for key in list(message)[:8]) or 'nothing'
    text = f'no role and content, nor from and value, but {there}'
    raise _bad(f'{text}: rename its keys', where, field)
  role, content = (message[key] for key in keys)
  if not isinstance(role, str) or role not in _ROLES:
    roles = ', '.join(_ROLES)
    raise _bad(f'{keys[0]}: {shown(role)}: use one of {roles}', where, field)
  if not isinstance(content, str):
    raise _bad(f'{keys[1]}: {shown(content)}: use a string', where, field)
  return _ROLES[role], content


def _check_order(found: list[Turn], where: str, field: str) -> None:
  """A system turn comes first or not at all; then user, assistant, user..."""
  roles = [role for role, _ in found]
  start = int(roles[0] == 'system')
  if 'system' in roles[1:]:
    raise _bad('a system turn comes later: let it be the first', where, field)
  for n, role in enumerate(roles[start:]):
    if role != ('user', 'assistant')[n % 2]:
      what = f'two {role} turns in a row: join them, or leave one out'
      if not n:
        what = 'the assistant speaks first: let a user begin'
      raise _bad(what, where, field)
  if not roles[start:]:
    raise _bad("there is only a system turn: add a user's", where, field)


def _written(
    found: list[Turn], style: Template, where: str, field: str
) -> str:
  """The turns one after another with what stands around them."""
  if style.one_turn and [role for role, _ in found] != ['user']:
    raise _bad(
        f'{len(found)} turns, but this template takes a single one, of a '
        'user: use another template',
        where,
        field,
    )
  parts = []
  for n, (role, content) in enumerate(found, start=1):
    affixes = {
        'user': style.user,
        'assistant': style.assistant,
        'system': style.system,
    }[role]
    if affixes is None:
      text = 'this template has no system turn: use another, or leave it out'
      raise _bad(text, where, f'{field}, turn {n}')
    content = content.strip() if style.trim else content
    mark = next((m for m in style.marks if m in content), None)
    if mark is not None:
      text = f'holds {mark!r}, which would end the turn: take it out, or use '
      raise _bad(f'{text}another template', where, f'{field}, turn {n}')
    parts += [affixes[0], content, affixes[1]]
  return ''.join(parts)


def _bad(message: str, where: str, field: str) -> RowError:
  return RowError('bad_messages', where, message, field)
