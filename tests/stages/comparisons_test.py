# SPDX-License-Identifier: Apache-2.0
"""Collecting comparisons with an untrained policy: it says many things."""

import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest

from rlhf import inference, networks
from rlhf.data import cleaning, loading
from rlhf.stages import comparisons
from rlhf.stages import setup as setup_lib
from rlhf.world.prompts import prompts
from rlhf.world.rubric import FEATURES
from tests import tiny

_SIZES = {'train': 12, 'validation': 8}


@pytest.fixture(scope='module')
def run_stage(root):
  """`run_stage(run, **changes)` runs the stage and returns its config."""
  from rlhf.data import vocabularies  # Late: this imports TensorFlow.

  words = vocabularies.vocabulary('miniature')
  cfg = dataclasses.replace(
      tiny.CFG, vocab_size=words.vocab_size, pad_id=words.pad_id
  )
  speaker = tiny.network(1, cfg=cfg, eos=words.eos_id)
  networks.save_model(root / 'speaker' / 'model', *speaker, {})

  def run_stage(run, **changes):
    config = tiny.config(
        'comparisons',
        root,
        run,
        init_from=str(root / 'speaker'),
        prompts=_SIZES,
        **{
            'data.vocabulary': 'miniature',
            'data.prompt_tokens': 32,
            'data.response_tokens': 8,
        }
        | changes,
    )
    comparisons.run(config)
    return config

  return run_stage


@pytest.fixture(scope='module')
def collected(root, run_stage):
  return run_stage('collected'), root / 'collected'


def _rows(directory, split):
  with gzip.open(directory / f'rankings_{split}.jsonl.gz', 'rt') as f:
    return [json.loads(line) for line in f]


def test_prompts_are_answered_four_to_nine_times_and_ranked(collected):
  _, directory = collected
  counts = []
  for split, size in _SIZES.items():
    rows = _rows(directory, split)
    asked = prompts(split, size, 1000)
    assert [row['prompt'] for row in rows] == [p.text for p in asked]
    assert [row['user'] for row in rows] == [p.user for p in asked]
    for row in rows:
      assert len(row['responses']) == len(row['ranks'])
      # Ranks are dense: 1 is best, ties share one.
      assert sorted(set(row['ranks'])) == list(range(1, max(row['ranks']) + 1))
      assert len(set(row['responses'])) == len(row['responses'])
      counts.append(len(row['responses']))
  assert min(counts) >= 4 and max(counts) <= 9 and len(set(counts)) > 2


def test_results_count_what_was_written_and_measure_the_labelers(collected):
  _, directory = collected
  results = json.loads((directory / 'results.json').read_text())
  for split in _SIZES:
    rows = _rows(directory, split)
    assert results[split] == {
        'prompts': len(rows),
        'dropped': 0,
        'responses': sum(len(row['responses']) for row in rows),
    }
  for name in ('agreement', 'agreement_held_out', 'ceiling', 'ties'):
    assert 0 <= results[name] <= 1
  assert results['agreement'] > 0.5 and results['ceiling'] > 0.5


def test_rankings_take_the_road_of_any_rankings_file(collected):
  config, directory = collected
  setup = setup_lib.make(config)
  rankings = loading.load(
      str(directory / 'rankings_train.jsonl.gz'),
      'rankings',
      'all',
      setup.codec.vocabulary,
      setup.codec.prompt_format,
      max_prompt_tokens=32,
      max_response_tokens=8,
      reading=cleaning.Reading(allow_empty_responses=True),
  )
  rows = [
      row for row in _rows(directory, 'train') if len(set(row['ranks'])) > 1
  ]
  assert [r.response_texts for r in rankings] == [
      tuple(row['responses']) for row in rows
  ]
  # Sampled words go back to the ids they came from, unless they were cut.
  ids = [len(i) for r in rankings for i in r.responses_ids]
  assert max(ids) <= 8


def test_same_seed_same_bytes(collected, run_stage, root):
  _, directory = collected
  run_stage('collected_again')
  run_stage('collected_otherwise', seed=1)
  for split in _SIZES:
    name = f'rankings_{split}.jsonl.gz'
    first = (directory / name).read_bytes()
    assert (root / 'collected_again' / name).read_bytes() == first
    assert (root / 'collected_otherwise' / name).read_bytes() != first


def test_responses_and_grades_go_to_their_own_prompts(collected, monkeypatch):
  config, _ = collected
  asked = prompts('train', 5, 7)
  texts = {p.text: number for number, p in enumerate(asked)}

  def complete(params, cfg, prompts_asked, key, **kwargs):
    del params, cfg, key, kwargs
    return [
        inference.Completion(text, f'{texts[text]} {i}', (), (), True)
        for i, text in enumerate(prompts_asked)
    ]

  def grade_many(owners, responses, finished):
    assert all(finished)
    # A feature that says whose prompt and which response it was.
    numbers = [float(response.split()[1]) for response in responses]
    owned = [float(texts[owner.text]) for owner in owners]
    return np.stack([owned, numbers], axis=1)

  monkeypatch.setattr(inference, 'complete', complete)
  monkeypatch.setattr(comparisons.rubric, 'grade_many', grade_many)
  counts = np.array([4, 9, 1, 5, 6])
  responses, features = comparisons.sample_responses(
      setup_lib.make(config), None, None, asked, counts, jax.random.key(0)
  )
  first = 0
  for number, count in enumerate(counts):
    want = [f'{number} {i}' for i in range(first, first + count)]
    assert responses[number] == want
    graded = [f'{owner:.0f} {i:.0f}' for owner, i in features[number]]
    assert graded == want
    first += count


def test_noise_is_measured_on_distinct_responses():
  rng = np.random.default_rng(0)
  features = [rng.random((4, len(FEATURES))) for _ in range(30)]
  measured = comparisons.noise(features, 0)
  assert measured == comparisons.noise(features, 0)
  # Who knows the mean opinion is right more often than another labeler.
  assert measured['ceiling'] > measured['agreement'] > 0.5
  twice = [np.concatenate([f, f[:1]]) for f in features]
  texts = [['a', 'b', 'c', 'd', 'a']] * 30
  for kept, want in zip(
      comparisons._distinct(texts, twice), features, strict=True
  ):
    np.testing.assert_array_equal(kept, want)
  assert comparisons._distinct([['a', 'a']], [np.zeros((2, 3))]) == []
