# SPDX-License-Identifier: Apache-2.0
"""Masked reductions, and masks of what the policy said.

Every mean over tokens in this codebase goes through `masked_mean`, so that
padding can't leak into a loss or a metric in one place only.
"""

import jax
import jax.numpy as jnp


def masked_sum(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Sum of `x` where `mask` is set, in f32, over all axes."""
  return jnp.sum(x.astype(jnp.float32), where=mask.astype(bool))


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `x` where `mask` is set, in f32; 0 where nothing is."""
  count = jnp.sum(mask, dtype=jnp.float32)
  return masked_sum(x, mask) / jnp.maximum(count, 1.0)


def masked_var(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Biased (population) variance of `x` where `mask` is set."""
  return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


def whiten(
    x: jax.Array, mask: jax.Array, *, shift_mean: bool = True
) -> jax.Array:
  """Scales `x` to unit variance under `mask`, and to zero mean if asked.

    (x - mean) * rsqrt(var + 1e-8)  [+ mean if not shift_mean]

  The variance is the biased one, as in OpenAI's code (`lm-human-preferences`,
  `utils.whiten`); entries outside the mask come out as 0.

  Args:
    x: float, any shape.
    mask: bool, of the shape of `x`.
    shift_mean: False puts the mean back (used for rewards).

  Returns:
    f32 array of the shape of `x`.
  """
  mean = masked_mean(x, mask)
  white = (x - mean) * jax.lax.rsqrt(masked_var(x, mask) + 1e-8)
  if not shift_mean:
    white = white + mean
  return jnp.where(mask, white, 0.0)


def is_in(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
  """True where a token is one of `ids`; the shape of `tokens`."""
  return jnp.isin(tokens, jnp.asarray(ids, tokens.dtype))


def last_index(mask_BT: jax.Array) -> jax.Array:
  """Index of the last True of each row (0 for an empty row), int32 [B]."""
  length = mask_BT.shape[1]
  index = length - 1 - jnp.argmax(mask_BT[:, ::-1], axis=1)
  return jnp.where(jnp.any(mask_BT, axis=1), index, 0).astype(jnp.int32)
