# SPDX-License-Identifier: Apache-2.0
"""The command, as it is called: a process of its own, JSON on stdout."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import tiny

_ROOT = pathlib.Path(__file__).parents[2]


def _plan(*args):
  return subprocess.run(
      [sys.executable, 'launch/plan.py', *args],
      cwd=_ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
      timeout=600,
  )


def _json(*args):
  done = _plan(*args, '--json', '--effort=fast')
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.fixture(scope='module')
def tiny_ppo(tmp_path_factory):
  """PPO-ptx of networks that compile in seconds, on 8 fake devices."""
  root = tiny.make_root(tmp_path_factory.mktemp('root'))
  changes = {
      'init_from': root / 'sft/model',
      'reward_model': root / 'rm/model',
      'data.prompt_tokens': 16,
      'data.response_tokens': 8,
      'data.row_tokens': 24,
      'data.ptx_row_tokens': 16,
      'ppo.batch': 16,
      'ppo.minibatches': 2,
      'ppo.ptx_micro_batches': 2,
      'ppo.episodes': 32,
      'mesh.fsdp': 4,
      'mesh.tensor': 2,
  }
  flags = [f'--config.{name}={value}' for name, value in changes.items()]
  return ['--config=configs/ppo_ptx.py', '--topology=cpu:8', *flags]


@pytest.mark.slow
def test_all_programs_of_ppo_on_fake_devices(tiny_ppo):
  found = _json(*tiny_ppo, '--price_per_chip_hour=3')
  programs = {program['name']: program for program in found['programs']}
  assert list(programs) == [
      'lay_out', 'generate', 'score', 'policy_step', 'value_step'
  ]
  assert found['fits'] and found['compiled_never_run']
  assert found['steps'] == 2 and found['chips'] == 8
  assert found['mesh'] == {'data': 1, 'fsdp': 4, 'tensor': 2, 'sequence': 1}
  assert 0 < found['hbm_gib_per_chip'] < found['hbm_limit_gib'] == 4
  assert found['price_lower_bound'] == 3 * found['chip_hours_lower_bound'] > 0
  calls = {name: one['calls_per_step'] for name, one in programs.items()}
  assert (calls['generate'], calls['policy_step']) == (1, 2)
  bounds = [
      one['calls_per_step'] * max(one['floor_seconds'].values())
      for one in programs.values()
  ]
  assert found['step_seconds_lower_bound'] == pytest.approx(sum(bounds))
  sent = sum(
      one['calls_per_step'] * sum(one['collective_gib_per_chip'].values())
      for one in programs.values()
  )
  assert found['collective_gib_per_chip'] == pytest.approx(sent) and sent > 0
  for one in programs.values():
    memory = one['memory_bytes_per_device']
    # Nothing is padded on a CPU, and what a program does not read is left out.
    shapes = one['argument_bytes_per_device_of_shapes']
    assert 0.9 * shapes < memory['arguments'] <= shapes
    assert one['loops_of_unknown_length'] == 0
    # The vocabulary of 31 does not divide over `tensor`: both do all of it.
    assert one['compiled_flops'] >= 0.99 * one['hardware_flops']
    assert one['compiled_flops'] <= 1.2 * one['hardware_flops']


@pytest.mark.slow
def test_sft_of_1_3b_on_eight_v5e():
  """The real step, for chips that are not here (needs libtpu)."""
  found = _json('--config=configs/sft.py:1.3b', '--topology=v5e:2x4')
  (train,) = found['programs']
  assert found['fits'] and train['fits']
  # Weights and two moments of 1.52B parameters in f32 are 2.1 GiB a chip.
  assert 3.5 < found['hbm_gib_per_chip'] < 9
  assert found['hbm_limit_gib'] == 15.75
  memory = train['memory_bytes_per_device']
  # Scalars are padded to 512 bytes.
  assert memory['arguments'] == pytest.approx(
      train['argument_bytes_per_device_of_shapes'], rel=1e-4
  )
  formula = sum(train['collective_gib_per_chip_by_formula'].values())
  assert found['collective_gib_per_chip'] == pytest.approx(formula, rel=0.5)
  assert train['custom_calls']['tpu_custom_call'] >= 1
  # All but the kernels' is in the program's text.
  assert train['compiled_flops'] < train['hardware_flops']
  assert train['compiled_flops'] > 0.9 * train['hardware_flops']
  assert train['binding_floor'] == 'compute'
  assert 0.7 < found['mfu_upper_bound'] < 1
  assert 0.3 < found['step_seconds_lower_bound'] < 0.7
  # 12,725 demonstrations x 16 epochs x 2,048 tokens x 6 x 1.4e9.
  assert found['petaflop_s_days'] == pytest.approx(0.053, rel=0.05)


@pytest.mark.slow
def test_the_screen_says_that_nothing_was_run(tiny_ppo):
  done = _plan(
      '--config=configs/sft.py', '--topology=cpu:1', '--effort=fast',
      '--config.data.row_tokens=24', tiny_ppo[2],
  )
  assert done.returncode == 0, done.stderr
  assert 'FITS' in done.stdout and 'DOES NOT' not in done.stdout
  assert 'Compiled, never run' in done.stdout
  assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    'args, want',
    [
        (['--topology=v5p-128'], 'write v5p:4x4x4'),
        (['--topology=v9:2x2'], 'unknown chip'),
        (['--topology=cpu:8', '--config.mesh.tensor=3'], 'does not divide'),
        (['--topology=cpu:1', '--config.micro_batches=7'], 'micro-batches'),
    ],
)
def test_what_cannot_be_is_said_in_a_line(args, want):
  done = _plan('--config=configs/sft.py', *args)
  assert done.returncode == 1
  assert done.stderr.startswith('error: ') and want in done.stderr
  assert 'Traceback' not in done.stderr
