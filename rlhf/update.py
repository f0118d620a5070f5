# SPDX-License-Identifier: Apache-2.0
"""One update, for every stage of the paper.

SFT, the reward model, the policy and the value function differ in what they
minimise: a tuple of `Term`s. PPO-ptx is two of them, the clipped policy loss
and gamma times the language loss on pretraining text: their gradients are
computed one after the other, added, and applied in *one* optimizer step
(Ouyang et al. 2022, section 3.4 and appendix C.4). Two steps would be another
algorithm, since Adam forgets the scale of what it is given, gamma included.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from rlhf import sharding
from rlhf.dims import Batch, LossFn, Metrics, Params
from rlhf.optim import Optimizer, Transformation, move_average


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that one network's training changes; arrays only.

  Attributes:
    step: int32 scalar, completed optimizer steps.
    params: f32 master weights.
    opt_state: the optimizer's.
    ema: moving average of `params`, or None where none is kept.
    skipped: int32 scalar, updates that were left out because they were not
      finite.
  """

  step: jax.Array
  params: Params
  opt_state: optax.OptState
  ema: Params | None
  skipped: jax.Array


@dataclasses.dataclass(frozen=True)
class Term:
  """One summand of an objective.

  Attributes:
    name: prefix of its metrics, and its key in the batch.
    loss: `(params, batch, key) -> (scalar, metrics)`, a mean over
      `metrics['weight']` things (tokens, prompts).
    coefficient: what it is multiplied by (1, or the paper's gamma).
    micro_batches: above 1, the leaves of its batch have a leading axis of this
      size, walked one at a time: gradient accumulation.
  """

  name: str
  loss: LossFn
  coefficient: float = 1.0
  micro_batches: int = 1


def split_batch(batch: Batch, micro_batches: int) -> Batch:
  """Cuts a batch's rows into micro-batches, along a new leading axis.

  Raises:
    ValueError: if they don't divide its rows.
  """
  if micro_batches == 1:
    return batch
  rows = jax.tree.leaves(batch)[0].shape[0]
  if rows % micro_batches:
    raise ValueError(
        f'micro_batches={micro_batches} does not divide a batch of {rows} rows'
    )
  return jax.tree.map(
      lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch
  )


def new_state(
    params: Params, tx: Transformation, *, ema: bool = False
) -> TrainState:
  """State before the first update."""
  # A copy, because the state is donated to the step that replaces it.
  average = jax.tree.map(jnp.copy, params) if ema else None
  return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=tx.init(params),
      ema=average,
      skipped=jnp.zeros((), jnp.int32),
  )


def gradient(
    term: Term, params: Params, batch: Batch, key: jax.Array
) -> tuple[Params, Metrics]:
  """Gradient of a term's loss (without its coefficient), and its metrics.

  Micro-batches are weighed by what their means are over, not counted: with
  unequal masks the result is still that of one big batch. Metrics are weighed
  alike, so one that is a mean over something else (the ranking loss's accuracy
  is over pairs, its weight is prompts) comes out near that of one big batch.
  """
  grad_fn = jax.grad(term.loss, has_aux=True)
  if term.micro_batches == 1:
    return grad_fn(params, batch, key)

  def accumulate(total, index_and_micro_batch):
    index, micro_batch = index_and_micro_batch
    micro_key = jax.random.fold_in(key, index)
    grads, metrics = grad_fn(params, micro_batch, micro_key)
    weight = metrics.pop('weight')
    # A metric is a mean, so it accumulates as the gradient does.
    weighted = jax.tree.map(lambda x: weight * x, (grads, metrics))
    return jax.tree.map(jnp.add, total, (weighted, weight)), None

  first = jax.tree.map(lambda x: x[0], batch)
  grads, metrics = jax.eval_shape(grad_fn, params, first, key)
  metrics.pop('weight')
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
  indices = jnp.arange(term.micro_batches)
  (sums, weight), _ = jax.lax.scan(
      accumulate, (zeros, jnp.zeros(())), (indices, batch)
  )
  grads, metrics = jax.tree.map(lambda x: x / jnp.maximum(weight, 1.0), sums)
  return grads, metrics | {'weight': weight}


