# SPDX-License-Identifier: Apache-2.0
"""Who is asked, how text is measured, and that measurements survive a file."""

import jax
import numpy as np
import pytest

from rlhf import model as lm
from rlhf.evaluation import miniature
from rlhf.world import users
from rlhf.world.instructions import CLOSED_DOMAIN


@pytest.mark.parametrize('split', ['validation', 'test'])
def test_no_user_of_another_split_is_asked(split):
  asked = miniature.questions(split, seed=3, n=200).all
  uids = {prompt.user for prompt in asked}
  assert uids <= {user.uid for user in users.users(split)}
  assert not uids & {user.uid for user in users.users('train')}


def test_questions_have_their_sizes_and_kinds():
  asked = miniature.questions('test', seed=0, n=100)
  sizes = [100, 40, 20, 20]
  assert [len(part) for part in asked.split(asked.all)] == sizes
  assert {prompt.category for prompt in asked.closed} == set(CLOSED_DOMAIN)
  assert all(p.kind == 'reply' for p in asked.plain + asked.respectful)
  assert all(prompt.constraint('respect') for prompt in asked.respectful)
  assert not any(prompt.constraint('respect') for prompt in asked.plain)


def test_seeds_ask_different_questions():
  asked = [miniature.questions('test', seed, n=50) for seed in (0, 1, 1)]
  texts = [[prompt.text for prompt in one.all] for one in asked]
  assert texts[0] != texts[1]
  assert texts[1] == texts[2]


def test_text_loss_is_each_rows_mean_cross_entropy():
  cfg = lm.ModelConfig(
      layers=1, width=8, heads=2, head_size=4, context=8, vocab_size=11,
      pad_id=0, init_std=None, dtype='float32', remat='none',
  )
  rng = np.random.default_rng(0)
  tokens_BT = rng.integers(1, 11, size=(5, 8)).astype(np.int32)
  with jax.numpy_rank_promotion('allow'):
    params = jax.jit(lm.init, static_argnums=1)(jax.random.key(0), cfg)
    found = miniature.text_loss(params, cfg, tokens_BT)
    x_BTD = jax.jit(lm.forward, static_argnums=3)(
        params, tokens_BT, np.ones((5, 8), np.int32), cfg
    )
    logits_BTV = np.asarray(lm.lm_logits(params, x_BTD, cfg), float)

  for row in range(5):
    losses = []
    for t in range(7):
      logits = logits_BTV[row, t]
      log_sum = np.log(np.sum(np.exp(logits - logits.max()))) + logits.max()
      losses.append(log_sum - logits[tokens_BT[row, t + 1]])
    assert found[row] == pytest.approx(np.mean(losses), rel=1e-5)
