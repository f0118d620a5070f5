# SPDX-License-Identifier: Apache-2.0
"""Groups of devices in every form that XLA prints, and bytes on the wire."""

import numpy as np
import pytest

from rlhf.planning import collectives, hlo

_MESH = {'data': 2, 'fsdp': 4, 'tensor': 2}
_DEVICES = np.arange(16).reshape(2, 4, 2)


def _sets(groups):
  return {frozenset(group.tolist()) for group in groups}


@pytest.mark.parametrize(
    'form, axes',
    [
        ('replica_groups={{0,1},{2,3},{4,5},{6,7},{8,9},{10,11},{12,13},'
         '{14,15}}', ('tensor',)),
        ('replica_groups=[8,2]<=[16]', ('tensor',)),
        ('replica_groups=[4,4]<=[2,4,2]T(0,2,1)', ('fsdp',)),
        ('replica_groups=[8,2]<=[2,8]T(1,0)', ('data',)),
        # Order within a group doesn't matter to who is in it.
        ('replica_groups=[2,8]<=[4,2,2]T(2,1,0)', ('data', 'fsdp')),
        ('replica_groups=[2,8]<=[16]', ('fsdp', 'tensor')),
        ('replica_groups=[1,16]<=[16]', ('data', 'fsdp', 'tensor')),
        ('replica_groups={}', ('data', 'fsdp', 'tensor')),
        ("replica_groups=mesh['data'=2,'fsdp'=4,'tensor'=2] {'fsdp'}",
         ('fsdp',)),
        ("replica_groups=mesh['data'=2,'fsdp'=4,'tensor'=2]"
         " {'data','tensor'}", ('data', 'tensor')),
        # XLA's own axes: here (data, fsdp) and tensor.
        ("replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0'}",
         ('data', 'fsdp')),
        # The major 2 of an axis of 8: data.
        ("replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0':(1)2}",
         ('data',)),
        ("replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0':(2)4}",
         ('fsdp',)),
        # Devices in another order: the first axis of this one is fsdp.
        ("replica_groups=mesh['x'=4,'y'=4], device_ids=([2,4,2]T(1,0,2))"
         " {'x'}", ('fsdp',)),
    ],
)  # fmt: skip
def test_groups_of_every_form_are_along_axes(form, axes):
  groups = collectives.device_groups(f'channel_id=1, {form}, x=y', _MESH)
  assert collectives.axes_of(groups, _MESH) == axes
  last = [list(_MESH).index(axis) for axis in axes]
  rest = [i for i in range(3) if i not in last]
  size = int(np.prod([_DEVICES.shape[i] for i in last]))
  want = _DEVICES.transpose(rest + last).reshape(-1, size)
  assert _sets(groups) == _sets(want)


def test_a_permutation_is_along_the_axes_that_it_moves_on():
  # fsdp is the middle axis: its neighbours are two apart.
  form = 'source_target_pairs={{0,2},{2,4},{4,6},{6,0},{1,3}}, x={0}'
  groups = collectives.device_groups(form, _MESH)
  assert groups.tolist() == [[0, 2], [2, 4], [4, 6], [6, 0], [1, 3]]
  assert collectives.axes_of(groups, _MESH) == ('fsdp',)


def test_unknown_groups_are_refused():
  with pytest.raises(ValueError, match='replica_groups=@new'):
    collectives.device_groups('replica_groups=@new_form', _MESH)


@pytest.mark.parametrize(
    'kind, payload, group, wire',
    [
        # Four devices, 8 bytes in all: each sends what it has three times on.
        ('all-gather', 8, 4, 6),
        ('reduce-scatter', 8, 4, 6),
        ('all-reduce', 8, 4, 12),  # One after the other.
        ('all-to-all', 8, 4, 6),  # A quarter stays.
        ('collective-permute', 8, 4, 8),
        ('all-reduce', 8, 1, 0),
    ],
)
def test_wire_bytes(kind, payload, group, wire):
  assert collectives.wire_bytes(kind, payload, group) == wire


# What XLA:TPU makes of a layer's backward pass, shortened: an all-gather that
# starts in one fusion, goes on in another that a loop runs, and ends in a
# third; a reduce-scatter written as an all-reduce; a permutation with a start.
_TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %c = bf16[] add(%a, %b)
}

