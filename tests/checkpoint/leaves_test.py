# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint may lack or have too much, and what the lines say."""

import collections

import jax
import jax.numpy as jnp

from rlhf.checkpoint import leaves

Pair = collections.namedtuple('Pair', 'first second')
SAVED = {'a/b/c': [[2], 'float32'], 'a/b/d': [[], 'int32'], 'e': [[3], 'bool']}


def _wanted(**kinds):
  return {
      name.replace('_', '/'): jax.ShapeDtypeStruct(shape, dtype)
      for name, (shape, dtype) in kinds.items()
  }


def test_names_go_through_dicts_tuples_and_fields():
  tree = {'x': Pair(1, [2, {'y': 3}]), 'z': None}
  assert leaves.named(tree) == {'x/first': 1, 'x/second/0': 2,
                                'x/second/1/y': 3}


def test_kinds():
  assert leaves.kind(jnp.zeros((2, 3), jnp.bfloat16)) == [[2, 3], 'bfloat16']
  assert leaves.kind(3) == [[], 'int32']
  assert leaves.words(SAVED['a/b/c']) == 'float32[2]'
  abstract = leaves.abstract(jax.ShapeDtypeStruct((4,), jnp.int8))
  assert abstract.sharding is not None and abstract.shape == (4,)


def test_what_fits_needs_no_words():
  wanted = _wanted(a_b_c=((2,), 'float32'), a_b_d=((), 'int32'),
                   e=((3,), 'bool'))
  assert leaves.compare(SAVED, wanted, (), ()) == ([], [], [])


def test_patterns_allow_what_they_match_and_nothing_else():
  wanted = _wanted(a_b_c=((2,), 'float32'), f_g=((1,), 'int32'))
  missing, left_over, lines = leaves.compare(
      SAVED, wanted, ['f/*'], ['e', 'a/b/*']
  )
  assert missing == ['f/g'] and left_over == ['a/b/d', 'e'] and not lines
  _, _, lines = leaves.compare(SAVED, wanted, ['f'], ['a/*'])
  assert lines[:2] == ['  it lacks f/g', '  only it has e']
  assert any("--config.resume.missing=\"('f', 'f/g')\"" in x for x in lines)
  assert any("--config.resume.left_over=\"('a/*', 'e')\"" in x for x in lines)


def test_another_kind_can_not_be_allowed():
  wanted = _wanted(a_b_c=((3,), 'float32'), a_b_d=((), 'float32'))
  _, _, lines = leaves.compare(SAVED, wanted, ['*'], ['*'])
  assert lines[:2] == [
      '  another shape or dtype: a/b/c: float32[2] there, float32[3] here',
      '  another shape or dtype: a/b/d: int32[] there, float32[] here',
  ]
  assert not any('--config' in line for line in lines)


def test_many_leaves_are_counted():
  wanted = {f'ema/x/{i}': 1.0 for i in range(50)}
  _, _, lines = leaves.compare({}, wanted, (), ())
  assert len(lines) < 25 and '  it lacks 30 more like these' in lines
  assert "('ema/x/*',)" in lines[-1]
