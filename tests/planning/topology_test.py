# SPDX-License-Identifier: Apache-2.0
"""Names of slices, and their devices from libtpu, which no slice is needed for.
"""

import math
import os

import pytest
from jax.sharding import AxisType

from rlhf.planning import topology
from rlhf.planning.environment import environment

_TPUS = [name for name in topology.CHIPS if name != 'cpu']


# -- Names --------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, chips, devices, hosts, slices',
    [
        ('v5e:2x2', 4, 4, 1, 1),
        ('v5e:2x4', 8, 8, 1, 1),  # One host of eight chips, ...
        ('v5e:4x4', 16, 16, 4, 1),  # ... larger slices have hosts of four.
        ('v5p:4x4x4', 64, 64, 16, 1),
        ('2*v5p:4x4x4', 128, 128, 32, 2),
        ('tpu7x:2x2x1', 4, 8, 1, 1),  # Two devices a chip.
        ('cpu:8', 8, 8, 1, 1),
    ],
)
def test_a_name_says_how_much_there_is(name, chips, devices, hosts, slices):
  found = topology.parse(name)
  counted = (found.chips, found.devices, found.hosts, found.num_slices)
  assert counted == (chips, devices, hosts, slices)
  assert found.name == name


@pytest.mark.parametrize(
    'name, message',
    [
        # Products of v4 and v5p count cores, those of v5e and v6e chips.
        ('v5p-128', '128 cores, 64 chips: write v5p:4x4x4'),
        ('v4-8', '8 cores, 4 chips: write v4:2x2x1'),
        ('v5litepod-16', '16 chips: write v5e:4x4'),
        ('v6e-8', '8 chips: write v6e:2x4'),
        ('v5p-100', '50 chips: the nearest are v5p:2x4x4 .* and v5p:4x4x4'),
        ('v3-8', 'the chips are v4, v5e'),
        ('v5e:3x3', 'no slice 3x3 of TPU v5e is sold.*v5e:2x2.*v5e:2x4'),
        ('v5p:128', r'no slice.*v5p:4x4x8 \(128 chips\)'),
        ('v9:2x2', "unknown chip 'v9'.*v5p"),
        ('0*v5e:2x2', 'no chips'),
        ('2*cpu:4', 'only counted: cpu:4'),
        ('a pod', 'not a topology.*v5e:2x4'),
    ],
)
def test_a_wrong_name_is_answered_with_a_right_one(name, message):
  with pytest.raises(ValueError, match=message):
    topology.parse(name)


@pytest.mark.parametrize('generation', _TPUS)
def test_slices_of_a_generation_grow(generation):
  found = topology.slices(generation)
  chips = [candidate.chips for candidate in found]
  assert chips == sorted(chips) and len(set(found)) == len(found)
  assert chips[0] == 4 and chips[-1] <= found[0].chip.max_chips


# -- Chips --------------------------------------------------------------------


@pytest.mark.parametrize('chip', topology.CHIPS.values(), ids=lambda c: c.name)
def test_numbers_have_their_units(chip):
  """A TFLOP/s, GiB or GB/s that was left as it is would be far off."""
  assert chip.nominal == (chip.generation == 'cpu')
  assert chip.nominal or 1e14 < chip.peak_flops < 3e15
  assert chip.nominal or 16 * 2**30 <= chip.hbm_bytes
  assert 0.9 < chip.hbm_limit_bytes / chip.hbm_bytes < 1.01
  # Memory is faster than neighbours, and those than other slices.
  assert chip.hbm_bandwidth > chip.ici_axes * chip.ici_bandwidth
  assert chip.ici_bandwidth >= chip.dcn_bandwidth > 0


def test_ici_is_one_way_along_one_axis():
  # Google Cloud: 1200 GB/s both ways over v5p's six links.
  v5p = topology.CHIPS['v5p']
  assert 2 * v5p.ici_axes * v5p.ici_bandwidth == 1200e9
  # 1600 Gbit/s one way over v5e's four links.
  v5e = topology.CHIPS['v5e']
  assert 8 * v5e.ici_axes * v5e.ici_bandwidth == 1600e9


# -- Devices ------------------------------------------------------------------


def test_environment_is_known_before_jax_is(fresh_python):
  printed = fresh_python(
      'import sys\n'
      'from rlhf.planning.environment import environment\n'
      'environment()\n'
      "print('jax' in sys.modules)\n"
  )
  assert printed == 'False\n'


def test_environment_keeps_flags(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=/tmp/x')
  flags = environment(cpu_devices=8)['XLA_FLAGS']
  assert flags.startswith('--xla_dump_to=/tmp/x --xla_force_host')
  assert flags.endswith('_count=8')
  assert 'XLA_FLAGS' not in environment()
  assert 'TPU_WORKER_ID' not in os.environ  # It only says.


def test_missing_libtpu_is_told_with_what_brings_it(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(RuntimeError, match=r"pip install -e '\.\[plan\]'"):
    topology.devices(topology.parse('v5e:2x2'))


def test_missing_cpu_devices_are_told_with_the_flag():
  with pytest.raises(RuntimeError, match='XLA_FLAGS=.*_count=1024'):
    topology.devices(topology.parse('cpu:1024'))


def check_devices():
  """Run by the test below in a process of its own."""
  for name in (
      'v4:2x2x2', 'v5e:2x4', 'v5e:4x4', 'v6e:2x2', 'tpu7x:2x2x1',
      '2*v5p:2x2x1', 'v5p:4x4x4', 'cpu:8',
  ):  # fmt: skip
    found = topology.parse(name)
    devices = topology.devices(found)
    assert len(devices) == found.devices, name
    assert len({d.process_index for d in devices}) == found.hosts, name
    slices = {getattr(d, 'slice_index', 0) or 0 for d in devices}
    assert len(slices) == found.num_slices, name


def check_meshes():
  """Run by the test below in a process of its own."""
  pod = topology.mesh(topology.parse('v5p:4x4x4'), {'fsdp': -1, 'tensor': 4})
  assert math.prod(pod.shape.values()) == 64 and pod.shape['fsdp'] == 16
  assert set(pod.axis_types) == {AxisType.Auto}
  joined = topology.mesh(
      topology.parse('2*v5p:2x2x1'), {'data': 2, 'fsdp': -1}
  )
  assert joined.shape['data'] == 2 and joined.shape['fsdp'] == 4
  # Each slice is one row of `data`: all else stays within a slice.
  for row, copy in enumerate(joined.devices):
    assert {device.slice_index for device in copy.flat} == {row}
  eight = topology.mesh(topology.parse('cpu:8'), {'data': 8})
  assert eight.shape['data'] == 8
  with pytest.raises(ValueError, match='joined along `data`'):
    topology.mesh(topology.parse('2*v5p:2x2x1'), {'fsdp': 8})
  with pytest.raises(ValueError, match='does not divide 4 devices'):
    topology.mesh(topology.parse('v5e:2x2'), {'fsdp': 8})


def test_devices_and_meshes(fresh_python):
  """Of slices that nobody has, in the numbers that their names say."""
  fresh_python(
      'import os\n'
      'from rlhf.planning.environment import environment\n'
      'os.environ.update(environment(cpu_devices=8))\n'
      'from tests.planning import topology_test\n'
      'topology_test.check_devices()\n'
      'topology_test.check_meshes()\n'
  )
