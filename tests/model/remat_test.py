# SPDX-License-Identifier: Apache-2.0
"""What the forward pass keeps for the backward pass: the same, in less room.

tests/model/transformer_test.py compares them under dropout.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm
from rlhf import sharding
from tests import tiny

LAYERS, B, T = 3, 2, 16
TOKENS_BT = np.random.default_rng(0).integers(1, 40, (B, T)).astype(np.int32)
# The second row is padded.
ONES_BT = np.stack([np.ones(T), np.arange(T) > 4]).astype(np.int32)


@pytest.fixture
def problem(make_cfg, make_params):
  """`problem(remat)` is a loss of parameters, and those."""

  def make(remat):
    cfg = make_cfg(layers=LAYERS, attention='alternating', remat=remat)
    return functools.partial(_loss, cfg=cfg), make_params(cfg)

  return make


def _loss(params, cfg):
  x_BTD = lm.forward(params, TOKENS_BT, ONES_BT, cfg)
  return jnp.sum(jnp.sin(x_BTD))


def _kept(problem, remat):
  """Abstract values that the backward pass gets, those of every layer."""
  loss, params = problem(remat)
  jaxpr = jax.make_jaxpr(lambda params: jax.vjp(loss, params)[1])(params).jaxpr
  weights = set(jaxpr.invars)
  kept = [v.aval for v in jaxpr.outvars if v not in weights]
  return [a for a in kept if a.shape[:1] == (LAYERS,)]


def _elements(kept):
  return sum(int(np.prod(aval.shape)) for aval in kept)


def test_policies_have_one_loss_and_one_gradient(problem):
  """Where there is no host memory beside the device's, offload too."""
  want = None
  for remat in ('none', 'dots', 'full', 'offload'):
    loss, params = problem(remat)
    with tiny.quick_compilation():
      got = jax.device_get(jax.jit(jax.value_and_grad(loss))(params))
    want = want or got
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        got,
        want,
    )


def test_each_policy_keeps_what_it_says(problem, make_cfg):
  cfg = make_cfg()
  d, he, f = cfg.width, cfg.heads * cfg.head_size, cfg.mlp_ratio * cfg.width
  tokens = LAYERS * B * T
  small = LAYERS * B  # Leaves room for a scalar a layer.
  full = _kept(problem, 'full')
  assert [a.shape for a in full if a.size > LAYERS] == [(LAYERS, B, T, d)]
  # Results of products with weights: query, key, value, up; `down` only adds
  # to the residual, as `out` does, whose sum the second norm reads.
  dots = _elements(_kept(problem, 'dots'))
  products = tokens * (3 * he + f)
  assert products + tokens * d <= dots <= products + 3 * tokens * d + small
  # At least what attention looks at, for every head.
  none = _elements(_kept(problem, 'none'))
  assert none > dots + LAYERS * B * cfg.heads * T * T


def test_offload_keeps_each_layers_input_in_the_hosts_memory(problem, make_cfg):
  kept = [a for a in _kept(problem, 'offload') if a.size > LAYERS]
  assert [a.shape for a in kept] == [(LAYERS, B, T, make_cfg().width)]
  assert [a.memory_space for a in kept] == [jax.memory.Space.Host]
  for aval in _kept(problem, 'full'):
    assert aval.memory_space == jax.memory.Space.Device


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_offload_goes_forth_and_back_on_accelerators(problem, platform):
  """In what XLA is given for them. A CPU has one memory: nothing to do."""

  def placements(remat, platform):
    loss, params = problem(remat)
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    program = jax.jit(sharding.under(mesh, jax.grad(loss)))
    lowered = program.trace(params).lower(lowering_platforms=(platform,))
    return [
        'pinned_host' if '"pinned_host"' in line else 'device'
        for line in lowered.as_text().splitlines()
        if '@annotate_device_placement' in line
    ]

  # The forward scan sends, that of the backward pass fetches.
  assert placements('offload', platform) == ['pinned_host', 'device']
  assert placements('full', platform) == []
  assert placements('offload', 'cpu') == []
