# SPDX-License-Identifier: Apache-2.0
"""Attention, by the kernel that the *target* device has.

  xla      plain products, with the logits in f32; any device, any shape, and
           always for decoding
  splash   JAX's own Pallas kernel for TPU: logits never leave the chip
  cudnn    through `jax.nn.dot_product_attention`, for NVIDIA GPUs

The target is the mesh's device, not the machine that compiles: a program that
is compiled ahead of time for a TPU must hold the TPU's kernel.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf import sharding
from rlhf.model.config import ModelConfig

# Added to masked attention logits: finite, so that a row of padding, which sees
# nothing, has a uniform distribution and not NaN.
MASKED = -1e9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class View:
  """What each token may look at.

  Attributes:
    visible_BTS: bool, which slots (cache, then new tokens) a token sees.
    near_BTS: bool, which of them are within reach of a banded layer.
    segment_ids_BT: int32, for kernels that work masks out by themselves; whole
      rows only.
  """

  visible_BTS: jax.Array
  near_BTS: jax.Array
  segment_ids_BT: jax.Array


def choose_kernel(
    cfg: ModelConfig, mesh: Any, lengths: Iterable[int]
) -> ModelConfig:
  """`cfg` with 'auto' settled by what the mesh's devices are.

  Args:
    cfg: the model's.
    mesh: real devices, or those of a topology that is only compiled for.
    lengths: T of all rows that the program will see.

  Returns:
    A config whose kernel is 'xla', 'splash' or 'cudnn'. Splash takes heads in
    multiples of 128 and rows in blocks of 128, cuDNN 16-bit heads of at most
    128 in multiples of 8 and even rows, which `sequence` must not split; other
    shapes are left to XLA.
  """
  if cfg.kernel != 'auto':
    return cfg
  platform = mesh.devices.flat[0].platform
  kernel = 'xla'
  if platform == 'tpu' and cfg.head_size % 128 == 0:
    block = 128 * mesh.shape['sequence']
    divides = all(length % block == 0 for length in lengths)
    kernel = 'splash' if divides and _heads_divide(cfg, mesh) else 'xla'
  if platform in ('gpu', 'cuda') and cfg.dtype == 'bfloat16':
    whole = mesh.shape['sequence'] == 1
    even = whole and all(length % 2 == 0 for length in lengths)
    kernel = 'cudnn' if even and cfg.head_size in range(8, 129, 8) else 'xla'
  return dataclasses.replace(cfg, kernel=kernel)


def _heads_divide(cfg, mesh):
  return cfg.heads % mesh.shape['tensor'] == 0


def attend(
    q_BTHE: jax.Array,
    k_BSHE: jax.Array,
    v_BSHE: jax.Array,
    view: View,
    is_banded: jax.Array,
    cfg: ModelConfig,
) -> jax.Array:
  """Softmax attention, y_BTHE.

  Args:
    q_BTHE, k_BSHE, v_BSHE: queries (unscaled), keys, values.
    view: who sees whom.
    is_banded: bool scalar, whether this layer is a banded one.
    cfg: the model's; 'auto' counts as 'xla'.
  """
  q_BTHE = q_BTHE * cfg.head_size**-0.5
  whole_rows = q_BTHE.shape[1] == k_BSHE.shape[1]
  if cfg.kernel == 'splash' and whole_rows:
    return _splash(q_BTHE, k_BSHE, v_BSHE, view, is_banded, cfg)
  visible_BTS = view.visible_BTS
  if cfg.attention == 'alternating':
    visible_BTS = visible_BTS & (view.near_BTS | ~is_banded)
  if cfg.kernel == 'cudnn' and whole_rows:
    return dot_product(q_BTHE, k_BSHE, v_BSHE, visible_BTS, 'cudnn')
  return _xla(q_BTHE, k_BSHE, v_BSHE, visible_BTS)


def _xla(q_BTHE, k_BSHE, v_BSHE, visible_BTS):
  logits_BHTS = jnp.einsum('bthe,bshe->bhts', q_BTHE, k_BSHE)
  bias_BTS = jnp.where(visible_BTS, 0.0, MASKED)
  logits_BHTS = logits_BHTS.astype(jnp.float32) + bias_BTS[:, None]
  weights_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(v_BSHE.dtype)
  return jnp.einsum('bhts,bshe->bthe', weights_BHTS, v_BSHE)


def dot_product(q_BTHE, k_BSHE, v_BSHE, visible_BTS, implementation):
  """`jax.nn.dot_product_attention` of scaled queries."""
  return jax.nn.dot_product_attention(
      q_BTHE,
      k_BSHE,
      v_BSHE,
      mask=visible_BTS[:, None],
      scale=1.0,
      implementation=implementation,
  )


def _splash(q_BTHE, k_BSHE, v_BSHE, view, is_banded, cfg, *, interpret=False):
  """The Pallas kernel, on each device's own rows, heads and queries."""

  def of_layer(band):
    def run(q_BTHE, k_BSHE, v_BSHE, segment_ids_BT):
      return splash_rows(
          q_BTHE, k_BSHE, v_BSHE, segment_ids_BT, band, interpret=interpret
      )

    return run

  arrays = (q_BTHE, k_BSHE, v_BSHE, view.segment_ids_BT)
  if cfg.attention == 'dense':
    return of_layer(None)(*arrays)
  return jax.lax.cond(is_banded, of_layer(cfg.band), of_layer(None), *arrays)


