# SPDX-License-Identifier: Apache-2.0
r"""Step 1b: the policy that RL starts from, and its KL reference.

  python launch/train.py --config=configs/rl_init.py:1.3b \
      --config.data.vocabulary=gpt2_bpe/ --config.data.demonstrations=d.jsonl \
      --config.data.text=text.jsonl

Two epochs on demonstrations with a tenth of pretraining data mixed in. In the
miniature configs/sft.py plays this part too.
"""

from configs import common, sft


def get_config(size: str = 'mini'):
  c = sft.get_config(size).unlock()
  c.run = 'rl_init'
  c.batch = common.by_size(size, 16, 32, 32, 8)  # Paper, C.3.
  c.epochs = 2  # Paper, C.3.
  c.pretraining_share = 0.1  # Paper, C.3.
  # Peak learning rates. Paper, C.3.
  c.optimizer.learning_rate = common.by_size(
      size, 2e-3, 5e-6, 1.04e-5, 2.45e-6
  )
  return c.lock()
