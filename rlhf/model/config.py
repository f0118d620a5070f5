# SPDX-License-Identifier: Apache-2.0
"""What a network is, and the sizes of the GPT-3 paper by name."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder. Hashable, so that it can be static under jit.

  Attributes:
    layers, width, heads, head_size: N, D, H, E. `heads * head_size` need not
      be `width` (it isn't in GPT-3 1.3B).
    context: rows of the position table; no row of a batch may be longer, its
      padding included.
    vocab_size: tokens, padding id included.
    pad_id: id that only fills rows; its logit is always minus infinity.
    mlp_ratio: F / D.
    attention: 'dense', or 'alternating' dense (even) and banded (odd) layers.
    band: how many tokens, itself included, a banded layer's token sees.
    dropout: on what each block adds to the residual stream.
    init_std: standard deviation of the initial weights. None is 1/sqrt(D): the
      0.02 of GPT-2 is about that at D = 2048, and at D = 64 it is so small that
      copying from the context is never learnt.
    dtype: of the computation; master weights are f32.
    remat: what a layer keeps for the backward pass. 'none': everything.
      'dots': results of its products with weights. 'full': its input alone, the
      rest is computed again. 'offload': its input, in the host's memory.
    kernel: how attention over whole rows is computed (rlhf/model/attention.py);
      'auto' is settled by the devices of the mesh.
    vocab_multiple: rows of the token table are rounded up to a multiple of it,
      so that they divide over devices; the rows added are never predicted.
    loss_chunk: positions of a row whose logits exist at one time when a
      likelihood is computed; 0 is all of them.
    unroll: unroll the scan over layers (small models run faster, and compile
      slower).
    reward_pooling: what the scalar head reads. 'last': the last token (the
      paper). 'last_and_mean': also the mean over the response so far (ours).
  """

  layers: int
  width: int
  heads: int
  head_size: int
  context: int = 2048
  vocab_size: int = 50258
  pad_id: int = 50257
  mlp_ratio: int = 4
  attention: Literal['dense', 'alternating'] = 'dense'
  band: int = 256
  dropout: float = 0.0
  init_std: float | None = 0.02
  dtype: Literal['float32', 'bfloat16'] = 'bfloat16'
  remat: Literal['none', 'dots', 'full', 'offload'] = 'full'
  kernel: Literal['auto', 'xla', 'splash', 'cudnn'] = 'auto'
  vocab_multiple: int = 1
  loss_chunk: int = 0
  unroll: bool = False
  reward_pooling: Literal['last', 'last_and_mean'] = 'last'

  def __post_init__(self):
    at_least_one = (
        'layers', 'width', 'heads', 'head_size', 'context', 'mlp_ratio', 'band',
        'vocab_multiple',
    )
    for name in at_least_one:
      if getattr(self, name) < 1:
        raise ValueError(f'model.{name}={getattr(self, name)}: must be >= 1')
    choices = {
        'attention': ('dense', 'alternating'),
        'dtype': ('float32', 'bfloat16'),
        'remat': ('none', 'dots', 'full', 'offload'),
        'kernel': ('auto', 'xla', 'splash', 'cudnn'),
        'reward_pooling': ('last', 'last_and_mean'),
    }
    for name, allowed in choices.items():
      if getattr(self, name) not in allowed:
        raise ValueError(
            f'model.{name}={getattr(self, name)!r}: want one of {allowed}'
        )
    if not 0 <= self.dropout < 1:
      raise ValueError(f'model.dropout={self.dropout}: must be in [0, 1)')
    if self.loss_chunk < 0:
      raise ValueError(f'model.loss_chunk={self.loss_chunk}: must be >= 0')
    if not 0 <= self.pad_id < self.vocab_size:
      raise ValueError(
          f'model.pad_id={self.pad_id}: outside the {self.vocab_size} tokens of'
          ' the vocabulary'
      )

  @property
  def vocab_rows(self) -> int:
    """Rows of the token table."""
    return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

  @property
  def weight_std(self) -> float:
    return self.width**-0.5 if self.init_std is None else self.init_std


def _gpt3(layers: int, width: int, heads: int, head_size: int) -> dict:
  return dict(
      layers=layers,
      width=width,
      heads=heads,
      head_size=head_size,
      context=2048,
      attention='alternating',
      # 50,258 tokens make 50,304 rows, which divide by 2^7 and 3.
      vocab_multiple=128,
      loss_chunk=512,
  )


# Brown et al. 2020, table 2.1; `6b` is what InstructGPT calls 6.7B. The head
# sizes are the table's own: 24 x 128 is not 2048 in the 1.3B model. The width
# of the bands is not printed; `ModelConfig.band` is ours.
SIZES: dict[str, dict] = {
    'mini': dict(
        layers=2,
        width=64,
        heads=4,
        head_size=16,
        context=128,
        init_std=None,
        dtype='float32',
        remat='none',
        unroll=True,
    ),
    '125m': _gpt3(12, 768, 12, 64),
    '350m': _gpt3(24, 1024, 16, 64),
    '760m': _gpt3(24, 1536, 16, 96),
    '1.3b': _gpt3(24, 2048, 24, 128),
    '2.7b': _gpt3(32, 2560, 32, 80),
    '6b': _gpt3(32, 4096, 32, 128),
    '13b': _gpt3(40, 5140, 40, 128),
    '175b': _gpt3(96, 12288, 96, 128),
}
