# SPDX-License-Identifier: Apache-2.0
"""The miniature's tasks."""

import numpy as np
import pytest
import seqio

from rlhf.data import loading, prompting, sources, tasks, vocabularies
from rlhf.data.rows import RowError
from rlhf.world import users


@pytest.fixture(scope='module')
def words():
  return vocabularies.vocabulary('miniature')


def _load(words, name, kind, split, **options):
  return loading.load(
      name, kind, split, words, prompting.MINIATURE, **options
  )


def test_registering_again_changes_nothing():
  tasks.register()
  before = seqio.TaskRegistry.get('miniature_text')
  tasks.register()
  assert seqio.TaskRegistry.get('miniature_text') is before


def test_tokens_and_raw_text_agree(words):
  tasks.register()
  for name, features in [
      ('miniature_text', ['text']),
      ('miniature_demonstrations', ['prompt', 'response']),
      ('miniature_prompts', ['prompt']),
  ]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(
        split='validation', shuffle=False
    )
    for example in dataset.take(50).as_numpy_iterator():
      for feature in features:
        raw = example[f'{feature}_pretokenized'].decode()
        ids = example[feature].tolist()
        assert ids == words.encode(raw) and words.unk_id not in ids
        assert words.decode(ids) == raw


@pytest.mark.parametrize(
    ('name', 'kind', 'sizes'),
    [
        ('miniature_demonstrations', 'demonstrations', tasks.DEMONSTRATIONS),
        ('miniature_prompts', 'prompts', tasks.PROMPTS),
    ],
)
def test_splits_hold_their_own_users_only(words, name, kind, sizes):
  for split in sizes:
    found = _load(words, name, kind, split, limit=500)
    own = {str(user.uid) for user in users.users(split)}
    assert {example.user for example in found} <= own


def test_prompts_line_up_with_the_worlds(words):
  found = _load(words, 'miniature_prompts', 'prompts', 'test')
  assert [p.text for p in found] == [p.text for p in tasks.prompts('test')]
  assert len(found) == tasks.PROMPTS['test']
  longest = max(len(p.ids) for p in found)
  assert longest <= 32, 'the miniature reads prompts of 32 tokens'
  assert words.decode(found[0].ids) == found[0].text + ' answer :'


def test_text_is_one_run_with_a_token_before_each_document(words):
  run = _load(words, 'miniature_text', 'text', 'validation')
  documents = tasks.documents('validation')
  assert len(documents) == tasks.DOCUMENTS['validation']
  assert np.sum(run == words.eos_id) == len(documents)
  cuts = np.flatnonzero(run == words.eos_id)
  found = [words.decode(part[1:]) for part in np.split(run, cuts)[1:]]
  assert found == documents


def test_splits_and_tasks_do_not_repeat_each_other():
  seeds = [*tasks.DOCUMENT_SEEDS.values(), *tasks.DEMONSTRATION_SEEDS.values(),
           *tasks.PROMPT_SEEDS.values()]  # fmt: skip
  assert len(set(seeds)) == len(seeds)


def test_there_is_as_much_as_the_demo_needs():
  words = np.mean([len(d.split()) for d in tasks.documents('validation')])
  assert tasks.DOCUMENTS['train'] * words > 1_000_000
  assert tasks.DEMONSTRATIONS['train'] >= 12_000
  assert tasks.PROMPTS['train'] >= 20_000


def test_world_tasks_serve_their_kind_only(words):
  (_, error) = next(sources.read('miniature_text', 'demonstrations', 'train'))
  assert isinstance(error, RowError)
  assert "row 1, field 'prompt': missing" in str(error)
  with pytest.raises(RowError, match="field 'prompt': missing"):
    _load(words, 'miniature_text', 'demonstrations', 'train')