def train_step(
    state: TrainState,
    batch: dict[str, Batch],
    key: jax.Array,
    *,
    terms: tuple[Term, ...],
    tx: Transformation,
    ema_decay: float | None = None,
    freeze: bool = True,
) -> tuple[TrainState, Metrics]:
  """One optimizer step on `sum_i coefficient_i * loss_i`.

  An update with a loss, a gradient or a new value that is not finite is left
  out: the state stays what it was, and `skipped` counts it.

  Args:
    state: before the update; donated by whoever jits this.
    batch: a batch for each term, by the term's name.
    key: the run's key. Folding in the step makes a resumed run draw the numbers
      of an unbroken one.
    terms: the objective.
    tx: from `optim.optimizer`.
    ema_decay: of the moving average, moved once an optimizer step; None if
      the state keeps none.
    freeze: after an update that was left out, leave out all that follow:
      whoever learns of it late still finds the state that it happened to.

  Returns:
    The state after the update, and metrics: each term's under its name, with
    the norm of its own (scaled) gradient when there are several, and 'opt/...'.

  Raises:
    ValueError: if a decay comes without an average, or the other way round.
  """
  if (ema_decay is None) != (state.ema is None):
    raise ValueError(
        f'ema_decay={ema_decay} but the state keeps'
        f' {"no" if state.ema is None else "a"} moving average'
    )
  key = jax.random.fold_in(key, state.step)
  total, metrics = None, {}
  finite = jnp.asarray(True)
  for index, term in enumerate(terms):
    term_key = jax.random.fold_in(key, index)
    grads, term_metrics = gradient(
        term, state.params, batch[term.name], term_key
    )
    finite &= jnp.isfinite(term_metrics.get('loss', 0.0))
    # A literal 1 must not cost a pass over the parameters.
    if term.coefficient != 1.0:
      grads = jax.tree.map(lambda g, c=term.coefficient: c * g, grads)
    if len(terms) > 1:
      term_metrics = term_metrics | {'grad_norm': optax.tree.norm(grads)}
    total = grads if total is None else jax.tree.map(jnp.add, total, grads)
    metrics |= {f'{term.name}/{k}': v for k, v in term_metrics.items()}

  assert total is not None, 'an objective needs a term'
  updates, opt_state = tx.update(total, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  ema = state.ema
  if ema_decay is not None:
    ema = move_average(ema, params, ema_decay)
  metrics |= {
      'opt/grad_norm': optax.tree.norm(total),
      'opt/update_norm': optax.tree.norm(updates),
  }
  if isinstance(tx, Optimizer):
    metrics['opt/learning_rate'] = tx.learning_rate(state.step)
  finite &= jnp.isfinite(metrics['opt/grad_norm'])
  finite &= jnp.isfinite(metrics['opt/update_norm'])
  if freeze:
    finite &= state.skipped == 0
  after = TrainState(state.step + 1, params, opt_state, ema, state.skipped)
  left_out = dataclasses.replace(state, skipped=state.skipped + 1)
  state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), after, left_out
  )
  return state, metrics | {'opt/skipped': state.skipped}


def create_state(
    params: Params,
    tx: Transformation,
    mesh: jax.sharding.Mesh,
    *,
    ema: bool = False,
    spread: Sequence[str] = sharding.SPREAD,
) -> TrainState:
  """`new_state`, made sharded: no device ever holds the whole of it.

  `params` are copied, so that they stay good after the state is donated.
  """

  def make(params):
    return new_state(jax.tree.map(jnp.copy, params), tx, ema=ema)

  where = sharding.shardings(jax.eval_shape(make, params), mesh, spread)
  return jax.jit(sharding.under(mesh, make), out_shardings=where)(params)


def compile_step(
    state: TrainState,
    mesh: jax.sharding.Mesh,
    *,
    terms: tuple[Term, ...],
    tx: Transformation,
    ema_decay: float | None = None,
    freeze: bool = True,
    spread: Sequence[str] = sharding.SPREAD,
) -> jax.stages.Wrapped:
  """`train_step` for a mesh: the only place where an update is jitted.

  The old state's memory is reused for the new one. Batches come as
  `sharding.put_batch` places them. `state` may be shapes alone: a plan compiles
  the program without ever making one.

  Returns:
    The jitted `(state, batch, key) -> (state, metrics)`; metrics are the same
    on every device.
  """
  where = sharding.shardings(state, mesh, spread)
  step = functools.partial(
      train_step, terms=terms, tx=tx, ema_decay=ema_decay, freeze=freeze
  )
  return jax.jit(
      sharding.under(mesh, step),
      in_shardings=(where, None, None),
      out_shardings=(where, sharding.replicated(mesh)),
      donate_argnums=0,
  )
