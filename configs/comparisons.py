# SPDX-License-Identifier: Apache-2.0
"""Between steps 1 and 2: the SFT model answers, the labelers rank.

  python launch/train.py --config=configs/comparisons.py       # miniature only

Human rankings come as files instead: see configs/rm.py.

Expected: 79,000 distinct responses, two labelers agree on 75 % of the pairs
that neither ties; 90 seconds on one CPU core.
"""

from configs import common


def get_config(size: str = 'mini'):
  if size != 'mini':
    raise ValueError(
        'simulated labelers know only the miniature: give the reward model a'
        ' file of rankings (--config.data.rankings=) at other sizes'
    )
  c = common.base('comparisons', 'comparisons', size)
  c.init_from = common.below_root(c, 'sft')
  c.requires.sft = 'configs/sft.py:mini'
  # Ours; the paper has 33,207 training prompts.
  c.prompts = dict(train=15_000, validation=1_000)
  c.k_min = 4  # Paper, 3.4.
  c.k_max = 9  # Paper, 3.4.
  c.temperature = 1.0
  return c.lock()
