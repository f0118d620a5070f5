# SPDX-License-Identifier: Apache-2.0
"""The network, behind six functions of plain parameters.

RLHF runs one network with four parameter sets (policy, reference, reward,
value), so nothing here holds state: parameters, dropout keys and the cache are
arguments. This package is the only one that imports Flax.

`segment_ids_BT` says in one array what is padding (0) and which example of a
packed row a token belongs to (1, 2, ...). Tokens see earlier tokens of their
own segment; positions count from its first. So a left-padded prompt, a packed
row and a plain one are the same case.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlhf.dims import Params
from rlhf.model.attention import View, choose_kernel
from rlhf.model.config import SIZES, ModelConfig
from rlhf.model.heads import (
    init_scalar_head,
    lm_logits,
    scalars,
    segment_starts,
    tempered,
    without_padding,
)
from rlhf.model.transformer import Decoder
from rlhf.sharding import constrain

__all__ = [
    'SIZES',
    'Cache',
    'ModelConfig',
    'cast_weights',
    'choose_kernel',
    'decode_step',
    'forward',
    'init',
    'init_scalar_head',
    'lm_logits',
    'prefill',
    'scalars',
    'tempered',
    'without_padding',
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of every layer, and which slots hold a real token.

  Attributes:
    k_NBSHE, v_NBSHE: in the dtype of the computation.
    real_BS: bool, slots that hold a token of the sequence (not padding).
    length: int32 scalar, slots written so far, the same for every row.
  """

  k_NBSHE: jax.Array
  v_NBSHE: jax.Array
  real_BS: jax.Array
  length: jax.Array


def init(key: jax.Array, cfg: ModelConfig) -> Params:
  """Parameters of a new decoder (f32), without a scalar head."""
  token = jnp.zeros((1, 1), jnp.int32)
  see = jnp.ones((1, 1, 1), bool)
  view = View(see, see, token)
  cfg = dataclasses.replace(cfg, kernel='xla')
  return Decoder(cfg).init(key, token, token, view, None)['params']


def cast_weights(params: Params, cfg: ModelConfig) -> Params:
  """Weights in `cfg.dtype`, as they are when they are only read.

  Norms and the scalar head are computed in f32 and stay so. `forward` and the
  sampler return the same bits for these as for the f32 master weights.
  """

  def cast(path, leaf):
    names = [entry.key for entry in path]
    if names[0] == 'scalar_head' or any(n.endswith('_norm') for n in names):
      return leaf
    return leaf.astype(cfg.dtype)

  return jax.tree_util.tree_map_with_path(cast, params)


