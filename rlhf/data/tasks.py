# SPDX-License-Identifier: Apache-2.0
"""The miniature's seqio tasks: its embedded world, served like any other data.

  miniature_text            train, validation           {text}
  miniature_demonstrations  train, validation           {prompt, response, user}
  miniature_prompts         train, validation, test     {prompt, user}

Each split has its own seed and, but for text, its own users. All of it is drawn
when first read, in seconds, and is the same everywhere.
"""

import functools
import random

import seqio
import tensorflow as tf

from rlhf.data import rows as rows_lib
from rlhf.data import sources, vocabularies
from rlhf.world import corpus, writer
from rlhf.world import prompts as prompts_lib

# How many there are of each split; a run may read fewer. Ours.
DOCUMENTS = {'train': 72_000, 'validation': 4_000}
DEMONSTRATIONS = {'train': 16_000, 'validation': 1_000}
# The paper's PPO prompts: 31,144. Ouyang et al. 2022, table 6.
PROMPTS = {'train': 31_144, 'validation': 2_000, 'test': 2_000}

# No two draws share a seed, so that demonstrations are not of PPO's prompts.
DOCUMENT_SEEDS = {'train': 11, 'validation': 12}
DEMONSTRATION_SEEDS = {'train': 21, 'validation': 22}
PROMPT_SEEDS = {'train': 31, 'validation': 32, 'test': 33}


def register() -> None:
  """Adds the tasks to seqio's registry, unless they are there."""
  _add('miniature_text', 'text', ('text',), DOCUMENTS)
  _add(
      'miniature_demonstrations',
      'demonstrations',
      ('prompt', 'response'),
      DEMONSTRATIONS,
  )
  _add('miniature_prompts', 'prompts', ('prompt',), PROMPTS)


@functools.cache
def documents(split: str) -> list[str]:
  """The pretraining text of a split."""
  return corpus.documents(DOCUMENT_SEEDS[split], DOCUMENTS[split])


@functools.cache
def prompts(split: str) -> list[prompts_lib.Prompt]:
  """The prompts behind `miniature_prompts`, in its order.

  With what the rubric needs to grade a response, which the task's text lacks.
  """
  return prompts_lib.prompts(split, PROMPTS[split], PROMPT_SEEDS[split])


@functools.cache
def demonstrations(split: str) -> list[rows_lib.Row]:
  """Rows of prompts with the imperfect demonstrator's responses."""
  seed = DEMONSTRATION_SEEDS[split]
  asked = prompts_lib.prompts(split, DEMONSTRATIONS[split], seed)
  rng = random.Random(f'demonstrations {split} {seed}')
  return [
      {
          'prompt': prompt.text,
          'response': writer.write(prompt, rng),
          'user': str(prompt.user),
      }
      for prompt in asked
  ]


def _add(
    name: str, kind: str, features: tuple[str, ...], sizes: dict[str, int]
) -> None:
  if name in seqio.TaskRegistry.names():
    return
  vocabulary = vocabularies.vocabulary('miniature')
  seqio.TaskRegistry.add(
      name,
      source=sources.function_source(
          functools.partial(_dataset, kind), sizes, num_input_examples=sizes
      ),
      preprocessors=[seqio.preprocessors.tokenize],
      output_features={
          feature: seqio.Feature(vocabulary, add_eos=False)
          for feature in features
      },
  )


def _dataset(kind: str, split: str, shuffle_files: bool) -> tf.data.Dataset:
  del shuffle_files  # Drawn at random as it is; streams shuffle again.
  if kind == 'text':
    rows = [{'text': text} for text in documents(split)]
  elif kind == 'prompts':
    rows = [{'prompt': p.text, 'user': str(p.user)} for p in prompts(split)]
  else:
    rows = demonstrations(split)
  checked = [
      rows_lib.check(row, kind, f'miniature {kind} {split}, row {number}')
      for number, row in enumerate(rows, start=1)
  ]
  return sources.dataset_of(checked, kind)
