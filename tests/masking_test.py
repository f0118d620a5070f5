# SPDX-License-Identifier: Apache-2.0
"""Masked reductions against plain numpy on the entries that are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import masking

# Jitted, because op by op every new shape compiles every op.
masked_sum = jax.jit(masking.masked_sum)
masked_mean = jax.jit(masking.masked_mean)
masked_var = jax.jit(masking.masked_var)
whiten = jax.jit(masking.whiten, static_argnames='shift_mean')


def _values_and_mask(seed, shape=(4, 7)):
  rng = np.random.default_rng(seed)
  x = rng.normal(3.0, 2.0, shape).astype(np.float32)
  return x, rng.random(shape) < 0.6


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('shape', [(9,), (4, 7), (2, 3, 5)])
def test_reductions_equal_numpy_on_the_kept_entries(seed, shape):
  x, mask = _values_and_mask(seed, shape)
  kept = x[mask]
  np.testing.assert_allclose(masked_sum(x, mask), kept.sum(), rtol=1e-5)
  np.testing.assert_allclose(masked_mean(x, mask), kept.mean(), rtol=1e-5)
  # numpy's var divides by n, as a biased variance does.
  np.testing.assert_allclose(masked_var(x, mask), kept.var(), rtol=1e-5)


def test_reductions_by_hand():
  x = np.array([[1.0, 3.0, 100.0], [8.0, 100.0, 100.0]])
  mask = np.array([[True, True, False], [True, False, False]])
  # 1 + 3 + 8 = 12; over 3 entries 4; (9 + 1 + 16) / 3 = 26 / 3.
  assert masked_sum(x, mask) == 12.0
  assert masked_mean(x, mask) == 4.0
  np.testing.assert_allclose(masked_var(x, mask), 26 / 3, rtol=1e-6)


def test_nothing_kept_is_zero():
  x = np.full((2, 3), np.inf, np.float32)
  mask = np.zeros((2, 3), bool)
  assert masked_sum(x, mask) == 0.0
  assert masked_mean(x, mask) == 0.0


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_what_is_masked_cannot_leak(bad):
  x, mask = _values_and_mask(0)
  poisoned = np.where(mask, x, bad).astype(np.float32)
  for function in (
      masked_sum,
      masked_mean,
      masked_var,
      whiten,
  ):
    np.testing.assert_array_equal(function(poisoned, mask), function(x, mask))


def test_sums_are_taken_in_f32():
  # 4096 ones: bf16 has 8 bits of mantissa and would stop counting at 256.
  x = jnp.ones(4096, jnp.bfloat16)
  mask = np.ones(4096, bool)
  total = masked_sum(x, mask)
  assert total.dtype == jnp.float32
  assert total == 4096.0


def test_gradient_of_mean_is_one_over_count_under_the_mask():
  x, mask = _values_and_mask(1)
  grad = jax.jit(jax.grad(masked_mean))(x, mask)
  np.testing.assert_allclose(grad, mask / mask.sum(), rtol=1e-6)


def test_whitening_uses_the_biased_variance():
  # Kept: 1, 2, 3, 6. Mean 3; biased variance (4 + 1 + 0 + 9) / 4 = 3.5 (the
  # unbiased one would be 14 / 3).
  x = np.array([[1.0, 2.0, 77.0], [3.0, 6.0, -5.0]])
  mask = np.array([[True, True, False], [True, True, False]])
  want = np.array([[-2.0, -1.0, 0.0], [0.0, 3.0, 0.0]]) / np.sqrt(3.5)
  np.testing.assert_allclose(whiten(x, mask), want, rtol=1e-5)
  # The mean put back, but still nothing outside the mask.
  want = np.where(mask, want + 3.0, 0.0)
  np.testing.assert_allclose(whiten(x, mask, shift_mean=False), want, rtol=1e-5)


@pytest.mark.parametrize('shift_mean', [True, False])
def test_whitened_moments(shift_mean):
  x, mask = _values_and_mask(2)
  white = np.asarray(whiten(x, mask, shift_mean=shift_mean))
  mean = 0.0 if shift_mean else x[mask].mean()
  np.testing.assert_allclose(white[mask].mean(), mean, atol=1e-5)
  np.testing.assert_allclose(white[mask].var(), 1.0, rtol=1e-5)
  assert not white[~mask].any()


def test_whitening_of_a_constant_stays_finite():
  x = np.full((2, 3), 5.0, np.float32)
  mask = np.ones((2, 3), bool)
  np.testing.assert_array_equal(whiten(x, mask), np.zeros((2, 3)))
  np.testing.assert_array_equal(whiten(x, mask, shift_mean=False), x)


def test_is_in():
  tokens = np.array([[0, 1, 2], [3, 1, 0]])
  np.testing.assert_array_equal(
      masking.is_in(jnp.asarray(tokens), (1, 3)),
      [[False, True, False], [True, True, False]],
  )


def test_last_index():
  mask_BT = np.array(
      [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool
  )
  index = masking.last_index(jnp.asarray(mask_BT))
  assert index.dtype == jnp.int32
  np.testing.assert_array_equal(index, [1, 3, 2, 0])
