# SPDX-License-Identifier: Apache-2.0
"""Packing changes nothing: an example says the same whoever its neighbours are.

With batches as the streams make them. What one row's tokens may see at all is
in transformer_test.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm
from rlhf.data import batches, packing
from rlhf.likelihood import log_probs_of
from rlhf.losses import next_tokens
from rlhf.stages.reward import ranked_rewards
from tests.data import made

# Whatever positions hang on: layers that see all or a band, of any width, and
# rows as long as the table of positions.
FAMILIES = {
    'dense': {},
    'alternating': dict(attention='alternating'),
    'band of one': dict(attention='alternating', layers=3, band=1),
    'wide band': dict(attention='alternating', band=64),
    'full context': dict(context=made.T),
    'unrolled': dict(unroll=True, remat='full'),
}
EVERY = pytest.mark.parametrize('changes', FAMILIES.values(), ids=FAMILIES)


@pytest.fixture(scope='module')
def cfg_of(make_cfg):
  return lambda **changes: make_cfg(vocab_size=160, **changes)


def _with_head(params, cfg, pooling):
  rng = np.random.default_rng(1)
  kernels = {
      name: {'kernel': jnp.asarray(rng.normal(size=cfg.width), jnp.float32)}
      for name in (['last', 'mean'] if pooling == 'last_and_mean' else ['last'])
  }
  return params | {'scalar_head': kernels | {'bias': jnp.float32(0.5)}}


@functools.partial(jax.jit, static_argnums=3)
def _logits(params, tokens_BT, segment_ids_BT, cfg):
  x_BTD = lm.forward(params, tokens_BT, segment_ids_BT, cfg)
  return lm.lm_logits(params, x_BTD, cfg)[..., 1:]  # Never padding.


def _assert_as_if_alone(params, cfg, batch):
  """Every segment's logits are those of a row that holds nothing else."""
  tokens_BT, segment_ids_BT = batch.tokens_BT, batch.segment_ids_BT
  packed_BTV = _logits(params, tokens_BT, segment_ids_BT, cfg)
  places = [
      (row, np.flatnonzero(segments == segment))
      for row, segments in enumerate(segment_ids_BT)
      for segment in range(1, segments.max() + 1)
  ]
  singles = [tokens_BT[row, at] for row, at in places]
  alone_BT = packing.right_pad(singles, made.T, made.PAD)
  alone_BTV = np.asarray(_logits(params, *alone_BT, cfg))
  for (row, at), want_TV in zip(places, alone_BTV, strict=True):
    got_TV = np.asarray(packed_BTV)[row, at]
    np.testing.assert_allclose(got_TV, want_TV[: len(at)], atol=3e-5)
  # Some of them have a neighbour on the left, on the right, and on both sides.
  last = segment_ids_BT.max(axis=1)
  beside = {
      (at[0] > 0, segment_ids_BT[row, at[0]] < last[row]) for row, at in places
  }
  assert {(True, False), (False, True), (True, True)} <= beside


@EVERY
def test_logits_of_packed_demonstrations_are_those_alone(
    make_params, cfg_of, changes
):
  cfg = cfg_of(**changes)
  batch = made.demonstration_stream().batch(2)
  _assert_as_if_alone(make_params(cfg), cfg, batch)


@pytest.mark.parametrize(
    ('changes', 'pooling'),
    [
        ({}, 'last'),
        (dict(attention='alternating'), 'last_and_mean'),
        (dict(context=made.T), 'last_and_mean'),
    ],
)
def test_rewards_of_packed_responses_are_those_alone(
    make_params, cfg_of, changes, pooling
):
  cfg = cfg_of(reward_pooling=pooling, **changes)
  params = _with_head(make_params(cfg), cfg, pooling)
  rewards = jax.jit(lambda batch: ranked_rewards(params, batch, cfg))
  rankings, stream = made.rankings(), made.ranking_stream()
  batch = stream.batch(1)
  packed_BK = np.asarray(rewards(batch))
  assert batch.segment_ids_MT.max() > 2
  # Every response in a row of its own: K rows, as wide as before.
  singles = []
  for index in stream.indices(1):
    ranking = rankings[index]
    for ids in ranking.responses_ids:
      singles.append((ranking.prompt_ids, ids))
  count = len(singles)
  tokens_MT, segment_ids_MT = packing.right_pad(
      [np.concatenate(pair) for pair in singles], made.T, made.PAD
  )
  mask_MT = np.zeros((count, made.T), bool)
  end_BK = np.zeros((count, 1), np.int32)
  for row, (prompt, response) in enumerate(singles):
    end = len(prompt) + len(response)
    mask_MT[row, len(prompt) : end] = True
    end_BK[row] = row * made.T + end - 1
  alone_BK = rewards(
      batches.RankingBatch(
          tokens_MT, segment_ids_MT, mask_MT, end_BK,
          np.zeros_like(end_BK), np.ones_like(end_BK, bool),
      )
  )  # fmt: skip
  np.testing.assert_allclose(
      packed_BK[batch.mask_BK], np.asarray(alone_BK)[:, 0], atol=3e-5
  )


