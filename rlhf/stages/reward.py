# SPDX-License-Identifier: Apache-2.0
"""Step 2: the reward model, on rankings of K responses.

All comparisons of a prompt are one batch element, and each response goes
through the network once (Ouyang et al. 2022, section 3.4). After training, a
bias is set so that the labelers' demonstrations score 0 on average.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from rlhf import (
  compilation,
  inference,
  loop,
  model,
  optim,
  sharding,
  update,
)
from rlhf.data import streams
from rlhf.data.ahead import Ahead
from rlhf.data.batches import RankingBatch
from rlhf.data.examples import Demonstration
from rlhf.dims import Params
from rlhf.losses import pairwise_ranking_loss
from rlhf.stages import setup as setup_lib
from rlhf.statistics import interval
from rlhf.watching.display import say


def ranked_rewards(
    params: Params,
    batch: RankingBatch,
    cfg: model.ModelConfig,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Reward of each ranked response, f32 BK (anything where there is none)."""
  x_MTD = model.forward(
      params,
      batch.tokens_MT,
      batch.segment_ids_MT,
      cfg,
      dropout_key=dropout_key,
  )
  scalars_MT = model.scalars(
      params, x_MTD, batch.segment_ids_MT, batch.response_mask_MT
  )
  return scalars_MT.reshape(-1)[batch.end_BK]


def ranking_term(
    cfg: model.ModelConfig, *, micro_batches: int = 1
) -> update.Term:
  """The ranking loss of a `RankingBatch`."""

  def loss(params, batch: RankingBatch, key):
    rewards_BK = ranked_rewards(params, batch, cfg, key)
    return pairwise_ranking_loss(rewards_BK, batch.ranks_BK, batch.mask_BK)

  return update.Term('rm', loss, micro_batches=micro_batches)


@functools.cache
def _rewards(cfg: model.ModelConfig, mesh: jax.sharding.Mesh):
  return jax.jit(
      sharding.under(mesh, functools.partial(ranked_rewards, cfg=cfg)),
      out_shardings=sharding.replicated(mesh),
  )


def comparisons_right(
    params: Params,
    cfg: model.ModelConfig,
    stream: streams.RankingStream,
    mesh: jax.sharding.Mesh,
) -> np.ndarray:
  """Of each prompt: comparisons ordered rightly, and all; int [prompts, 2].

  An equal score for two responses that the labeler told apart counts one half.
  """
  counts = []
  function = _rewards(cfg, mesh)
  for batch in stream.once():
    rewards_BK = np.asarray(function(params, sharding.put_batch(batch, mesh)))
    for rewards, ranks, mask in zip(
        rewards_BK, batch.ranks_BK, batch.mask_BK, strict=True
    ):
      if mask.any():
        counts.append(right_and_all(rewards[mask], ranks[mask]))
  return np.array(counts)


def right_and_all(
    rewards: np.ndarray, ranks: np.ndarray
) -> tuple[float, float]:
  """Comparisons of one ranking that rewards order rightly, and all of them."""
  better = ranks[:, None] < ranks[None, :]
  order = np.sign(rewards[:, None] - rewards[None, :])
  return float(np.sum((0.5 + 0.5 * order)[better])), float(np.sum(better))


def run(config: setup_lib.Config) -> None:
  """Trains a reward model, sets its bias, and reports its accuracy."""
  setup = setup_lib.make(config)
  params, cfg = setup.start()
  head_key, _ = jax.random.split(setup.key)
  params = params | {'scalar_head': model.init_scalar_head(head_key, cfg)}
  # Before the training, so that a missing file is missed now.
  demonstrations = setup.examples(
      'demonstrations', 'demonstrations', 'validation'
  )
  micro_batches = config.micro_batches
  stream, validation = [
      streams.RankingStream(
          setup.examples(name, 'rankings', config.data.splits[name]),
          rows=config.rows // micro_batches,
          row_length=config.data.row_tokens,
          max_prompts=config.batch // micro_batches,
          max_responses=config.k_max,
          pad_id=setup.codec.vocabulary.pad_id,
          seed=config.seed,
          local=setup.local_rows(config.rows // micro_batches),
      )
      for name in ('rankings', 'validation_rankings')
  ]
  steps = -(-stream.steps(config.epochs) // micro_batches)

  tx = optim.optimizer(setup_lib.optimizer_config(config.optimizer, steps))
  state = update.create_state(params, tx, setup.mesh)
  term = ranking_term(cfg, micro_batches=micro_batches)
  train = setup.compile_step(state, term, tx)

  make = functools.partial(_stacked, stream, micro_batches)
  batches = Ahead(make, steps, 'rankings')

  def batch(index):
    stacked = micro_batches > 1
    part = sharding.put_batch(batches(index), setup.mesh, stacked=stacked)
    return {'rm': part}

  def step(state, index):
    state, metrics = train(state, batch(index), setup.key)
    return state, metrics | {'time/wait': batches.waited}

  def evaluate(state, done):
    del done
    right = comparisons_right(state.params, cfg, validation, setup.mesh)
    accuracy = right[:, 0].sum() / right[:, 1].sum()
    return loop.Evaluation({'validation/accuracy': accuracy})

  compilation.ahead('rm', train, state, batch(0), setup.key)
  stage = loop.Stage(
      'rm',
      step,
      steps=steps,
      headline=('rm/loss', 'rm/accuracy', 'validation/accuracy'),
      evaluate=evaluate,
      position=lambda done: {
          'rankings': stream.position(done * micro_batches)
      },
      batch=batch,
      tokens=config.rows * config.data.row_tokens,
  )
  state, handed_on = setup.run(stage, state)
  params = state.params
  bias = demonstration_score(setup, params, cfg, demonstrations)
  params['scalar_head']['bias'] -= bias
  right = comparisons_right(params, cfg, validation, setup.mesh)
  accuracy = interval(right[:, 0], right[:, 1])
  facts = {'steps': steps, 'bias': -bias, 'accuracy': accuracy}
  setup.hand_on(params, cfg, handed_on | facts)
  say(
      f'rm: accuracy {accuracy["mean"]:.3f} [{accuracy["low"]:.3f},'
      f' {accuracy["high"]:.3f}] on {accuracy["n"]} held-out prompts'
  )


def _stacked(
    stream: streams.RankingStream, micro_batches: int, index: int
) -> RankingBatch:
  """The batch of a step, its micro-batches along a new leading axis.

  A packed batch is not a matter of rows that could be cut: each micro-batch is
  packed by itself.
  """
  first = index * micro_batches
  parts = [stream.batch(first + i) for i in range(micro_batches)]
  if micro_batches == 1:
    return parts[0]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def demonstration_score(
    setup: setup_lib.Setup,
    params: Params,
    cfg: model.ModelConfig,
    demonstrations: Sequence[Demonstration],
) -> float:
  """Mean score of the labelers' demonstrations (those held out)."""
  completions = [
      inference.Completion(
          prompt=d.prompt_text,
          response=d.response_text,
          prompt_ids=tuple(d.prompt_ids),
          response_ids=tuple(d.response_ids),
          finished=True,
      )
      for d in demonstrations
  ]
  scores = inference.reward_scores(
      params,
      cfg,
      completions,
      prompt_tokens=setup.config.data.prompt_tokens,
      response_tokens=setup.config.data.response_tokens,
  )
  return float(scores.mean())
