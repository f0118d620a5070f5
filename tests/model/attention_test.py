# SPDX-License-Identifier: Apache-2.0
"""The attention kernels: which one a device gets, and that they agree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import model as lm
from rlhf import sharding
from rlhf.model import attention
from tests import tiny

# -- Which kernel -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Device:
  id: int
  platform: str
  process_index: int = 0
  device_kind: str = 'fake'


def _mesh(platform, **sizes):
  """Of devices that nobody has."""
  count = int(np.prod(list(sizes.values()) or [1]))
  devices = [_Device(i, platform) for i in range(count)]
  grid = np.array(devices).reshape([sizes.get(a, 1) for a in sharding.AXES])
  return jax.sharding.Mesh(grid, sharding.AXES)


def _kernel(platform, lengths=(1024, 2048), *, sizes=None, **changes):
  fields = lm.SIZES['1.3b'] | changes
  cfg = lm.ModelConfig(**fields)
  mesh = _mesh(platform, **sizes or {})
  chosen = lm.choose_kernel(cfg, mesh, lengths)
  assert dataclasses.replace(chosen, kernel=cfg.kernel) == cfg
  return chosen.kernel


@pytest.mark.parametrize(
    'platform, changes, want',
    [
        ('cpu', {}, 'xla'),
        ('tpu', {}, 'splash'),
        ('gpu', {}, 'cudnn'),
        ('cuda', {}, 'cudnn'),
        # Splash: heads and rows in multiples of 128.
        ('tpu', dict(head_size=64), 'xla'),
        ('tpu', dict(head_size=256), 'splash'),
        ('tpu', dict(dtype='float32'), 'splash'),
        ('tpu', dict(lengths=(1024, 1000)), 'xla'),
        # Each device has whole heads, and whole blocks of queries.
        ('tpu', dict(sizes=dict(tensor=8)), 'splash'),
        ('tpu', dict(sizes=dict(tensor=16)), 'xla'),
        ('tpu', dict(sizes=dict(sequence=8)), 'splash'),
        ('tpu', dict(sizes=dict(sequence=16)), 'xla'),
        ('tpu', dict(sizes=dict(data=5, fsdp=3)), 'splash'),
        # cuDNN: 16 bits, heads of at most 128 in multiples of 8.
        ('gpu', dict(dtype='float32'), 'xla'),
        ('gpu', dict(head_size=80), 'cudnn'),
        ('gpu', dict(head_size=100), 'xla'),
        ('gpu', dict(head_size=256), 'xla'),
        # Even rows, which no axis splits.
        ('gpu', dict(lengths=(1024, 1000)), 'cudnn'),
        ('gpu', dict(lengths=(1024, 1001)), 'xla'),
        ('gpu', dict(sizes=dict(tensor=8, fsdp=2)), 'cudnn'),
        ('gpu', dict(sizes=dict(sequence=2)), 'xla'),
    ],
)
def test_auto_is_the_kernel_of_the_meshs_devices(platform, changes, want):
  assert _kernel(platform, **changes) == want


@pytest.mark.parametrize('kernel', ['xla', 'splash', 'cudnn'])
@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'gpu'])
def test_a_kernel_that_is_named_is_kept(platform, kernel):
  assert _kernel(platform, kernel=kernel) == kernel


@pytest.mark.parametrize('size', lm.SIZES)
def test_every_size_finds_a_kernel_on_every_device(size):
  fields = {**lm.SIZES[size], 'vocab_size': 300, 'pad_id': 0}
  cfg = lm.ModelConfig(**fields)
  for platform, want in (('cpu', 'xla'), ('tpu', 'splash'), ('gpu', 'cudnn')):
    chosen = lm.choose_kernel(cfg, _mesh(platform, fsdp=8), (1024, 2048))
    small = platform == 'gpu' and cfg.dtype == 'float32'
    odd = platform == 'tpu' and cfg.head_size != 128
    assert chosen.kernel == ('xla' if small or odd else want)


# -- They agree ---------------------------------------------------------------

B, T, H, E, BAND = 2, 256, 2, 128, 40
CFG = lm.ModelConfig(
    layers=1,
    width=8,
    heads=H,
    head_size=E,
    context=T,
    vocab_size=9,
    pad_id=0,
    attention='alternating',
    band=BAND,
    dtype='float32',
    remat='none',
)


def _view(lengths_B):
  """Of rows with segments of these lengths, by their ids."""
  ids_BT = np.stack([
      np.repeat(list(segments), list(segments.values()))
      for segments in lengths_B
  ]).astype(np.int32)
  index = np.arange(ids_BT.shape[1])
  distance_TT = index[:, None] - index[None]
  visible_BTT = ids_BT[:, :, None] == ids_BT[:, None, :]
  visible_BTT &= (ids_BT > 0)[:, :, None] & (distance_TT >= 0)[None]
  near_1TT = (distance_TT < BAND)[None]
  return attention.View(*map(jnp.asarray, (visible_BTT, near_1TT, ids_BT)))


# Three packed, then padding; and a left-padded one.
PACKED = _view([{1: 100, 2: 50, 3: 70, 0: 36}, {0: 60, 1: 196}])


def _heads(batch=B, length=T, size=E, seed=0):
  rng = np.random.default_rng(seed)
  shape = (3, batch, length, H, size)
  return tuple(rng.normal(size=shape).astype(np.float32))


@functools.partial(jax.jit, static_argnames=('kernel', 'mesh'))
def _attend(heads, view, is_banded, *, kernel, mesh=None):
  """Outputs at real tokens, and gradients of a function of them."""
  cfg = dataclasses.replace(CFG, kernel=kernel)

  def loss(heads):
    y_BTHE = attention.attend(*heads, view, is_banded, cfg)
    real_BT = view.segment_ids_BT > 0
    y_BTHE = jnp.where(real_BT[:, :, None, None], y_BTHE, 0.0)
    return jnp.sum(jnp.sin(y_BTHE)), y_BTHE

  gradient = jax.grad(loss, has_aux=True)
  return (sharding.under(mesh, gradient) if mesh else gradient)(heads)


def _numpy_attention(q_THE, k_THE, v_THE, sees_TT):
  """A loop over queries and heads, float64."""
  y_THE = np.zeros(q_THE.shape)
  for t, h in np.ndindex(q_THE.shape[:2]):
    seen = np.flatnonzero(sees_TT[t])
    logits = np.float64(k_THE[seen, h]) @ q_THE[t, h] / np.sqrt(E)
    weights = np.exp(logits - logits.max())
    y_THE[t, h] = weights / weights.sum() @ v_THE[seen, h]
  return y_THE


def interpret(patch=setattr):
  """Lets the TPU's kernel run here, step by step."""
  patch(
      attention, '_splash', functools.partial(attention._splash, interpret=True)
  )