def test_logits_of_separate_documents_are_those_alone(make_params, cfg_of):
  cfg = cfg_of(attention='alternating')
  rng = np.random.default_rng(0)
  documents = [rng.integers(2, 90, n) for n in rng.integers(1, 15, 30)]
  run = packing.joined(documents, 1, 1, separate=True)
  stream = made.text_stream(items=run, rows=6, bos_and_eos=(1, 1))
  _assert_as_if_alone(make_params(cfg), cfg, stream.batch(0))


# -- Gradients ----------------------------------------------------------------


def _influence(outputs, params, places):
  """|d output / d embedding of the token at each place|, one after another.

  Args:
    outputs: `outputs(params)` -> [outputs].
    params: of the network, whose tokens are 0 ... places - 1, one a place.
    places: tokens of the batch.

  Returns:
    [outputs, places].
  """

  def of_table(table):
    embed = params['embed'] | {'tokens': {'table': table}}
    return outputs(params | {'embed': embed})

  table = params['embed']['tokens']['table']
  count = len(jax.eval_shape(of_table, table))
  pull = jax.jit(lambda one: jax.vjp(of_table, table)[1](one)[0])
  rows = [pull(one) for one in np.eye(count, dtype=np.float32)]
  return np.abs(np.stack(rows)).sum(axis=-1)[:, :places]


@pytest.mark.parametrize('attention', ['dense', 'alternating'])
def test_no_gradient_reaches_another_demonstration(
    make_cfg, make_params, attention
):
  batch = made.demonstration_stream().batch(2)
  shape = batch.tokens_BT.shape
  places = int(np.prod(shape))
  # A token of its own at every place, so that rows of the table are places.
  cfg = make_cfg(
      vocab_size=places + 1, pad_id=places, attention=attention, context=made.T
  )
  params = make_params(cfg)
  tokens_BT = np.arange(places, dtype=np.int32).reshape(shape)
  # Number every segment of the batch.
  which = batch.segment_ids_BT + 100 * np.arange(1, shape[0] + 1)[:, None]
  which = np.where(batch.segment_ids_BT > 0, which, 0).ravel()
  numbers = np.unique(which[which > 0])

  def losses(changed):
    x_BTD = lm.forward(changed, tokens_BT, batch.segment_ids_BT, cfg)
    # The head's table is another: every logit hangs on that.
    log_probs_BT, _ = log_probs_of(params, x_BTD, next_tokens(tokens_BT), cfg)
    # A target's likelihood is that of the place before it.
    mask_BT = np.roll(batch.loss_mask_BT, -1, axis=1)
    flat = jnp.where(mask_BT, log_probs_BT, 0.0).ravel()
    return jnp.stack([flat[which == n].sum() for n in numbers])

  influence = _influence(losses, params, places)
  for row, number in zip(influence, numbers, strict=True):
    np.testing.assert_array_equal(row[which != number], 0.0)
    # Its last token, the EOS, only is predicted.
    assert (row[np.flatnonzero(which == number)[:-1]] > 1e-7).all()


@pytest.mark.parametrize('pooling', ['last', 'last_and_mean'])
def test_no_gradient_reaches_another_response(make_cfg, make_params, pooling):
  batch = made.ranking_stream().batch(1)
  shape = batch.tokens_MT.shape
  places = int(np.prod(shape))
  cfg = make_cfg(
      vocab_size=places + 1, pad_id=places, context=made.T,
      attention='alternating', reward_pooling=pooling,
  )  # fmt: skip
  params = _with_head(make_params(cfg), cfg, pooling)
  tokens_MT = np.arange(places, dtype=np.int32).reshape(shape)
  marked = batches.RankingBatch(**vars(batch) | {'tokens_MT': tokens_MT})

  def rewards(changed):
    return ranked_rewards(changed, marked, cfg)[batch.mask_BK]

  influence = _influence(rewards, params, places)
  segments = batch.segment_ids_MT
  ends = batch.end_BK[batch.mask_BK]
  assert len(influence) == len(ends) > 8
  for row, end in zip(influence, ends, strict=True):
    own = np.zeros(shape, bool)
    m, t = divmod(int(end), shape[1])
    own[m] = segments[m] == segments[m, t]
    np.testing.assert_array_equal(row[~own.ravel()], 0.0)
    assert (row[own.ravel()] > 1e-7).all(), 'prompt and response count'
