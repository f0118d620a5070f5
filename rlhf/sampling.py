# SPDX-License-Identifier: Apache-2.0
"""Drawing responses: prefill and cached decode in one compiled program."""

import dataclasses

import jax
import jax.numpy as jnp

from rlhf import model as lm
from rlhf.dims import Params
from rlhf.masking import is_in
from rlhf.sharding import constrain, everywhere


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """How a response is drawn. Hashable, so that it can be static under jit.

  Attributes:
    max_tokens: R, the longest response, its stop token included.
    stop_tokens: ids that end a response, EOS first.
    temperature: divides the logits; 0 takes the most likely token. The paper
      samples at 1.
    top_k: draw from the k most likely tokens only; 0 is off.
    top_p: draw from the smallest set of most likely tokens that holds this
      much probability; 1 is off.
  """

  max_tokens: int
  stop_tokens: tuple[int, ...]
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    if self.max_tokens < 1 or not self.stop_tokens:
      raise ValueError(
          f'sampling needs max_tokens >= 1 and a stop token, got {self}'
      )
    if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise ValueError(
          'sampling wants temperature >= 0, top_k >= 0 and 0 < top_p <= 1,'
          f' got {self}'
      )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
  """Drawn responses.

  Attributes:
    tokens_BR: int32; the padding id after the stop token.
    mask_BR: bool, True up to and including the stop token.
    log_probs_BR: f32 nats, of each token under the distribution that it was
      drawn from (temperature, top-k and top-p applied); 0 outside the mask.
    finished: bool [B], the response holds a stop token; the others were cut.
  """

  tokens_BR: jax.Array
  mask_BR: jax.Array
  log_probs_BR: jax.Array
  finished: jax.Array


def _ids(logits_BV: jax.Array) -> jax.Array:
  """The index along the last axis, int32, of the shape of `logits_BV`."""
  shape = logits_BV.shape
  return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def truncated(logits_BV: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Logits with all but the top-k / top-p tokens at minus infinity.

  Tokens as likely as the last one kept are kept too.
  """
  if top_k == 0 and top_p == 1.0:
    return logits_BV
  sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
  kept_BV = jnp.ones(sorted_BV.shape, bool)
  if top_k:
    kept_BV &= _ids(sorted_BV) < top_k
  if top_p < 1.0:
    # A token stays if what is more likely does not yet hold top_p.
    probs_BV = jax.nn.softmax(jnp.where(kept_BV, sorted_BV, -jnp.inf), axis=-1)
    kept_BV &= jnp.cumsum(probs_BV, axis=-1) - probs_BV < top_p
  count_B1 = jnp.sum(kept_BV, axis=-1, keepdims=True)
  lowest_B1 = jnp.take_along_axis(sorted_BV, count_B1 - 1, axis=-1)
  return jnp.where(logits_BV < lowest_B1, -jnp.inf, logits_BV)


def draw(
    logits_BV: jax.Array, key: jax.Array, sampling: SamplingConfig
) -> tuple[jax.Array, jax.Array]:
  """One token a row, by inverse CDF, and its log-probability as drawn.

  One uniform number a row instead of one a token: at a vocabulary of 50k the
  Gumbel trick costs ten times as much as the rest of the draw.

  Returns:
    tokens_B int32 and log_probs_B f32.
  """
  logits_BV = lm.tempered(logits_BV.astype(jnp.float32), sampling.temperature)
  logits_BV = truncated(logits_BV, sampling.top_k, sampling.top_p)
  log_probs_BV = jax.nn.log_softmax(logits_BV, axis=-1)
  cdf_BV = jnp.cumsum(jnp.exp(log_probs_BV), axis=-1)
  total_B = cdf_BV[:, -1]
  # Strictly below the total, whatever the rounding, so that the first entry
  # above it exists and has a probability.
  point_B = jax.random.uniform(key, total_B.shape) * total_B
  point_B = jnp.minimum(point_B, jnp.nextafter(total_B, 0.0))
  tokens_B = jnp.argmax(cdf_BV > point_B[:, None], axis=-1).astype(jnp.int32)
  log_probs_B1 = jnp.take_along_axis(log_probs_BV, tokens_B[:, None], axis=-1)
  return tokens_B, log_probs_B1[:, 0]


def generate(
    params: Params,
    prompts_BP: jax.Array,
    prompt_mask_BP: jax.Array,
    key: jax.Array,
    *,
    cfg: lm.ModelConfig,
    sampling: SamplingConfig,
) -> Samples:
  """Draws one response to each left-padded prompt.

  The loop ends when every row has stopped. The key of token t is folded from
  `key` and t, so a row's draws don't hang on when the others stop.

  Args:
    params: of the policy.
    prompts_BP: int32, left-padded.
    prompt_mask_BP: bool.
    key: of this batch.
    cfg: the model's; P + max_tokens must fit its context.
    sampling: how to draw.

  Returns:
    `Samples`.
  """
  batch, prompt_length = prompts_BP.shape
  steps = sampling.max_tokens
  key = everywhere(key)
  x_BD, cache = lm.prefill(
      params, prompts_BP, prompt_mask_BP, cfg, slots=prompt_length + steps
  )
  blank = Samples(
      tokens_BR=jnp.full((batch, steps), cfg.pad_id, jnp.int32),
      mask_BR=jnp.zeros((batch, steps), bool),
      log_probs_BR=jnp.zeros((batch, steps), jnp.float32),
      finished=jnp.zeros(batch, bool),
  )

  def some_left(carry):
    t, _, _, samples = carry
    return (t < steps) & ~jnp.all(samples.finished)

  def one_token(carry):
    t, x_BD, cache, samples = carry
    # First where the product leaves them, or the table would be gathered.
    logits_BV = constrain(lm.lm_logits(params, x_BD, cfg), 'logits_BV')
    logits_BV = constrain(logits_BV, 'draw_BV')
    draw_key = jax.random.fold_in(key, t)
    tokens_B, log_probs_B = draw(logits_BV, draw_key, sampling)
    alive = ~samples.finished
    tokens_B = jnp.where(alive, tokens_B, cfg.pad_id)
    samples = Samples(
        tokens_BR=samples.tokens_BR.at[:, t].set(tokens_B),
        mask_BR=samples.mask_BR.at[:, t].set(alive),
        log_probs_BR=samples.log_probs_BR.at[:, t].set(
            jnp.where(alive, log_probs_B, 0.0)
        ),
        finished=samples.finished | is_in(tokens_B, sampling.stop_tokens),
    )
    # Rows that have stopped go on reading padding; nobody looks at the result.
    x_BD, cache = lm.decode_step(params, cache, tokens_B, cfg)
    return t + 1, x_BD, cache, samples

  start = (jnp.zeros((), jnp.int32), x_BD, cache, blank)
  return jax.lax.while_loop(some_left, one_token, start)[-1]
