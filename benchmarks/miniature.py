# SPDX-License-Identifier: Apache-2.0
"""How fast the miniature's three programs are: train, sample, score.

  python benchmarks/miniature.py            # one JSON line; needs no TensorFlow

Each is compiled, run once, then timed; the figure is the median of ten runs.
"""

import functools
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp

from rlhf import experience, model, optim, sampling, update
from rlhf.likelihood import log_probs_of
from rlhf.losses import language_loss, next_tokens

CFG = model.ModelConfig(**model.SIZES['mini'], vocab_size=271, pad_id=0)
ROWS, ROW_TOKENS = 16, 64
PROMPTS, PROMPT_TOKENS, RESPONSE_TOKENS = 64, 32, 24


def seconds(function) -> float:
  """Median wall time of a call, after one that compiles."""
  jax.block_until_ready(function())
  times = []
  for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def train_seconds(params) -> float:
  """One update of the language loss on 16 x 64 tokens."""
  tokens_BT = jnp.ones((ROWS, ROW_TOKENS), jnp.int32)

  def loss(params, tokens_BT, key):
    del key
    x_BTD = model.forward(params, tokens_BT, jnp.ones_like(tokens_BT), CFG)
    scores = log_probs_of(params, x_BTD, next_tokens(tokens_BT), CFG)
    return language_loss(*scores, jnp.ones_like(tokens_BT, bool))

  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=1e-3))
  step = jax.jit(
      functools.partial(
          update.train_step, terms=(update.Term('text', loss),), tx=tx
      )
  )
  state, key = update.new_state(params, tx), jax.random.key(0)
  return seconds(lambda: step(state, {'text': tokens_BT}, key))


def main() -> None:
  params = model.init(jax.random.key(0), CFG)
  prompts_BP = jnp.ones((PROMPTS, PROMPT_TOKENS), jnp.int32)
  mask_BP = jnp.ones((PROMPTS, PROMPT_TOKENS), bool)
  # No EOS is ever drawn: every response has its full length.
  draw = sampling.SamplingConfig(
      max_tokens=RESPONSE_TOKENS, stop_tokens=(CFG.pad_id,)
  )
  generate = jax.jit(
      functools.partial(sampling.generate, cfg=CFG, sampling=draw)
  )
  key = jax.random.key(1)
  generating = seconds(lambda: generate(params, prompts_BP, mask_BP, key))
  tokens_BT = jnp.ones((PROMPTS, PROMPT_TOKENS + RESPONSE_TOKENS), jnp.int32)
  score = jax.jit(
      functools.partial(
          experience.response_log_probs,
          cfg=CFG,
          response_tokens=RESPONSE_TOKENS,
          temperature=1.0,
      )
  )
  scoring = seconds(lambda: score(params, tokens_BT, jnp.ones_like(tokens_BT)))
  training = train_seconds(params)
  print(json.dumps({
      'device': str(jax.devices()[0].device_kind),
      'jax': jax.__version__,
      'train_tokens_per_second': round(ROWS * ROW_TOKENS / training),
      'generate_tokens_per_second': round(
          PROMPTS * RESPONSE_TOKENS / generating
      ),
      'score_tokens_per_second': round(tokens_BT.size / scoring),
  }))


if __name__ == '__main__':
  main()