%async_collective_start (p: bf16[256,64]) -> (bf16[256,64], bf16[256,128], u32[]) {
  %p = bf16[256,64]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[256,128]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=6, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={1}, use_global_device_ids=true, metadata={op_name="jit(step)/gather"}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
  ROOT %started = (bf16[256,64]{1,0}, bf16[256,128]{1,0}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_step (p.1: bf16[256,64]) -> bf16[256,128] {
  %p.1 = bf16[256,64]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[256,128]{1,0} all-gather(%p.1), channel_id=6, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={1}, use_global_device_ids=true, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%all-reduce-scatter.2.clone (g: bf16[256,128], h: f32[2,4]) -> bf16[128,128] {
  %g = bf16[256,128]{1,0} parameter(0)
  %h = f32[2,4]{1,0} parameter(1)
  %all-reduce.1 = (bf16[256,128]{1,0}, f32[2,4]{1,0}) all-reduce(%g, %h), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, to_apply=%sum
  %zero = s32[] constant(0)
  %both = bf16[256,128]{1,0} get-tuple-element(%all-reduce.1), index=0
  ROOT %mine = bf16[128,128]{1,0} dynamic-slice(%both, %zero, %zero), dynamic_slice_sizes={128,128}
}

%body (s: (s32[], bf16[256,64], bf16[256,128], f32[2,4])) -> (s32[], bf16[256,64], bf16[256,128], f32[2,4]) {
  %s = (s32[], bf16[256,64]{1,0}, bf16[256,128]{1,0}, f32[2,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %w = bf16[256,64]{1,0} get-tuple-element(%s), index=1
  %more = bf16[256,128]{1,0} fusion(%w), kind=kOutput, calls=%async_collective_step, backend_config={"window_config":{"estimated_cycles":"100"}}
  %f = f32[2,4]{1,0} get-tuple-element(%s), index=3
  %scattered = bf16[128,128]{1,0} fusion(%more, %f), kind=kCustom, calls=%all-reduce-scatter.2.clone, backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
  %collective-permute-start = (bf16[256,64]{1,0}, bf16[256,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%w), channel_id=9, source_target_pairs={{0,1},{1,0},{2,3},{3,2},{4,5},{5,4},{6,7},{7,6}}
  %moved = bf16[256,64]{1,0} collective-permute-done(%collective-permute-start)
  ROOT %t = (s32[], bf16[256,64]{1,0}, bf16[256,128]{1,0}, f32[2,4]{1,0}) tuple(%next, %moved, %more, %f)
}

%condition (s.1: (s32[], bf16[256,64], bf16[256,128], f32[2,4])) -> pred[] {
  %s.1 = (s32[], bf16[256,64]{1,0}, bf16[256,128]{1,0}, f32[2,4]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%s.1), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%j, %three), direction=LT
}

ENTRY %main (x: bf16[256,64], f.1: f32[2,4]) -> bf16[256,128] {
  %x = bf16[256,64]{1,0} parameter(0)
  %f.1 = f32[2,4]{1,0} parameter(1)
  %fusion.1 = (bf16[256,64]{1,0}, bf16[256,128]{1,0}, u32[]{:S(2)}) fusion(%x), kind=kCustom, calls=%async_collective_start
  %got = bf16[256,128]{1,0} get-tuple-element(%fusion.1), index=1
  %zero.1 = s32[] constant(0)
  %begin = (s32[], bf16[256,64]{1,0}, bf16[256,128]{1,0}, f32[2,4]{1,0}) tuple(%zero.1, %x, %got, %f.1)
  %while.1 = (s32[], bf16[256,64]{1,0}, bf16[256,128]{1,0}, f32[2,4]{1,0}) while(%begin), condition=%condition, body=%body
  %other = f32[2,4]{1,0} all-reduce(%f.1), channel_id=1, replica_groups=[4,2]<=[8], to_apply=%sum
  %kernel = bf16[256,128]{1,0} custom-call(%got), custom_call_target="tpu_custom_call"
  ROOT %end = bf16[256,128]{1,0} get-tuple-element(%while.1), index=2
}
"""  # noqa: E501


def test_what_tpus_do_asynchronously_is_counted_once():
  program = hlo.analyze(_TPU, {'data': 2, 'fsdp': 2, 'tensor': 2})
  found = {one.kind: one for one in program.collectives}
  assert len(found) == len(program.collectives) == 4

  gather = found['all-gather']
  assert gather.axes == ('fsdp',) and gather.group_size == 2
  # Carried through the loop, but started once.
  assert (gather.count, gather.in_loop) == (1, False)
  assert gather.payload_bytes == 256 * 128 * 2  # The whole, in bf16.
  assert gather.wire_bytes == 256 * 128 * 2 / 2
  assert gather.op_name == 'jit(step)/gather'

  scatter = found['reduce-scatter']
  assert (scatter.count, scatter.in_loop) == (3, True)
  assert scatter.axes == ('fsdp',)
  # Two arrays at once: bf16 and a small one of f32.
  assert scatter.payload_bytes == 256 * 128 * 2 + 2 * 4 * 4
  assert scatter.dtype == 'bf16'

  permute = found['collective-permute']
  assert permute.axes == ('tensor',) and permute.group_size == 2
  assert permute.total_wire_bytes == 3 * 256 * 64 * 2

  # Another collective, though the compiler gave it the scatter's channel.
  assert found['all-reduce'].wire_bytes == 2 * 4 * 4

  assert program.wire_bytes() == {
      (('tensor',), 'all-reduce'): 32.0,
      (('fsdp',), 'all-gather'): 32768.0,
      (('fsdp',), 'reduce-scatter'): 3 * (32768.0 + 16),
      (('tensor',), 'collective-permute'): 3 * 32768.0,
  }


def test_an_asynchronous_one_whose_start_is_not_seen_counts_once():
  text = _TPU.replace('AsyncCollectiveStart', 'SomethingNew')
  program = hlo.analyze(text, {'data': 2, 'fsdp': 2, 'tensor': 2})
  gathers = [one for one in program.collectives if one.kind == 'all-gather']
  assert [one.count for one in gathers] == [1]


def test_kernels_and_estimates_are_counted():
  program = hlo.analyze(_TPU, {'data': 2, 'fsdp': 2, 'tensor': 2})
  assert program.custom_calls['tpu_custom_call'] == 1
  # 3 trips of 100, and an INT64_MAX that says "don't know".
  assert program.estimated_cycles == 300 and program.unknown_cycles == 1


def test_a_mesh_of_another_size_is_refused():
  with pytest.raises(ValueError, match='for 8 devices, mesh .* has 4'):
    hlo.analyze(_TPU, {'data': 2, 'fsdp': 2})
