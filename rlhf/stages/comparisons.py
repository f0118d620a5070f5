# SPDX-License-Identifier: Apache-2.0
"""Between steps 1 and 2: collecting comparisons on the newest policy.

The SFT model answers each prompt K = 4 to 9 times, and one labeler ranks its
answers (Ouyang et al. 2022, section 3.4). The labelers here are those of the
embedded world; the result is a rankings file like any other, so that human
rankings take the same road.
"""

import gzip
import json

import jax
import numpy as np
from etils import epath

from rlhf import hosts, inference, watch
from rlhf.stages import setup as setup_lib
from rlhf.watching.display import say
from rlhf.world import comparisons, labelers, rubric
from rlhf.world.prompts import Prompt, prompts


def run(config: setup_lib.Config) -> None:
  """Writes rankings_train.jsonl.gz, rankings_validation.jsonl.gz, results.json.

  The results say how far labelers agree with each other, and how often the
  best guess of a labeler's verdict, their mean noiseless utility, is right: the
  ceiling of any reward model.
  """
  setup = setup_lib.make(config)
  setup.workdir.write_json('config', config.to_dict())
  params, cfg = setup.start()
  rng = np.random.default_rng((config.seed, 1))
  results: dict = {}
  for number, split in enumerate(('train', 'validation')):
    if hosts.stopping():
      raise watch.StoppedError('told to stop: comparisons begin again')
    asked = prompts(split, config.prompts[split], 1000 + config.seed)
    counts = rng.integers(config.k_min, config.k_max + 1, len(asked))
    responses, features = sample_responses(
        setup, params, cfg, asked, counts, jax.random.fold_in(setup.key, number)
    )
    rows, dropped = comparisons.ranking_rows(
        asked, responses, features, labelers.TRAINING, rng
    )
    path = setup.workdir.path / f'rankings_{split}.jsonl.gz'
    write_rows(path, rows)
    results[split] = {
        'prompts': len(rows),
        'dropped': dropped,
        'responses': sum(len(row['responses']) for row in rows),
    }
    say(
        f'comparisons: {len(rows)} prompts with'
        f' {results[split]["responses"]} distinct responses in {path}'
    )
    if split == 'validation':
      results |= noise(_distinct(responses, features), config.seed)
  setup.workdir.write_json('results', results)


def sample_responses(
    setup: setup_lib.Setup,
    params,
    cfg,
    asked: list[Prompt],
    counts: np.ndarray,
    key: jax.Array,
) -> tuple[list[list[str]], list[np.ndarray]]:
  """`counts[i]` responses to prompt i, and their graded features_KX."""
  owners = np.repeat(np.arange(len(asked)), counts)
  completions = inference.complete(
      params,
      cfg,
      [asked[i].text for i in owners],
      key,
      codec=setup.codec,
      sampling=setup.sampling,
  )
  graded = rubric.grade_many(
      [asked[i] for i in owners],
      [c.response for c in completions],
      [c.finished for c in completions],
  )
  ends = np.cumsum(counts)[:-1]
  texts = [c.response for c in completions]
  responses = [list(part) for part in np.split(np.array(texts, object), ends)]
  return responses, np.split(graded, ends)


def noise(sets: list[np.ndarray], seed: int) -> dict:
  """Agreement of two labelers, and the ceiling, on sets of features_KX."""
  rng = np.random.default_rng((seed, 2))
  # Each set is judged many times, to measure the labelers and not the luck.
  many = sets * max(1, 2000 // len(sets))
  training, held_out = labelers.TRAINING, labelers.HELD_OUT
  within = labelers.agreement(training, many, rng)
  return {
      'agreement': within.rate,
      'ties': within.ties,
      'agreement_held_out': labelers.agreement(held_out, many, rng).rate,
      'ceiling': labelers.best_case(training, sets, rng),
      'ceiling_held_out': labelers.best_case(held_out, sets, rng),
  }


def _distinct(responses, features):
  """Features of each prompt's distinct responses, where there are several."""
  sets = []
  for texts, features_KX in zip(responses, features, strict=True):
    first = {text: k for k, text in reversed(list(enumerate(texts)))}
    if len(first) > 1:
      sets.append(features_KX[sorted(first.values())])
  return sets


def write_rows(path: epath.Path, rows: list[dict]) -> None:
  """Writes rows as gzipped JSON lines, the same bytes for the same rows."""
  if not hosts.is_first():
    return
  with path.open('wb') as raw, gzip.GzipFile(
      fileobj=raw, mode='wb', mtime=0, filename=''
  ) as f:
    for row in rows:
      f.write((json.dumps(row) + '\n').encode())
