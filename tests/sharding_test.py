# SPDX-License-Identifier: Apache-2.0
"""The rule table against every parameter there is; meshes; activations."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlhf import model as lm
from rlhf import optim, sharding, update

# -- Rules --------------------------------------------------------------------


def _state(size, **changes):
  """Shapes of a state with all that there can be: head, moments and average."""
  cfg = lm.ModelConfig(**lm.SIZES[size] | changes)
  tx = optim.optimizer(
      optim.OptimizerConfig(learning_rate=1.0, weight_decay=0.1)
  )

  def make(key):
    params = lm.init(key, cfg)
    params |= {'scalar_head': lm.init_scalar_head(key, cfg)}
    return update.new_state(params, tx, ema=True)

  return jax.eval_shape(make, jax.random.key(0))


def _named(tree):
  return {
      sharding.path_name(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize('size', lm.SIZES)
def test_every_parameter_matches_exactly_one_rule(size):
  leaves = _named(_state(size, reward_pooling='last_and_mean'))
  assert 'params/embed/tokens/table' in leaves
  assert any(re.search('opt_state.*/mu/layers/mlp/up', name) for name in leaves)
  assert any(name.startswith('ema/scalar_head') for name in leaves)
  for name, leaf in leaves.items():
    matching = [
        axes for pattern, axes in sharding.RULES if re.search(pattern, name)
    ]
    if leaf.ndim:
      assert len(matching) == 1, name
      # A rule has no more axes than the parameter, and names each mesh axis
      # at most once.
      assert len(matching[0]) <= leaf.ndim, name
      assert len(set(_axes(matching[0]))) == len(_axes(matching[0])), name


@dataclasses.dataclass(frozen=True)
class _Shape:
  """What `spec` knows of a mesh: `_Shape(fsdp=4).shape`."""

  data: int = 1
  fsdp: int = 1
  tensor: int = 1
  sequence: int = 1

  @property
  def shape(self):
    return dataclasses.asdict(self)


def _axes(spec):
  """The mesh axes of a spec, each as often as it is named."""
  entries = [(e,) if isinstance(e, str) else e or () for e in spec]
  return [axis for entry in entries for axis in entry]


def _assert_fits(name, leaf, spec, mesh):
  """Every entry divides its dimension, and no axis is used twice."""
  assert len(spec) <= leaf.ndim, name
  assert len(set(_axes(spec))) == len(_axes(spec)), name
  for size, entry in zip(leaf.shape, spec, strict=False):
    parts = np.prod([mesh.shape[axis] for axis in _axes([entry])])
    assert size % parts == 0, (name, spec)
  if 'layers/' in name:
    assert spec[0] is None, f'{name}: the layers are scanned'


_PODS = [
    _Shape(fsdp=8),
    _Shape(fsdp=16),
    _Shape(fsdp=8, tensor=2),
    _Shape(fsdp=4, tensor=4),
    _Shape(data=2, fsdp=4, tensor=2, sequence=2),
]


@pytest.mark.parametrize(
    'size, mesh',
    [
        *((size, mesh) for size in ('1.3b', '6b', '175b') for mesh in _PODS),
        ('1.3b', _Shape(fsdp=16, tensor=8)),
        ('175b', _Shape(fsdp=64, tensor=8)),
        # 5140 = 4 x 5 x 257: `fsdp` moves to another dimension of 13B.
        *(('13b', mesh) for mesh in _PODS),
    ],
    ids=str,
)
def test_big_matrices_divide_over_a_pod(size, mesh):
  """No rule is silently dropped where it matters: all of it is spread out."""
  total = spread = 0
  used = {a for a in sharding.SPREAD if mesh.shape[a] > 1}
  for name, leaf in _parameters(size).items():
    spec = sharding.spec(name, leaf.shape, mesh)
    _assert_fits(name, leaf, spec, mesh)
    assert set(_axes(spec)) <= used, f'{name}: copies are in `data`'
    total += leaf.size
    spread += leaf.size if used == set(_axes(spec)) else 0
  assert spread > 0.98 * total


@functools.cache
def _parameters(size):
  return _named(_state(size).params)


@pytest.mark.parametrize('size', ['1.3b', '13b'])
def test_moments_and_average_lie_where_their_parameters_do(size):
  mesh = _Shape(fsdp=8, tensor=2)
  leaves = _named(_state(size))
  for name, leaf in _parameters(size).items():
    want = sharding.spec(name, leaf.shape, mesh)
    same = [n for n in leaves if n.endswith('/' + name)]
    # Itself, two moments, the average.
    assert len(same) == 4, name
    for other in same:
      assert sharding.spec(other, leaves[other].shape, mesh) == want, other


@pytest.mark.parametrize(
    'shape, mesh, want',
    [
        # As in RULES.
        ((3, 16, 4, 8), _Shape(fsdp=4, tensor=2), (None, 'fsdp', 'tensor')),
        # Two axes on one dimension.
        ((3, 16, 4, 8), _Shape(fsdp=4, sequence=2),
         (None, ('fsdp', 'sequence'))),
        # An axis of size 1 is none, and `data` splits no weights.
        ((3, 16, 4, 8), _Shape(data=4), ()),
        # 18 does not divide by 4: to the largest that does.
        ((3, 18, 4, 8), _Shape(fsdp=4), (None, None, None, 'fsdp')),
        ((3, 18, 12, 8), _Shape(fsdp=4), (None, None, 'fsdp')),
        # To a free one rather than beside another axis.
        ((3, 18, 8, 4), _Shape(fsdp=4, tensor=2),
         (None, None, 'tensor', 'fsdp')),
        # But there, where no free one will do.
        ((3, 18, 8, 5), _Shape(fsdp=4, tensor=2),
         (None, None, ('tensor', 'fsdp'))),
        # One of two axes stays; only the other moves.
        ((3, 18, 5, 8), _Shape(fsdp=2, sequence=4),
         (None, 'fsdp', None, 'sequence')),
        # Never to the layers, which are scanned.
        ((4, 18, 5, 7), _Shape(fsdp=4), ()),
    ],
)
def test_an_axis_that_does_not_divide_is_moved_then_dropped(shape, mesh, want):
  got = sharding.spec('layers/attention/query/kernel', shape, mesh)
  assert got == P(*want, *[None] * (4 - len(want)))


def test_an_odd_vocabulary_is_not_split():
  mesh = _Shape(fsdp=4, tensor=2)
  # Both axes share the other dimension.
  got = sharding.spec('embed/tokens/table', (31, 16), mesh)
  assert got == P(None, ('fsdp', 'tensor'))
  assert sharding.spec('embed/tokens/table', (31, 15), mesh) == P(None, None)
  assert sharding.spec('step', (), mesh) == P()
  alone = sharding.make_mesh({}, jax.devices()[:1])
  assert sharding.spec('embed/tokens/table', (32, 16), alone) == P(None, None)


def test_a_network_may_be_spread_over_fewer_axes():
  mesh, shape = _Shape(fsdp=4, tensor=2, sequence=2), (3, 16, 4, 8)
  name = 'layers/attention/query/kernel'
  for spread, want in (
      (sharding.SPREAD, P(None, ('fsdp', 'sequence'), 'tensor', None)),
      (('tensor',), P(None, None, 'tensor', None)),
      (('fsdp',), P(None, 'fsdp', None, None)),
      ((), P(None, None, None, None)),
  ):
    assert sharding.spec(name, shape, mesh, spread) == want


def test_an_unknown_parameter_is_refused_by_name():
  mesh = sharding.make_mesh({})
  with pytest.raises(ValueError, match="'layers/gate/kernel'.*RULES"):
    sharding.shardings({'layers': {'gate': {'kernel': jnp.ones(3)}}}, mesh)


# -- The mesh -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Device:
  """One of a pod that nobody has."""

  id: int
  slice_index: int = 0
  process_index: int = 0
  platform: str = 'cpu'
  device_kind: str = 'fake'


def _devices(count, slices=1):
  return [_Device(i, i * slices // count) for i in range(count)]


def test_mesh_takes_all_devices_where_an_axis_is_minus_one():
  shape = dict(sharding.make_mesh({'data': -1}).shape)
  assert shape == {
      'data': jax.device_count(), 'fsdp': 1, 'tensor': 1, 'sequence': 1
  }
  mesh = sharding.make_mesh({'fsdp': -1, 'sequence': 2}, _devices(8))
  assert tuple(mesh.shape.values()) == (1, 4, 1, 2)


@pytest.mark.parametrize(
    'sizes, message',
    [
        ({'model': 1}, "no axis 'model'.*'tensor'"),
        ({'data': 3}, 'does not divide'),
        ({'data': -1, 'tensor': 3}, 'does not divide'),
        ({'data': -1, 'fsdp': -1}, 'does not divide'),
        ({'data': 0}, 'does not divide'),
    ],
)
def test_a_wrong_mesh_is_refused(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(sizes, jax.devices()[:1])


@pytest.mark.parametrize('slices, data', [(2, 2), (2, 4), (4, 4), (1, 2)])
def test_slices_are_joined_along_data(slices, data):
  """What crosses the network between slices are gradients alone."""
  mesh = sharding.make_mesh(
      {'data': data, 'fsdp': -1, 'tensor': 2}, _devices(16, slices)
  )
  assert tuple(mesh.shape.values()) == (data, 8 // data, 2, 1)
  slice_of = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  rows = slice_of.reshape(data, -1)
  # One slice a row, each slice on neighbouring rows.
  np.testing.assert_array_equal(rows, rows[:, :1].repeat(16 // data, axis=1))
  want = np.arange(slices).repeat(data // slices)
  np.testing.assert_array_equal(rows[:, 0], want)
  assert len({device.id for device in mesh.devices.flat}) == 16


def test_slices_that_data_does_not_hold_are_refused():
  with pytest.raises(ValueError, match=r'mesh.data=2 on 4 slices.*multiple'):
    sharding.make_mesh({'data': 2, 'fsdp': -1}, _devices(16, 4))
  # Nothing is said of `data`: 1 is too few.
  with pytest.raises(ValueError, match=r'mesh.data=1 on 2 slices'):
    sharding.make_mesh({'fsdp': -1}, _devices(16, 2))


def test_rollout_mesh_is_of_whole_copies_on_the_same_devices():
  mesh = sharding.make_mesh(
      {'data': 2, 'fsdp': 2, 'tensor': 2, 'sequence': 2}, _devices(16)
  )
  for tensor, copies in ((0, 8), (1, 16), (4, 4), (16, 1)):
    got = sharding.rollout_mesh(mesh, tensor)
    want = (copies, 1, tensor or 2, 1)
    assert got.axis_names == sharding.AXES
    assert tuple(got.shape.values()) == want
    # One program may take arrays of both meshes only if their order is one.
    assert list(got.devices.flat) == list(mesh.devices.flat)
  with pytest.raises(ValueError, match='ppo.rollout_tensor=3.*16 devices'):
    sharding.rollout_mesh(mesh, 3)


# -- Activations and batches --------------------------------------------------


def _constraints(function, *args, mesh):
  """Specs that `function` asks for, traced for a mesh."""
  jaxpr = jax.make_jaxpr(sharding.under(mesh, function))(*args)
  return [
      eqn.params['sharding'].spec
      for eqn in jaxpr.eqns
      if eqn.primitive.name == 'sharding_constraint'
  ]


@pytest.mark.parametrize(
    'sizes, shape, want',
    [
        (dict(data=2, fsdp=2), (8, 6, 3), P(('data', 'fsdp'), None, None)),
        # From the last axis on, until what is left divides.
        (dict(data=2, fsdp=2), (6, 6, 3), P('data', None, None)),
        (dict(data=2, fsdp=2), (5, 6, 3), P(None, None, None)),
        (dict(sequence=2, tensor=2), (1, 8, 3),
         P(None, ('sequence', 'tensor'), None)),
        (dict(sequence=2, tensor=2), (1, 6, 3), P(None, 'sequence', None)),
        # A token that is decoded.
        (dict(data=2, sequence=2, tensor=2), (4, 1, 3), P('data', None, None)),
    ],
)
def test_constrain_drops_what_does_not_divide(sizes, shape, want):
  count = int(np.prod(list(sizes.values())))
  mesh = sharding.make_mesh(sizes, _devices(count))
  x_BTD = jax.ShapeDtypeStruct(shape, jnp.float32)

  def function(x_BTD):
    return sharding.constrain(x_BTD, 'residual_BTD')

  assert _constraints(function, x_BTD, mesh=mesh) == [want]
  # Off a mesh, and on one of one device, nothing is asked.
  one = sharding.make_mesh({}, _devices(1))
  assert _constraints(function, x_BTD, mesh=one) == []
  assert len(jax.make_jaxpr(function)(x_BTD).eqns) == 0


def test_constrain_wants_the_rank_that_its_place_spells():
  mesh = sharding.make_mesh({'data': 2}, _devices(2))
  for place, axes in sharding.ACTIVATIONS.items():
    letters = place.rpartition('_')[2]
    assert len(axes) == len(letters), place
    x = jax.ShapeDtypeStruct((2,) * (len(letters) + 1), jnp.float32)
    with pytest.raises(ValueError):
      _constraints(
          functools.partial(sharding.constrain, place=place), x, mesh=mesh
      )


def test_rows_are_pinned_where_put_batch_puts_them():
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2}, _devices(4))
  batch = {'a': np.zeros((8, 3)), 'b': np.zeros((6, 3)), 'c': np.zeros(4)}
  for stacked, want in (
      (False, [P(sharding.ROWS), P(), P(sharding.ROWS)]),
      (True, [P(), P(), P()]),
  ):
    pin = functools.partial(sharding.constrain_rows, stacked=stacked)
    got = _constraints(pin, batch, mesh=mesh)
    assert got == want == [
        sharding.batch_sharding(leaf.shape, mesh, stacked=stacked).spec
        for leaf in batch.values()
    ]
  pin = functools.partial(sharding.constrain_rows, stacked=True)
  wide = {'a': np.zeros((3, 8, 2))}
  assert _constraints(pin, wide, mesh=mesh) == [P(None, sharding.ROWS)]
  assert pin(wide) is wide


def test_what_is_put_is_fetched_again():
  mesh = sharding.make_mesh({}, jax.devices()[:1])
  batch = {'x': np.arange(6).reshape(3, 2), 'n': np.float32(2.0)}
  placed = sharding.put_batch(batch, mesh)
  assert sharding.mesh_of(placed) == mesh
  assert sharding.mesh_of(batch) is None
  assert sharding.mesh_of({'x': jnp.ones(2)}) is None
  back = sharding.fetch(placed | {'said': 'text', 'own': batch['x']})
  assert back.pop('said') == 'text'
  assert back.pop('own') is batch['x']
  assert all(isinstance(leaf, np.ndarray) for leaf in back.values())
  jax.tree.map(np.testing.assert_array_equal, back, batch)
