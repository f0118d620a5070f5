# SPDX-License-Identifier: Apache-2.0
"""Step 0: a GPT on plain text, where no pretrained one is at hand."""

from rlhf import compilation, loop, optim, update
from rlhf.data.ahead import Ahead
from rlhf.stages import setup as setup_lib
from rlhf.stages.sft import language_term, mean_loss


def run(config: setup_lib.Config) -> None:
  """Trains a base model and hands it on."""
  setup = setup_lib.make(config)
  params, cfg = setup.start()
  rows, row_tokens = config.batch, config.data.row_tokens
  stream = setup.text_stream('train', rows, row_tokens, config.micro_batches)
  validation = setup.text_stream('validation', rows, row_tokens)
  steps = config.steps or stream.steps(config.epochs)

  tx = optim.optimizer(setup_lib.optimizer_config(config.optimizer, steps))
  state = update.create_state(params, tx, setup.mesh)
  term = language_term('pretrain', cfg, micro_batches=config.micro_batches)
  train = setup.compile_step(state, term, tx)

  batches = Ahead(stream.batch, steps, 'text')

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
  stage = loop.Stage(
      'pretrain',
      step,
      steps=steps,
      headline=('pretrain/loss', 'pretrain/accuracy', 'validation/loss'),
      evaluate=evaluate,
      position=lambda done: {'text': stream.position(done)},
      batch=batch,
      tokens=rows * row_tokens,
  )
  state, handed_on = setup.run(stage, state)
  facts = {
      'steps': steps,
      'tokens': steps * rows * row_tokens,
      'validation_loss': mean_loss(
          state.params, cfg, validation.once(), setup.mesh
      ),
  }
  setup.hand_on(state.params, cfg, handed_on | facts)
