# SPDX-License-Identifier: Apache-2.0
"""The reward model: packed rows, comparisons, and where its zero lies."""

import json

import jax
import numpy as np
import pytest

from rlhf import networks, update
from rlhf.data import batches, packing, streams
from rlhf.stages import reward
from rlhf.stages import setup as setup_lib
from tests import tiny


@pytest.fixture(scope='module')
def setup(root):
  return setup_lib.make(tiny.config('rm', root, 'rm_parts'))


@pytest.fixture(scope='module')
def rankings(setup):
  return setup.examples('validation_rankings', 'rankings', 'all')


def _stream(rankings, rows=8, max_prompts=3):
  return streams.RankingStream(
      rankings,
      rows=rows,
      row_length=48,
      max_prompts=max_prompts,
      max_responses=9,
      pad_id=tiny.PAD,
      seed=0,
  )


def _rewards_alone(params, ranking):
  return np.array([
      tiny.scalars_alone(params, ranking.prompt_ids, response)[-1]
      for response in ranking.responses_ids
  ])


@pytest.mark.parametrize('pooling', ['last', 'last_and_mean'])
def test_packed_rewards_are_those_of_each_response_alone(rankings, pooling):
  params, cfg = tiny.network(3, head=pooling)
  stream = _stream(rankings)
  rewarded = jax.jit(reward.ranked_rewards, static_argnames=('cfg',))
  compared = 0
  for batch, indices in zip(
      stream.once(), stream.once_indices(), strict=True
  ):
    # Rows are shared, or this would not test packing.
    assert batch.segment_ids_MT.max() > 1
    rewards_BK = np.asarray(rewarded(params, batch, cfg=cfg))
    for b, index in enumerate(indices):
      want = _rewards_alone(params, rankings[index])
      assert batch.mask_BK[b].sum() == len(want)
      np.testing.assert_allclose(
          rewards_BK[b, : len(want)], want, rtol=1e-4, atol=1e-5
      )
      compared += len(want)
  assert compared == sum(len(r.responses_ids) for r in rankings)


def test_every_response_is_read_once(rankings):
  """Not once for each of the comparisons it is in."""
  stream = _stream(rankings)
  for batch, indices in zip(
      stream.once(), stream.once_indices(), strict=True
  ):
    tokens = sum(
        len(rankings[i].prompt_ids) + len(response)
        for i in indices
        for response in rankings[i].responses_ids
    )
    assert np.sum(batch.segment_ids_MT > 0) == tokens


# -- Accuracy -----------------------------------------------------------------


def _right_and_all(rewards, ranks):
  """Every pair that the labeler told apart; equal rewards are half right."""
  right = total = 0.0
  for i in range(len(rewards)):
    for j in range(i):
      if ranks[i] != ranks[j]:
        total += 1
        better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
        if rewards[better] > rewards[worse]:
          right += 1
        elif rewards[better] == rewards[worse]:
          right += 0.5
  return right, total


@pytest.mark.parametrize('seed', range(5))
def test_accuracy_of_one_ranking_equals_the_loop(seed):
  rng = np.random.default_rng(seed)
  k = rng.integers(2, 10)
  ranks, rewards = rng.integers(0, 4, k), rng.integers(0, 4, k).astype(float)
  got = reward.right_and_all(rewards, ranks)
  assert got == _right_and_all(rewards, ranks)


