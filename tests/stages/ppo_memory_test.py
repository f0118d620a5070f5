# SPDX-License-Identifier: Apache-2.0
"""Settings of PPO that bound its memory: they change no number."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf.stages import ppo
from rlhf.stages import setup as setup_lib
from tests import tiny

BATCH = 16


def _trainer(root, **changes):
  config = tiny.config('ppo_ptx', root, 'ppo_parts', **changes)
  return ppo.Trainer(setup_lib.make(config))


@pytest.fixture(scope='module')
def trainer(root):
  return _trainer(root)


@pytest.fixture(scope='module')
def bounded(root):
  """The same method in less memory, wherever that can be had."""
  return _trainer(
      root,
      **{
          'ppo.score_rows': 4,
          'ppo.ptx_micro_batches': 4,
          'ppo.spread.reward': ('tensor',),
          'run_model': dict(remat='full', loss_chunk=5),
      },
  )


@pytest.fixture(scope='module')
def rolled(trainer):
  return trainer.rollout(trainer.state, 0)


def _assert_close(got, want, **tolerance):
  for (path, a), (_, b) in zip(
      jax.tree_util.tree_leaves_with_path(got),
      jax.tree_util.tree_leaves_with_path(want),
      strict=True,
  ):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, err_msg=name, **tolerance)


def test_scores_in_parts_are_those_of_the_batch(trainer, bounded, rolled):
  assert bounded.policy_cfg.loss_chunk == bounded.reward_cfg.loss_chunk == 5
  assert bounded.c.score_rows == 4 and bounded.c.spread.reward == ('tensor',)
  _assert_close(bounded.reward, trainer.reward, rtol=0)
  experience, samples, scores, texts, metrics = bounded.rollout(
      bounded.state, 0
  )
  want, drawn, wanted, said, rollout = rolled
  assert list(texts) == list(said)
  np.testing.assert_array_equal(samples.tokens_BR, drawn.tokens_BR)
  tolerance = dict(rtol=1e-4, atol=1e-5)
  _assert_close(experience, want, **tolerance)
  np.testing.assert_allclose(scores, wanted, **tolerance)
  assert metrics.keys() == rollout.keys()
  for name in metrics.keys() - {'time/generate', 'time/score', 'time/wait'}:
    np.testing.assert_allclose(
        metrics[name], rollout[name], err_msg=name, **tolerance
    )


def test_an_update_in_parts_is_that_of_the_batch(trainer, bounded, rolled):
  """Pretraining text cut in four, the rollout's rows not at all."""
  key = jax.random.key(0)
  results = []
  for one in (trainer, bounded):
    part = trainer.programs.minibatches(rolled[0], key)[0]
    batch = {'policy': part} | one._ptx_batch(0)
    state = jax.tree.map(jnp.copy, one.state.policy)
    results.append(one.programs.policy_step(state, batch, key))
    rows = 8 * BATCH // 2
    want = (rows,) if one is trainer else (4, rows // 4)
    assert batch['ptx'].tokens_BT.shape[:-1] == want
  (got, metrics), (want, wanted) = results[1], results[0]
  _assert_close(got.params, want.params, atol=1e-5)
  _assert_close(got.ema, want.ema, atol=1e-5)
  for name in ('policy/loss', 'ptx/loss', 'ptx/weight', 'ptx/grad_norm'):
    # White advantages make the policy's first loss 0.
    np.testing.assert_allclose(
        metrics[name], wanted[name], rtol=1e-4, atol=1e-6
    )


# -- Some prompts at a time ---------------------------------------------------


def _some(trainer, rows):
  """The same programs, answering `rows` prompts at a time."""
  other = copy.copy(trainer)
  other.c = copy.deepcopy(trainer.c).unlock()
  other.c.rollout_rows = rows
  return other


def test_greedy_answers_do_not_hang_on_rollout_rows(root):
  trainer = _trainer(root, temperature=0.0)
  batch, _ = trainer.prompts.batch(0)
  key = jax.random.key(1)
  want = trainer._generate(trainer.state, batch, key)
  assert want.tokens_BR.shape == (BATCH, 8)
  assert len(np.unique(want.tokens_BR, axis=0)) > 2
  for rows in (4, BATCH):
    got = _some(trainer, rows)._generate(trainer.state, batch, key)
    np.testing.assert_array_equal(got.tokens_BR, want.tokens_BR)
    np.testing.assert_array_equal(got.mask_BR, want.mask_BR)
    np.testing.assert_array_equal(got.finished, want.finished)
    np.testing.assert_allclose(got.log_probs_BR, want.log_probs_BR, atol=1e-5)


def test_each_part_of_a_rollout_draws_numbers_of_its_own(trainer):
  batch, _ = trainer.prompts.batch(0)
  # The same four prompts in each part.
  batch = jax.tree.map(lambda x: np.tile(x[:4], (BATCH // 4, 1)), batch)
  key = jax.random.key(1)
  got = _some(trainer, 4)._generate(trainer.state, batch, key)
  parts = np.asarray(got.tokens_BR).reshape(4, -1)
  assert len(np.unique(parts, axis=0)) == 4
  again = _some(trainer, 4)._generate(trainer.state, batch, key)
  tiny.assert_same(again, got)
