# SPDX-License-Identifier: Apache-2.0
"""Weights in 16 bits give what the f32 master weights give, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm
from rlhf import sampling
from tests import tiny

B, T = 3, 12
TOKENS_BT = np.random.default_rng(0).integers(1, 40, (B, T)).astype(np.int32)
IDS_BT = np.stack([
    np.repeat([1, 2, 0], [5, 4, 3]),
    np.ones(T),
    np.repeat([0, 1], [4, 8]),
]).astype(np.int32)


@pytest.fixture
def networks(make_cfg, make_params):
  """A bf16 config, its f32 parameters, and the same cast."""
  cfg = make_cfg(dtype='bfloat16', attention='alternating', vocab_multiple=16)
  params = make_params(cfg)
  key = jax.random.key(0)
  head = jax.tree.map(lambda x: x + 0.3, lm.init_scalar_head(key, cfg))
  params = params | {'scalar_head': head}
  return cfg, params, lm.cast_weights(params, cfg)


def test_what_is_computed_in_f32_stays_f32(networks, make_cfg):
  _, params, cast = networks
  assert jax.tree.structure(cast) == jax.tree.structure(params)
  kept = set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(cast):
    names = [entry.key for entry in path]
    if leaf.dtype == jnp.float32:
      kept.add(names[0] if names[0] != 'layers' else names[1])
    else:
      assert leaf.dtype == jnp.bfloat16
      # Otherwise the comparisons below compare nothing.
      master = functools.reduce(lambda tree, name: tree[name], names, params)
      assert np.any(np.float32(leaf) != master)
  assert kept == {'attention_norm', 'mlp_norm', 'final_norm', 'scalar_head'}
  # In f32 there is nothing to cast.
  tiny.assert_same(lm.cast_weights(params, make_cfg()), params)


def test_forward_logits_and_scalars_are_the_same_bits(networks):
  cfg, params, cast = networks

  @jax.jit
  def run(params):
    x_BTD = lm.forward(params, TOKENS_BT, IDS_BT, cfg)
    scalars_BT = lm.scalars(params, x_BTD, IDS_BT, IDS_BT > 0)
    return x_BTD, lm.lm_logits(params, x_BTD, cfg), scalars_BT

  got, want = run(cast), run(params)
  assert [x.dtype for x in got] == [jnp.bfloat16, jnp.float32, jnp.float32]
  tiny.assert_same(got, want)


@pytest.mark.parametrize('temperature', [0.0, 0.8])
def test_the_sampler_draws_the_same_tokens(networks, temperature):
  cfg, params, cast = networks
  how = sampling.SamplingConfig(
      max_tokens=8, stop_tokens=(3,), temperature=temperature
  )
  generate = jax.jit(
      functools.partial(sampling.generate, cfg=cfg, sampling=how)
  )
  # Left-padded.
  mask_BP = np.arange(T)[None] >= np.array([[0], [3], [7]])
  got, want = [
      generate(weights, TOKENS_BT, mask_BP, jax.random.key(4))
      for weights in (cast, params)
  ]
  tiny.assert_same(got, want)
  # It is not one token all the time.
  assert len(np.unique(want.tokens_BR)) > 3
