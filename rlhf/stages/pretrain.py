# SPDX-License-Identifier: Apache-2.0
"""Step 0: a GPT on plain text, where no pretrained one is at hand."""

import jax

from rlhf import compilation, loop, model, networks, optim, sharding, update
from rlhf.data.ahead import Ahead
from rlhf.stages import setup as setup_lib
from rlhf.stages.sft import language_term, mean_loss


def run(config: setup_lib.Config) -> None:
  """Trains a base model and hands it on."""
  setup = setup_lib.make(config)
  cfg = setup_lib.model_config(config, setup.codec.vocabulary)
  cfg = setup_lib.kernel_for(cfg, config, setup.mesh)
  rows, row_tokens = config.batch, config.data.row_tokens
  stream = setup.text_stream('train', rows, row_tokens, config.micro_batches)
  validation = setup.text_stream('validation', rows, row_tokens)
  steps = config.steps or stream.steps(config.epochs)

  tx = optim.optimizer(setup_lib.optimizer_config(config.optimizer, steps))
  init = jax.eval_shape(lambda: model.init(setup.key, cfg))
  params = jax.jit(
      lambda: model.init(setup.key, cfg),
      out_shardings=sharding.shardings(init, setup.mesh),
  )()
  state = update.create_state(params, tx, setup.mesh)
  term = language_term('pretrain', cfg, micro_batches=config.micro_batches)
  train = update.compile_step(state, setup.mesh, terms=(term,), tx=tx)

  batches = Ahead(stream.batch, steps)

  def batch(index):
    return {'pretrain': setup.put(batches(index), config.micro_batches)}

  def step(state, index):
    state, metrics = train(state, batch(index), setup.key)
    return state, metrics | {'time/wait': batches.waited}

  def evaluate(state, done):
    del done
    loss = mean_loss(state.params, cfg, validation.once(), setup.mesh)
    return loop.Evaluation({'validation/loss': loss})

  compilation.ahead('pretrain', train, state, batch(0), setup.key)
  state = loop.run(
      'pretrain',
      state,
      step,
      steps=steps,
      config=setup.loop,
      workdir=setup.workdir,
      headline=('pretrain/loss', 'pretrain/accuracy', 'validation/loss'),
      evaluate=evaluate,
  )
  facts = {
      'steps': steps,
      'tokens': steps * rows * row_tokens,
      'validation_loss': mean_loss(
          state.params, cfg, validation.once(), setup.mesh
      ),
  }
  networks.save_model(setup.workdir.path / 'model', state.params, cfg, facts)
  setup.workdir.write_json('results', facts)
