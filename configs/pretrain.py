# SPDX-License-Identifier: Apache-2.0
r"""Step 0: the base model, on plain text.

  python launch/train.py --config=configs/pretrain.py

makes the miniature's base again: the weights that ship as
rlhf/world/base.safetensors. It has to pass the copy probe (tests/world), for a
base that can't copy from its context can't follow an instruction.

Expected (miniature): 0.741 nats a word on held-out text, after 12.3M words and
about five minutes on two CPU cores.
"""

from configs import common


def get_config(size: str = 'mini'):
  c = common.base('pretrain', 'pretrain', size)
  c.init_from = ''  # A network to go on from, instead of from scratch.
  c.model = common.model(size)
  c.batch = common.by_size(size, 8, 512, 1024, 1600)  # Rows. Ours.
  if size == 'mini':
    # Long enough to train every position that a few-shot prompt needs.
    c.data.row_tokens = 128
  c.micro_batches = 1  # Above 1: gradient accumulation.
  c.epochs = 1  # Brown et al. 2020: less than one of most of their data.
  c.steps = common.by_size(size, 12_000, 0, 0, 0)  # 0: as epochs say.
  c.optimizer = common.adam(
      # Brown et al. 2020, table 2.1, for 1.3B, 6.7B and 175B.
      common.by_size(size, 2e-3, 2e-4, 1.2e-4, 6e-5),
      schedule='cosine',
      warmup_steps=common.by_size(size, 100, 375, 375, 375),
      final_fraction=common.by_size(size, 0.05, 0.1, 0.1, 0.1),
      weight_decay=common.by_size(size, 0.01, 0.1, 0.1, 0.1),
  )
  c.loop.log_every = common.by_size(size, 50, 10, 10, 10)
  c.loop.evaluate_every = 1000
  return c.lock()
