# SPDX-License-Identifier: Apache-2.0
"""PPO and PPO-ptx, by the parts of `Trainer` and as whole tiny runs."""

import copy
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf import inference, networks, problems, update
from rlhf import model as lm
from rlhf.data.batches import PromptBatch
from rlhf.experience import Networks
from rlhf.losses import language_loss, next_tokens, token_log_probs
from rlhf.stages import ppo, ppo_programs, ppo_trainer
from rlhf.stages import setup as setup_lib
from rlhf.stages.sft import language_term
from tests import tiny

BATCH, MINIBATCHES = 16, 2


def _trainer(root, stage='ppo_ptx', **changes):
  config = tiny.config(stage, root, 'ppo_parts', **changes)
  return ppo.Trainer(setup_lib.make(config))


@pytest.fixture(scope='module')
def trainer(root):
  """Of PPO-ptx. Don't give its `state` away: see `_start`."""
  return _trainer(root)


@pytest.fixture(scope='module')
def rolled(trainer):
  """The first iteration's experience, scores and metrics."""
  experience, samples, scores, texts, metrics = trainer.rollout(
      trainer.state, 0
  )
  return experience, samples, scores, texts, jax.device_get(metrics)


def _start(trainer):
  """The first state; a copy, for updates take the state that they are given."""
  return jax.tree.map(jnp.copy, trainer.state)


def _with(trainer, **changes):
  """The same programs under other settings of `ppo`."""
  other = copy.copy(trainer)
  other.c = copy.deepcopy(trainer.c).unlock()
  other.c.update(changes)
  return other


def _record_updates(trainer):
  """A trainer whose policy updates are seen: batches, metrics, parameters."""
  seen = []
  watched = copy.copy(trainer)

  def policy_step(state, batch, key):
    batch_seen = jax.device_get(batch)
    state, metrics = trainer.programs.policy_step(state, batch, key)
    seen.append((batch_seen, jax.device_get(metrics), jax.device_get(state)))
    return state, metrics

  watched.programs = dataclasses.replace(
      trainer.programs, policy_step=policy_step
  )
  return watched, seen


def _assert_close(got, want, **tolerance):
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want
  )


# -- Rollout ------------------------------------------------------------------


def test_first_rollout_is_at_the_reference(rolled):
  metrics = rolled[-1]
  assert metrics['rollout/kl'] == 0.0
  assert metrics['rollout/sampler_gap'] < 1e-5


def test_networks_start_from_the_earlier_stages(root, trainer):
  policy, _, _ = networks.load_model(root / 'sft')
  reward, _, _ = networks.load_model(root / 'rm')
  tiny.assert_same(trainer.state.policy.params, policy)
  tiny.assert_same(trainer.state.policy.ema, policy)
  tiny.assert_same(trainer.state.value.params, reward)
  tiny.assert_same(trainer.reference, policy)


def test_scores_are_the_reward_models(trainer, rolled):
  """Against the other road to a score: completions, padded anew."""
  experience, samples, scores, texts, _ = rolled
  codec = trainer.setup.codec
  completions = []
  for row, text in enumerate(texts):
    ids = np.asarray(samples.tokens_BR[row])[np.asarray(samples.mask_BR[row])]
    completions.append(
        inference.Completion(
            prompt=text,
            response=codec.decode_response(ids.tolist()),
            prompt_ids=tuple(codec.encode_prompt(text)),
            response_ids=tuple(ids.tolist()),
            finished=bool(samples.finished[row]),
        )
    )
  want = inference.reward_scores(
      trainer.reward,
      trainer.reward_cfg,
      completions,
      prompt_tokens=16,
      response_tokens=8,
      batch=BATCH,
  )
  np.testing.assert_allclose(scores, want, rtol=1e-5, atol=1e-5)
  drawn = ppo_trainer.Drawn(samples, scores, texts, experience)
  said = trainer.sample_rows(drawn, count=2)
  assert said == [
      {
          'prompt': c.prompt,
          'response': c.response,
          'finished': c.finished,
          'score': float(score),
      }
      for c, score in zip(completions[:2], scores[:2], strict=True)
  ]


