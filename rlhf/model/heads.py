# SPDX-License-Identifier: Apache-2.0
"""What is read off the final hidden states: next-token logits, or one scalar.

Parameters of the scalar head, beside the decoder's (rlhf/model/transformer.py):

  scalar_head/last/kernel D      scalar_head/mean/kernel D (if pooled)
  scalar_head/bias (scalar)
"""

import jax
import jax.numpy as jnp

from rlhf.dims import Params
from rlhf.model.attention import MASKED
from rlhf.model.config import ModelConfig
from rlhf.sharding import constrain


def lm_logits(params: Params, x_BTD: jax.Array, cfg: ModelConfig) -> jax.Array:
  """Next-token logits of the tied head, f32.

  The padding id, and the rows that only round the table up, are never likely.

  Args:
    params: the decoder's.
    x_BTD: final hidden states (any leading axes).
    cfg: the model's.

  Returns:
    logits_BTV, f32; V is `cfg.vocab_rows`.
  """
  table_VD = params['embed']['tokens']['table'].astype(x_BTD.dtype)
  table_VD = constrain(table_VD, 'table_VD')
  logits_BTV = jnp.einsum(
      '...d,vd->...v', x_BTD, table_VD, preferred_element_type=jnp.float32
  )
  return without_padding(logits_BTV, cfg)


def without_padding(logits_BTV: jax.Array, cfg: ModelConfig) -> jax.Array:
  """Logits whose padding id, and rows without a token, are never likely."""
  ids = jnp.arange(cfg.vocab_rows)
  never = (ids == cfg.pad_id) | (ids >= cfg.vocab_size)
  never = jnp.expand_dims(never, range(logits_BTV.ndim - 1))
  return jnp.where(never, MASKED, logits_BTV)


def tempered(logits_BV: jax.Array, temperature: float) -> jax.Array:
  """Logits over the temperature; at 0 those of the most likely token alone.

  The same division belongs into every log-probability of the policy and of its
  reference (detail 13 in docs/details.md), so it has one home.
  """
  if temperature == 1.0:
    return logits_BV
  if temperature > 0.0:
    return logits_BV / temperature
  best_B1 = jnp.argmax(logits_BV, axis=-1, keepdims=True)
  ids_BV = jax.lax.broadcasted_iota(
      jnp.int32, logits_BV.shape, logits_BV.ndim - 1
  )
  return jnp.where(ids_BV == best_B1, 0.0, -jnp.inf)


def init_scalar_head(key: jax.Array, cfg: ModelConfig) -> Params:
  """Head of a reward model: N(0, 1/(D + 1)) weights, zero bias.

  The standard deviation 1/sqrt(D + 1) is that of OpenAI's code (Stiennon et
  al. 2020; the text of that paper lacks the square root).
  """
  std = (cfg.width + 1) ** -0.5
  names = ['last']
  if cfg.reward_pooling == 'last_and_mean':
    names.append('mean')
  head: dict = {
      name: {'kernel': std * jax.random.normal(k, (cfg.width,))}
      for name, k in zip(names, jax.random.split(key, len(names)), strict=True)
  }
  return head | {'bias': jnp.zeros(())}


def scalars(
    params: Params,
    x_BTD: jax.Array,
    segment_ids_BT: jax.Array,
    response_mask_BT: jax.Array,
) -> jax.Array:
  """The scalar head at every position.

    s_t = w . x_t + b  [+ w' . mean of x over the response's tokens up to t]

  At the last token of a response this is the reward model's score. Read at
  each position it is the value function, which starts as the reward model: the
  pooled term is causal, so that the value at the EOS begins as the score.

  Args:
    params: with 'scalar_head'.
    x_BTD: final hidden states.
    segment_ids_BT: int, which example of a packed row a token is of; 0 = none.
    response_mask_BT: bool, tokens of the response, its EOS included.

  Returns:
    scalars_BT, f32, in reward units.
  """
  head = params['scalar_head']
  x_BTD = x_BTD.astype(jnp.float32)
  scalars_BT = x_BTD @ head['last']['kernel'] + head['bias']
  if 'mean' in head:
    # The head is linear, so the mean is taken over scalars, not over vectors.
    pooled_BT = x_BTD @ head['mean']['kernel']
    scalars_BT += _running_mean(pooled_BT, segment_ids_BT, response_mask_BT)
  return scalars_BT


def _running_mean(values_BT, segment_ids_BT, mask_BT):
  """Mean of the masked values of the same segment up to each position."""
  start_BT = segment_starts(segment_ids_BT)

  def since_start(x_BT):
    total_BT = jnp.cumsum(x_BT, axis=1)
    before_BT = total_BT - x_BT
    return total_BT - jnp.take_along_axis(before_BT, start_BT, axis=1)

  count_BT = since_start(mask_BT.astype(jnp.float32))
  total_BT = since_start(jnp.where(mask_BT, values_BT, 0.0))
  return total_BT / jnp.maximum(count_BT, 1.0)


def segment_starts(segment_ids_BT: jax.Array) -> jax.Array:
  """Index at which the segment of each position begins, int32 BT."""
  index = jnp.arange(segment_ids_BT.shape[1], dtype=jnp.int32)
  previous_BT = jnp.pad(segment_ids_BT[:, :-1], ((0, 0), (1, 0)))
  begins_BT = segment_ids_BT != previous_BT
  return jax.lax.cummax(jnp.where(begins_BT, index[None], 0), axis=1)
