# SPDX-License-Identifier: Apache-2.0
"""Whole programs against closed forms: by hand, for the CPU, and for TPUs."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf.planning import hlo, instructions, topology

# -- By hand ------------------------------------------------------------------


def _flops(line, **shapes):
  """Of one instruction of arrays of these shapes."""
  parameters = '\n'.join(
      f'  %{name} = {shape}{{1,0:T(8,128)}} parameter({i})'
      for i, (name, shape) in enumerate(shapes.items())
  )
  text = f'HloModule m\n\nENTRY %main () -> f32[] {{\n{parameters}\n{line}\n}}'
  return hlo.analyze(text, {'data': 1}).flops


def test_flops_of_a_product_are_of_what_it_sums():
  line = (
      '  ROOT %c = f32[3,5,7]{2,1,0} dot(%a, %b), lhs_batch_dims={0},'
      ' lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}'
  )
  assert _flops(line, a='f32[3,5,11]', b='f32[3,11,7]') == 2 * 3 * 5 * 7 * 11


@pytest.mark.parametrize(
    'a, b, c, how, want',
    [
        # A plain product, as TPUs have it.
        ('bf16[64,512]', 'bf16[512,128]', 'bf16[64,128]',
         'dim_labels=bf_io->bf', 2 * 64 * 512 * 128),
        # Of 4 heads, each with its own: base dilation keeps them apart.
        ('bf16[2048,4,128]', 'bf16[2048,4,128]', 'f32[4,2048,2048]',
         'window={size=4 stride=3 lhs_dilate=4}, dim_labels=b0f_o0i->0bf',
         2 * 4 * 2048 * 2048 * 128),
        # 512 -> 4 heads of 128: one row of the window meets the one element.
        ('bf16[2048,512,1]', 'bf16[512,4,128]', 'bf16[2048,4,128]',
         'window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_i0o->b0f',
         2 * 2048 * 512 * 4 * 128),
        # Back: what the heads have is summed by the window.
        ('bf16[2048,4,128]', 'bf16[4,128,512]', 'bf16[2048,512,1]',
         'window={size=4}, dim_labels=b0f_0io->bf0',
         2 * 2048 * 512 * 4 * 128),
        # A real one: 5 outputs of 3, but the first and last see padding once.
        ('f32[2,5,3]', 'f32[3,3,7]', 'f32[2,5,7]',
         'window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f',
         2 * 2 * 3 * 7 * (5 * 3 - 2)),
    ],
)  # fmt: skip
def test_flops_of_a_convolution_are_without_padding(a, b, c, how, want):
  line = f'  ROOT %c = {c}{{1,0}} convolution(%a, %b), {how}'
  assert _flops(line, a=a, b=b) == want


def test_bytes_of_types():
  array = instructions.Array
  assert array('bf16', (3, 4)).bytes == 24
  assert array('f8e4m3fn', (3, 4)).bytes == 12
  assert array('s4', (3, 4)).bytes == 6
  assert array('pred', ()).bytes == 1
  assert array('token', ()).bytes == 0


def test_what_is_no_program_is_refused():
  with pytest.raises(ValueError, match='as_text'):
    hlo.analyze('module @jit_f { func.func public @main() }', {})


# -- Compiled -----------------------------------------------------------------

_D, _F, _B = 256, 1024, 128
_SIZES = {'data': 2, 'fsdp': 2, 'tensor': 2}


def _layer(mesh, h_BD, weights):
  """Up and down, as a transformer's MLP is split over the axes."""

  def pin(x, *axes):
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*axes)))

  h_BD = pin(h_BD, ('data', 'fsdp'), None)
  y_BF = pin(jnp.tanh(h_BD @ weights['up']), ('data', 'fsdp'), 'tensor')
  return pin(h_BD + y_BF @ weights['down'], ('data', 'fsdp'), None), None


