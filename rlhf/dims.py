# SPDX-License-Identifier: Apache-2.0
"""The dimension alphabet and the types that every module shares.

Arrays of rank two and more carry their dimensions as a suffix of the name,
one capital letter an axis: `logits_BTV[b, t, v]`. Scalars, vectors that need no
explanation, and trees carry none.

  B  batch: sequences, or prompts whose responses are ranked
  K  ranked responses of one prompt
  M  rows of a packed batch (several short sequences may share a row)
  T  tokens of a whole sequence (prompt and response)
  P  tokens of a left-padded prompt
  R  tokens of a response
  S  slots of the key/value cache
  D  model width
  H  attention heads
  E  size of each head
  N  layers
  F  MLP width
  G  shares of a batch, one on each copy of the model
  V  vocabulary
  X  features of a response in the embedded world's rubric
"""

from collections.abc import Callable
from typing import Any

import jax

# A plain nested dict of arrays with stable names; see rlhf/model/.
Params = Any
# Named scalars of one step, still on the device.
Metrics = dict[str, jax.Array]
# A pytree of arrays whose leading axis is the batch (see rlhf/data/batches.py).
Batch = Any
# `loss_fn(params, batch, key) -> (scalar, metrics)`; see rlhf/update.py.
LossFn = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]
