# SPDX-License-Identifier: Apache-2.0
"""Arithmetic against networks as they are made, programs as they are compiled,
and what the papers say that it cost."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import pipeline
from rlhf import model
from rlhf.likelihood import log_probs_of
from rlhf.planning import cost, floors, hlo, topology, traffic, works
from tests import tiny

_CFG = dataclasses.replace(tiny.CFG, loss_chunk=4, remat='full')


def _work(kind='train', cfg=_CFG, **changes):
  return works.Work('sft', cfg, kind, 3, 8, head_tokens=8, **changes)


# -- Parameters and FLOPs -----------------------------------------------------


@pytest.mark.parametrize('size', model.SIZES)
@pytest.mark.parametrize('head', ['lm', 'scalar'])
def test_parameters_are_those_of_init(size, head):
  cfg = model.ModelConfig(**model.SIZES[size])

  def init():
    key = jax.random.key(0)
    params = model.init(key, cfg)
    extra = model.init_scalar_head(key, cfg) if head == 'scalar' else {}
    return params, extra

  leaves = jax.tree.leaves(jax.eval_shape(init))
  assert cost.parameters(cfg, head=head) == sum(
      math.prod(leaf.shape) for leaf in leaves
  )


def test_pooled_head_has_a_second_vector():
  cfg = dataclasses.replace(_CFG, reward_pooling='last_and_mean')
  more = cost.parameters(cfg, head='scalar') - cost.parameters(cfg)
  assert more == 2 * cfg.width + 1


def test_a_forward_is_two_flops_a_weight_and_four_a_place_looked_at():
  once = cost.forward(_work())
  tokens, layers, width, heads = 3 * 8, 2, 16, 2 * 6
  assert once.weights == 2 * tokens * layers * (
      3 * width * heads + heads * width + 2 * width * 4 * width
  )
  assert once.attention == 2 * (2 * tokens * layers * heads * 8)
  assert once.head == 2 * tokens * width * 31


@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_hardware_flops_are_those_of_the_compiled_gradient(remat):
  cfg = dataclasses.replace(_CFG, remat=remat)
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), cfg))
  rows = jax.ShapeDtypeStruct((3, 8), jnp.int32)

  def loss(params, tokens_BT):
    x_BTD = model.forward(params, tokens_BT, jnp.ones_like(tokens_BT), cfg)
    return jnp.sum(log_probs_of(params, x_BTD, tokens_BT, cfg)[0])

  gradient = jax.jit(jax.value_and_grad(loss)).lower(params, rows)
  with tiny.quick_compilation():
    text = gradient.compile().as_text()
  assert text is not None
  found = hlo.analyze(text, {'data': 1}).flops
  want = cost.hardware_flops(_work(cfg=cfg), 'xla')
  assert found == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize('attention', ['dense', 'alternating'])
@pytest.mark.parametrize('length', [5, 7, 20])
def test_visible_share_is_that_of_the_mask(attention, length):
  cfg = dataclasses.replace(_CFG, attention=attention, layers=4)
  work = dataclasses.replace(_work(cfg=cfg), tokens=length)
  i, j = np.indices((length, length))
  dense, banded = j <= i, (j <= i) & (i - j < cfg.band)
  layers = [dense, dense if attention == 'dense' else banded] * 2
  assert cost.visible_share(work) == pytest.approx(np.mean(layers))


def test_splash_does_less_than_xla_and_its_kernels_are_part_of_it():
  work = _work()
  splash = cost.hardware_flops(work, 'splash')
  assert splash < cost.hardware_flops(work, 'xla')
  # Forward, again, and two kernels of 3 and 4 products where forward has 2.
  seen = cost.visible_share(work) * cost.forward(work).attention
  assert cost.kernel_flops(work, 'splash') == (1 + 1 + 3.5) * seen
  assert cost.kernel_flops(work, 'xla') == 0


# -- The papers ---------------------------------------------------------------


@pytest.mark.parametrize(
    'spec, changes, want',
    [
        # Ouyang et al. 2022, section 5.1: 4.9 and 60 petaflop/s-days.
        ('configs/sft.py:175b', {}, 4.9),
        ('configs/ppo_ptx.py:175b', {'reward_model': 'runs/6b/rm'}, 60),
        # Brown et al. 2020, table D.1.
        ('configs/pretrain.py:175b', {}, 3_640),
    ],
)
def test_petaflop_s_days_of_the_papers(spec, changes, want):
  config = pipeline.load_config(spec)
  with config.unlocked():
    config.update(changes)
  days = cost.petaflop_s_days(works.run_of(config))
  assert days == pytest.approx(want, rel=0.15)


# -- Traffic ------------------------------------------------------------------

_MESH = {'data': 2, 'fsdp': 4, 'tensor': 2, 'sequence': 1}


def test_training_gathers_twice_scatters_once_and_reduces_along_data():
  cfg = dataclasses.replace(_CFG, dtype='bfloat16')
  work = dataclasses.replace(_work(cfg=cfg, parts=2), rows=32)
  wire = traffic.wire(works.Call('train', (work,)), traffic.layout(_MESH))
  layers, tables = cost.layer_weights(cfg), (31 + 48) * 16
  half = (layers + tables) / 2  # Of it lies on each part of `tensor`.
  assert wire['fsdp',] == 2 * 3 * (2 * half) * 3 / 4
  # All-reduced twice, in f32, what is left after it was scattered.
  assert wire['data',] == 2 * 2 * (4 * half / 4) * 1 / 2
  # 2 of 16 rows of 8 tokens of 16 numbers; 4 a layer, forward, again, backward;
  # and into the head and back.
  stream = 2 * 2 * 8 * 16
  assert wire['tensor',] == 2 * (4 * 2 * 3 + 2) * stream * 1 / 2


def test_a_network_that_is_spread_over_nothing_gathers_nothing():
  at = traffic.layout({**_MESH, 'tensor': 1}, {'reference': ()})
  work = dataclasses.replace(_work('forward'), network='reference', rows=32)
  assert traffic.wire(works.Call('score', (work,)), at) == {}


def test_sequence_gathers_keys_and_values():
  sizes = {'data': 1, 'fsdp': 1, 'tensor': 2, 'sequence': 4}
  at = traffic.layout(sizes, {'sft': ()})  # Its weights are not spread.
  work = _work('forward')
  wire = traffic.wire(works.Call('score', (work,)), at)
  # f32 keys and values of 12 / 2 numbers of 3 x 8 tokens, in 2 layers.
  assert wire['sequence',] == 2 * 2 * 4 * (3 * 8 * 6) * 3 / 4


def test_decoding_reads_weights_and_cache_for_each_token():
  work = works.Work('policy', _CFG, 'decode', rows=8, tokens=8, new_tokens=5)
  at = traffic.layout({'data': 4, 'fsdp': 1, 'tensor': 2, 'sequence': 1})
  cache = traffic.cache_bytes(work, at)
  # 2 rows of 13 slots of 6 numbers of keys and of values, in 2 layers, f32.
  assert cache == 2 * 13 * 6 * 2 * 2 * 4
  weights = 4 * (cost.layer_weights(_CFG) + 31 * 16) / 2
  got = traffic.hbm(works.Call('generate', (work,)), at)
  assert got == 5 * (weights + cache) + weights


def test_an_optimizer_step_moves_32_bytes_a_parameter_and_8_for_the_average():
  at = traffic.layout(_MESH)
  sft = dataclasses.replace(_work(), rows=32)
  policy = dataclasses.replace(sft, network='policy')
  plain = traffic.hbm(works.Call('train', (sft,)), at)
  average = traffic.hbm(works.Call('policy_step', (policy,)), at, ema=True)
  own = cost.parameters(_CFG) / 8
  assert average - plain == 8 * own
  twice = traffic.hbm(works.Call('train', (sft, sft)), at)
  # The second term is another pass over weights, not another step.
  assert 2 * plain - twice == 32 * own


# -- Floors -------------------------------------------------------------------


@pytest.mark.parametrize(
    'within, want',
    [
        ({frozenset({0}): 8.0}, 8.0),  # One axis has one link's bandwidth.
        ({frozenset({0, 1}): 8.0}, 4.0),  # Two have two.
        ({frozenset({0}): 8.0, frozenset({1}): 4.0}, 8.0),  # At the same time.
        ({frozenset({0}): 8.0, frozenset({0, 1}): 2.0}, 8.0),
        ({frozenset({0}): 8.0, frozenset({0, 1}): 12.0}, 10.0),
        ({frozenset(): 8.0}, 0.0),  # Between the devices of a chip.
        ({}, 0.0),
    ],
)
def test_bytes_are_spread_over_the_links_that_they_may_use(within, want):
  assert floors.ici_seconds(within, (1.0, 1.0)) == want


def test_of_several_slices_every_byte_leaves_once():
  # 8 devices on 2 slices reduce 80 bytes: in the slice 2 x 3/4 x 80, then each
  # the quarter that it has summed: 2 x 1/2 x 20.
  whole = floors.Traffic(('data', 'fsdp'), 8, 2 * 7 / 8 * 80)
  assert floors.split(whole, 2) == pytest.approx((120, 20))
  inside = floors.Traffic(('fsdp',), 4, 60)
  assert floors.split(inside, 2) == (60, 0)
  # A compiled program tells them apart itself.
  told = floors.Traffic(('data',), 2, 60, between_slices=True)
  assert floors.split(told, 2) == (0, 60)
  told = floors.Traffic(('data',), 2, 60, between_slices=False)
  assert floors.split(told, 2) == (60, 0)


def test_links_of_axes_that_do_not_wrap_count_half():
  half, whole = 100e9, 200e9
  torus = topology.parse('v5p:2x4x4')
  assert floors.link_bandwidths(torus) == (half, whole, whole)
  assert floors.link_bandwidths(topology.parse('v5e:8x16')) == (50e9, 100e9)


def test_mesh_axes_are_found_on_the_torus():
  t = topology.parse('v5p:4x4x4')
  mesh = topology.mesh(t, {'fsdp': 16, 'tensor': 4})
  along = floors.torus_axes(mesh)
  assert len(along['fsdp']) == 2 and len(along['tensor']) == 1
  assert not along['fsdp'] & along['tensor'] and not along['data']


def test_the_bound_is_the_highest_floor():
  t = topology.parse('v5p:2x2x1')
  mesh = topology.mesh(t, {'fsdp': 4})
  found = floors.floors(
      t,
      mesh,
      flops=459e12,
      hbm_bytes=2765e9 / 2,
      # Two axes of 100 GB/s each.
      traffic=[floors.Traffic(('fsdp',), 4, 400e9)],
  )
  assert (found.compute, found.hbm, found.ici) == pytest.approx((1, 0.5, 2))
  assert found.seconds == found.ici and found.binding == 'ici'