def forward(
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    cfg: ModelConfig,
    *,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Final hidden states of whole sequences.

  Args:
    params: from `init`; a 'scalar_head' beside them is ignored.
    tokens_BT: int32.
    segment_ids_BT: int32; 0 is padding (what comes out there means nothing).
    cfg: the model's.
    dropout_key: None switches dropout off.

  Returns:
    x_BTD after the final norm, in `cfg.dtype`.
  """
  x_BTD, _ = _decode(
      params, tokens_BT, segment_ids_BT, cfg, dropout_key=dropout_key
  )
  return x_BTD


def prefill(
    params: Params,
    tokens_BP: jax.Array,
    mask_BP: jax.Array,
    cfg: ModelConfig,
    *,
    slots: int,
) -> tuple[jax.Array, Cache]:
  """Reads left-padded prompts into a new cache.

  Args:
    params: from `init`.
    tokens_BP: int32, left-padded.
    mask_BP: bool, True on real tokens.
    cfg: the model's.
    slots: S >= P, room for the prompt and what is to be decoded.

  Returns:
    x_BD, hidden states of the last prompt tokens, and the cache.
  """
  x_BPD, (k_NBPHE, v_NBPHE) = _decode(
      params, tokens_BP, mask_BP.astype(jnp.int32), cfg, keep_cache=True
  )
  length = tokens_BP.shape[1]
  _check_length(slots, cfg)
  room = ((0, 0), (0, 0), (0, slots - length), (0, 0), (0, 0))
  cache = Cache(
      k_NBSHE=constrain(jnp.pad(k_NBPHE, room), 'cache_NBSHE'),
      v_NBSHE=constrain(jnp.pad(v_NBPHE, room), 'cache_NBSHE'),
      real_BS=jnp.pad(mask_BP.astype(bool), ((0, 0), (0, slots - length))),
      length=jnp.asarray(length, jnp.int32),
  )
  return x_BPD[:, -1], cache


def decode_step(
    params: Params, cache: Cache, tokens_B: jax.Array, cfg: ModelConfig
) -> tuple[jax.Array, Cache]:
  """Reads one more token a row.

  Args:
    params: from `init`.
    cache: with a free slot.
    tokens_B: int32, the next token of each row.
    cfg: the model's.

  Returns:
    x_BD, the hidden states of these tokens, and the cache with them in it.
  """
  batch, slots = cache.real_BS.shape
  # The new token is the last of S + 1 places to look at.
  new_B1 = jnp.ones((batch, 1), bool)
  visible_BTS = jnp.concatenate([cache.real_BS, new_B1], axis=1)[:, None]
  distance = cache.length - jnp.arange(slots + 1)
  distance = distance.at[-1].set(0)
  near_BTS = jnp.broadcast_to(distance < cfg.band, (1, 1, slots + 1))
  positions_BT = jnp.sum(cache.real_BS, axis=1, dtype=jnp.int32)[:, None]
  decoder: Any = Decoder(cfg, keep_cache=True)
  x_B1D, (k_NB1HE, v_NB1HE) = decoder.apply(
      {'params': _decoder_params(params)},
      tokens_B[:, None],
      positions_BT,
      View(visible_BTS, near_BTS, jnp.ones_like(positions_BT)),
      (cache.k_NBSHE, cache.v_NBSHE),
  )
  at = (0, 0, cache.length, 0, 0)
  return x_B1D[:, 0], Cache(
      k_NBSHE=_store(cache.k_NBSHE, k_NB1HE, at),
      v_NBSHE=_store(cache.v_NBSHE, v_NB1HE, at),
      real_BS=jax.lax.dynamic_update_slice(
          cache.real_BS, new_B1, (0, cache.length)
      ),
      length=cache.length + 1,
  )


def _decode(
    params,
    tokens_BT,
    segment_ids_BT,
    cfg,
    *,
    dropout_key=None,
    keep_cache=False,
) -> Any:
  """The stack over whole rows, with masks and positions from segment ids."""
  length = tokens_BT.shape[1]
  _check_length(length, cfg)
  index = jnp.arange(length)
  same_BTT = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
  distance_1TT = (index[:, None] - index[None, :])[None]
  real_BT1 = segment_ids_BT[:, :, None] > 0
  visible_BTT = same_BTT & real_BT1 & (distance_1TT >= 0)
  positions_BT = index[None] - segment_starts(segment_ids_BT)
  drop = dropout_key is not None and cfg.dropout > 0
  decoder: Any = Decoder(cfg, deterministic=not drop, keep_cache=keep_cache)
  return decoder.apply(
      {'params': _decoder_params(params)},
      tokens_BT,
      positions_BT,
      View(visible_BTT, distance_1TT < cfg.band, segment_ids_BT),
      None,
      rngs={'dropout': dropout_key} if drop else None,
  )


def _store(cache_NBSHE, new_NB1HE, at):
  stored_NBSHE = jax.lax.dynamic_update_slice(cache_NBSHE, new_NB1HE, at)
  return constrain(stored_NBSHE, 'cache_NBSHE')


def _check_length(length: int, cfg: ModelConfig):
  if length > cfg.context:
    raise ValueError(
        f'rows of {length} tokens do not fit a context of {cfg.context}:'
        ' shorten prompts or responses, or raise model.context'
    )


def _decoder_params(params):
  return {k: v for k, v in params.items() if k != 'scalar_head'}