def splash_rows(
    q_BTHE: jax.Array,
    k_BSHE: jax.Array,
    v_BSHE: jax.Array,
    segment_ids_BT: jax.Array,
    band: int | None,
    *,
    interpret: bool = False,
) -> jax.Array:
  """Causal attention within segments by the splash kernel, y_BTHE.

  Padding (segment 0) sees padding: what comes out there means nothing.

  Args:
    q_BTHE, k_BSHE, v_BSHE: scaled queries, keys, values of whole rows.
    segment_ids_BT: int32.
    band: how many tokens a token sees, itself included; None: all before it.
    interpret: run the kernel's program without a TPU (tests).
  """
  # Late: nothing but a TPU needs it.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  mesh = jax.sharding.get_abstract_mesh()
  shards = {'tensor': 1, 'sequence': 1} | dict(mesh.shape)
  _, length, heads, _ = q_BTHE.shape
  if heads % shards['tensor'] or length % (128 * shards['sequence']):
    raise ValueError(
        f'splash attention: {heads} heads of rows of {length} tokens do not'
        f' divide over tensor={shards["tensor"]} and blocks of 128 on'
        f' sequence={shards["sequence"]}; set model.kernel=xla'
    )
  shape = (length, length)
  one_head = (
      splash.CausalMask(shape)
      if band is None
      else splash.LocalMask(shape, (band - 1, 0), 0)
  )
  kernel = splash.make_splash_mha(
      splash.MultiHeadMask([one_head] * heads),
      block_sizes=splash.BlockSizes(
          **_blocks(length // shards['sequence'], length)
      ),
      head_shards=shards['tensor'],
      q_seq_shards=shards['sequence'],
      interpret=interpret,
  )

  def local(kernel, q_BTHE, k_BSHE, v_BSHE, q_ids_BT, kv_ids_BS):
    def row(q_THE, k_SHE, v_SHE, q_ids, kv_ids):
      y_HTE = kernel(
          q_THE.swapaxes(0, 1),
          k_SHE.swapaxes(0, 1),
          v_SHE.swapaxes(0, 1),
          segment_ids=splash.SegmentIds(q_ids, kv_ids),
      )
      return y_HTE.swapaxes(0, 1)

    return jax.vmap(row)(q_BTHE, k_BSHE, v_BSHE, q_ids_BT, kv_ids_BS)

  arrays = (q_BTHE, k_BSHE, v_BSHE, segment_ids_BT, segment_ids_BT)
  if mesh.empty:
    return local(kernel, *arrays)
  rows = sharding.batch_axes(q_BTHE.shape[0], mesh)
  queries = P(rows, 'sequence', 'tensor', None)
  keys = P(rows, None, 'tensor', None)
  where = NamedSharding(mesh, P('tensor', 'sequence'))
  return jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(
          kernel.manual_sharding_spec(where),
          queries, keys, keys, P(rows, 'sequence'), P(rows, None),
      ),
      out_specs=queries,
      check_vma=False,  # The kernel says nothing about its outputs.
  )(kernel, *arrays)


def _blocks(queries: int, keys: int) -> dict[str, Any]:
  """Tiles of at most 512 (as MaxText ships them) that divide both."""
  q, kv = [
      next(tile for tile in (512, 384, 256, 128) if length % tile == 0)
      for length in (queries, keys)
  ]
  return dict(
      block_q=q,
      block_kv=kv,
      block_kv_compute=kv,
      block_q_dkv=q,
      block_kv_dkv=kv,
      block_kv_dkv_compute=kv,
      block_q_dq=q,
      block_kv_dq=kv,
  )
