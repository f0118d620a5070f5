# SPDX-License-Identifier: Apache-2.0
"""The GPT-3 decoder: one scanned stack of pre-LayerNorm blocks.

Written in Flax Linen, and only for its `scan`, `remat` and parameter
bookkeeping: there are no mutable collections, so a network is its parameters
and nothing else. Parameters are f32 and stacked on a leading N axis; each use
casts them to `cfg.dtype`. Their names are an interface (sharding table, decay
mask, checkpoints, importers):

  embed/tokens/table VD          embed/positions/table TD
  layers/attention_norm/{scale,bias} ND
  layers/attention/{query,key,value}/{kernel NDHE, bias NHE}
  layers/attention/out/{kernel NHED, bias ND}
  layers/mlp_norm/{scale,bias} ND
  layers/mlp/up/{kernel NDF, bias NF}    layers/mlp/down/{kernel NFD, bias ND}
  final_norm/{scale,bias} D
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from rlhf.model.attention import attend
from rlhf.model.config import ModelConfig
from rlhf.sharding import constrain, move


class Table(nn.Module):
  """Rows of learned vectors."""

  rows: int
  width: int
  std: float

  @nn.compact
  def __call__(self) -> jax.Array:
    init = nn.initializers.normal(self.std)
    return self.param('table', init, (self.rows, self.width))


class Projection(nn.Module):
  """`einsum(equation, x, kernel) + bias`, in the dtype of `x`."""

  equation: str
  kernel_shape: tuple[int, ...]
  bias_shape: tuple[int, ...]
  std: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    normal = nn.initializers.normal(self.std)
    kernel = self.param('kernel', normal, self.kernel_shape)
    bias = self.param('bias', nn.initializers.zeros, self.bias_shape)
    y = jnp.einsum(self.equation, x, kernel.astype(x.dtype))
    # A bias of every position: over the leading axes B and T.
    return y + jnp.expand_dims(bias, (0, 1)).astype(x.dtype)


class LayerNorm(nn.Module):
  """Layer normalisation with scale and bias, computed in f32."""

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    width = x_BTD.shape[-1]
    scale = self.param('scale', nn.initializers.ones, (width,))
    bias = self.param('bias', nn.initializers.zeros, (width,))
    y_BTD = jax.nn.standardize(
        x_BTD.astype(jnp.float32), axis=-1, epsilon=1e-5
    )
    y_BTD = y_BTD * scale[None, None] + bias[None, None]
    return y_BTD.astype(x_BTD.dtype)


class Attention(nn.Module):
  """Multi-head attention over the new tokens and, if given, a cache."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, x_BTD, view, is_banded, cache):
    cfg = self.cfg
    heads, std = (cfg.heads, cfg.head_size), cfg.weight_std

    def project(name, place):
      kernel = (cfg.width, *heads)
      projection = Projection('btd,dhe->bthe', kernel, heads, std, name=name)
      return constrain(projection(x_BTD), place)

    q_BTHE = project('query', 'queries_BTHE')
    k_BTHE = project('key', 'keys_BSHE')
    v_BTHE = project('value', 'keys_BSHE')
    k_BSHE, v_BSHE = k_BTHE, v_BTHE
    if cache is not None:
      # The cache is read, never written, inside the scan over layers: the new
      # keys and values leave as the scan's output and are stored in one go.
      k_BSHE = jnp.concatenate([cache[0], k_BTHE], axis=1)
      v_BSHE = jnp.concatenate([cache[1], v_BTHE], axis=1)
    y_BTHE = attend(q_BTHE, k_BSHE, v_BSHE, view, is_banded, cfg)
    y_BTHE = constrain(y_BTHE, 'queries_BTHE')
    # Residual outputs start smaller by sqrt(2N): Radford et al. 2019, 2.3.
    out = Projection(
        'bthe,hed->btd',
        (*heads, cfg.width),
        (cfg.width,),
        std * (2 * cfg.layers) ** -0.5,
        name='out',
    )
    return out(y_BTHE), (k_BTHE, v_BTHE)


class MLP(nn.Module):
  cfg: ModelConfig

  @nn.compact
  def __call__(self, x_BTD):
    cfg = self.cfg
    hidden = cfg.mlp_ratio * cfg.width
    # Where the scale follows the fan-in, that of the second product is F.
    down_std = hidden**-0.5 if cfg.init_std is None else cfg.init_std
    down_std *= (2 * cfg.layers) ** -0.5
    up = Projection(
        'btd,df->btf', (cfg.width, hidden), (hidden,), cfg.weight_std, name='up'
    )
    down = Projection(
        'btf,fd->btd', (hidden, cfg.width), (cfg.width,), down_std, name='down'
    )
    return down(jax.nn.gelu(constrain(up(x_BTD), 'mlp_BTF')))


