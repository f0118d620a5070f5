# SPDX-License-Identifier: Apache-2.0
"""A likelihood in chunks against one from whole logits, at GPT-3's vocabulary.

  python benchmarks/cross_entropy.py            # one JSON line a chunk size

Loss and gradient of the tied head (rlhf/likelihood.py) for 2 rows of 256 tokens
and 50,304 rows of the table, in f32. `loss_chunk` 0 is whole logits;
`temporary_bytes` is what the compiled program needs beside its arguments and
results; `seconds` is the median of three runs; `difference` that of the
gradient from whole logits', L2 norm over L2 norm. Needs no TensorFlow.
"""

import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp

from rlhf import likelihood, losses, model

ROWS, TOKENS, WIDTH, VOCABULARY = 2, 256, 256, 50_304
CHUNKS = (0, 128, 64, 32, 16, 8)


def compiled(chunk: int, args):
  """The program `(params, x_BTD, tokens_BT) -> (loss, gradients)`."""
  cfg = model.ModelConfig(
      layers=1,
      width=WIDTH,
      heads=1,
      head_size=1,
      vocab_size=VOCABULARY,
      dtype='float32',
      loss_chunk=chunk,
  )

  def loss(params, x_BTD, tokens_BT):
    log_probs_BT, hits_BT = likelihood.log_probs_of(
        params, x_BTD, losses.next_tokens(tokens_BT), cfg
    )
    mask_BT = jnp.ones(tokens_BT.shape, bool)
    return losses.language_loss(log_probs_BT, hits_BT, mask_BT)[0]

  return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*args).compile()


def seconds(program, args) -> float:
  """Median wall time of a run, after one that warms up."""
  times = []
  for _ in range(4):
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


def difference(got, want) -> float:
  def norm(tree):
    return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)) ** 0.5

  return float(norm(jax.tree.map(jnp.subtract, got, want)) / norm(want))


def main() -> None:
  keys = jax.random.split(jax.random.key(0), 3)
  table_VD = 0.02 * jax.random.normal(keys[0], (VOCABULARY, WIDTH))
  x_BTD = jax.random.normal(keys[1], (ROWS, TOKENS, WIDTH))
  tokens_BT = jax.random.randint(keys[2], (ROWS, TOKENS), 0, VOCABULARY - 1)
  args = ({'embed': {'tokens': {'table': table_VD}}}, x_BTD, tokens_BT)
  whole = None
  for chunk in CHUNKS:
    program = compiled(chunk, args)
    memory = program.memory_analysis()
    assert memory is not None
    _, gradients = program(*args)
    whole = gradients if whole is None else whole
    print(json.dumps({
        'loss_chunk': chunk,
        'logits_bytes': 4 * ROWS * (chunk or TOKENS) * VOCABULARY,
        'temporary_bytes': memory.temp_size_in_bytes,
        'seconds': round(seconds(program, args), 3),
        'difference': difference(gradients, whole),
        'device': jax.devices()[0].device_kind,
    }))


if __name__ == '__main__':
  main()