def test_dropout_is_off(root, trainer, rolled):
  """An SFT model trained with dropout brings it along in its config."""
  dropping = _trainer(root, run_model=dict(dropout=0.5))
  cfg = dropping.policy_cfg
  assert cfg.dropout == dropping.reward_cfg.dropout == 0.5
  batch = {'policy': rolled[0], 'value': rolled[0], 'ptx': trainer.ptx.batch(0)}
  key = jax.random.key(0)

  def draws(function, *args):
    return 'random_bits' in str(jax.make_jaxpr(function)(*args))

  state, programs = dropping.state, dropping.programs
  assert not draws(programs.policy_step, state.policy, batch, key)
  assert not draws(programs.value_step, state.value, batch, key)
  networks = Networks(
      policy=state.policy.params,
      reference=dropping.reference,
      reward=dropping.reward,
      value=state.value.params,
  )
  prompts = trainer.prompts.batch(0)[0]
  scored = networks, prompts.tokens_BP, prompts.mask_BP, rolled[1], jnp.ones(())
  assert not draws(programs.score, *scored)
  # This is what a term that drops looks like.
  term = language_term('sft', cfg)
  assert draws(term.loss, state.policy.params, batch['ptx'], key)


def test_other_seed_says_something_else(root, trainer, rolled):
  other = copy.copy(trainer)
  seeded = _trainer(root, seed=1)
  other.setup, other.prompts = seeded.setup, seeded.prompts
  _, samples, _, texts, _ = other.rollout(trainer.state, 0)
  assert list(texts) != list(rolled[3])
  assert not np.array_equal(samples.tokens_BR, rolled[1].tokens_BR)
  # With the same prompts too: the draws have another key.
  other.prompts = trainer.prompts
  _, samples, _, texts, _ = other.rollout(trainer.state, 0)
  assert list(texts) == list(rolled[3])
  assert not np.array_equal(samples.tokens_BR, rolled[1].tokens_BR)


class _Wide:
  """The same batches, padded to the longest prompt."""

  def __init__(self, prompts):
    self._prompts = prompts

  def batch(self, step):
    batch, texts = self._prompts.batch(step)
    more = ((0, 0), (self._prompts.lengths[-1] - batch.mask_BP.shape[1], 0))
    tokens_BP = np.pad(batch.tokens_BP, more, constant_values=tiny.PAD)
    return PromptBatch(tokens_BP, np.pad(batch.mask_BP, more)), texts


@pytest.mark.slow
def test_short_prompts_are_answered_in_a_batch_of_their_own(root):
  short = _trainer(root, **{'data.prompt_buckets': (12,)})
  assert short.prompts.lengths == [12, 16]
  short.compile_ahead()
  wide = copy.copy(short)
  wide.prompts = _Wide(short.prompts)
  widths, state = set(), _start(short)
  for index in range(4):
    experience, samples, scores, texts, metrics = short.rollout(state, index)
    want = wide.rollout(state, index)
    widths.add(experience.tokens_BT.shape[1] - samples.tokens_BR.shape[1])
    # Padding changes neither what is said nor what it is worth.
    np.testing.assert_array_equal(samples.tokens_BR, want[1].tokens_BR)
    np.testing.assert_allclose(scores, want[2], atol=1e-5)
    assert list(texts) == list(want[3])
    for name in ('rollout/kl', 'rollout/entropy', 'rollout/score'):
      np.testing.assert_allclose(metrics[name], want[4][name], atol=1e-5)
    state, learnt = short.learn(state, experience, index)
    assert np.isfinite(learnt['policy/loss'])
  assert widths == {12, 16}


# -- Updates ------------------------------------------------------------------


