# SPDX-License-Identifier: Apache-2.0
"""Step 1: supervised fine-tuning on demonstrations.

Also the policy that RL starts from, which the paper trains apart, with a tenth
of pretraining data mixed in (Ouyang et al. 2022, appendix C.3): the same stage
with `config.pretraining_share`.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import numpy as np
from etils import epath

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
from rlhf.data.batches import TextBatch
from rlhf.dims import Params
from rlhf.likelihood import log_probs_of
from rlhf.losses import language_loss, next_tokens
from rlhf.stages import setup as setup_lib


def language_term(
    name: str,
    cfg: model.ModelConfig,
    *,
    coefficient: float = 1.0,
    micro_batches: int = 1,
    dropout: bool = True,
) -> update.Term:
  """Cross-entropy on a `TextBatch`: pretraining, SFT, or the ptx term."""

  def loss(params, batch: TextBatch, key):
    x_BTD = model.forward(
        params,
        batch.tokens_BT,
        batch.segment_ids_BT,
        cfg,
        dropout_key=key if dropout else None,
    )
    log_probs_BT, hits_BT = log_probs_of(
        params, x_BTD, next_tokens(batch.tokens_BT), cfg
    )
    return language_loss(log_probs_BT, hits_BT, batch.loss_mask_BT)

  return update.Term(name, loss, coefficient, micro_batches)


@functools.cache
def _loss_and_weight(cfg: model.ModelConfig, mesh: jax.sharding.Mesh):
  term = language_term('evaluation', cfg, dropout=False)

  def function(params, batch):
    loss, metrics = term.loss(params, batch, jax.random.key(0))
    return loss, metrics['weight']

  return jax.jit(
      sharding.under(mesh, function), out_shardings=sharding.replicated(mesh)
  )


def mean_loss(
    params: Params,
    cfg: model.ModelConfig,
    batches: Iterable[TextBatch],
    mesh: jax.sharding.Mesh,
) -> float:
  """Mean loss over all target tokens of some batches, nats; no dropout."""
  function = _loss_and_weight(cfg, mesh)
  pairs = [
      function(params, sharding.put_batch(batch, mesh)) for batch in batches
  ]
  losses, weights = np.array(jax.device_get(pairs)).T
  return float(np.sum(losses * weights) / np.sum(weights))


def run(config: setup_lib.Config) -> None:
  """Fine-tunes the base model and hands on the best of its evaluations."""
  setup = setup_lib.make(config)
  params, cfg = setup.start()
  pad_id = setup.codec.vocabulary.pad_id
  row_tokens = config.data.row_tokens

  # The share is of rows: 10 % of pretraining data is 1 row in 10.
  share = config.pretraining_share
  text_rows = round(config.batch * share / (1.0 - share))
  text = setup.text_stream('train', 1, row_tokens) if text_rows else None
  rows = config.batch + text_rows
  stream, validation = [
      streams.DemonstrationStream(
          setup.examples('demonstrations', 'demonstrations', split),
          rows=config.batch,
          row_length=row_tokens,
          pad_id=pad_id,
          seed=config.seed,
          pack=config.data.pack,
          mix=(text, text_rows) if text and split == 'train' else None,
          local=(
              setup.local_rows(rows, config.micro_batches)
              if split == 'train'
              else setup.local_rows(config.batch)
          ),
      )
      for split in ('train', 'validation')
  ]
  steps = stream.steps(config.epochs)

  tx = optim.optimizer(setup_lib.optimizer_config(config.optimizer, steps))
  state = update.create_state(params, tx, setup.mesh)
  term = language_term('sft', cfg, micro_batches=config.micro_batches)
  train = setup.compile_step(state, term, tx)
  # The paper keeps the checkpoint that the RM likes best (`loop.best`): the
  # loss on validation data rises after one epoch while preference still
  # improves.
  score = rm_score(setup) if config.reward_model else None

  batches = Ahead(stream.batch, steps, 'demonstrations')

  def batch(index):
    return {'sft': setup.put(batches(index), config.micro_batches)}

  def step(state, index):
    state, metrics = train(state, batch(index), setup.key)
    return state, metrics | {'time/wait': batches.waited}

  def evaluate(state, done):
    loss = mean_loss(state.params, cfg, validation.once(), setup.mesh)
    metrics, samples = {'validation/loss': loss}, []
    if score is not None:
      metrics['validation/rm_score'], samples = score(state.params, cfg, done)
    return loop.Evaluation(metrics, samples)

  compilation.ahead('sft', train, state, batch(0), setup.key)
  stage = loop.Stage(
      'sft',
      step,
      steps=steps,
      headline=('sft/loss', 'validation/loss', 'validation/rm_score'),
      evaluate=evaluate,
      position=lambda done: {'demonstrations': stream.position(done)},
      batch=batch,
      tokens=rows * row_tokens,
  )
  state, handed_on = setup.run(stage, state)
  setup.hand_on(state.params, cfg, handed_on | {'steps': steps})


def rm_score(setup: setup_lib.Setup) -> Callable:
  """`(params, cfg, step) -> (mean RM score on validation prompts, samples)`.

  Raises:
    ValueError: if it is not there.
  """
  config = setup.config
  if not epath.Path(config.reward_model).exists():
    raise ValueError(
        f'reward_model={config.reward_model!r}: want the directory of a'
        ' finished reward model'
    )
  reward, reward_cfg = setup.load_model(config.reward_model)
  prompts = setup.examples('prompts', 'prompts', 'validation')
  texts = [prompt.text for prompt in prompts]

  def score(params, cfg, step):
    completions = inference.complete(
        params,
        cfg,
        texts,
        jax.random.fold_in(setup.key, step),
        codec=setup.codec,
        sampling=setup.sampling,
    )
    scores = inference.reward_scores(
        reward,
        reward_cfg,
        completions,
        prompt_tokens=config.data.prompt_tokens,
        response_tokens=config.data.response_tokens,
    )
    return float(scores.mean()), inference.sample_rows(completions[:4], scores)

  return score
