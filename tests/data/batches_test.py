# SPDX-License-Identifier: Apache-2.0
"""Batches are pytrees, and come without TensorFlow."""

import jax
import numpy as np

from rlhf.data import batches


def test_a_batch_goes_through_jit_and_comes_back():
  batch = batches.PromptBatch(np.ones((2, 3), np.int32), np.ones((2, 3), bool))
  out = jax.jit(lambda b: jax.tree.map(lambda x: x[:1], b))(batch)
  assert isinstance(out, batches.PromptBatch)
  assert out.tokens_BP.shape == (1, 3)
  assert len(jax.tree.leaves(batch)) == 2


def test_all_but_the_readers_import_without_tensorflow(fresh_python):
  modules = 'batches, examples, order, packing, prompting, rows, streams'
  code = f'from rlhf.data import {modules}; import sys; '
  code += "print({'tensorflow', 'seqio'} & set(sys.modules))"
  assert fresh_python(code).strip() == 'set()'