def test_ratio_is_one_at_the_first_minibatch_and_not_at_the_second(
    trainer, rolled
):
  watched, seen = _record_updates(trainer)
  watched.learn(_start(trainer), rolled[0], 0)
  first, second = [metrics for _, metrics, _ in seen]
  np.testing.assert_allclose(first['policy/ratio'], 1.0, atol=1e-6)
  assert first['policy/approx_kl'] < 1e-10
  assert first['policy/clip_fraction'] == 0.0
  assert abs(second['policy/ratio'] - 1.0) > 1e-4
  assert second['policy/approx_kl'] > 1e-5


def test_each_row_is_learnt_from_once_an_epoch_and_reshuffled(trainer, rolled):
  watched, seen = _record_updates(_with(trainer, inner_epochs=2))
  watched.learn(_start(trainer), rolled[0], 0)
  rows = np.asarray(rolled[0].tokens_BT).tolist()
  orders = []
  for epoch in (seen[:MINIBATCHES], seen[MINIBATCHES:]):
    learnt = np.concatenate([b['policy'].tokens_BT for b, _, _ in epoch])
    assert sorted(learnt.tolist()) == sorted(rows)
    orders.append(learnt.tolist())
  assert orders[0] != orders[1]


def test_minibatches_have_white_advantages(trainer, rolled):
  watched, seen = _record_updates(trainer)
  watched.learn(_start(trainer), rolled[0], 0)
  for batch, _, _ in seen:
    advantages = batch['policy'].advantages_BR[batch['policy'].mask_BR]
    np.testing.assert_allclose(advantages.mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(advantages.std(), 1.0, atol=1e-4)


@pytest.mark.parametrize('epochs', [1, 2])
def test_ptx_reads_eight_fresh_rows_an_episode(trainer, rolled, epochs):
  watched, seen = _record_updates(_with(trainer, inner_epochs=epochs))
  state = _start(trainer)
  for index in range(2):
    state, _ = watched.learn(state, rolled[0], index)
  for batch, _, _ in seen:
    rows = batch['ptx'].tokens_BT.shape[0]
    assert rows == 8 * batch['policy'].tokens_BT.shape[0]
  # Consecutive batches of the stream: none twice, none left out.
  for number, (batch, _, _) in enumerate(seen):
    want = trainer.ptx.batch(number).tokens_BT
    np.testing.assert_array_equal(batch['ptx'].tokens_BT, want)
  assert len(seen) == 2 * epochs * MINIBATCHES


def test_gamma_adds_exactly_gamma_times_the_pretraining_gradient(
    trainer, rolled
):
  """Of the terms that PPO-ptx minimises; SGD's update at rate 1 is a gradient.
  """
  terms = ppo_programs.policy_terms(trainer.setup.config, trainer.policy_cfg)
  key = jax.random.key(3)
  gamma = trainer.c.ptx_coefficient
  assert gamma == 2.5
  batch = {'policy': rolled[0], 'ptx': trainer.ptx.batch(0)}
  sgd = optax.sgd(1.0)
  state = update.new_state(trainer.reference, sgd)

  def step(terms):
    function = functools.partial(update.train_step, terms=terms, tx=sgd)
    return jax.jit(function)(state, batch, key)

  without, _ = step(tuple(t for t in terms if t.name == 'policy'))
  both, metrics = step(terms)

  @jax.jit
  @jax.grad
  def pretraining_gradient(params):
    text = batch['ptx']
    x_BTD = lm.forward(params, text.tokens_BT, text.segment_ids_BT, tiny.CFG)
    logits_BTV = lm.lm_logits(params, x_BTD, tiny.CFG)
    scores = token_log_probs(logits_BTV, next_tokens(text.tokens_BT))
    return language_loss(*scores, text.loss_mask_BT)[0]

  want = pretraining_gradient(trainer.reference)
  _assert_close(
      jax.tree.map(lambda a, b: (a - b) / gamma, without.params, both.params),
      want,
      rtol=1e-3,
      atol=1e-6,
  )
  norm = gamma * optax.tree.norm(want)
  np.testing.assert_allclose(metrics['ptx/grad_norm'], norm, rtol=1e-4)
  # And that is what the compiled update of the trainer does.
  watched, seen = _record_updates(trainer)
  watched.learn(_start(trainer), rolled[0], 0)
  np.testing.assert_allclose(seen[0][1]['ptx/grad_norm'], norm, rtol=1e-4)


def test_micro_batches_change_nothing(root, trainer, rolled):
  split = _trainer(root, **{'ppo.micro_batches': 2})
  got, metrics = split.learn(split.state, rolled[0], 0)
  want, wanted = trainer.learn(_start(trainer), rolled[0], 0)
  _assert_close(got.policy.params, want.policy.params, atol=1e-5)
  _assert_close(got.policy.ema, want.policy.ema, atol=1e-5)
  _assert_close(got.value.params, want.value.params, atol=1e-5)
  for name in ('policy/loss', 'ptx/loss', 'value/loss', 'policy/weight'):
    np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-4)


