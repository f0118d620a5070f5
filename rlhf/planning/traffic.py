# SPDX-License-Identifier: Apache-2.0
"""Bytes that have to move, by hand: between devices, and from memory.

What the compiler made is counted in its program (rlhf/planning/hlo.py); these
formulas say what it should have made. All bytes are of one device and one call
of a program.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf import sharding
from rlhf.model import ModelConfig
from rlhf.planning import cost
from rlhf.planning.works import Call, Work

# Bytes by the axes of the mesh that they go along.
Wire = dict[tuple[str, ...], float]
Spreads = Mapping[str, Sequence[str]]
_F32 = 4


@dataclasses.dataclass(frozen=True)
class Layout:
  """Sizes of the mesh, and over which of its axes weights are spread.

  Attributes:
    sizes: of `sharding.AXES`, in that order.
    spreads: by network; one that is missing lies on `sharding.SPREAD`.
  """

  sizes: tuple[int, int, int, int]
  spreads: tuple[tuple[str, tuple[str, ...]], ...] = ()

  def size(self, axes: Sequence[str]) -> int:
    by_axis = dict[str, int](zip(sharding.AXES, self.sizes, strict=True))
    return math.prod(by_axis[axis] for axis in axes)

  @property
  def devices(self) -> int:
    return math.prod(self.sizes)

  @property
  def copies(self) -> int:
    """Among which the rows of a batch are divided."""
    return self.size(sharding.ROWS)

  @property
  def tensor(self) -> int:
    return self.size(('tensor',))

  @property
  def sequence(self) -> int:
    return self.size(('sequence',))

  def spread(self, network: str) -> tuple[str, ...]:
    return dict(self.spreads).get(network, sharding.SPREAD)

  def store(self, network: str) -> tuple[str, ...]:
    """Axes that a network's weights are gathered along before they are used."""
    return tuple(
        axis
        for axis in sharding.STORE
        if axis in self.spread(network) and self.size((axis,)) > 1
    )

  def shards(self, network: str) -> int:
    """Devices that share one copy of a network's weights."""
    return self.size(self.spread(network))


def layout(
    mesh_shape: Mapping[str, int], spreads: Spreads | None = None
) -> Layout:
  """The layout of a mesh."""
  pairs = tuple((k, tuple(v)) for k, v in (spreads or {}).items())
  data, fsdp, tensor, sequence = (mesh_shape[axis] for axis in sharding.AXES)
  return Layout((data, fsdp, tensor, sequence), pairs)


def spreads(config: Any) -> dict[str, tuple[str, ...]]:
  """Each network's choice, from a config."""
  chosen = config.ppo.spread if config.stage == 'ppo' else {}
  return {name: tuple(axes) for name, axes in chosen.items()}


# -- Between devices ----------------------------------------------------------


def wire(call: Call, at: Layout) -> Wire:
  """Bytes that a device sends in one call of a program, in rings.

  Of a network that is trained, each micro-batch: the weights are gathered (16
  bits) for the forward pass and again for the backward, gradients (16 bits) are
  scattered back. Along `tensor` a layer gathers its input's tokens before
  attention and before the MLP and scatters the sums after both: 4 times the
  residual stream (Korthikanti et al. 2022), and as often when it is done again,
  and backward. Along `sequence` keys and values are gathered. Along `data`
  gradients are reduced.
  """
  total: Wire = collections.defaultdict(float)
  for work in call.works:
    one = _decode_wire(work, at) if work.kind == 'decode' else _wire(work, at)
    for axes, size in one.items():
      total[axes] += size
  return {axes: size for axes, size in total.items() if size}


def lay_out_wire(cfg: ModelConfig, at: Layout, tensor: int) -> Wire:
  """Of gathering a policy's weights for decoding, on `tensor` devices each."""
  weights = number_bytes(cfg) * cost.parameters(cfg)
  kept = weights / max(at.shards('policy'), tensor)
  return {at.store('policy') or ('tensor',): weights / tensor - kept}


def number_bytes(cfg: ModelConfig) -> int:
  """Bytes of a number in the computation."""
  return 2 if cfg.dtype == 'bfloat16' else _F32


def _ring(g: int) -> float:
  return (g - 1) / g


def _rows(work: Work, at: Layout) -> float:
  """Of a micro-batch, on one copy."""
  rows = work.rows // work.parts
  return rows / at.copies if rows % at.copies == 0 else rows


def _passes(work: Work) -> tuple[int, int]:
  """Forward passes over activations, and over weights that are gathered."""
  if work.kind != 'train':
    return 1, 1
  again = work.cfg.remat in ('full', 'offload')
  # What is done again is done where the weights are there for the backward.
  return 2 if again else 1, 2


def _stored(cfg: ModelConfig) -> int:
  """Weights that are spread over `sharding.STORE`: layers and tables."""
  tables = (cfg.vocab_rows + cfg.context) * cfg.width
  return cost.layer_weights(cfg) + tables


