# SPDX-License-Identifier: Apache-2.0
"""How a raw prompt and a raw response become the model's text."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PromptFormat:
  """What stands around a prompt and before a response.

  The model reads `prefix + prompt + suffix` and writes `response_prefix +
  response`. Outer white space of a response and trailing white space of a
  prompt are dropped. `response_prefix` holds the space before the first word,
  rather than the prompt's end, so that the first token of a completion is the
  one pretraining text has there (' Yes' and not 'Yes').

  Attributes:
    prefix: before the prompt. A prompt that already starts with it (trailing
      white space apart) is a dialogue and gets no second one.
    suffix: after the prompt. A prompt that ends with it already is whole, as
      `chat` makes them, and stays as it is; so does every prompt if prefix and
      suffix are empty.
    response_prefix: before the response.
  """

  prefix: str = ''
  suffix: str = ''
  response_prefix: str = ' '

  def prompt(self, text: str) -> str:
    """The text that the model is given."""
    if not self.prefix and not self.suffix:
      return text
    for whole in (text, text.rstrip()):
      if self.suffix and whole.endswith(self.suffix):
        return whole
    text = text.rstrip()
    opening = self.prefix.rstrip()
    if opening and text.startswith(opening):
      return text + self.suffix
    return self.prefix + text + self.suffix

  def response(self, text: str) -> str:
    """The text that the model is to write, EOS apart."""
    text = text.strip()
    return self.response_prefix + text if text else ''


MINIATURE = PromptFormat(prefix='', suffix=' answer :', response_prefix=' ')
DIALOGUE = PromptFormat(
    prefix='\n\nHuman: ', suffix='\n\nAssistant:', response_prefix=' '
)
