# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: its batches, its loss, and which network it keeps."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlhf import compilation, inference, networks, update
from rlhf.data import streams
from rlhf.stages import setup as setup_lib
from rlhf.stages import sft
from tests import tiny


def _without_training(monkeypatch):
  """Replaces the update by counting up all parameters; returns what it sees."""
  seen = []

  def compile_step(state, mesh, *, terms, tx, freeze):
    del state, mesh, tx, freeze

    def step(state, batch, key):
      seen.append((terms, batch, key))
      params = jax.tree.map(lambda x: x + 1.0, state.params)
      return dataclasses.replace(state, params=params), {}

    return step

  monkeypatch.setattr(update, 'compile_step', compile_step)
  monkeypatch.setattr(compilation, 'ahead', lambda *_: None)
  return seen


# -- Batches ------------------------------------------------------------------


@pytest.mark.parametrize(
    'batch, text_rows', [(18, 2), (32, 4), (8, 1)], ids=str
)
def test_a_tenth_of_the_rows_is_pretraining_text(
    root, monkeypatch, batch, text_rows
):
  """18 + 2 is 10 % exactly; the paper's 32 and 8 come as near as rows can."""
  seen = _without_training(monkeypatch)
  monkeypatch.setattr(sft, 'mean_loss', lambda *_: 1.0)
  share = {'batch': batch, 'epochs': 2, 'pretraining_share': 0.1}
  config = tiny.config('sft', root, f'mixed_{batch}', **share)
  sft.run(config)
  setup = setup_lib.make(config)
  text = setup.text_rows('train', config.data.row_tokens).tolist()
  drawn = []
  for _, batches, _ in seen:
    rows = jax.device_get(batches['sft'])
    assert len(rows.tokens_BT) == batch + text_rows
    mixed_in = [row in text for row in rows.tokens_BT.tolist()]
    assert mixed_in == [False] * batch + [True] * text_rows
    # In text every token but the first is learnt, else only responses are.
    assert rows.loss_mask_BT[batch:, 1:].all()
    assert rows.loss_mask_BT[:batch].mean() < 0.6
    drawn += [text.index(row) for row in rows.tokens_BT[batch:].tolist()]
  assert len(drawn) == len(set(drawn))
  assert abs(text_rows / (batch + text_rows) - 0.1) < 0.012


def test_no_text_is_read_without_a_share(root, monkeypatch):
  seen = _without_training(monkeypatch)
  monkeypatch.setattr(sft, 'mean_loss', lambda *_: 1.0)
  config = tiny.config(
      'sft', root, 'unmixed', pretraining_share=0.0, **{'data.text': ''}
  )
  sft.run(config)
  assert seen[0][1]['sft'].tokens_BT.shape[0] == config.batch


# -- Loss ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def setup(root):
  return setup_lib.make(tiny.config('sft', root, 'sft_parts'))


def _validation(setup):
  demonstrations = setup.examples(
      'demonstrations', 'demonstrations', 'validation'
  )
  stream = streams.DemonstrationStream(
      demonstrations, rows=2, row_length=24, pad_id=tiny.PAD, seed=0
  )
  return demonstrations, stream


def test_mean_loss_is_that_of_each_demonstration_alone(setup):
  """Over response tokens of all, however they are packed and batched."""
  params, cfg = tiny.network(1)
  demonstrations, stream = _validation(setup)
  assert len(list(stream.once())) > 2
  got = sft.mean_loss(params, cfg, stream.once(), setup.mesh)
  losses = []
  for d in demonstrations:
    log_probs = tiny.log_probs_alone(params, [*d.prompt_ids, *d.response_ids])
    losses += (-log_probs[len(d.prompt_ids) - 1 :]).tolist()
  np.testing.assert_allclose(got, np.mean(losses), rtol=1e-5)


def test_dropout_is_on_in_training_and_off_in_evaluation(
    root, setup, monkeypatch
):
  seen = _without_training(monkeypatch)
  monkeypatch.setattr(sft, 'mean_loss', lambda *_: 1.0)
  sft.run(tiny.config('sft', root, 'dropping', run_model=dict(dropout=0.3)))
  _, cfg, _ = networks.load_model(root / 'dropping')
  assert cfg.dropout == 0.3
  monkeypatch.undo()

  params, _ = tiny.network(1)
  (term,), batches, _ = seen[0]
  loss = jax.jit(term.loss)
  losses = [
      float(loss(params, batches['sft'], jax.random.key(seed))[0])
      for seed in (0, 0, 1)
  ]
  assert losses[0] == losses[1] != losses[2]
  # Evaluation passes no key: the same as without dropout in the config.
  _, stream = _validation(setup)
  mean = [
      sft.mean_loss(params, c, stream.once(), setup.mesh)
      for c in (cfg, tiny.CFG)
  ]
  assert mean[0] == mean[1]


# -- Which network is handed on -----------------------------------------------