def test_accuracy_equals_the_loop(setup, rankings):
  """Over padded prompts and responses, batch by batch."""
  params, cfg = tiny.network(3, head='last_and_mean')
  stream = _stream(rankings)
  got = reward.comparisons_right(params, cfg, stream, setup.mesh)
  want = [
      _right_and_all(_rewards_alone(params, r), r.ranks) for r in rankings
  ]
  np.testing.assert_array_equal(got, want)
  # The labeler ties some of them, so there are fewer than K-choose-2.
  pairs = sum(len(r.ranks) * (len(r.ranks) - 1) // 2 for r in rankings)
  assert 0 < got[:, 1].sum() < pairs


# -- Updates ------------------------------------------------------------------


def _pack(rankings, prompts, rows):
  return packing.pack_rankings(
      [[len(r.prompt_ids) + len(i) for i in r.responses_ids] for r in rankings],
      [r.ranks for r in rankings],
      lambda b: (rankings[b].prompt_ids, rankings[b].responses_ids),
      rows,
      48,
      prompts,
      9,
      tiny.PAD,
  )


def test_micro_batches_with_unequal_prompts_are_one_batch(rankings):
  """Three prompts and then one: each prompt still weighs a quarter."""
  params, cfg = tiny.network(3, head='last_and_mean')
  parts = [_pack(rankings[:3], 3, 12), _pack(rankings[3:4], 3, 12)]
  stacked = jax.tree.map(lambda *x: np.stack(x), *parts)
  offset = np.array([[0]] * 3 + [[parts[0].tokens_MT.size]] * 3)
  whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  whole = batches.RankingBatch(
      **vars(whole) | {'end_BK': whole.end_BK + offset * whole.mask_BK}
  )
  key = jax.random.key(0)

  def gradient(micro_batches, batch):
    term = reward.ranking_term(cfg, micro_batches=micro_batches)
    return jax.jit(lambda p: update.gradient(term, p, batch, key))(params)

  got, metrics = gradient(2, stacked)
  want, wanted = gradient(1, whole)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
      got,
      want,
  )
  assert metrics['weight'] == wanted['weight'] == 4.0
  np.testing.assert_allclose(metrics['loss'], wanted['loss'], rtol=1e-5)


# -- A whole run --------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(root):
  config = tiny.config(
      'rm', root, 'rm_trained', epochs=2, **{'loop.evaluate_every': 10}
  )
  reward.run(config)
  return root / 'rm_trained'


def test_demonstrations_score_zero(setup, trained):
  """The RM's zero point is arbitrary; its bias puts it there, and is kept."""
  params, _, facts = networks.load_model(trained)
  demonstrations = setup.examples(
      'demonstrations', 'demonstrations', 'validation'
  )
  scores = [
      tiny.scalars_alone(params, d.prompt_ids, d.response_ids)[-1]
      for d in demonstrations
  ]
  assert np.std(scores) > 0.01
  np.testing.assert_allclose(np.mean(scores), 0.0, atol=1e-5)
  bias = float(params['scalar_head']['bias'])
  assert bias != 0.0
  np.testing.assert_allclose(facts['bias'], bias, rtol=1e-4)


def test_accuracy_on_record_is_that_of_the_network_handed_on(
    rankings, trained
):
  params, cfg, facts = networks.load_model(trained)
  assert cfg.reward_pooling == 'last_and_mean'
  assert set(params['scalar_head']) == {'last', 'mean', 'bias'}
  results = json.loads((trained / 'results.json').read_text())
  assert results == facts
  right = np.array([
      _right_and_all(_rewards_alone(params, r), r.ranks) for r in rankings
  ])
  accuracy = results['accuracy']
  np.testing.assert_allclose(
      accuracy['mean'], right[:, 0].sum() / right[:, 1].sum(), rtol=1e-6
  )
  assert accuracy['n'] == len(rankings) == 12
  assert accuracy['low'] <= accuracy['mean'] <= accuracy['high']
  # The bias shifts all scores alike, so the last evaluation says the same.
  evaluations = [
      line['validation/accuracy']
      for line in tiny.metrics(trained)
      if 'validation/accuracy' in line
  ]
  np.testing.assert_allclose(evaluations[-1], accuracy['mean'], rtol=1e-6)


def test_it_learns_the_labelers_taste(trained):
  losses = [
      line['rm/loss'] for line in tiny.metrics(trained) if 'rm/loss' in line
  ]
  assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.02
