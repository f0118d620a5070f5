# SPDX-License-Identifier: Apache-2.0
"""Shapes that know their sharding, where a run would have arrays."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf import experience as experience_lib
from rlhf import model, sampling, sharding, update
from rlhf.data import batches

Shapes = Any  # A tree of jax.ShapeDtypeStruct that know their sharding.


def bytes_per_device(tree: Shapes) -> int:
  """Of a tree of sharded shapes, on one device."""
  return sum(
      int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
      * _itemsize(leaf.dtype)
      for leaf in jax.tree.leaves(tree)
  )


def _itemsize(dtype) -> int:
  return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize


def leaf(shape, dtype, where) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def placed(tree, where) -> Shapes:
  return jax.tree.map(lambda x, s: leaf(x.shape, x.dtype, s), tree, where)


def rows_of(shape, dtype, mesh, *, stacked=False) -> Any:
  where = sharding.batch_sharding(shape, mesh, stacked=stacked)
  return leaf(shape, dtype, where)


def key(mesh) -> jax.ShapeDtypeStruct:
  key = jax.eval_shape(lambda: jax.random.key(0))
  return leaf(key.shape, key.dtype, sharding.replicated(mesh))


def train_state(
    cfg, tx, mesh, *, head=False, ema=False, spread=sharding.SPREAD
) -> update.TrainState:
  def make():
    key = jax.random.key(0)
    params = model.init(key, cfg)
    if head:
      params = params | {'scalar_head': model.init_scalar_head(key, cfg)}
    return update.new_state(params, tx, ema=ema)

  state = jax.eval_shape(make)
  return placed(state, sharding.shardings(state, mesh, spread))


def split_state(state, prefix) -> dict[str, Shapes]:
  rest = (state.step, state.opt_state, state.ema)
  return {f'{prefix}weights': state.params, f'{prefix}optimizer': rest}


def frozen(params, cfg, mesh, spread) -> Shapes:
  cast = jax.eval_shape(functools.partial(model.cast_weights, cfg=cfg), params)
  return placed(cast, sharding.shardings(cast, mesh, spread))


def _stacked(rows, parts) -> Callable:
  """`(shape of a row, dtype, mesh) -> leaf`, cut into micro-batches."""
  if rows % parts:
    raise ValueError(f'{parts} micro-batches do not divide {rows} rows')

  def leaf(shape, dtype, mesh):
    lead = (parts, rows // parts) if parts > 1 else (rows,)
    return rows_of((*lead, *shape), dtype, mesh, stacked=parts > 1)

  return leaf


def text_batch(rows, tokens, parts, mesh) -> batches.TextBatch:
  leaf = _stacked(rows, parts)
  ids = leaf((tokens,), jnp.int32, mesh)
  return batches.TextBatch(ids, ids, leaf((tokens,), bool, mesh))


def ranking_batch(config, mesh) -> batches.RankingBatch:
  parts = config.micro_batches
  row, prompt = _stacked(config.rows, parts), _stacked(config.batch, parts)
  tokens, k = (config.data.row_tokens,), (config.k_max,)
  return batches.RankingBatch(
      tokens_MT=row(tokens, jnp.int32, mesh),
      segment_ids_MT=row(tokens, jnp.int32, mesh),
      response_mask_MT=row(tokens, bool, mesh),
      end_BK=prompt(k, jnp.int32, mesh),
      ranks_BK=prompt(k, jnp.int32, mesh),
      mask_BK=prompt(k, bool, mesh),
  )


def samples(rows, tokens, mesh) -> sampling.Samples:
  shape = (rows, tokens)
  return sampling.Samples(
      tokens_BR=rows_of(shape, jnp.int32, mesh),
      mask_BR=rows_of(shape, bool, mesh),
      log_probs_BR=rows_of(shape, jnp.float32, mesh),
      finished=rows_of((rows,), bool, mesh),
  )


def experience(config, mesh) -> experience_lib.Experience:
  c, data = config.ppo, config.data
  leaf = _stacked(c.batch // c.minibatches, c.micro_batches)
  whole = (data.prompt_tokens + data.response_tokens,)
  response = (data.response_tokens,)
  numbers = leaf(response, jnp.float32, mesh)
  return experience_lib.Experience(
      tokens_BT=leaf(whole, jnp.int32, mesh),
      segment_ids_BT=leaf(whole, jnp.int32, mesh),
      mask_BR=leaf(response, bool, mesh),
      log_probs_BR=numbers,
      values_BR=numbers,
      advantages_BR=numbers,
      returns_BR=numbers,
  )
