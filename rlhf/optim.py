# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules, Adam with either epsilon, decay mask, EMA."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf.dims import Params


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Everything about the optimizer; a config's `optimizer` section.

  Attributes:
    learning_rate: peak.
    schedule: 'cosine' and 'linear' fall to `final_fraction` of the peak over
      `total_steps`; 'constant' stays.
    warmup_steps: updates of linear warm-up from `warmup_from` of the peak.
    warmup_from: fraction of the peak at the first update.
    final_fraction: of the peak, at the end.
    total_steps: updates in the run; the stage fills it in.
    b1, b2, eps: Adam's.
    eps_form: 'optax' adds eps to sqrt(v / (1 - b2^t)); 'tensorflow' adds it to
      sqrt(v), outside the bias correction, as OpenAI's reference code does: the
      same number acts 1 / sqrt(1 - b2^t) times stronger early in training.
    weight_decay: decoupled, on kernels only (see `decays`).
    clip_norm: global gradient norm above which gradients are scaled; 0 is off.
  """

  learning_rate: float
  schedule: Literal['constant', 'cosine', 'linear'] = 'constant'
  warmup_steps: int = 0
  warmup_from: float = 0.0
  final_fraction: float = 0.1
  total_steps: int = 0
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  eps_form: Literal['optax', 'tensorflow'] = 'optax'
  weight_decay: float = 0.0
  clip_norm: float = 1.0


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
  """The schedule `update count -> learning rate`.

  Raises:
    ValueError: for an unknown schedule, or one that falls over no steps.
  """
  peak = config.learning_rate
  if config.schedule != 'constant' and config.total_steps <= 0:
    raise ValueError(
        f'optimizer.schedule={config.schedule!r} needs total_steps > 0,'
        f' got {config.total_steps}'
    )
  rest = max(config.total_steps - config.warmup_steps, 1)
  if config.schedule == 'cosine':
    main = optax.cosine_decay_schedule(peak, rest, config.final_fraction)
  elif config.schedule == 'linear':
    main = optax.linear_schedule(peak, peak * config.final_fraction, rest)
  elif config.schedule == 'constant':
    main = optax.constant_schedule(peak)
  else:
    raise ValueError(
        f'optimizer.schedule={config.schedule!r}: want constant, cosine, linear'
    )
  if not config.warmup_steps:
    return main
  warmup = optax.linear_schedule(
      peak * config.warmup_from, peak, config.warmup_steps
  )
  return optax.join_schedules([warmup, main], [config.warmup_steps])


def decays(params: Params) -> Params:
  """True for what weight decay acts on: products, not biases, norms or tables.

  Decided by name (see rlhf/model/transformer.py): a leaf called 'kernel'.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, _: getattr(path[-1], 'key', None) == 'kernel', params
  )


def scale_by_tensorflow_adam(
    b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
  """Adam's direction with epsilon where TensorFlow 1 puts it.

    update = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)

  Kingma and Ba 2015, the remark before section 2.1 ("epsilon hat"); used by
  OpenAI's RLHF code, and needed to match its early curves (detail 37).
  """

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

  def update(updates, state, params=None):
    del params
    mu = optax.tree.update_moment(updates, state.mu, b1, 1)
    nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
    count = optax.safe_increment(state.count)
    t = jnp.asarray(count, jnp.float32)
    step = jnp.sqrt(1.0 - b2**t) / (1.0 - b1**t)
    direction = jax.tree.map(
        lambda m, v: step * m / (jnp.sqrt(v) + eps), mu, nu
    )
    return direction, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformation(init, update)


class Optimizer(NamedTuple):
  """An optax transformation that tells its learning rate.

  Attributes:
    init, update: as of an `optax.GradientTransformation`.
    learning_rate: of the update after so many.
  """

  init: Callable
  update: Callable
  learning_rate: optax.Schedule


# What an update is made by; only an `Optimizer` logs its learning rate.
Transformation = Optimizer | optax.GradientTransformation


def optimizer(config: OptimizerConfig) -> Optimizer:
  """Clipping, Adam, decoupled decay on matrices, learning rate, in order."""
  forms = {
      'optax': lambda b1, b2, eps: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
      'tensorflow': scale_by_tensorflow_adam,
  }
  if config.eps_form not in forms:
    raise ValueError(
        f'optimizer.eps_form={config.eps_form!r}: want optax or tensorflow'
    )
  parts = []
  if config.clip_norm:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  parts.append(forms[config.eps_form](config.b1, config.b2, config.eps))
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=decays))
  schedule = learning_rate(config)
  parts.append(optax.scale_by_learning_rate(schedule))
  return Optimizer(*optax.chain(*parts), schedule)


def move_average(average: Params, params: Params, decay: float) -> Params:
  """Exponential moving average: `decay * average + (1 - decay) * params`."""
  return optax.incremental_update(params, average, 1.0 - decay)
