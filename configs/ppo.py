# SPDX-License-Identifier: Apache-2.0
r"""Step 3 without pretraining data: PPO, the paper's ablation of PPO-ptx.

  python launch/train.py --config=configs/ppo.py             # miniature

Expected (miniature): wins against SFT, 61.0 % [58.4, 63.5] of votes over three
seeds; one minute on one CPU core.
"""

from configs import ppo_ptx


def get_config(size: str = 'mini'):
  c = ppo_ptx.get_config(size).unlock()
  c.run = 'ppo'
  c.ppo.ptx_coefficient = 0.0  # Paper, 3.4.
  return c.lock()
