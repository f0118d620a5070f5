# SPDX-License-Identifier: Apache-2.0
"""Prompt formats."""

from rlhf.data import chat, prompting
from rlhf.world import prompts


def test_miniature_adds_the_worlds_own_suffix():
  assert prompting.MINIATURE.prompt('name a fox .') == 'name a fox . answer :'
  assert prompting.MINIATURE.suffix.strip() == prompts.ANSWER_SUFFIX


def test_dialogue_wraps_a_bare_prompt_and_strips_its_end():
  text = prompting.DIALOGUE.prompt('Name a fox. \n')
  assert text == '\n\nHuman: Name a fox.\n\nAssistant:'


def test_dialogue_leaves_a_dialogue_alone():
  text = '\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go on\n\nAssistant:'
  assert prompting.DIALOGUE.prompt(text) == text
  cut = text.removesuffix('\n\nAssistant:')
  assert prompting.DIALOGUE.prompt(cut) == text


def test_a_prompt_that_ends_with_the_suffix_is_whole():
  # A system's turn stands before the first user's.
  text = 'Be brief.\n\nHuman: Hi\n\nAssistant:'
  assert prompting.DIALOGUE.prompt(text) == text
  chatml = prompting.PromptFormat(
      prefix='<|im_start|>user\n',
      suffix='<|im_end|>\n<|im_start|>assistant\n',
      response_prefix='',
  )
  turns = [{'role': 'system', 'content': 'Be brief.'}]
  turns.append({'role': 'user', 'content': 'Hi'})
  rendered = chat.prompt(turns, 'chatml')
  assert chatml.prompt(rendered) == rendered
  assert rendered.endswith(chatml.prompt('Hi'))


def test_a_response_gets_one_leading_space_and_no_more():
  assert prompting.DIALOGUE.response('  Yes.\n') == ' Yes.'
  assert prompting.DIALOGUE.response('') == ''
