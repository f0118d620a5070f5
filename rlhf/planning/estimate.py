# SPDX-License-Identifier: Apache-2.0
"""A plan without a compiler: memory and floors of a program, by formula.

Good for putting hundreds of layouts in an order; what a program really takes
the compiler says. Bytes are of one device.
"""

import dataclasses
import functools
import math
from typing import Any

from jax.sharding import Mesh

from rlhf.planning import cost, floors, traffic, works
from rlhf.planning.topology import Topology

Config = Any
_F32 = 4


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A program, estimated.

  Attributes:
    call: what it computes.
    named_bytes: weights and cache that it holds beside the residents.
    working_bytes: activations, gradients and whatever else.
    floors: seconds of a call.
  """

  call: works.Call
  named_bytes: float
  working_bytes: float
  floors: floors.Floors

  @property
  def seconds(self) -> float:
    """In a step."""
    return self.call.per_step * self.floors.seconds


def program(
    call: works.Call,
    topology: Topology,
    mesh: Mesh,
    at: traffic.Layout,
    *,
    ema: bool = False,
) -> Estimate:
  """One program on a mesh.

  Args:
    call: with works.
    topology: of the mesh.
    mesh: the program's.
    at: its layout.
    ema: whether the policy has an average.
  """
  kernels = [kernel(work, topology, at) for work in call.works]
  hardware = sum(
      cost.hardware_flops(work, kernel)
      for work, kernel in zip(call.works, kernels, strict=True)
  )
  sent = [
      floors.Traffic(axes, at.size(axes), size)
      for axes, size in traffic.wire(call, at).items()
  ]
  named = 0.0
  for work in call.works:
    if work.kind == 'decode':
      weights = traffic.weight_bytes(work.cfg) / at.tensor
      named += weights + traffic.cache_bytes(work, at)
  return Estimate(
      call=call,
      named_bytes=named,
      working_bytes=working_bytes(call.works, at, kernels),
      floors=floors.floors(
          topology,
          mesh,
          flops=hardware / at.devices,
          hbm_bytes=traffic.hbm(call, at, ema=ema),
          traffic=sent,
      ),
  )


def kernel(work: works.Work, topology: Topology, at: traffic.Layout) -> str:
  """What `choose_kernel` would settle."""
  if topology.chip.nominal or work.cfg.kernel == 'xla':
    return 'xla'
  blocks = work.tokens % (128 * at.sequence) == 0
  heads = work.cfg.head_size % 128 == 0 and work.cfg.heads % at.tensor == 0
  return 'splash' if blocks and heads else 'xla'


def resident_bytes(config: Config, at: traffic.Layout) -> float:
  """Weights and optimizer states that always lie in memory."""
  by_name = works.networks(config)
  if config.stage != 'ppo':
    ((name, cfg),) = by_name.items()
    head = 'scalar' if config.stage == 'reward' else 'lm'
    return 3 * _F32 * cost.parameters(cfg, head=head) / at.shards(name)
  total = 0.0
  copies = {'policy': 3 + (config.ppo.ema_decay is not None), 'value': 3}
  for name, cfg in by_name.items():
    held = _F32 * copies.get(name, 0) * cost.parameters(cfg)
    if name not in copies:
      held = traffic.weight_bytes(cfg)
    total += held / at.shards(name)
  return total


def working_bytes(
    parts: tuple[works.Work, ...], at: traffic.Layout, kernels: list[str]
) -> float:
  """Most that a program's works need at one time, beside what has a name.

  Gradients (f32) of each term and their sum, and the update; the layers' inputs
  (and, by remat, results of products), one layer's gathered weights twice (the
  next is fetched ahead) and its activations, a chunk of logits.
  """
  trained = [work for work in parts if work.kind == 'train']
  gradients = 0.0
  for name in {work.network for work in trained}:
    mine = [work for work in trained if work.network == name]
    own = _F32 * cost.parameters(mine[0].cfg) / at.shards(name)
    several = any(work.parts > 1 for work in mine)
    gradients += own * (1 + len(mine) + several)
  peaks = [
      _activations(work, at, kernel)
      for work, kernel in zip(parts, kernels, strict=True)
  ]
  return gradients + max(peaks, default=0.0)


def cache_padding(work: works.Work, at: traffic.Layout) -> float:
  """What a TPU stores of a cache, over what is in it: heads are tiled by 8."""
  heads = work.cfg.heads / at.tensor
  return 8 * math.ceil(heads / 8) / heads


@functools.cache
def _activations(work: works.Work, at: traffic.Layout, kernel: str) -> float:
  cfg, train = work.cfg, work.kind == 'train'
  size = traffic.number_bytes(cfg)
  each = work.rows // work.parts
  rows = each / at.copies if each % at.copies == 0 else each
  tokens = rows * work.tokens / at.sequence
  heads, hidden = cfg.heads * cfg.head_size, cfg.mlp_ratio * cfg.width
  stream = size * tokens * cfg.width
  split = size * tokens * (4 * heads + 2 * hidden) / at.tensor
  kept = 0.0
  if train:
    kept = cfg.layers * stream / at.tensor
    products = size * tokens * (4 * heads + hidden + cfg.width) / at.tensor
    if cfg.remat in ('dots', 'none'):
      kept += cfg.layers * products * (2 if cfg.remat == 'none' else 1)
  layer = stream * 4 + split * (2 if train else 1)
  if kernel == 'xla':
    logits = rows * cfg.heads / at.tensor * work.tokens**2 / at.sequence
    layer += _F32 * logits * (3 if train else 2)
  weights = 2 * size * cost.layer_weights(cfg) / cfg.layers / at.tensor
  if work.head == 'lm':
    positions = work.head_tokens / cost.chunks(work) / at.sequence
    layer += 3 * _F32 * rows * positions * cfg.vocab_rows / at.tensor
    weights += 2 * size * cfg.vocab_rows * cfg.width / at.tensor
  if work.kind == 'decode':
    cache, padding = traffic.cache_bytes(work, at), cache_padding(work, at)
    prompts = work.tokens / (work.tokens + work.new_tokens)
    # The prompts' keys and values as they are made, and turned round, before
    # there is room for the responses'.
    kept += cache * (padding - 1) + 2 * padding * cache * prompts
    layer /= 2
  return kept + layer + weights
