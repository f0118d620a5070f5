# SPDX-License-Identifier: Apache-2.0
"""One iteration of PPO: generate, score, learn.

Three phases that are programs of their own (ppo_programs.py), timed apart.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf import (
  advantages,
  compilation,
  hosts,
  sharding,
  update,
)
from rlhf import experience as experience_lib
from rlhf.data import streams
from rlhf.data.ahead import Ahead
from rlhf.data.batches import PromptBatch
from rlhf.dims import Metrics
from rlhf.experience import Experience
from rlhf.sampling import Samples
from rlhf.stages import ppo_programs
from rlhf.stages import setup as setup_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PPOState:
  """Everything that PPO changes.

  Attributes:
    policy, value: two networks, each with an optimizer of its own.
    kl_coefficient: beta, f32 scalar; moves only under an adaptive controller.
  """

  policy: update.TrainState
  value: update.TrainState
  kl_coefficient: jax.Array


class Drawn(NamedTuple):
  """Responses, their scores [B], prompts' texts, and what was learnt from."""

  samples: Samples
  scores: jax.Array
  texts: Sequence[str]
  experience: Experience


class Trainer:
  """The programs of PPO for one config, and the state they start from.

  A class only so that the notebook and the tests can call its parts; it holds
  nothing that changes. `rollout` and `learn` make up `iteration`.
  """

  def __init__(self, setup: setup_lib.Setup):
    config = setup.config
    c = config.ppo
    self.setup, self.c = setup, c
    pad_id = setup.codec.vocabulary.pad_id
    self.prompts = streams.PromptStream(
        setup.examples('prompts', 'prompts', 'train'),
        batch_size=c.batch,
        lengths=streams.prompt_lengths(config.data),
        pad_id=pad_id,
        seed=config.seed,
        local=_local_prompts(setup),
    )
    self.iterations = ppo_programs.iterations(config)
    policy, self.policy_cfg = setup.start()
    reward, self.reward_cfg = setup.load_model(config.reward_model)
    self.ptx_rows = ppo_programs.ptx_rows(config)
    self.ptx = (
        setup.text_stream(
            'train',
            self.ptx_rows,
            config.data.ptx_row_tokens,
            c.ptx_micro_batches or c.micro_batches,
        )
        if self.ptx_rows
        else None
    )
    updates = self.iterations * c.inner_epochs * c.minibatches
    self._ptx_ahead = (
        Ahead(self.ptx.batch, updates, 'text') if self.ptx else None
    )
    policy_tx, value_tx = ppo_programs.optimizers(config)
    mesh = setup.mesh
    self.state = PPOState(
        policy=update.create_state(
            policy,
            policy_tx,
            mesh,
            ema=c.ema_decay is not None,
            spread=c.spread.policy,
        ),
        # The value function starts as the reward model (Paper, C.4).
        value=update.create_state(
            reward, value_tx, mesh, spread=c.spread.value
        ),
        kl_coefficient=jax.jit(
            lambda: jnp.float32(c.kl_coefficient),
            out_shardings=sharding.replicated(mesh),
        )(),
    )
    # What only reads needs no f32 copy.
    self.reference = setup_lib.freeze(
        policy, self.policy_cfg, mesh, c.spread.reference
    )
    self.reward = setup_lib.freeze(
        reward, self.reward_cfg, mesh, c.spread.reward
    )
    self.programs = ppo_programs.build(
        config,
        self.policy_cfg,
        self.reward_cfg,
        mesh,
        sampling=setup.sampling,
        policy=self.state.policy,
        value=self.state.value,
    )

  def compile_ahead(self) -> None:
    """Compiles the programs of an iteration, in their order."""
    for length in self.prompts.lengths:
      self._compile_for(self.prompts.example(length))

  def _compile_for(self, batch: PromptBatch) -> None:
    programs, state = self.programs, self.state
    mesh, key = self.setup.mesh, self.setup.key
    rows = self.c.rollout_rows or self.c.batch
    part = jax.tree.map(lambda x: x[:rows], batch)
    part = sharding.put_batch(part, programs.rollout_mesh)
    weights = compilation.ahead(
        'lay_out', programs.lay_out, state.policy.params
    )
    samples = compilation.ahead(
        'generate',
        programs.generate,
        weights,
        part.tokens_BP,
        part.mask_BP,
        jax.random.fold_in(key, 0),
    )
    samples = compilation.ahead(
        'join', programs.join, *[samples] * (self.c.batch // rows)
    )
    batch = sharding.put_batch(batch, mesh)
    experience, _, _ = compilation.ahead(
        'score',
        programs.score,
        self.networks(state),
        batch.tokens_BP,
        batch.mask_BP,
        samples,
        state.kl_coefficient,
    )
    part = compilation.ahead(
        'minibatches', programs.minibatches, experience, key
    )[0]
    compilation.ahead(
        'value_step', programs.value_step, state.value, {'value': part}, key
    )
    compilation.ahead(
        'policy_step',
        programs.policy_step,
        state.policy,
        {'policy': part} | self._ptx_batch(0),
        key,
    )

  def networks(self, state: PPOState) -> experience_lib.Networks:
    """The four networks that read a rollout."""
    return experience_lib.Networks(
        policy=state.policy.params,
        reference=self.reference,
        reward=self.reward,
        value=state.value.params,
    )

  def rollout(self, state: PPOState, index: int):
    """Samples and scores the batch of an iteration.

    Returns:
      Experience, samples, scores [B], prompt texts, metrics (with the seconds
      of both phases).
    """
    start = time.monotonic()
    batch, texts = self.prompts.batch(index)
    waited = time.monotonic() - start
    key = jax.random.fold_in(self.setup.key, index)
    samples = self._generate(state, batch, key)
    batch = sharding.put_batch(batch, self.setup.mesh)
    jax.block_until_ready(samples)
    generated = time.monotonic()
    networks = self.networks(state)
    experience, scores, metrics = self.programs.score(
        networks, batch.tokens_BP, batch.mask_BP, samples, state.kl_coefficient
    )
    jax.block_until_ready(experience)
    seconds = {
        'time/wait': waited,
        'time/generate': generated - start - waited,
        'time/score': time.monotonic() - generated,
    }
    metrics = {f'rollout/{k}': v for k, v in metrics.items()}
    return experience, samples, scores, texts, metrics | seconds

  def _generate(self, state: PPOState, batch: PromptBatch, key) -> Samples:
    """Responses to a host batch of prompts, `rollout_rows` at a time."""
    weights = self.programs.lay_out(state.policy.params)
    rows = self.c.rollout_rows or self.c.batch
    parts = []
    for start in range(0, self.c.batch, rows):
      part = jax.tree.map(lambda x, i=start: x[i : i + rows], batch)
      part = sharding.put_batch(part, self.programs.rollout_mesh)
      if start:
        # Its own numbers for each part; the first draws what a whole batch of
        # its size would.
        key = jax.random.fold_in(key, start)
      parts.append(
          self.programs.generate(weights, part.tokens_BP, part.mask_BP, key)
      )
    return self.programs.join(*parts)

  def learn(
      self, state: PPOState, experience: Experience, index: int
  ) -> tuple[PPOState, Metrics]:
    """Inner epochs over an experience: an optimizer step a minibatch."""
    key = jax.random.fold_in(self.setup.key, 2**20 + index)
    policy, value = state.policy, state.value
    train_policy = index >= self.c.value_warmup_iterations
    seen: list[Metrics] = []
    waited = 0.0
    for epoch in range(self.c.inner_epochs):
      parts = self.programs.minibatches(
          experience, jax.random.fold_in(key, epoch)
      )
      for number, part in enumerate(parts):
        value, metrics = self.programs.value_step(value, {'value': part}, key)
        metrics = {
            k.replace('opt/', 'value/'): v for k, v in metrics.items()
        }
        if train_policy:
          update_index = (
              index * self.c.inner_epochs + epoch
          ) * self.c.minibatches + number
          text = self._ptx_batch(update_index)
          waited += self._ptx_ahead.waited if self._ptx_ahead else 0.0
          policy, policy_metrics = self.programs.policy_step(
              policy, {'policy': part} | text, key
          )
          metrics |= policy_metrics
          # Meshes of fake CPU devices dead-lock when many programs queue up.
          jax.block_until_ready(policy.step)
        seen.append(metrics)
    means = {
        # Updates left out are counted up; all else is of each minibatch.
        k: (jnp.max if k.endswith('/skipped') else jnp.mean)(
            jnp.stack([m[k] for m in seen])
        )
        for k in sorted(seen[-1])
    }
    means['time/wait'] = jnp.float32(waited)
    return dataclasses.replace(state, policy=policy, value=value), means

  def position(self, done: int) -> dict[str, Any]:
    """Where the streams are after so many iterations."""
    streams = {'prompts': self.prompts.position(done)}
    if self.ptx:
      updates = done * self.c.inner_epochs * self.c.minibatches
      streams['text'] = self.ptx.position(updates)
    return streams

  @property
  def tokens(self) -> int:
    """That an iteration reads: rows of prompt and response, and of text."""
    data, c = self.setup.config.data, self.c
    rows = c.batch * (data.prompt_tokens + data.response_tokens)
    text_rows = self.ptx_rows * c.minibatches
    text = text_rows * data.ptx_row_tokens if text_rows else 0
    return c.inner_epochs * (rows + text)

  def iteration(self, state: PPOState, index: int):
    """Generate, score, learn: `(state, metrics, what was drawn)`."""
    experience, samples, scores, texts, metrics = self.rollout(state, index)
    start = time.monotonic()
    state, learnt = self.learn(state, experience, index)
    jax.block_until_ready(state)
    waited = float(learnt.pop('time/wait'))
    metrics |= learnt
    metrics['time/wait'] += waited  # For prompts, and for text.
    metrics['time/train'] = time.monotonic() - start - waited
    metrics['kl_coefficient'] = state.kl_coefficient
    if self.c.adaptive_kl:
      controller = advantages.AdaptiveKL(**self.c.adaptive_kl)
      before, kl = state.kl_coefficient, jnp.asarray(metrics['rollout/kl'])
      beta = controller(before, kl, self.c.batch)
      beta = jnp.where(jnp.isfinite(beta), beta, before)
      state = dataclasses.replace(state, kl_coefficient=beta)
    return state, metrics, Drawn(samples, scores, texts, experience)

  def _ptx_batch(self, index: int) -> dict:
    """Pretraining rows of an update: `ptx_ratio` for each episode in it."""
    if self._ptx_ahead is None:
      return {}
    batch = self._ptx_ahead(index)
    parts = self.c.ptx_micro_batches or self.c.micro_batches
    return {'ptx': self.setup.put(batch, parts)}

  def sample_rows(self, drawn: Drawn, count: int = 4) -> list[dict]:
    """The first few completions of an iteration, with their scores."""
    samples, texts = drawn.samples, drawn.texts
    arrays = samples.tokens_BR, samples.mask_BR, samples.finished, drawn.scores
    tokens_BR, mask_BR, finished, scores = [
        x[:count] for x in sharding.fetch(arrays)
    ]
    return [
        {
            'prompt': texts[i],
            'response': self.setup.codec.decode_response(
                tokens_BR[i][mask_BR[i]].tolist()
            ),
            'finished': bool(finished[i]),
            'score': float(scores[i]),
        }
        for i in range(len(scores))
    ]


def _local_prompts(setup: setup_lib.Setup) -> np.ndarray | None:
  """The prompts of a batch that this host needs, to answer them or to learn."""
  c = setup.config.ppo
  rows = c.rollout_rows or c.batch
  rollout_mesh = sharding.rollout_mesh(setup.mesh, c.rollout_tensor)
  answered = hosts.local_rows(rows, rollout_mesh)
  learnt = setup.local_rows(c.batch)
  if answered is None or learnt is None:
    return None
  return np.tile(answered, c.batch // rows) | learnt