def test_value_warm_up_leaves_the_policy_as_it_is(trainer, rolled):
  warming = _with(trainer, value_warmup_iterations=1)
  before = jax.device_get(trainer.state)
  state, metrics = warming.learn(_start(trainer), rolled[0], 0)
  tiny.assert_same(state.policy, before.policy)
  assert state.value.step == MINIBATCHES
  assert 'value/loss' in metrics and 'policy/loss' not in metrics
  state, metrics = warming.learn(state, rolled[0], 1)
  assert state.policy.step == MINIBATCHES
  assert state.value.step == 2 * MINIBATCHES
  assert 'policy/loss' in metrics


def test_policy_and_value_have_their_own_learning_rates(trainer, rolled):
  """Adam's first update moves what has a clear gradient by the rate."""
  policy, value = trainer.state.policy.params, trainer.state.value.params
  experience = rolled[0]
  state, _ = trainer.learn(_start(trainer), experience, 0)
  config = trainer.setup.config
  for before, after, rate in (
      (policy, state.policy.params, config.optimizer.learning_rate),
      (value, state.value.params, config.value_optimizer.learning_rate),
  ):
    moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), before, after)
    furthest = max(jax.tree.leaves(moved))
    # Two updates, of which the second may go back or on.
    assert rate < furthest < 2.01 * rate
  assert config.optimizer.learning_rate != config.value_optimizer.learning_rate


def test_adaptive_kl_moves_beta_after_it_was_used(trainer):
  adaptive = _with(trainer, adaptive_kl=dict(target=4.0, horizon=160.0))
  state, metrics, _ = adaptive.iteration(_start(trainer), 0)
  assert metrics['kl_coefficient'] == trainer.state.kl_coefficient
  # No KL yet: the error is cut at -20 %, over 16 of 160 episodes.
  np.testing.assert_allclose(
      state.kl_coefficient, metrics['kl_coefficient'] * (1 - 0.2 * 0.1)
  )
  later, metrics, _ = adaptive.iteration(state, 1)
  error = np.clip(metrics['rollout/kl'] / 4.0 - 1.0, -0.2, 0.2)
  np.testing.assert_allclose(
      later.kl_coefficient, metrics['kl_coefficient'] * (1 + error * 0.1)
  )


