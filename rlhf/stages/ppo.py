# SPDX-License-Identifier: Apache-2.0
"""Step 3: PPO and PPO-ptx against the reward model.

An iteration samples a batch of responses, scores it, and takes an optimizer
step of policy and value function on each minibatch (Ouyang et al. 2022,
section 3.4 and appendix C.4). Its three phases are three programs, timed apart.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlhf import advantages, checkpoint, loop, model, optim, sharding, update
from rlhf import experience as experience_lib
from rlhf.data import streams
from rlhf.dims import Metrics
from rlhf.experience import Experience
from rlhf.losses import clipped_policy_loss, clipped_value_loss
from rlhf.sampling import generate
from rlhf.stages import gate
from rlhf.stages import setup as setup_lib
from rlhf.stages.sft import language_term

# Of rows {prompt, response, finished}: the quality of each, float [rows].
Grade = Callable[[list[dict]], np.ndarray]


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


def policy_term(
    cfg: model.ModelConfig,
    *,
    clip: float,
    temperature: float,
    micro_batches: int = 1,
) -> update.Term:
  """The clipped policy loss of an `Experience`. Dropout is off in PPO."""

  def loss(params, batch: Experience, key):
    del key
    log_probs_BR = experience_lib.response_log_probs(
        params,
        batch.tokens_BT,
        batch.segment_ids_BT,
        cfg=cfg,
        response_tokens=batch.mask_BR.shape[1],
        temperature=temperature,
    )
    return clipped_policy_loss(
        log_probs_BR,
        batch.log_probs_BR,
        batch.advantages_BR,
        batch.mask_BR,
        clip=clip,
    )

  return update.Term('policy', loss, micro_batches=micro_batches)


def value_term(
    cfg: model.ModelConfig,
    *,
    clip: float,
    coefficient: float = 1.0,
    micro_batches: int = 1,
) -> update.Term:
  """The clipped value loss of an `Experience`."""

  def loss(params, batch: Experience, key):
    del key
    values_BR = experience_lib.response_values(
        params, batch.tokens_BT, batch.segment_ids_BT, batch.mask_BR, cfg=cfg
    )
    return clipped_value_loss(
        values_BR, batch.values_BR, batch.returns_BR, batch.mask_BR, clip=clip
    )

  return update.Term('value', loss, coefficient, micro_batches)


class Trainer:
  """The programs of PPO for one config, and the state they start from.

  A class only so that the notebook and the tests can call its parts; it holds
  nothing that changes. `rollout` and `learn` make up `iteration`.
  """

  def __init__(self, setup: setup_lib.Setup):
    config = setup.config
    gate.check_sizes(config)
    c = config.ppo
    self.setup, self.c = setup, c
    pad_id = setup.codec.vocabulary.pad_id
    self.prompts = streams.PromptStream(
        setup.examples('prompts', 'prompts', 'train'),
        batch_size=c.batch,
        length=config.data.prompt_tokens,
        pad_id=pad_id,
        seed=config.seed,
    )
    self.iterations = -(-c.episodes // c.batch)
    # What a policy at rollout, its reference and the RM hold never changes:
    # they stay as they were read. The trained copies are the states'.
    self.reference, self.policy_cfg = setup.load_model(config.init_from)
    self.reward, self.reward_cfg = setup.load_model(config.reward_model)
    minibatch = c.batch // c.minibatches
    self.ptx_rows = c.ptx_ratio * minibatch if c.ptx_coefficient else 0
    self.ptx = (
        setup.text_stream('train', self.ptx_rows, config.data.ptx_row_tokens)
        if self.ptx_rows
        else None
    )
    self.updates = self.iterations * c.minibatches * c.inner_epochs
    self._build()

  def _build(self):
    config, c, mesh = self.setup.config, self.c, self.setup.mesh
    policy_tx = optim.optimizer(
        setup_lib.optimizer_config(config.optimizer, self.updates)
    )
    value_tx = optim.optimizer(
        setup_lib.optimizer_config(config.value_optimizer, self.updates)
    )
    self.state = PPOState(
        policy=update.create_state(
            self.reference, policy_tx, mesh, ema=c.ema_decay is not None
        ),
        # The value function starts as the reward model (Paper, C.4).
        value=update.create_state(self.reward, value_tx, mesh),
        kl_coefficient=jax.device_put(
            jnp.float32(c.kl_coefficient), sharding.replicated(mesh)
        ),
    )
    self._policy_step = update.compile_step(
        self.state.policy,
        mesh,
        terms=self.policy_terms(),
        tx=policy_tx,
        ema_decay=c.ema_decay,
    )
    self._value_step = update.compile_step(
        self.state.value,
        mesh,
        terms=(
            value_term(
                self.reward_cfg,
                clip=c.value_clip,
                coefficient=c.value_coefficient,
                micro_batches=c.micro_batches,
            ),
        ),
        tx=value_tx,
    )
    self._generate = jax.jit(
        functools.partial(
            generate, cfg=self.policy_cfg, sampling=self.setup.sampling
        )
    )
    self._score = jax.jit(
        functools.partial(
            experience_lib.make_experience,
            policy_cfg=self.policy_cfg,
            reward_cfg=self.reward_cfg,
            config=experience_lib.ExperienceConfig(
                temperature=config.temperature,
                gamma=c.gamma,
                lam=c.gae_lambda,
                whiten_rewards=c.whiten_rewards,
                missing_eos_score=c.missing_eos_score,
            ),
        )
    )
    self._minibatches = jax.jit(
        functools.partial(
            experience_lib.minibatches,
            count=c.minibatches,
            micro_batches=c.micro_batches,
            whiten_advantages=c.whiten_advantages,
        )
    )

  def policy_terms(self) -> tuple[update.Term, ...]:
    """What the policy minimises: the clipped loss, and with gamma the ptx."""
    c = self.c
    policy = policy_term(
        self.policy_cfg,
        clip=c.clip,
        temperature=self.setup.config.temperature,
        micro_batches=c.micro_batches,
    )
    if self.ptx is None:
      return (policy,)
    # The mean is over tokens, and so is the policy loss's: gamma compares a
    # token of pretraining text with a token of a response.
    ptx = language_term(
        'ptx',
        self.policy_cfg,
        coefficient=c.ptx_coefficient,
        micro_batches=c.micro_batches,
        dropout=False,
    )
    return policy, ptx

  def rollout(self, state: PPOState, index: int):
    """Samples and scores the batch of an iteration.

    Returns:
      Experience, samples, scores [B], prompt texts, metrics (with the seconds
      of both phases).
    """
    start = time.monotonic()
    batch, texts = self.prompts.batch(index)
    batch = sharding.put_batch(batch, self.setup.mesh)
    key = jax.random.fold_in(self.setup.key, index)
    samples = self._generate(
        state.policy.params, batch.tokens_BP, batch.mask_BP, key
    )
    jax.block_until_ready(samples)
    generated = time.monotonic()
    networks = experience_lib.Networks(
        policy=state.policy.params,
        reference=self.reference,
        reward=self.reward,
        value=state.value.params,
    )
    experience, scores, metrics = self._score(
        networks, batch.tokens_BP, batch.mask_BP, samples, state.kl_coefficient
    )
    jax.block_until_ready(experience)
    seconds = {
        'time/generate': generated - start,
        'time/score': time.monotonic() - generated,
    }
    metrics = {f'rollout/{k}': v for k, v in metrics.items()}
    return experience, samples, scores, texts, metrics | seconds

  def learn(
      self, state: PPOState, experience: Experience, index: int
  ) -> tuple[PPOState, Metrics]:
    """Inner epochs over an experience: an optimizer step a minibatch."""
    key = jax.random.fold_in(self.setup.key, 2**20 + index)
    policy, value = state.policy, state.value
    train_policy = index >= self.c.value_warmup_iterations
    seen: list[Metrics] = []
    for epoch in range(self.c.inner_epochs):
      parts = self._minibatches(experience, jax.random.fold_in(key, epoch))
      for number, part in enumerate(parts):
        value, metrics = self._value_step(value, {'value': part}, key)
        metrics = {
            k.replace('opt/', 'value/'): v for k, v in metrics.items()
        }
        if train_policy:
          update_index = (
              index * self.c.inner_epochs + epoch
          ) * self.c.minibatches + number
          policy, policy_metrics = self._policy_step(
              policy, {'policy': part} | self._ptx_batch(update_index), key
          )
          metrics |= policy_metrics
          # Meshes of fake CPU devices dead-lock when many programs queue up.
          jax.block_until_ready(policy.step)
        seen.append(metrics)
    means = {
        k: jnp.mean(jnp.stack([m[k] for m in seen])) for k in sorted(seen[-1])
    }
    return dataclasses.replace(state, policy=policy, value=value), means

  def iteration(self, state: PPOState, index: int):
    """Generate, score, learn: `(state, metrics)`, and what was said."""
    experience, samples, scores, texts, metrics = self.rollout(state, index)
    start = time.monotonic()
    state, learnt = self.learn(state, experience, index)
    jax.block_until_ready(state)
    metrics |= learnt
    metrics['time/train'] = time.monotonic() - start
    metrics['kl_coefficient'] = state.kl_coefficient
    if self.c.adaptive_kl:
      controller = advantages.AdaptiveKL(**self.c.adaptive_kl)
      beta = controller(
          state.kl_coefficient, jnp.asarray(metrics['rollout/kl']), self.c.batch
      )
      state = dataclasses.replace(state, kl_coefficient=beta)
    return state, metrics, (samples, scores, texts)

  def _ptx_batch(self, index: int) -> dict:
    """Pretraining rows of an update: `ptx_ratio` for each episode in it."""
    if self.ptx is None:
      return {}
    batch = self.ptx.batch(index)
    return {'ptx': self.setup.put(batch, self.c.micro_batches)}

  def sample_rows(self, said, count: int = 4) -> list[dict]:
    """The first few completions of an iteration, with their scores."""
    samples, scores, texts = said
    drawn = (samples.tokens_BR, samples.mask_BR, samples.finished, scores)
    tokens_BR, mask_BR, finished, scores = jax.device_get(
        [x[:count] for x in drawn]
    )
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


def run(config: setup_lib.Config, *, grade: Grade | None = None) -> None:
  """Trains a policy against the reward model and hands on its average.

  Where a program can tell what a response is worth, `grade` logs its mean as
  'rollout/gold' beside the reward model's score; nothing is trained on it.
  """
  setup = setup_lib.make(config)
  gate.check_reward_model(config)
  trainer = Trainer(setup)
  said = None

  def step(state, index):
    nonlocal said
    state, metrics, said = trainer.iteration(state, index)
    if grade is not None:
      rows = trainer.sample_rows(said, config.ppo.batch)
      metrics['rollout/gold'] = np.mean(grade(rows))
    return state, metrics

  def evaluate(state, done):
    del state, done
    return loop.Evaluation({}, trainer.sample_rows(said))

  state = loop.run(
      config.run,
      trainer.state,
      step,
      steps=trainer.iterations,
      config=setup.loop,
      workdir=setup.workdir,
      headline=HEADLINE,
      evaluate=evaluate,
  )
  # The paper evaluates the moving average of the weights (appendix C.4).
  policy = state.policy
  params = policy.params if policy.ema is None else policy.ema
  facts = {
      'iterations': trainer.iterations,
      'updates': int(policy.step),
      'kl_coefficient': float(state.kl_coefficient),
  }
  directory = setup.workdir.path / 'model'
  checkpoint.save_model(directory, params, trainer.policy_cfg, facts)
  setup.workdir.write_json('results', facts)


HEADLINE = (
    'rollout/score',
    'rollout/gold',
    'rollout/kl',
    'rollout/length',
    'rollout/entropy',
    'rollout/explained_variance',
    'policy/clip_fraction',
    'ptx/loss',
    'time/generate',
    'time/score',
    'time/train',
)
