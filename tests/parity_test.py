# SPDX-License-Identifier: Apache-2.0
"""One device, eight, and two hosts of four devices each: the same numbers.

Everything that tests/parity.py computes is compared with one device's, in f32.
The measure, of each leaf by itself, is

  |x - y| / |y|,   the L2 norm over the leaf, y being one device's,

and it must be under 1e-5: sums in another order make about 1e-6. Losses and
other metrics are leaves of three numbers, one of each step. What is zero in
theory is only rounding errors, and measured against the L2 norm of all leaves
of its kind instead:

  gradients and moments of the keys' biases: a softmax doesn't see them;
  those of the reward model's bias and of the last norm's: comparisons don't;
  the sampler's distance from the training forward.

Gradients are those that the compiled step applied: Adam's first moment after
one step is (1 - b1) times the (clipped) gradient. Adam's epsilon is 1e-3: with
a smaller one its updates are made of the rounding errors of what is zero.
"""

import concurrent.futures

import numpy as np
import pytest

from tests import pair as pairs
from tests import parity

BOUND = 1e-5
STAGES = ('sft', 'rm', 'rollout', 'policy', 'value')
MESHES = [name for name in parity.VARIANTS if name != 'one']

# -- The measure ---------------------------------------------------------------


def _norm(*arrays) -> float:
  return float(np.sqrt(sum(np.sum(np.square(x, dtype=float)) for x in arrays)))


def _is_zero_in_theory(stage: str, kind: str, leaf: str) -> bool:
  if kind == 'metrics':
    return leaf == 'sampler_gap'
  zeros = ['attention/key/bias']
  if stage == 'rm':
    zeros += ['scalar_head/bias', 'final_norm/bias']
  return kind in ('gradient', 'mu', 'nu') and leaf.endswith(tuple(zeros))


def differences(
    got: dict[str, np.ndarray], want: dict[str, np.ndarray], stage: str
) -> dict[str, float]:
  """The measure of all leaves of a stage, by 'kind/leaf'."""
  got, want = [
      {k: x for k, x in numbers.items() if k.startswith(f'{stage}/')}
      for numbers in (got, want)
  ]
  assert got.keys() == want.keys()
  found = {}
  for name, y in want.items():
    _, kind, leaf = name.split('/', 2)
    x = got[name]
    assert x.shape == y.shape and x.dtype == y.dtype, name
    assert np.all(np.isfinite(x)) and np.all(np.isfinite(y)), name
    beside = [y]
    if _is_zero_in_theory(stage, kind, leaf):
      same = f'{stage}/{kind}/'
      beside = [z for k, z in want.items() if k.startswith(same)]
    distance = _norm(np.subtract(x, y, dtype=float))
    found[f'{kind}/{leaf}'] = distance / _norm(*beside) if distance else 0.0
  return found


def assert_same(found: dict[str, float]) -> None:
  """All differences are below the bound, and what has to be equal is."""
  ranked = sorted(found.items(), key=lambda pair: -pair[1])
  print('largest differences:', *(f'{k} {x:.1e}' for k, x in ranked[:5]))
  assert not [k for k, x in ranked if k.startswith('same/') and x]
  assert not [f'{k} {x:.1e}' for k, x in ranked if not x < BOUND]


def test_a_gradient_that_is_off_is_found():
  rng = np.random.default_rng(0)
  want = {
      f'sft/gradient/layers/attention/{name}': rng.normal(size=9) * scale
      for name, scale in (('query/bias', 0.1), ('key/bias', 1e-9))
  }
  off = {name: x * (1 + 2e-5) for name, x in want.items()}
  found = differences(off, want, 'sft')
  assert found['gradient/layers/attention/query/bias'] > BOUND
  # 2e-5 of next to nothing.
  assert found['gradient/layers/attention/key/bias'] < 1e-12
  with pytest.raises(AssertionError, match='query/bias 2.0e-05'):
    assert_same(found)
  # One token of all that were drawn.
  tokens = {'rollout/same/drawn/tokens': np.arange(10**6)}
  other = {name: np.where(x == 5, 6, x) for name, x in tokens.items()}
  with pytest.raises(AssertionError, match='same/drawn/tokens'):
    assert_same(differences(other, tokens, 'rollout'))


# -- One device and eight ------------------------------------------------------


@pytest.fixture(scope='module')
def computed(tmp_path_factory, fresh_python):
  """`computed(name)` loads the numbers of a variant of tests/parity.py."""
  folder = tmp_path_factory.mktemp('numbers')

  def run(names):
    arguments = ', '.join(repr(x) for x in (str(folder), *names))
    code = f'from tests import parity; parity.main({arguments})'
    devices = 1 if names == ['one'] else 8
    for last in (False, False, True):
      try:
        return fresh_python(code, devices=devices)
      except AssertionError as error:
        # Now and then XLA's fake devices wait for each other in two
        # collectives, and after 40 s it aborts. That says nothing about the
        # numbers.
        if last or 'Termination timeout' not in str(error):
          raise

  parts = ['mixed', 'sequence'], ['tensor', 'fsdp'], ['data'], ['one']
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(run, parts))
  return lambda name: dict(np.load(folder / f'{name}.npz'))


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.parametrize('mesh', MESHES)
def test_eight_devices_compute_what_one_does(computed, mesh, stage):
  found = differences(computed(mesh), computed('one'), stage)
  if parity.VARIANTS[mesh].micro_batches > 1:
    # Under accumulation a mean of roots (see `update.gradient`).
    found.pop('metrics/value/error', None)
  assert_same(found)


@pytest.mark.slow
@pytest.mark.multi_device
def test_what_is_compared_could_differ(computed):
  one = computed('one')
  greedy, drawn = [
      one[f'rollout/same/{name}/tokens'] for name in ('greedy', 'drawn')
  ]
  assert np.any(greedy != drawn)
  assert 0.1 < one['rollout/same/drawn/finished'].mean() < 0.9
  assert one['rollout/metrics/kl'] > 0.1
  for stage in ('sft', 'rm', 'policy', 'value'):
    norms = {
        name: _norm(x)
        for name, x in one.items()
        if name.startswith(f'{stage}/gradient/')
    }
    for name, norm in norms.items():
      zero = _is_zero_in_theory(*name.split('/', 2))
      assert (norm < 1e-6) == zero, name
  # PPO went where it is clipped; its ratio is 1 in the first step alone.
  assert np.all(one['policy/metrics/policy/clip_fraction'][1:] > 0)
  assert np.all(one['policy/metrics/policy/approx_kl'][1:] > 1e-3)


# -- Two hosts -----------------------------------------------------------------


@pytest.fixture(scope='module')
def by_two_hosts(tmp_path_factory):
  """The numbers of the mesh `mixed`, as each of two processes has them."""
  folder = tmp_path_factory.mktemp('two_hosts')

  def arguments(port, index):
    return ['-m', 'tests.parity', str(folder), 'mixed', str(port), str(index)]

  with pairs.pair(arguments, folder, devices=4) as both:
    for index in range(2):
      code, log = both.wait(index, 600)
      assert code == 0, log
  return [dict(np.load(folder / f'mixed_{index}.npz')) for index in range(2)]


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize('stage', STAGES)
def test_two_hosts_compute_what_one_device_does(computed, by_two_hosts, stage):
  first, second = by_two_hosts
  for name, x in first.items():
    assert np.array_equal(x, second[name]), name
  found = differences(first, computed('one'), stage)
  found.pop('metrics/value/error', None)  # See above.
  assert_same(found)
