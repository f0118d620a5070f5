# SPDX-License-Identifier: Apache-2.0
"""What a run costs, by arithmetic alone: parameters, FLOPs, petaflop/s-days.

A multiplication and an addition are 2 FLOPs. *Model* FLOPs are those of the
method, however it is programmed (PaLM's convention: Chowdhery et al. 2022,
appendix B): a token that goes forward takes 2 for each weight that it is
multiplied with and 4 N H E T for attention, where T is the length of its row
and causality and bands save nothing; backward takes twice that; the head counts
where logits are wanted. A decoded response is a forward over prompt and
response. *Hardware* FLOPs are what a program has to do to get there: remat does
parts of the forward again, XLA's attention computes what it masks, the splash
kernel does not.
"""

import dataclasses
import math

from rlhf.model import ModelConfig
from rlhf.planning.works import Run, Work

# A petaflop/s-day: 10^15 FLOP/s for a day (Brown et al. 2020, figure 2.2).
PETAFLOP_S_DAY = 1e15 * 86_400


def layer_weights(cfg: ModelConfig) -> int:
  """Weights of all layers that are multiplied with tokens: no bias, no norm."""
  attention = 4 * cfg.width * cfg.heads * cfg.head_size
  return cfg.layers * (attention + 2 * cfg.mlp_ratio * cfg.width**2)


def parameters(cfg: ModelConfig, *, head: str = 'lm') -> int:
  """All parameters of a network.

  Args:
    cfg: the network's.
    head: 'lm', which is the token table again, or 'scalar'.
  """
  tables = (cfg.vocab_rows + cfg.context) * cfg.width
  biases = 3 * cfg.heads * cfg.head_size + cfg.width  # Attention's.
  biases += (cfg.mlp_ratio + 1) * cfg.width
  norms = 2 * cfg.width
  total = tables + layer_weights(cfg) + cfg.layers * (biases + 2 * norms)
  if head == 'scalar':
    vectors = 2 if cfg.reward_pooling == 'last_and_mean' else 1
    total += vectors * cfg.width + 1
  return total + norms


# -- FLOPs --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Flops:
  """FLOPs by where they are spent, over all devices.

  Attributes:
    weights: products with the layers' weights.
    attention: queries with keys, and probabilities with values.
    head: logits, or the scalar head.
  """

  weights: float
  attention: float
  head: float

  @property
  def total(self) -> float:
    return self.weights + self.attention + self.head

  def times(self, weights: float, attention: float, head: float) -> 'Flops':
    return Flops(
        weights * self.weights, attention * self.attention, head * self.head
    )


def forward(work: Work) -> Flops:
  """Model FLOPs of one forward over the rows of a call."""
  cfg = work.cfg
  length = work.tokens + work.new_tokens
  tokens = work.rows * length
  outputs = cfg.vocab_rows if work.head == 'lm' else 1
  # A decoder reads logits once a new token.
  positions = work.rows * (work.new_tokens or work.head_tokens)
  return Flops(
      weights=2.0 * tokens * layer_weights(cfg),
      attention=4.0 * tokens * cfg.layers * cfg.heads * cfg.head_size * length,
      head=2.0 * positions * cfg.width * outputs,
  )


def model_flops(work: Work) -> float:
  """Model FLOPs of a call's work, over all devices."""
  return forward(work).total * (3 if work.kind == 'train' else 1)


def visible_share(work: Work) -> float:
  """Of the T x T places of attention, the share that some token looks at.

  Causal: (T + 1) / 2T; in a banded layer of band w: (w T - w (w - 1) / 2) /
  T^2.
  """
  cfg, length = work.cfg, work.tokens + work.new_tokens
  causal = (length + 1) / (2 * length)
  if cfg.attention == 'dense':
    return causal
  band = min(cfg.band, length)
  banded = band / length - band * (band - 1) / (2 * length**2)
  odd_layers = cfg.layers // 2 / cfg.layers
  return causal * (1 - odd_layers) + banded * odd_layers


def hardware_flops(work: Work, kernel: str) -> float:
  """FLOPs that a program cannot do without, over all devices.

  Recomputation counts: of the forward under remat 'full' and 'offload' (but for
  the MLP's second product, whose result the backward pass does not read), of
  attention alone under 'dots' (it keeps products with weights), of logits where
  the likelihood is computed in chunks, and inside splash's backward pass (two
  kernels of 3 and 4 products where autodiff needs 4).

  Args:
    work: of a call.
    kernel: 'xla', 'splash' or 'cudnn', as `choose_kernel` settled it.
  """
  cfg, once = work.cfg, forward(work)
  splash = kernel == 'splash'
  # Only splash leaves out what is masked (and so does no more than this).
  seen = visible_share(work) if splash else 1.0
  if work.kind == 'forward':
    return once.times(1, seen, 1).total
  if work.kind == 'decode':
    return _decode_flops(work, splash)
  down = cfg.layers * cfg.mlp_ratio * cfg.width**2 / layer_weights(cfg)
  again = {'full': 1 - down, 'offload': 1 - down}.get(cfg.remat, 0.0)
  return once.times(
      3 + again,
      seen * _attention_passes(work, splash),
      4 if chunks(work) > 1 else 3,
  ).total


def _attention_passes(work: Work, splash: bool) -> float:
  """Of a network that is trained, in forward passes."""
  return 1 + (work.cfg.remat != 'none') + (3.5 if splash else 2.0)


def kernel_flops(work: Work, kernel: str) -> float:
  """Of `hardware_flops`, those that a Pallas kernel does, over all devices."""
  if kernel != 'splash':
    return 0.0
  if work.kind == 'decode':  # XLA does all but the prompts.
    work = dataclasses.replace(work, kind='forward', new_tokens=0)
  passes = _attention_passes(work, True) if work.kind == 'train' else 1.0
  return visible_share(work) * passes * forward(work).attention


def chunks(work: Work) -> int:
  """Parts that a row's logits are computed in."""
  if work.head != 'lm' or not work.head_tokens:
    return 1
  return math.ceil(work.head_tokens / (work.cfg.loss_chunk or work.head_tokens))


def _decode_flops(work: Work, splash: bool) -> float:
  """Prompts at once, then each token against every slot of the cache."""
  prompt = dataclasses.replace(work, new_tokens=0, head_tokens=0)
  read = forward(prompt)
  seen = visible_share(prompt) if splash else 1.0
  slots = work.tokens + work.new_tokens
  one = forward(dataclasses.replace(prompt, tokens=1, head_tokens=1))
  new = one.times(1, slots + 1, 1).total * work.new_tokens
  return read.times(1, seen, 1).total + new


# -- Whole runs ---------------------------------------------------------------


def step_flops(run: Run) -> float:
  """Model FLOPs of a training step, or of an iteration of PPO."""
  return sum(
      call.per_step * sum(model_flops(work) for work in call.works)
      for call in run.calls
  )


def petaflop_s_days(run: Run) -> float:
  """Model FLOPs of a whole run, in petaflop/s-days."""
  return run.steps * step_flops(run) / PETAFLOP_S_DAY