def _scan(mesh, weights, h_BD):
  return jax.lax.scan(functools.partial(_layer, mesh), h_BD, weights)[0]


def _decode(mesh, weights, h_BD):
  """The scan, at most 16 times, until every row is above 1."""

  def go_on(carry):
    t, done_B, _ = carry
    return (t < 16) & ~jnp.all(done_B)

  def step(carry):
    t, done_B, h_BD = carry
    h_BD = _scan(mesh, weights, h_BD)
    return t + 1, done_B | (h_BD.max(-1) > 1), h_BD

  start = (0, jnp.zeros(h_BD.shape[0], bool), h_BD)
  return jax.lax.while_loop(go_on, step, start)


def _train(mesh, weights, h_BD):
  def loss(weights):
    return (_scan(mesh, weights, h_BD) ** 2).mean()

  return jax.tree.map(jnp.subtract, weights, jax.grad(loss)(weights))


def _analyzed(function, mesh, layers, dtype, slices=1):
  weights = {
      'up': jax.ShapeDtypeStruct((layers, _D, _F), dtype),
      'down': jax.ShapeDtypeStruct((layers, _F, _D), dtype),
  }
  where = {
      'up': NamedSharding(mesh, P(None, 'fsdp', 'tensor')),
      'down': NamedSharding(mesh, P(None, 'tensor', 'fsdp')),
  }
  rows = NamedSharding(mesh, P(('data', 'fsdp'), None))
  step = jax.jit(
      functools.partial(function, mesh), in_shardings=(where, rows)
  )
  h_BD = jax.ShapeDtypeStruct((_B, _D), dtype)
  text = step.lower(weights, h_BD).compile().as_text()
  return hlo.analyze(text, mesh.shape, slices)


def _expect(program, runs, size):
  """`runs` layers in all, of numbers of `size` bytes, on 2 x 2 x 2."""
  # Two products of [B/4, D] x [D, F/2]: rows over data and fsdp, F over tensor.
  assert program.flops == runs * 2 * 2 * (_B / 4) * _D * (_F / 2)
  wire = program.wire_bytes()
  # Each layer gathers both matrices' halves of `tensor`: half of that comes
  # from the other device of `fsdp`.
  gathered = runs * 2 * (_D * _F / 2) * size
  assert wire[('fsdp',), 'all-gather'] == gathered / 2
  # The products' partial sums: twice (g-1)/g = 1/2 of [B/4, D].
  assert wire[('tensor',), 'all-reduce'] == runs * (_B / 4) * _D * size
  assert not program.unknown_loops


def check_cpu():
  """Run by the test below where there are eight devices."""
  mesh = topology.mesh(topology.parse('cpu:8'), _SIZES)
  for layers in (2, 8):
    program = _analyzed(_scan, mesh, layers, jnp.float32)
    _expect(program, layers, size=4)
    assert {axes for axes, _ in program.wire_bytes()} == {
        ('fsdp',), ('tensor',),
    }  # fmt: skip
  program = _analyzed(_decode, mesh, 3, jnp.float32)
  _expect(program, 16 * 3, size=4)
  _expect_decoder(program)


def _expect_decoder(program):
  (decoder,) = program.bounded_loops
  assert decoder.trips == 16
  gathers = [one for one in program.collectives if one.kind == 'all-gather']
  assert {one.count for one in gathers} == {16 * 3}
  # Whether all rows have ended is asked once more than there are tokens.
  (asked,) = [one for one in program.collectives if 'data' in one.axes]
  assert asked.axes == ('data', 'fsdp') and asked.count == 17


@pytest.mark.multi_device
def test_a_scan_on_eight_cpu_devices_is_its_closed_form(fresh_python):
  fresh_python(
      'from tests.planning import hlo_test\nhlo_test.check_cpu()\n', devices=8
  )