def _assert_handed_on(root, run, step):
  """The network after `step` updates, each of which added 1."""
  params, _, facts = networks.load_model(root / run)
  start, _, _ = networks.load_model(root / 'sft')
  tiny.assert_same(params, jax.tree.map(lambda x: _plus(x, step), start))
  assert facts['step'] == step
  results = json.loads((root / run / 'results.json').read_text())
  assert results['step'] == step and results['steps'] == 6
  return facts


def _plus(x, times):
  for _ in range(times):
    x = x + 1.0
  return x


_SIX_STEPS = {'loop.evaluate_every': 2, 'pretraining_share': 0.0}


def _six_steps(monkeypatch):
  monkeypatch.setattr(
      streams.DemonstrationStream, 'steps', lambda self, epochs: 6
  )


def test_the_lowest_validation_loss_is_handed_on(root, monkeypatch):
  _without_training(monkeypatch)
  _six_steps(monkeypatch)
  losses = iter([3.0, 1.0, 2.0])
  monkeypatch.setattr(sft, 'mean_loss', lambda *_: next(losses))
  sft.run(tiny.config('sft', root, 'by_loss', **_SIX_STEPS))
  facts = _assert_handed_on(root, 'by_loss', 4)
  assert facts['validation/loss'] == 1.0


def test_the_best_rm_score_is_handed_on_once_there_is_a_reward_model(
    root, monkeypatch
):
  """The paper's choice: the loss rises after an epoch, preference goes on."""
  _without_training(monkeypatch)
  _six_steps(monkeypatch)
  losses, scores = iter([1.0, 2.0, 3.0]), iter([0.1, 0.2, 0.7])
  monkeypatch.setattr(sft, 'mean_loss', lambda *_: next(losses))
  sample = {'prompt': 'p', 'response': 'r', 'score': 0.0}

  def rm_score(setup):
    assert setup.config.reward_model == str(root / 'rm')
    return lambda params, cfg, step: (next(scores), [sample])

  monkeypatch.setattr(sft, 'rm_score', rm_score)
  config = tiny.config(
      'sft',
      root,
      'by_score',
      reward_model=str(root / 'rm'),
      **{'loop.best': 'validation/rm_score'},
      **_SIX_STEPS,
  )
  sft.run(config)
  facts = _assert_handed_on(root, 'by_score', 6)
  assert facts['validation/rm_score'] == 0.7
  assert facts['validation/loss'] == 3.0


def test_rm_score_is_the_mean_over_validation_prompts(root):
  config = tiny.config('sft', root, 'scored', reward_model=str(root / 'rm'))
  setup = setup_lib.make(config)
  policy, cfg = tiny.network(1)
  score, rows = sft.rm_score(setup)(policy, cfg, 5)
  prompts = setup.examples('prompts', 'prompts', 'validation')
  completions = inference.complete(
      policy,
      cfg,
      [p.text for p in prompts],
      jax.random.fold_in(setup.key, 5),
      codec=setup.codec,
      sampling=setup.sampling,
  )
  reward, _, _ = networks.load_model(root / 'rm')
  scores = [
      tiny.scalars_alone(reward, c.prompt_ids, c.response_ids)[-1]
      for c in completions
  ]
  assert len(scores) > 5
  np.testing.assert_allclose(score, np.mean(scores), rtol=1e-4, atol=1e-5)
  assert rows[0]['response'] == completions[0].response


def test_a_missing_reward_model_is_named(root):
  config = tiny.config('sft', root, 'unscored', reward_model='nowhere/rm')
  with pytest.raises(ValueError, match="reward_model='nowhere/rm'"):
    sft.run(config)


# -- Whole runs ---------------------------------------------------------------


def test_resumed_run_is_the_unbroken_one_bit_for_bit(root, monkeypatch):
  changes = {
      'loop.save_every': 2,
      'loop.evaluate_every': 3,
      'run_model': dict(dropout=0.2),
  }
  _six_steps(monkeypatch)
  sft.run(tiny.config('sft', root, 'unbroken_sft', **changes))

  batch = streams.DemonstrationStream.batch

  def breaks(self, step):
    if step == 5:
      raise KeyboardInterrupt
    return batch(self, step)

  config = tiny.config('sft', root, 'broken_sft', **changes)
  with monkeypatch.context() as patch:
    patch.setattr(streams.DemonstrationStream, 'batch', breaks)
    with pytest.raises(KeyboardInterrupt):
      sft.run(config)

  asked = []

  def watched(self, step):
    asked.append(step)
    return batch(self, step)

  monkeypatch.setattr(streams.DemonstrationStream, 'batch', watched)
  sft.run(config)
  # The first for its shapes, to compile for, and the one that would be next.
  assert asked == [0, 1, 4, 5]
  got, want = [
      networks.load_model(root / run)
      for run in ('broken_sft', 'unbroken_sft')
  ]
  tiny.assert_same(got[0], want[0])
  assert got[1:] == want[1:]
  last = [
      tiny.without_clocks(tiny.metrics(root / run)[-1])
      for run in ('broken_sft', 'unbroken_sft')
  ]
  assert last[0] == last[1] and last[0]['step'] == 6