def assert_splash_is_xla(is_banded, mesh=None):
  """Compares outputs and gradients; returns the outputs."""
  heads, view = _heads(), PACKED
  want, want_BTHE = _attend(heads, view, is_banded, kernel='xla')
  if mesh is not None:
    heads, view = sharding.put_batch((heads, view), mesh)
  got, got_BTHE = _attend(heads, view, is_banded, kernel='splash', mesh=mesh)
  np.testing.assert_allclose(got_BTHE, want_BTHE, rtol=1e-4, atol=1e-5)
  for name, a, b in zip('qkv', got, want, strict=True):
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
  return want_BTHE


@pytest.fixture
def interpreted(monkeypatch):
  interpret(monkeypatch.setattr)
  _attend.clear_cache()
  with tiny.quick_compilation():
    yield
  _attend.clear_cache()


@pytest.mark.parametrize('is_banded', [False, True], ids=['dense', 'banded'])
def test_splash_equals_xla_on_packed_and_padded_rows(interpreted, is_banded):
  """With gradients; one row is three segments and padding."""
  y_BTHE = assert_splash_is_xla(is_banded)
  # And that is attention.
  q_BTHE, k_BTHE, v_BTHE = _heads()
  sees_BTT = np.array(PACKED.visible_BTS)
  if is_banded:
    sees_BTT &= PACKED.near_BTS
  for b, real in ((0, slice(100, 150)), (1, slice(60, T))):
    want_THE = _numpy_attention(
        q_BTHE[b, real],
        k_BTHE[b, real],
        v_BTHE[b, real],
        sees_BTT[b, real, real],
    )
    np.testing.assert_allclose(y_BTHE[b, real], want_THE, atol=1e-5)


def splash_on_a_mesh():
  """Run by the test below where there are eight devices."""
  interpret()
  mesh = sharding.make_mesh({'data': 2, 'tensor': 2, 'sequence': 2})
  for is_banded in (False, True):
    assert_splash_is_xla(is_banded, mesh)
  program = functools.partial(_attend, kernel='splash', mesh=mesh)
  jaxpr = jax.make_jaxpr(program)(_heads(), PACKED, True)
  # Of a device: a row, its half of the queries of one head, all keys of it.
  assert 'shard_map' in str(jaxpr) and 'f32[1,128,1,128]' in str(jaxpr)
  print('the same')


@pytest.mark.multi_device
@pytest.mark.slow
def test_splash_on_eight_devices_equals_xla_on_one(fresh_python):
  printed = fresh_python(
      'from tests import tiny\n'
      'from tests.model import attention_test\n'
      'with tiny.quick_compilation(): attention_test.splash_on_a_mesh()\n',
      devices=8,
  )
  assert printed == 'the same\n'


