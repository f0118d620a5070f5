# SPDX-License-Identifier: Apache-2.0
"""The exam of a run on real text: every stage, on rows that none trained on.

What a stage read, and how, is taken from the config that it left behind; a
stage that has not finished is left out. Models are compared on the same rows.
"""

import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf import inference
from rlhf.data import packing
from rlhf.dims import Params
from rlhf.evaluation import measurements, real_inputs, real_rankings
from rlhf.evaluation.measurements import Measurements
from rlhf.evaluation.miniature import text_loss
from rlhf.evaluation.real_inputs import File, held_out
from rlhf.model import ModelConfig
from rlhf.stages import setup as setup_lib
from rlhf.watching.display import say
from rlhf.watching.workdir import Workdir

# The stage that makes each model that speaks.
MODELS = {'base': 'pretrain', 'sft': 'sft', 'ppo': 'ppo', 'ppo_ptx': 'ppo_ptx'}
# Data sets by kind, and whose config says how they are read: the first that
# has finished.
_READERS = {
    'text': ('pretrain',),
    'demonstrations': ('sft',),
    'rankings': ('rm',),
    'prompts': ('ppo_ptx', 'ppo', 'sft'),
}
_TEXT_ROWS = 100
_ANSWERS = 96  # Of each model, at most, over all held-out prompts.
_SHOWN = 10
_BATCH = 32
_LOGIT_BATCH = 2  # Rows with logits at every token: 50,000 floats each.

Networks = Mapping[str, tuple[Params, ModelConfig]]


def examine(root: pathlib.Path, quotable: Collection[str]) -> dict:
  """Examines the finished stages below `root`, unless that was done.

  Writes evaluation/results.json there.

  Args:
    root: of the stages.
    quotable: files, as `File.name`, whose prompts may be shown.

  Returns:
    The contents of results.json: what was asked for ('finished', 'quotable'),
    and, as far as the stages are there,

      data            by kind: what was held out, files and their rows
      model           sizes
      settings        by stage
      curves          by stage, means of the first and last logged metrics
      text, demonstrations   by model, intervals of the loss
      reward_model    see `real_rankings.accuracies`
      strength        see `real_rankings.strength`
      answers         'prompts', 'draws', 'tokens', 'temperature', and intervals
                      by model
      contrasts       intervals of differences, row by row
      samples         rows of {prompt, answers}
      seconds         that all this took

  Raises:
    ValueError: if there is not even a base model.
  """
  found = real_inputs.finished(root)
  if 'pretrain' not in found:
    raise ValueError(
        f'{root / "pretrain"} holds no finished pretraining: nothing below'
        f' {root} can be examined yet'
    )
  workdir = Workdir(root / 'evaluation', tensorboard=False)
  wanted = {'finished': found, 'quotable': sorted(quotable)}
  if workdir.finished:
    earlier = workdir.read_json('results')
    if {name: earlier.get(name) for name in wanted} == wanted:
      say(f'evaluation: done before, in {workdir.path}')
      return earlier
  start = time.monotonic()
  results = wanted | _examine(root, found, quotable)
  results['seconds'] = time.monotonic() - start
  workdir.write_json('results', results)
  return results


def _examine(root, found, quotable) -> dict:
  readers = {
      kind: next((stage for stage in stages if stage in found), None)
      for kind, stages in _READERS.items()
  }
  setups = {
      kind: real_inputs.surroundings(root, stage)
      for kind, stage in readers.items()
      if stage is not None
  }
  files = {
      kind: real_inputs.read_files(setup, kind)
      for kind, setup in setups.items()
  }
  models = {
      model: real_inputs.load_model(setups['text'], root / stage)
      for model, stage in MODELS.items()
      if stage in found
  }
  results: dict[str, Any] = {
      'data': {
          kind: real_inputs.counts(setups[kind], files[kind]) for kind in files
      },
      'model': real_inputs.size(*models['base']),
      'settings': {name: real_inputs.settings(root, name) for name in found},
      'curves': {name: real_inputs.curve_ends(root / name) for name in found},
  }
  losses = {'text': _text(setups['text'], files['text'], models)}
  if 'sft' in found:
    losses['demonstrations'] = _demonstrations(
        setups['demonstrations'], files['demonstrations'], models
    )
  contrasts = loss_contrasts(losses)
  judge = None
  if {'sft', 'rm'} <= set(found):
    say('evaluation: the reward model on held-out rankings')
    judge = real_inputs.load_model(setups['rankings'], root / 'rm')
    groups = real_rankings.examine(
        setups['rankings'],
        judge,
        files['rankings'],
        files['demonstrations'],
    )
    results['reward_model'] = groups
    agreement = setups['prompts'].config.get('labeler_agreement')
    if agreement is not None:
      results['strength'] = real_rankings.strength(groups[0]['rm'], agreement)
  if 'sft' in found:
    about, answers, results['samples'] = _answers(
        setups['prompts'], files['prompts'], models, judge, quotable
    )
    contrasts |= answer_contrasts(answers)
    results['answers'] = about | _by_model(answers)
  results |= _by_model(losses)
  results['contrasts'] = measurements.summaries(contrasts)
  return results


def _by_model(groups: Mapping[str, Measurements]) -> dict[str, dict]:
  return {name: measurements.summaries(group) for name, group in groups.items()}