def check_tpu():
  """Run by the test below where libtpu's environment is set."""
  jax.config.update('jax_optimization_level', 'O0')
  mesh = topology.mesh(topology.parse('v5e:2x4'), _SIZES)
  program = _analyzed(_scan, mesh, 5, jnp.bfloat16)
  (layers,) = program.loops
  assert layers.trips == 5 and layers.exact
  _expect(program, 5, size=2)
  weights = [one for one in program.collectives if one.kind == 'all-gather']
  assert weights and all(one.in_loop and one.count == 5 for one in weights)
  assert {one.dtype for one in weights} == {'bf16'}
  assert program.estimated_cycles > 0 and not program.custom_calls

  program = _analyzed(_decode, mesh, 3, jnp.bfloat16)
  _expect(program, 16 * 3, size=2)
  _expect_decoder(program)


# Each device's share of the gradient of one layer.
_SHARE = 2 * (_D / 2) * (_F / 2)


def check_slices():
  """Run by the test below where libtpu's environment is set."""
  # At the level that is run at: it peels an iteration off the loop over layers,
  # and overlaps the transfers with the rest.
  pods = topology.parse('2*v5e:2x2')
  program = _analyzed(
      _train, topology.mesh(pods, _SIZES), 5, jnp.float32, pods.num_slices
  )
  # Forward, and two products for each product backward.
  assert program.flops == 5 * 3 * 2 * 2 * (_B / 4) * _D * (_F / 2)
  # Slices are joined along data: all that goes between them are gradients,
  # twice (g-1)/g = 1/2 of a device's share.
  assert program.wire_bytes(between_slices=True) == {
      (('data',), 'all-reduce'): 5 * _SHARE * 4
  }
  within = program.wire_bytes(between_slices=False)
  assert {axes for axes, _ in within} == {('fsdp',), ('tensor',)}
  # Partial sums of [B/4, D]: one product forward, one backward.
  assert within[('tensor',), 'all-reduce'] == 5 * 2 * (_B / 4) * _D * 4
  # What a device of fsdp keeps is half of what is reduced.
  assert within[('fsdp',), 'reduce-scatter'] == 5 * 2 * _SHARE * 4 / 2


def check_offload():
  """Run by the test below where libtpu's environment is set."""
  jax.config.update('jax_optimization_level', 'O0')
  mesh = topology.mesh(topology.parse('tpu7x:2x2x1'), _SIZES)
  program = _analyzed(_train, mesh, 5, jnp.float32)
  # A SparseCore sums the gradients, in a computation that a call starts.
  wire = program.wire_bytes()
  assert wire[('data',), 'all-reduce'] == 5 * _SHARE * 4


def check_kernel():
  """Run by the test below where libtpu's environment is set."""
  from jax.experimental import pallas

  def double(x_ref, y_ref):
    y_ref[...] = x_ref[...] * 2

  shape = jax.ShapeDtypeStruct((8, 128), jnp.float32)
  kernel = pallas.pallas_call(double, out_shape=shape)
  mesh = topology.mesh(topology.parse('v5e:2x2'), {'data': 4})
  step = jax.jit(
      jax.shard_map(
          kernel, mesh=mesh, in_specs=P('data'), out_specs=P('data'),
          check_vma=False,
      )
  )  # fmt: skip
  x = jax.ShapeDtypeStruct(
      (32, 128), jnp.float32, sharding=NamedSharding(mesh, P('data'))
  )
  text = step.lower(x).compile().as_text()
  assert hlo.analyze(text, mesh.shape).custom_calls == {'tpu_custom_call': 1}


@pytest.mark.parametrize(
    'check', ['check_tpu', 'check_slices', 'check_offload', 'check_kernel']
)
def test_programs_for_tpus_are_their_closed_form(fresh_python, check):
  fresh_python(
      'import os\n'
      'from rlhf.planning.environment import environment\n'
      'os.environ.update(environment())\n'
      'from tests.planning import hlo_test\n'
      f'hlo_test.{check}()\n'
  )
