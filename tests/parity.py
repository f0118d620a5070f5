# SPDX-License-Identifier: Apache-2.0
"""The method on one mesh, as numbers that tests/parity_test.py compares.

`numbers(variant)` takes three steps of SFT, of the reward model and of PPO-ptx
through the stages' own programs, and returns all that comes of them as numpy
arrays by name, 'stage/kind/leaf':

  sft/gradient/layers/mlp/up/kernel      of the first step, as Adam got it
  rm/params/scalar_head/bias             after the third
  policy/metrics/policy/loss             of the three steps, [3]
  rollout/same/greedy/tokens             to be equal, not merely close

Everything in PPO hangs on what came before it on the same mesh: the rollout's
tokens, their scores and advantages, the shuffled minibatches, the steps.

  python -m tests.parity FOLDER mixed data     # writes mixed.npz and data.npz
  python -m tests.parity FOLDER mixed PORT I   # host I of 2: mixed_I.npz
"""

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rlhf import experience as experience_lib
from rlhf import hosts, optim, sharding, update
from rlhf.data import batches, packing
from rlhf.sampling import SamplingConfig
from rlhf.stages import ppo_programs, reward
from rlhf.stages import setup as setup_lib
from rlhf.stages.sft import language_term
from tests import on_mesh, tiny

DEVICES = 8
STEPS = 3
# Heads, widths and the rows of the table (not its 31 tokens) divide by 8.
CFG = dataclasses.replace(
    tiny.CFG, width=32, heads=8, head_size=4, vocab_multiple=32
)
REWARD_CFG = dataclasses.replace(CFG, reward_pooling='last_and_mean')
_ROWS, _ROW_TOKENS = 16, 16
_EPISODES, _PROMPT, _RESPONSE = 48, 8, 8
_OPTIMIZER = dict(learning_rate=1e-2, b1=0.9, b2=0.95, eps=1e-3)


@dataclasses.dataclass(frozen=True)
class Variant:
  """A mesh, and choices that must not change what is computed.

  Attributes:
    mesh: sizes of its axes.
    remat, loss_chunk: of the model.
    micro_batches, score_rows, rollout_tensor: of PPO.
    spread: the axes that reference and reward model are spread over.
  """

  mesh: dict[str, int]
  remat: Any = 'none'
  loss_chunk: int = 0
  micro_batches: int = 1
  score_rows: int = 0
  rollout_tensor: int = 0
  spread: tuple[str, ...] = sharding.SPREAD


VARIANTS = {
    'one': Variant({}),
    'data': Variant({'data': 8}, rollout_tensor=8),
    'fsdp': Variant({'fsdp': 8}, remat='full', loss_chunk=6, rollout_tensor=2),
    'tensor': Variant({'tensor': 8}, remat='dots', score_rows=24),
    'mixed': Variant(
        {'data': 2, 'fsdp': 2, 'tensor': 2},
        remat='full',
        loss_chunk=4,
        micro_batches=2,
        score_rows=24,
        rollout_tensor=1,
        spread=('tensor',),
    ),
    'sequence': Variant(
        {'data': 2, 'tensor': 2, 'sequence': 2}, loss_chunk=4, rollout_tensor=4
    ),
}


def numbers(variant: Variant) -> dict[str, np.ndarray]:
  """All results on a mesh; checks on the way that it is put to use."""
  mesh = sharding.make_mesh(variant.mesh)
  return dict(_named({
      'sft': _sft(variant, mesh),
      'rm': _reward_model(variant, mesh),
      **_ppo(variant, mesh),
  }))