def _text(
    setup: setup_lib.Setup, files: Sequence[File], models: Networks
) -> Measurements:
  """Loss of each row of held-out text, of the models and of frequencies."""
  vocabulary = setup.codec.vocabulary
  rows_BT = packing.text_rows(
      held_out(files), setup.config.data.row_tokens, vocabulary.eos_id
  )
  rows_BT = rows_BT[spread(len(rows_BT), _TEXT_ROWS)]
  measured = {
      'frequencies': frequency_loss(
          [text for file in files for text in file.examples['train']],
          rows_BT,
          eos_id=vocabulary.eos_id,
          vocab_size=vocabulary.vocab_size,
      )
  }
  for model, (params, cfg) in models.items():
    say(f'evaluation: {model} reads {len(rows_BT)} rows of text')
    measured[model] = text_loss(params, cfg, rows_BT, batch=_LOGIT_BATCH)
  return measured


def frequency_loss(
    trained: Sequence[np.ndarray],
    rows_BT: np.ndarray,
    *,
    eos_id: int,
    vocab_size: int,
) -> np.ndarray:
  """Mean loss of each row by how frequent its tokens are, nats, float [rows].

  Every count is one higher, for what was never seen. As for a model, a row's
  first token is given.
  """
  counts = np.ones(vocab_size)
  for document in trained:
    counts += np.bincount(document, minlength=vocab_size)
  counts[eos_id] += len(trained)
  return -np.log(counts / counts.sum())[rows_BT[:, 1:]].mean(axis=1)


def _demonstrations(
    setup: setup_lib.Setup, files: Sequence[File], models: Networks
) -> Measurements:
  """Nats and tokens of each held-out response, float [n, 2]."""
  said = [
      inference.Completion(
          prompt=d.prompt_text,
          response=d.response_text,
          prompt_ids=tuple(d.prompt_ids),
          response_ids=tuple(d.response_ids),
          finished=True,
      )
      for d in held_out(files)
  ]
  tokens = np.array([len(c.response_ids) for c in said], float)
  measured = {}
  for model, network in models.items():
    say(f'evaluation: {model} reads {len(said)} demonstrations')
    log_probs = inference.log_probs(
        *network, said, batch=_LOGIT_BATCH, **real_inputs.lengths(setup)
    )
    measured[model] = np.stack([-np.asarray(log_probs, float), tokens], 1)
  return measured


def loss_contrasts(losses: Mapping[str, Measurements]) -> Measurements:
  """Differences of losses, row by row, as far as there are both.

  Returns:
    <kind>/<a>_over_<b>: the loss of a less that of b.
  """
  pairs = (
      ('text', 'base', 'frequencies'),
      ('text', 'sft', 'base'),
      ('text', 'ppo', 'sft'),
      ('text', 'ppo_ptx', 'sft'),
      ('text', 'ppo', 'ppo_ptx'),
      ('demonstrations', 'sft', 'base'),
  )
  found = {}
  for kind, a, b in pairs:
    group = losses.get(kind, {})
    if a in group and b in group:
      # Numerators of a ratio; the tokens below them are the same.
      x, y = group[a], group[b]
      found[f'{kind}/{a}_over_{b}'] = (
          x - y if x.ndim == 1 else np.stack([x[:, 0] - y[:, 0], x[:, 1]], 1)
      )
  return found


def _answers(
    setup: setup_lib.Setup,
    files: Sequence[File],
    models: Networks,
    judge: tuple[Params, ModelConfig] | None,
    quotable: Collection[str],
) -> tuple[dict[str, float], dict[str, Measurements], list[dict]]:
  """What every model says to held-out prompts.

  All draw with the same random numbers: models that are alike say the same.

  Returns:
    How many there are; by model, values a prompt (means over its draws);
    samples.
  """
  owners = [f.name for f in files for _ in f.examples['validation']]
  chosen = spread(len(owners), _ANSWERS)
  owners = [owners[i] for i in chosen]
  asked = held_out(files)
  asked = [asked[i].text for i in chosen]
  draws = max(1, _ANSWERS // len(asked))
  lengths = real_inputs.lengths(setup)
  said, measured = {}, {}
  for model, network in models.items():
    say(f'evaluation: {model} answers {len(asked)} prompts {draws} times')
    said[model] = inference.complete(
        *network,
        [text for text in asked for _ in range(draws)],
        setup.key,
        codec=setup.codec,
        sampling=setup.sampling,
        batch=_BATCH,
    )
    own, sft = [
        inference.log_probs(*other, said[model], batch=_LOGIT_BATCH, **lengths)
        for other in (network, models['sft'])
    ]
    values = {
        'kl_from_sft': own - sft,
        'length': [len(c.response_ids) for c in said[model]],
        'finished': [c.finished for c in said[model]],
    }
    if judge is not None:
      values['rm_score'] = inference.reward_scores(
          *judge, said[model], batch=_BATCH, **lengths
      )
    measured[model] = {
        name: np.asarray(value, float).reshape(-1, draws).mean(axis=1)
        for name, value in values.items()
    }
  about = {
      'prompts': len(asked),
      'draws': draws,
      'tokens': lengths['response_tokens'],
      'temperature': setup.sampling.temperature,
  }
  shown = [i for i, name in enumerate(owners) if name in quotable]
  shown = [shown[i] for i in spread(len(shown), _SHOWN)]
  samples = [
      {
          'prompt': asked[i],
          'answers': {model: rows[i * draws].response
                      for model, rows in said.items()},
      }
      for i in shown
  ]
  return about, measured, samples


def answer_contrasts(answers: Mapping[str, Measurements]) -> Measurements:
  """<measurement>/<policy>: PPO or PPO-ptx less SFT, prompt by prompt."""
  return {
      f'{name}/{model}': values - answers['sft'][name]
      for model in ('ppo', 'ppo_ptx')
      for name, values in answers.get(model, {}).items()
  }


def spread(n: int, count: int) -> np.ndarray:
  """At most `count` of the numbers below n, as evenly as can be."""
  return np.linspace(0, n - 1, min(n, count)).round().astype(int)
