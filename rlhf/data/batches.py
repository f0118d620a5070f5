# SPDX-License-Identifier: Apache-2.0
"""What a stage is fed: three small batches of arrays.

Each is a frozen dataclass and a JAX pytree, so that it goes through `jit` and
is sharded over its first axis like any other tree. Arrays are numpy on the
host. Dimensions: B rows or prompts, T tokens of a row, M packed rows, K ranked
responses, P prompt tokens.
"""

import dataclasses
from typing import Any

import jax

# numpy on the host, jax.Array under jit.
Array = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextBatch:
  """Rows for the language loss: pretraining text or demonstrations.

  Attributes:
    tokens_BT: int32, token ids; padding holds the vocabulary's pad id.
    segment_ids_BT: int32, 0 on padding; 1, 2, ... number the examples packed
      into the row, which do not see each other.
    loss_mask_BT: bool, True where *this token* is a target, that is, to be
      predicted from those before it. Never True at a segment's first token.
  """

  tokens_BT: Array
  segment_ids_BT: Array
  loss_mask_BT: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RankingBatch:
  """Ranked responses for the reward model, each in a segment of its own.

  All K responses of a prompt are in the same batch, each read once; which row
  a response was packed into carries no meaning. Attributes:

    tokens_MT: int32, BOS prompt response EOS, one after another.
    segment_ids_MT: int32, 0 on padding; 1, 2, ... number the responses packed
      into the row.
    response_mask_MT: bool, True on response tokens, EOS included.
    end_BK: int32, `row * T + position` of the last token of response k of
      prompt b (its EOS, unless the response was cut); 0 where mask_BK is False.
    ranks_BK: int32, lower is better, equal is a tie; 0 where mask_BK is False.
    mask_BK: bool, True where there is a response.
  """

  tokens_MT: Array
  segment_ids_MT: Array
  response_mask_MT: Array
  end_BK: Array
  ranks_BK: Array
  mask_BK: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptBatch:
  """Prompts to be answered, padded on the left.

  Attributes:
    tokens_BP: int32, BOS prompt, its last token in the last column.
    mask_BP: bool, True on real tokens; at least one in each row.
  """

  tokens_BP: Array
  mask_BP: Array