def _named(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield sharding.path_name(path), np.asarray(leaf)


# -- Batches, the same in every process ---------------------------------------


def _text(rng, rows):
  tokens = rng.integers(0, tiny.EOS + 1, (rows, _ROW_TOKENS)).astype(np.int32)
  lengths = rng.integers(4, _ROW_TOKENS + 1, (rows, 1))
  index = np.arange(_ROW_TOKENS)[None]
  real = index < lengths
  return batches.TextBatch(
      np.where(real, tokens, CFG.pad_id),
      real.astype(np.int32),
      real & (index > 0),
  )


def _rankings(rng):
  """Eight rankings of 2 to 9 responses, with ties, packed into 24 rows."""

  def ids(low, high):
    return rng.integers(0, tiny.EOS, rng.integers(low, high)).astype(np.int32)

  # No two of a prompt's responses are the same: their order would be chance.
  rankings = [
      (
          ids(3, 6),
          [np.append(ids(1, 5), np.int32(i)) for i in range(k)],
          rng.integers(0, 3, k),
      )
      for k in (4, 9, 2, 5, 4, 7, 3, 6)
  ]
  return packing.pack_rankings(
      [[len(prompt) + len(r) for r in rs] for prompt, rs, _ in rankings],
      [ranks for _, _, ranks in rankings],
      lambda b: rankings[b][:2],
      24,
      16,
      8,
      9,
      CFG.pad_id,
  )


def _prompts(rng):
  index = np.arange(_PROMPT)[None]
  mask_BP = index >= rng.integers(0, _PROMPT - 1, (_EPISODES, 1))
  tokens_BP = rng.integers(0, tiny.EOS, mask_BP.shape)
  tokens_BP = np.where(mask_BP, tokens_BP, CFG.pad_id).astype(np.int32)
  return batches.PromptBatch(tokens_BP, mask_BP)


# -- The stages ---------------------------------------------------------------


def _train(state, step, steps, key, mesh) -> dict[str, Any]:
  """Takes a step on each batch of `steps`; what the moments say, and the end.

  Adam's first moment is (1 - b1) times the gradient after the first step, the
  very gradient that the compiled program applied.
  """
  where = jax.tree.map(lambda x: x.sharding, state)
  on_mesh.assert_spread_out(state.params, mesh)
  on_mesh.assert_spread_out(state.opt_state, mesh)
  first, seen = None, []
  for batch in steps:
    state, metrics = step(state, batch, key)
    # Meshes of fake devices dead-lock when many steps are in flight.
    jax.block_until_ready(state)
    seen.append(sharding.fetch(metrics))
    if first is None:
      first = on_mesh.whole(_adam(state).mu, mesh)
  assert len(seen) == STEPS
  assert jax.tree.map(lambda x: x.sharding, state) == where
  results = {
      'params': state.params,
      'mu': _adam(state).mu,
      'nu': _adam(state).nu,
  }
  if state.ema is not None:
    on_mesh.assert_spread_out(state.ema, mesh)
    results['ema'] = state.ema
  return on_mesh.whole(results, mesh) | {
      'metrics': {k: np.stack([m[k] for m in seen]) for k in seen[0]},
      'gradient': jax.tree.map(lambda m: m / (1 - _OPTIMIZER['b1']), first),
  }


def _adam(state):
  return next(part for part in state.opt_state if hasattr(part, 'mu'))


def _run_config(cfg, variant):
  return dataclasses.replace(
      cfg, remat=variant.remat, loss_chunk=variant.loss_chunk
  )


def _sft(variant, mesh):
  """With the paper's dropout: its masks must not hang on the mesh."""
  cfg = dataclasses.replace(_run_config(CFG, variant), dropout=0.2)
  rng = np.random.default_rng(0)
  tx = optim.optimizer(optim.OptimizerConfig(**_OPTIMIZER))
  params, _ = tiny.network(1, cfg=cfg)
  state = update.create_state(on_mesh.place(params, mesh), tx, mesh)
  step = update.compile_step(
      state, mesh, terms=(language_term('sft', cfg),), tx=tx
  )
  steps = [{'sft': on_mesh.put(_text(rng, _ROWS), mesh)} for _ in range(STEPS)]
  return _train(state, step, steps, on_mesh.key(0, mesh), mesh)


def _reward_model(variant, mesh):
  cfg = _run_config(REWARD_CFG, variant)
  rng = np.random.default_rng(1)
  tx = optim.optimizer(
      optim.OptimizerConfig(**_OPTIMIZER, eps_form='tensorflow')
  )
  params, _ = tiny.network(2, head='last_and_mean', cfg=cfg)
  state = update.create_state(on_mesh.place(params, mesh), tx, mesh, ema=True)
  step = update.compile_step(
      state, mesh, terms=(reward.ranking_term(cfg),), tx=tx, ema_decay=0.9
  )
  steps = [{'rm': on_mesh.put(_rankings(rng), mesh)} for _ in range(STEPS)]
  return _train(state, step, steps, on_mesh.key(0, mesh), mesh)


def _ppo_config(variant):
  config = tiny.config('ppo_ptx', pathlib.Path('nowhere')).unlock()
  config.data.update(
      prompt_tokens=_PROMPT,
      response_tokens=_RESPONSE,
      row_tokens=_PROMPT + _RESPONSE,
      ptx_row_tokens=_ROW_TOKENS,
  )
  config.ppo.update(
      episodes=_EPISODES,
      batch=_EPISODES,
      minibatches=STEPS,
      ptx_ratio=1,
      ema_decay=0.9,
      # Some responses are cut.
      missing_eos_score=-1.0,
      micro_batches=variant.micro_batches,
      score_rows=variant.score_rows,
      rollout_tensor=variant.rollout_tensor,
  )
  config.ppo.spread.update(reference=variant.spread, reward=variant.spread)
  for name in ('optimizer', 'value_optimizer'):
    config[name].update(_OPTIMIZER, warmup_steps=0)
  return config


def _ppo(variant, mesh) -> dict[str, Any]:
  """A rollout, its scores, and a step on each of three minibatches."""
  config = _ppo_config(variant)
  cfgs = [_run_config(cfg, variant) for cfg in (CFG, REWARD_CFG)]
  policy_tx, value_tx = ppo_programs.optimizers(config)
  policy, _ = tiny.network(1, cfg=CFG)
  value, _ = tiny.network(3, head='last_and_mean', cfg=CFG)
  policy, value = [on_mesh.place(params, mesh) for params in (policy, value)]
  policy = update.create_state(policy, policy_tx, mesh, ema=True)
  value = update.create_state(value, value_tx, mesh)
  builds = {}
  for name, temperature in (('greedy', 0.0), ('drawn', 1.0)):
    builds[name] = ppo_programs.build(
        config,
        *cfgs,
        mesh,
        sampling=SamplingConfig(_RESPONSE, (tiny.EOS,), temperature),
        policy=policy,
        value=value,
    )
  experience, results = _rollout(builds, policy, value, cfgs, variant, mesh)

  programs, key = builds['drawn'], on_mesh.key(5, mesh)
  parts = programs.minibatches(experience, key)
  jax.block_until_ready(parts)
  stacked = variant.micro_batches > 1
  on_mesh.assert_rows_are_split(parts, mesh, stacked=stacked)
  rng = np.random.default_rng(3)
  rows = ppo_programs.ptx_rows(config)
  policy_steps = [
      {
          'policy': part,
          'ptx': on_mesh.put(_text(rng, rows), mesh, variant.micro_batches),
      }
      for part in parts
  ]
  value_steps = [{'value': part} for part in parts]
  return {
      'rollout': results,
      'policy': _train(policy, programs.policy_step, policy_steps, key, mesh),
      'value': _train(value, programs.value_step, value_steps, key, mesh),
  }


def _rollout(builds, policy, value, cfgs, variant, mesh):
  """The experience of what is drawn at 1, and its numbers, on the mesh."""
  results, samples = {'same': {}, 'values': {}}, None
  prompts = _prompts(np.random.default_rng(2))
  for name, programs in builds.items():
    samples = _generate(programs, policy.params, prompts, on_mesh.key(4, mesh))
    whole = on_mesh.whole(samples, mesh)
    results['same'][name] = {
        'tokens': whole.tokens_BR,
        'mask': whole.mask_BR,
        'finished': whole.finished,
    }
    results['values'][f'{name}_log_probs'] = whole.log_probs_BR
  # Networks of their own: as copies of policy and value, as which they begin,
  # they would hide a KL that is wrong.
  reference, reward_model = [
      setup_lib.freeze(on_mesh.place(params, mesh), cfg, mesh, variant.spread)
      for params, cfg in zip(
          (
              tiny.network(4, cfg=CFG)[0],
              tiny.network(2, head='last_and_mean', cfg=CFG)[0],
          ),
          cfgs,
          strict=True,
      )
  ]
  on_mesh.assert_spread_out((reference, reward_model), mesh, variant.spread)
  networks = experience_lib.Networks(
      policy=policy.params,
      reference=reference,
      reward=reward_model,
      value=value.params,
  )
  placed = on_mesh.put(prompts, mesh)
  beta = jax.device_put(np.float32(0.1), sharding.replicated(mesh))
  experience, scores, metrics = builds['drawn'].score(
      networks, placed.tokens_BP, placed.mask_BP, samples, beta
  )
  jax.block_until_ready(experience)
  on_mesh.assert_rows_are_split(experience, mesh)
  whole, scores = on_mesh.whole((experience, scores), mesh)
  results['same']['segments'] = whole.segment_ids_BT
  results['values'] |= {
      'log_probs': whole.log_probs_BR,
      'values': whole.values_BR,
      'advantages': whole.advantages_BR,
      'returns': whole.returns_BR,
      'scores': scores,
  }
  results['metrics'] = sharding.fetch(metrics)
  return experience, results


def _generate(programs, params, prompts, key):
  """Responses, drawn where the rollout's mesh has the weights."""
  mesh = programs.rollout_mesh
  weights = programs.lay_out(params)
  jax.block_until_ready(weights)
  on_mesh.assert_spread_out(weights, mesh, ('tensor',))
  placed = on_mesh.put(prompts, mesh)
  return jax.block_until_ready(
      programs.generate(weights, placed.tokens_BP, placed.mask_BP, key)
  )


# -- In a process of its own ---------------------------------------------------


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
  """`tiny.quick_compilation`, and less of it; before devices are asked for."""
  # XLA's fusion emitters are most of what is left. Later versions have no
  # others, and don't know the flag.
  if jax.__version_info__ < (0, 11):
    flags = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = f'{flags} --xla_cpu_use_fusion_emitters=false'
  with tiny.quick_compilation():
    yield


def main(folder: str, *rest: str) -> None:
  names, suffix, host = rest, '', contextlib.nullcontext()
  if rest[-1].isdigit():
    *names, port, index = rest
    host = hosts.joined(f'localhost:{port}', 2, int(index))
    suffix = f'_{index}'
  with quick_compilation(), host:
    for name in names:
      results = numbers(VARIANTS[name])
      np.savez(pathlib.Path(folder) / f'{name}{suffix}.npz', **results)


if __name__ == '__main__':
  main(*sys.argv[1:])
