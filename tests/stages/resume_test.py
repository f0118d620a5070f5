# SPDX-License-Identifier: Apache-2.0
"""Runs that go on with another number of devices: one, then two, then eight.

Data and random numbers are those of the unbroken run; sums are taken in another
order. So the same examples are seen and the same tokens drawn, and what is
learnt agrees to `TOLERANCE`.
"""

import numpy as np
import pytest

from rlhf import networks
from rlhf.checkpoint import leaves
from tests import tiny

# Of the parameters handed on: the L2 norm of the difference over that of what
# was learnt. Measured: 1e-6 at most.
TOLERANCE = 1e-5
# Of a metric, relative.
_METRICS = 1e-3

_STAGES = ('pretrain', 'sft', 'rm', 'ppo_ptx')

# Runs each stage, told to stop after so many steps more, if any.
_CODE = """
import pathlib
import jax
from rlhf import hosts, watch
from rlhf.stages import STAGES
from tests import tiny

# What is compiled here runs for milliseconds.
jax.config.update('jax_disable_most_optimizations', True)
root, steps = pathlib.Path({root!r}), {steps}
if {make}:
  tiny.make_root(root)
for stage, changes in {changes!r}.items():
  asked = 0
  def stopping():
    global asked
    asked += 1
    return steps is not None and asked > steps
  hosts.stopping = stopping
  config = tiny.config(stage, root, 'run_' + stage, **changes)
  try:
    STAGES[config.stage](config)
  except watch.StoppedError as error:
    print(error)
"""

_CHANGES = {
    'pretrain': {'steps': 7, 'batch': 8},
    'sft': {'batch': 8, 'epochs': 4, 'run_model': {'dropout': 0.1}},
    'rm': {'batch': 8, 'rows': 8, 'epochs': 2},
    'ppo_ptx': {'ppo.episodes': 96, 'ppo.adaptive_kl': {
        'target': 1.0, 'horizon': 100.0}},
}


def _run(fresh_python, root, *, devices=1, steps=None, make=False):
  code = _CODE.format(root=str(root), steps=steps, make=make, changes=_CHANGES)
  return fresh_python(code, devices=devices)


def _roots(tmp_path, fresh_python):
  """An unbroken root, and one whose runs went from 1 to 2 to 8 devices."""
  one, many = tmp_path / 'one', tmp_path / 'many'
  _run(fresh_python, one, make=True)
  said = _run(fresh_python, many, steps=2, make=True)
  assert said.count('saved step 2') == len(_STAGES)
  said = _run(fresh_python, many, steps=2, devices=2)
  assert said.count('goes on from step 2') == len(_STAGES)
  assert said.count('count was 1 and is 2') == len(_STAGES)
  assert said.count('saved step 4') == len(_STAGES)
  said = _run(fresh_python, many, devices=8)
  assert said.count('goes on from step 4') == len(_STAGES)
  return one, many


@pytest.mark.slow
def test_runs_go_on_with_other_devices(tmp_path, fresh_python):
  """One test: the processes are what takes long."""
  one, many = _roots(tmp_path, fresh_python)
  for stage in _STAGES:
    _assert_alike(one / f'run_{stage}', many / f'run_{stage}')
    want, got = [
        networks.load_model(root / f'run_{stage}')[0] for root in (one, many)
    ]
    _assert_near(want, got, None if stage == 'pretrain' else one / 'sft')


def _assert_alike(one, many):
  """The metrics of two runs, line by line."""
  lines = tiny.metrics(one), tiny.metrics(many)
  assert len(lines[0]) == len(lines[1]) > 5
  for want, got in zip(*lines, strict=True):
    want, got = tiny.without_clocks(want), tiny.without_clocks(got)
    assert set(got) == set(want)
    for name, value in want.items():
      np.testing.assert_allclose(
          got[name], value, rtol=_METRICS, atol=_METRICS, err_msg=name
      )
    for exact in ('rollout/length', 'sft/weight', 'rm/pairs', 'step'):
      assert got.get(exact) == want.get(exact), exact


def _assert_near(want, got, start):
  """Against how far training has gone from `start`."""
  want, got = _flat(want), _flat(got)
  assert set(got) == set(want)
  origin = _flat(networks.load_model(start)[0]) if start else {}
  far = np.sqrt(sum(
      np.sum(np.square(want[n] - origin.get(n, 0.0))) for n in want
  ))
  off = np.sqrt(sum(np.sum(np.square(want[n] - got[n])) for n in want))
  print(f'difference {off / far:.2g} of what was learnt')
  assert 0 < far and off <= TOLERANCE * far


def _flat(params):
  return {
      name: np.asarray(x, np.float64)
      for name, x in leaves.named(params).items()
  }
