# SPDX-License-Identifier: Apache-2.0
"""Layouts by formula, and how many of them are compiled."""

import types

import pytest

from launch import pipeline
from rlhf.planning import search, topology

_V5E = topology.parse('v5e:2x4')


@pytest.fixture(scope='module')
def sft():
  return pipeline.load_config('configs/sft.py:1.3b')


@pytest.fixture(scope='module')
def ranked(sft):
  return search.candidates(sft, _V5E)


def test_meshes_use_all_devices_and_divide_the_heads(sft):
  sizes = list(search.mesh_sizes(sft, _V5E))
  assert len(sizes) == len(set(sizes)) == 20  # 8 = 2^3 over four axes.
  assert all(a * b * c * d == 8 for a, b, c, d in sizes)
  # 24 heads don't divide by 16.
  wide = search.mesh_sizes(sft, topology.parse('v5e:4x4'))
  assert max(tensor for _, _, tensor, _ in wide) == 8


def test_slices_lie_along_data(sft):
  two = topology.parse('2*v5e:2x2')
  assert {data % 2 for data, *_ in search.mesh_sizes(sft, two)} == {0}


def test_candidates_share_rows_and_come_fastest_first(sft, ranked):
  assert ranked[0].fits
  seconds = [one.seconds for one in ranked if one.fits]
  assert seconds == sorted(seconds)
  for one in ranked:
    config = search.changed(sft, one.overrides)
    each = config.batch // config.micro_batches
    assert each % (config.mesh.data * config.mesh.fsdp) == 0
    assert (one.hbm_bytes <= 0.92 * _V5E.hbm_limit_bytes) == one.fits


def test_flags_are_what_changes(sft, ranked):
  one = next(c for c in ranked if ('mesh.fsdp', 8) in c.overrides)
  assert '--config.mesh.fsdp=8' in one.flags
  assert 'mesh.data' not in one.flags and 'mesh.tensor' not in one.flags


def test_estimates_that_were_too_low_are_corrected(sft, ranked):
  corrected = search.candidates(sft, _V5E, {'train': 3.0})
  fitting = sum(one.fits for one in ranked)
  assert sum(one.fits for one in corrected) < fitting


def test_ppo_cuts_each_program():
  config = pipeline.load_config('configs/ppo_ptx.py:1.3b')
  with config.unlocked():
    config.reward_model = 'runs/6b/rm'
  (best, *_) = search.candidates(config, topology.parse('v5p:2x2x2'))
  names = [name for name, _ in best.overrides]
  assert len(names) == len(set(names))
  assert {
      'mesh.fsdp', 'ppo.micro_batches', 'ppo.ptx_micro_batches',
      'ppo.score_rows', 'ppo.rollout_tensor', 'ppo.rollout_rows',
  } <= set(names)  # fmt: skip
  c = search.changed(config, best.overrides).ppo
  assert c.rollout_rows % (8 // c.rollout_tensor) == 0


@pytest.mark.parametrize(
    'fits, wanted, compiles, tried', [(True, 2, 9, 2), (False, 2, 3, 3)]
)
def test_compiles_are_bounded(
    sft, ranked, monkeypatch, fits, wanted, compiles, tried
):
  made = []

  def make(config, topology, **kwargs):
    assert kwargs['stop_if_full']
    made.append(config.mesh.to_dict())
    return types.SimpleNamespace(
        fits=fits, step_seconds=-len(made), programs=('train',)
    )

  monkeypatch.setattr(search.plan_lib, 'make', make)
  monkeypatch.setattr(search, '_corrections', lambda plan, known: {})
  monkeypatch.setattr(search, 'candidates', lambda *args: ranked)
  found = search.search(sft, _V5E, wanted=wanted, compiles=compiles)
  assert len(made) == len(found.tried) == tried
  assert found.fitting == sum(one.fits for one in ranked)
  # The fastest as compiled, not as ranked, is first.
  seconds = [one.plan.step_seconds for one in found.tried]
  assert seconds == sorted(seconds)
