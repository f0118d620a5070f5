# SPDX-License-Identifier: Apache-2.0
"""The sizes of the GPT-3 paper, and configs that can't be."""

import jax
import numpy as np
import pytest

from rlhf import model as lm


def _count(cfg):
  shapes = jax.eval_shape(lambda key: lm.init(key, cfg), jax.random.key(0))
  return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


# Brown et al. 2020, table 2.1, except for what the table gets wrong of its own:
# 24 heads of 128 in the 1.3B model make its attention 3/2 as wide as D = 2048,
# which is 4 * 2048 * 1024 * 24 = 0.2e9 more than its name says.
@pytest.mark.parametrize(
    'size, billions',
    [
        ('125m', 0.125),
        ('350m', 0.356),
        ('760m', 0.760),
        ('1.3b', 1.315 + 0.201),
        ('2.7b', 2.65),
        ('6b', 6.7),
        ('13b', 13.0),
        ('175b', 175.0),
    ],
)
def test_sizes_have_as_many_parameters_as_their_names(size, billions):
  cfg = lm.ModelConfig(**lm.SIZES[size])
  assert _count(cfg) == pytest.approx(billions * 1e9, rel=0.01)


@pytest.mark.parametrize('size', sorted(lm.SIZES))
def test_parameter_count_has_a_closed_form(size):
  vocab = dict(vocab_size=300, pad_id=0) if size == 'mini' else {}
  cfg = lm.ModelConfig(**lm.SIZES[size], **vocab)
  d, he, f = cfg.width, cfg.heads * cfg.head_size, cfg.mlp_ratio * cfg.width
  attention = 3 * (d * he + he) + he * d + d
  mlp = d * f + f + f * d + d
  layer = attention + mlp + 4 * d  # Two norms, scale and bias each.
  # 50,258 tokens in rows of 128: 50,304 = 393 * 128.
  rows = 300 if size == 'mini' else 50304
  tables = (rows + cfg.context) * d
  assert _count(cfg) == cfg.layers * layer + tables + 2 * d


def test_paper_sizes_share_what_the_paper_says_of_all():
  for size, fields in lm.SIZES.items():
    if size == 'mini':
      continue
    cfg = lm.ModelConfig(**fields)
    assert cfg.context == 2048
    assert cfg.attention == 'alternating'
    # The 50,257 of the byte-level BPE, and a padding id that is none of them.
    assert (cfg.vocab_size, cfg.pad_id) == (50258, 50257)


@pytest.mark.parametrize(
    'multiple, rows', [(1, 40), (8, 40), (16, 48), (64, 64), (128, 128)]
)
def test_rows_of_the_token_table_are_rounded_up(make_cfg, multiple, rows):
  cfg = make_cfg(vocab_multiple=multiple)
  assert cfg.vocab_rows == rows
  shapes = jax.eval_shape(lambda key: lm.init(key, cfg), jax.random.key(0))
  assert shapes['embed']['tokens']['table'].shape == (rows, cfg.width)


def test_weight_std():
  sizes = dict(layers=1, width=64, heads=1, head_size=1)
  assert lm.ModelConfig(**sizes).weight_std == 0.02
  assert lm.ModelConfig(**sizes, init_std=None).weight_std == 1 / 8


def test_configs_can_be_static_arguments(make_cfg):
  assert hash(make_cfg()) == hash(make_cfg())
  assert make_cfg() == make_cfg()
  assert make_cfg() != make_cfg(band=4)


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('layers', 0, 'model.layers=0'),
        ('width', 0, 'model.width=0'),
        ('heads', 0, 'model.heads=0'),
        ('head_size', -1, 'model.head_size=-1'),
        ('context', 0, 'model.context=0'),
        # A banded layer that does not see its own token would see everything:
        # the softmax of a row that is masked throughout is uniform.
        ('band', 0, 'model.band=0'),
        ('mlp_ratio', 0, 'model.mlp_ratio=0'),
        ('attention', 'sparse', "model.attention='sparse'.*alternating"),
        ('dtype', 'float16', "model.dtype='float16'.*bfloat16"),
        ('remat', True, 'model.remat=True.*full'),
        ('kernel', 'flash', "model.kernel='flash'.*splash"),
        ('vocab_multiple', 0, 'model.vocab_multiple=0'),
        ('loss_chunk', -1, 'model.loss_chunk=-1'),
        ('reward_pooling', 'mean', "model.reward_pooling='mean'.*last"),
        ('dropout', 1.0, 'model.dropout=1.0'),
        ('dropout', -0.1, 'model.dropout=-0.1'),
        ('pad_id', 40, 'model.pad_id=40'),
        ('pad_id', -1, 'model.pad_id=-1'),
    ],
)
def test_bad_configs_are_refused_by_name(make_cfg, field, value, message):
  with pytest.raises(ValueError, match=message):
    make_cfg(**{field: value})