class Block(nn.Module):
  """One layer, in the form that `nn.scan` wants: (carry, broadcast..., xs)."""

  cfg: ModelConfig
  deterministic: bool
  keep_cache: bool

  @nn.compact
  def __call__(self, x_BTD, view, is_banded, cache):
    cfg = self.cfg
    drop = nn.Dropout(cfg.dropout, deterministic=self.deterministic)
    x_BTD = checkpoint_name(x_BTD, 'residual')
    normed_BTD = LayerNorm(name='attention_norm')(x_BTD)
    y_BTD, new_cache = Attention(cfg, name='attention')(
        move(normed_BTD, 'residual_BTD', 'hidden_BTD'), view, is_banded, cache
    )
    x_BTD = constrain(x_BTD + drop(y_BTD), 'residual_BTD')
    normed_BTD = LayerNorm(name='mlp_norm')(x_BTD)
    y_BTD = MLP(cfg, name='mlp')(
        move(normed_BTD, 'residual_BTD', 'hidden_BTD')
    )
    x_BTD = constrain(x_BTD + drop(y_BTD), 'residual_BTD')
    return x_BTD, new_cache if self.keep_cache else None


def rematerialised(cfg: ModelConfig) -> Any:
  """`Block`, keeping for the backward pass what `cfg.remat` says."""
  policies = jax.checkpoint_policies
  policy: dict[str, Any] = {
      'dots': policies.dots_with_no_batch_dims_saveable,
      'full': policies.nothing_saveable,
      'offload': policies.save_and_offload_only_these_names(
          names_which_can_be_saved=[],
          names_which_can_be_offloaded=['residual'],
          offload_src='device',
          offload_dst='pinned_host',
      ),
  }
  if cfg.remat == 'none':
    return Block
  return nn.remat(Block, prevent_cse=False, policy=policy[cfg.remat])


class Embed(nn.Module):
  cfg: ModelConfig

  @nn.compact
  def __call__(self, tokens_BT, positions_BT):
    cfg = self.cfg
    std = cfg.weight_std
    tokens_VD = Table(cfg.vocab_rows, cfg.width, std, name='tokens')()
    # Positions start at half the scale of tokens, as in GPT-2's code.
    positions_TD = Table(cfg.context, cfg.width, std / 2, name='positions')()
    # Cast before they are looked up, so that weights stored in 16 bits (a
    # reference policy's) give what the f32 master weights give.
    def look_up(table, ids_BT):
      return table.astype(cfg.dtype)[ids_BT].astype(jnp.float32)

    x_BTD = look_up(tokens_VD, tokens_BT) + look_up(positions_TD, positions_BT)
    x_BTD = x_BTD.astype(cfg.dtype)
    return constrain(x_BTD, 'residual_BTD')


class Decoder(nn.Module):
  """Token ids to final hidden states; see the functions in rlhf.model."""

  cfg: ModelConfig
  deterministic: bool = True
  keep_cache: bool = False

  @nn.compact
  def __call__(self, tokens_BT, positions_BT, view, cache):
    """Runs the stack.

    Args:
      tokens_BT: int32.
      positions_BT: int32, counted from the first real token of each segment.
      view: `View`, who sees whom.
      cache: None, or (k_NBSHE, v_NBSHE), read only.

    Returns:
      x_BTD after the final norm, and the new tokens' (k_NBTHE, v_NBTHE) if
      `keep_cache`, else None.
    """
    cfg = self.cfg
    x_BTD = Embed(cfg, name='embed')(tokens_BT, positions_BT)
    layers = nn.scan(
        rematerialised(cfg),
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast, 0, 0),  # pyright: ignore
        length=cfg.layers,
        unroll=cfg.layers if cfg.unroll else 1,
    )(cfg, self.deterministic, self.keep_cache, name='layers')
    is_banded = jnp.arange(cfg.layers) % 2 == 1
    x_BTD, new_cache = layers(x_BTD, view, is_banded, cache)
    x_BTD = LayerNorm(name='final_norm')(x_BTD)
    return move(x_BTD, 'residual_BTD', 'hidden_BTD'), new_cache
