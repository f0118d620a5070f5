# SPDX-License-Identifier: Apache-2.0
"""A network small enough to differentiate with respect to everything."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm


@pytest.fixture(scope='session')
def make_cfg() -> Callable[..., lm.ModelConfig]:
  """`make_cfg(**changes)`: tiny, and heads * head_size is not its width."""

  def make(**changes):
    tiny = dict(
        layers=2,
        width=16,
        heads=2,
        head_size=6,
        context=32,
        vocab_size=40,
        pad_id=0,
        band=3,
        dtype='float32',
        remat='none',
    )
    return lm.ModelConfig(**(tiny | changes))

  return make


@pytest.fixture(scope='session')
def make_params() -> Callable[[lm.ModelConfig], dict]:
  """`make_params(cfg)`: no bias is zero and no scale one, so all of them count.

  The same for all configs of the same shapes.
  """

  def make(cfg):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
      size = np.asarray(rng.normal(size=leaf.shape), np.float32)
      return 1.0 + 0.3 * size if path[-1].key == 'scale' else 0.3 * size

    shapes = jax.eval_shape(lambda key: lm.init(key, cfg), jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return jax.tree.map(jnp.asarray, params)

  return make


@pytest.fixture(scope='session')
def forward() -> Callable[..., jax.Array]:
  """`lm.forward`, compiled once for each config and shape."""
  return jax.jit(lm.forward, static_argnums=3)