@pytest.mark.parametrize(
    'changes, names',
    [
        ({'ppo.batch': 10, 'ppo.minibatches': 4}, 'minibatches=4.*batch=10'),
        ({'ppo.batch': 12, 'ppo.micro_batches': 5}, 'ppo.micro_batches'),
        ({'ppo.rollout_rows': 5}, 'ppo.rollout_rows=5.*ppo.batch=16'),
        ({'ppo.score_rows': 6}, 'ppo.score_rows=6.*ppo.batch=16'),
        (
            {'ppo.batch': 8, 'ppo.minibatches': 2, 'ppo.whiten_rewards': True},
            'ppo.whiten_rewards',
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused_by_name(root, changes, names):
  with pytest.raises(problems.ConfigError, match=names):
    problems.check(tiny.config('ppo', root, **changes))


# -- Whole runs ---------------------------------------------------------------


_THREE_ITERATIONS = {
    'ppo.episodes': 3 * BATCH,
    'loop.save_every': 1,
    'loop.evaluate_every': 2,
}


@pytest.fixture(scope='module')
def unbroken(root):
  ppo.run(tiny.config('ppo_ptx', root, 'unbroken', **_THREE_ITERATIONS))
  return root / 'unbroken'


def test_run_hands_on_the_moving_average(unbroken, trainer):
  """Against iterations by hand, which also shows: same seed, same run."""
  watched, seen = _record_updates(trainer)
  state = _start(trainer)
  average, decay = jax.device_get(trainer.reference), trainer.c.ema_decay
  for index in range(3):
    state, _, _ = watched.iteration(state, index)
  for _, _, after in seen:
    average = jax.tree.map(
        lambda e, p: decay * e + (1 - decay) * p, average, after.params
    )
  handed_on, cfg, facts = networks.load_model(unbroken)
  tiny.assert_same(handed_on, state.policy.ema)
  _assert_close(handed_on, average, atol=1e-6)
  # Which kernel it runs on is for the next devices to say.
  assert cfg == dataclasses.replace(trainer.policy_cfg, kernel='auto')
  assert facts['iterations'] == 3 and facts['updates'] == len(seen) == 6
  assert json.loads((unbroken / 'results.json').read_text()) == facts


def test_run_writes_metrics_and_samples(unbroken):
  lines = tiny.metrics(unbroken)
  assert [line['step'] for line in lines] == [1, 2, 3]
  more = {'kl_coefficient', 'policy/ratio', 'opt/grad_norm', 'seconds'}
  assert {*ppo.HEADLINE, *more} - {'rollout/gold'} <= set(lines[-1])
  samples = (unbroken / 'samples.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in samples]
  assert {row['step'] for row in rows} == {2, 3}
  assert {'step', 'prompt', 'response', 'score'} <= set(rows[0])


def test_resumed_run_is_the_unbroken_one_bit_for_bit(
    root, unbroken, monkeypatch
):
  config = tiny.config('ppo_ptx', root, 'broken', **_THREE_ITERATIONS)
  iteration = ppo.Trainer.iteration

  def breaks(self, state, index):
    if index == 2:
      raise KeyboardInterrupt
    return iteration(self, state, index)

  with monkeypatch.context() as patch:
    patch.setattr(ppo.Trainer, 'iteration', breaks)
    with pytest.raises(KeyboardInterrupt):
      ppo.run(config)
  assert not (root / 'broken' / 'results.json').exists()

  begun = []

  def watched(self, state, index):
    begun.append(index)
    return iteration(self, state, index)

  monkeypatch.setattr(ppo.Trainer, 'iteration', watched)
  ppo.run(config)
  assert begun == [2]
  resumed, _, facts = networks.load_model(root / 'broken')
  want, _, wanted_facts = networks.load_model(unbroken)
  tiny.assert_same(resumed, want)
  assert facts == wanted_facts
  for mine, theirs in zip(
      tiny.metrics(root / 'broken'), tiny.metrics(unbroken), strict=True
  ):
    assert tiny.without_clocks(mine) == tiny.without_clocks(theirs)


def test_missing_data_is_asked_for_by_name(root):
  config = tiny.config('ppo', root, **{'data.prompts': ''})
  with pytest.raises(ValueError, match='--config.data.prompts='):
    ppo.Trainer(setup_lib.make(config))


def test_networks_of_another_vocabulary_are_refused(root):
  config = tiny.config('ppo', root)
  with config.unlocked():
    config.data.vocabulary = 'miniature'
  with pytest.raises(ValueError, match='sft has 31 tokens but data.vocabulary'):
    ppo.Trainer(setup_lib.make(config))
