# SPDX-License-Identifier: Apache-2.0
"""Log-likelihood of given tokens, without ever holding a batch's logits.

At a vocabulary of 50k the f32 logits of a batch are larger than everything else
in a step. Here they exist for `cfg.loss_chunk` positions of each row at a time,
split over the mesh's `tensor` axis, and are computed again for the gradient.
"""

import jax
import jax.numpy as jnp

from rlhf import model as lm
from rlhf import sharding
from rlhf.dims import Params
from rlhf.losses import token_log_probs
from rlhf.sharding import constrain


def log_probs_of(
    params: Params,
    x_BTD: jax.Array,
    tokens_BT: jax.Array,
    cfg: lm.ModelConfig,
    *,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """log p of one token at each position, and whether none is likelier.

  Args:
    params: the decoder's.
    x_BTD: final hidden states.
    tokens_BT: int, what position t is to be followed by (the caller shifts).
    cfg: the model's; `loss_chunk` bounds the logits that exist at one time.
    temperature: divides the logits.

  Returns:
    log_probs_BT in nats, f32, and hits_BT, bool.
  """

  batch, length = tokens_BT.shape
  chunks = -(-length // (cfg.loss_chunk or length))
  if chunks == 1:
    return _whole(params, x_BTD, tokens_BT, cfg, temperature)

  room = -length % chunks
  x_BTD = jnp.pad(x_BTD, ((0, 0), (0, room), (0, 0)))
  tokens_BT = jnp.pad(tokens_BT, ((0, 0), (0, room)))
  # A copy of the table for each share of the rows, split over the devices that
  # have them. Each device then adds up its own copy's gradient over the chunks,
  # and they are summed once: with one table they would be after every chunk.
  shares = sharding.row_shares(batch)
  table_VD = params['embed']['tokens']['table'].astype(x_BTD.dtype)
  table_VD = constrain(table_VD, 'table_VD')
  table_GVD = jnp.broadcast_to(table_VD[None], (shares, *table_VD.shape))
  # In f32, for what adds up to its gradient; the products are `cfg.dtype`'s.
  table_GVD = constrain(table_GVD, 'tables_GVD').astype(jnp.float32)

  def of_chunk(part):
    x_BTD, tokens_BT = part  # T counts the chunk's positions.
    x_GBTD = constrain(
        x_BTD.reshape(shares, -1, *x_BTD.shape[1:]), 'hidden_GBTD'
    )
    logits_GBTV = jnp.einsum(
        'gbtd,gvd->gbtv',
        x_GBTD,
        table_GVD.astype(x_BTD.dtype),
        preferred_element_type=jnp.float32,
    )
    logits_GBTV = constrain(logits_GBTV, 'logits_GBTV')
    logits_GBTV = lm.tempered(lm.without_padding(logits_GBTV, cfg), temperature)
    log_probs, hits = token_log_probs(
        logits_GBTV, tokens_BT.reshape(logits_GBTV.shape[:-1])
    )
    return log_probs.reshape(tokens_BT.shape), hits.reshape(tokens_BT.shape)

  def split(array):
    # Every chunks-th position, not a stretch of them, so that each chunk has
    # its share on every part of the mesh's `sequence` axis.
    parts = array.reshape(batch, -1, chunks, *array.shape[2:])
    return jnp.moveaxis(parts, 2, 0)

  def join(parts):
    return jnp.moveaxis(parts, 0, 2).reshape(batch, -1)[:, :length]

  results = jax.lax.map(
      jax.checkpoint(of_chunk), (split(x_BTD), split(tokens_BT))
  )
  return jax.tree.map(join, results)


def _whole(params, x_BTD, tokens_BT, cfg, temperature):
  """The same with all logits at one time."""
  logits_BTV = lm.lm_logits(params, constrain(x_BTD, 'hidden_BTD'), cfg)
  logits_BTV = constrain(logits_BTV, 'logits_BTV')
  return token_log_probs(lm.tempered(logits_BTV, temperature), tokens_BT)