def _wire(work: Work, at: Layout) -> Wire:
  cfg, train = work.cfg, work.kind == 'train'
  forwards, gathers = _passes(work)
  total: Wire = collections.defaultdict(float)
  store = at.store(work.network)
  here = number_bytes(cfg) * _stored(cfg) / at.tensor
  if store:
    times = gathers + train  # The gradients' way back.
    total[store] += work.parts * times * here * _ring(at.size(store))
  if at.size(('data',)) > 1 and train:
    # What is left of a gradient after it was scattered, in f32.
    left = _F32 * _stored(cfg) / at.tensor / at.size(store)
    total[('data',)] += work.parts * 2 * left * _ring(at.size(('data',)))
  rows = _rows(work, at)
  stream = number_bytes(cfg) * rows * work.tokens / at.sequence * cfg.width
  if at.tensor > 1:
    times = 4 * cfg.layers * (forwards + train)
    # Into the head, and its gradient.
    times += (1 + train) * work.head_tokens / work.tokens
    total[('tensor',)] += work.parts * times * stream * _ring(at.tensor)
  if at.sequence > 1:
    keys = number_bytes(cfg) * rows * work.tokens * cfg.heads * cfg.head_size
    times = 2 * cfg.layers * (forwards + train)
    each = keys / at.tensor * _ring(at.sequence)
    total[('sequence',)] += work.parts * times * each
  return total


def _decode_wire(work: Work, at: Layout) -> Wire:
  """On a mesh of `tensor` alone: whole copies, each with its own rows."""
  cfg = work.cfg
  prompts = dataclasses.replace(
      work, kind='forward', new_tokens=0, head_tokens=0
  )
  total = _wire(prompts, at)
  if at.tensor > 1:
    rows = _rows(work, at)
    # Two sums a layer of one token a row: reduced and scattered, gathered.
    sums = 4 * cfg.layers * number_bytes(cfg) * rows * cfg.width
    # A share of the logits of all rows, for all logits of a share of the rows;
    # or the table is gathered, once.
    logits = work.new_tokens * _F32 * rows * cfg.vocab_rows / at.tensor
    table = number_bytes(cfg) * cfg.vocab_rows * cfg.width
    once = work.new_tokens * sums + min(logits, table)
    total[('tensor',)] += once * _ring(at.tensor)
  return total


# -- From memory --------------------------------------------------------------


def hbm(call: Call, at: Layout, *, ema: bool = False) -> float:
  """Bytes that a device has to read from its memory and write to it.

  Training, each micro-batch: a pass reads the layers' gathered weights (16
  bits) once, the residual stream of each layer is written and read, sums of
  gradients (f32) are read and written; then the optimizer reads and writes
  weights and both moments and the gradients are written and read once (f32), as
  is the average. Decoding: each token reads the weights and all slots of the
  cache.

  Args:
    call: of a program.
    at: its mesh.
    ema: whether the trained policy has an average.
  """
  total = 0.0
  updated = set()
  for work in call.works:
    if work.kind == 'decode':
      total += _decode_hbm(work, at)
      continue
    forwards, _ = _passes(work)
    train = work.kind == 'train'
    weights = number_bytes(work.cfg) * cost.layer_weights(work.cfg) / at.tensor
    total += work.parts * (forwards + train) * weights
    if not train:
      continue
    per_device = at.tensor * at.sequence
    stream = (
        number_bytes(work.cfg) * _rows(work, at) * work.tokens * work.cfg.width
    ) / per_device
    total += work.parts * 2 * work.cfg.layers * stream
    own = _F32 * cost.parameters(work.cfg) / at.shards(work.network)
    if work.parts > 1:
      total += work.parts * 2 * own
    if work.network not in updated:
      updated.add(work.network)
      average = 2 if ema and work.network == 'policy' else 0
      total += (6 + 2 + average) * own
  return total


def lay_out_hbm(cfg: ModelConfig, at: Layout, tensor: int) -> float:
  """Of reading f32 weights and writing those for decoding in 16 bits."""
  count = cost.parameters(cfg)
  return _F32 * count / at.shards('policy') + number_bytes(cfg) * count / tensor


def weight_bytes(cfg: ModelConfig) -> float:
  """Of a network in the precision of its computation, whole."""
  return number_bytes(cfg) * cost.parameters(cfg)


def cache_bytes(work: Work, at: Layout) -> float:
  """Keys and values of a decoder's rows on one device."""
  cfg = work.cfg
  slots = work.tokens + work.new_tokens
  row = 2 * number_bytes(cfg) * cfg.layers * cfg.heads * cfg.head_size * slots
  return _rows(work, at) * row / at.tensor


def _decode_hbm(work: Work, at: Layout) -> float:
  cfg = work.cfg
  table = cfg.vocab_rows * cfg.width
  weights = number_bytes(cfg) * (cost.layer_weights(cfg) + table) / at.tensor
  return work.new_tokens * (weights + cache_bytes(work, at)) + weights