def test_the_model_hands_each_kernel_the_same_view(
    interpreted, make_cfg, make_params
):
  """Whole rows by splash, alternating layers, and decoding by XLA as ever."""
  cfg = make_cfg(
      head_size=E, context=T, band=BAND, attention='alternating', layers=2
  )
  params = make_params(cfg)
  tokens_BT = np.random.default_rng(0).integers(1, 40, (B, T)).astype(np.int32)
  mask_BT = PACKED.segment_ids_BT > 0

  @functools.partial(jax.jit, static_argnums=0)
  def run(kernel):
    one = dataclasses.replace(cfg, kernel=kernel)
    x_BTD = lm.forward(params, tokens_BT, PACKED.segment_ids_BT, one)
    return jnp.where(mask_BT[:, :, None], x_BTD, 0.0)

  np.testing.assert_allclose(run('splash'), run('xla'), atol=2e-5)

  def uses_splash(function, *args):
    return 'pallas_call' in str(jax.make_jaxpr(function)(*args))

  splash = dataclasses.replace(cfg, kernel='splash', context=T + 1)
  params = make_params(splash)

  def prefill(tokens_BP):
    ones_BP = jnp.ones_like(tokens_BP, bool)
    return lm.prefill(params, tokens_BP, ones_BP, splash, slots=T + 1)

  def decode(cache):
    return lm.decode_step(params, cache, jnp.ones(B, jnp.int32), splash)

  assert uses_splash(prefill, tokens_BT)
  assert not uses_splash(decode, jax.eval_shape(prefill, tokens_BT)[1])


@pytest.mark.parametrize(
    'length, heads, sizes, message',
    [
        (200, 2, {}, 'rows of 200 tokens.*model.kernel=xla'),
        (128, 2, dict(sequence=2), '128 on sequence=2'),
        (256, 3, dict(tensor=2), '3 heads.*tensor=2'),
    ],
)
def test_splash_refuses_what_it_cannot_split(length, heads, sizes, message):
  shape = (B, length, heads, E)
  x_BTHE = jax.ShapeDtypeStruct(shape, jnp.float32)
  ids_BT = jax.ShapeDtypeStruct(shape[:2], jnp.int32)
  function = functools.partial(attention.splash_rows, band=None)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
        sharding.under(_mesh('tpu', **sizes), function),
        x_BTHE, x_BTHE, x_BTHE, ids_BT,
    )


@pytest.mark.parametrize('length', [128, 256, 384, 512, 640, 1024, 1280, 2048])
def test_tiles_divide_their_rows(length):
  for shards in (1, 2, 4):
    if length % (128 * shards):
      continue
    tiles = attention._blocks(length // shards, length)
    assert {*tiles.values()} <= {128, 256, 384, 512}
    for name, tile in tiles.items():
      rows = length // shards if '_q' in name else length
      assert rows % tile == 0, name


# -- cuDNN's form, without cuDNN ----------------------------------------------


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_dot_product_equals_xla(dtype):
  """The mask, the scale and the order of axes, and rows that see nothing."""
  view = _view([{1: 3, 2: 4, 0: 2}, {0: 5, 1: 4}])
  heads = [jnp.asarray(x, dtype) for x in _heads(length=9, size=8)]
  both = []
  for function in (
      attention._xla,
      functools.partial(attention.dot_product, implementation='xla'),
  ):

    @jax.jit
    def run(heads, function=function):
      def loss(heads):
        y_BTHE = function(*heads, view.visible_BTS)
        # As ever, nothing hangs on what comes out at padding.
        real_BT = view.segment_ids_BT > 0
        sin_BTHE = jnp.sin(y_BTHE.astype(jnp.float32))
        return jnp.sum(sin_BTHE, where=real_BT[:, :, None, None]), y_BTHE

      return jax.grad(loss, has_aux=True)(heads)

    both.append(jax.device_get(run(heads)))
  # bf16 has 8 bits; the two round differently.
  tolerance = 1e-5 if dtype == jnp.float32 else 0.04
  for got, want in zip(*map(jax.tree.leaves, both), strict=True):
    assert np.isfinite(np.float32(got)).all()
    np.testing.assert_allclose(
        np.float32(got), np.float32(want), atol=tolerance
    )
  # Nothing is seen: all is, alike, and no NaN comes of it.
  y_BTHE = np.float32(both[0][1])
  mean_HE = np.float32(heads[2])[0].mean(axis=0)
  np.testing.assert_allclose(y_BTHE[0, 8], mean_HE, atol=tolerance)
