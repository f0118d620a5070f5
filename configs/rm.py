# SPDX-License-Identifier: Apache-2.0
r"""Step 2: the reward model, all comparisons of a prompt in one batch element.

  python launch/train.py --config=configs/rm.py              # miniature
  python launch/train.py --config=configs/rm.py:6b \
      --config.data.vocabulary=gpt2_bpe/ --config.data.rankings=r.jsonl.gz \
      --config.data.demonstrations=d.jsonl.gz

Expected (miniature): accuracy 0.68 to 0.72 +- 0.013 on held-out users, of a
ceiling of 0.76 to 0.78; two minutes on one CPU core.
"""

from configs import common


def get_config(size: str = 'mini'):
  c = common.base('reward', 'rm', size)
  mini = size == 'mini'
  c.init_from = common.below_root(c, 'sft')
  c.requires.sft = f'configs/sft.py:{size}'
  if mini:
    c.requires.comparisons = 'configs/comparisons.py:mini'
    files = 'comparisons/rankings_{}.jsonl.gz'
    c.data.rankings = common.below_root(c, files.format('train'))
    c.data.validation_rankings = common.below_root(
        c, files.format('validation')
    )
    c.data.splits = dict(rankings='all', validation_rankings='all')
  else:
    c.data.rankings = common.placeholder()
    # The same files: their rows are split by a hash of the user.
    c.data.validation_rankings = c.data.get_ref('rankings')
    c.data.splits = dict(rankings='train', validation_rankings='validation')
  # Prompts a step; a batch takes fewer if its rows are full. Paper, C.2.
  c.batch = 6 if mini else 64
  c.micro_batches = 1  # Above 1: gradient accumulation, batch and rows cut.
  c.k_max = 9  # Paper, 3.4.
  # Packed rows a step: 12 hold about 28 of the miniature's responses. At the
  # paper's lengths a row is one response.
  c.rows = 12 if mini else 64 * 9
  c.epochs = 2 if mini else 1  # Paper, C.2: more epochs overfit.
  # What the scalar head reads. Paper: the last token; the miniature's network
  # is too small to gather the whole response there.
  c.run_model = common.run_model(
      size,
      reward_pooling='last_and_mean' if mini else 'last',
      dropout=0.0,  # Ours: not printed; SFT alone drops out.
  )
  c.optimizer = common.adam(
      2e-3 if mini else 9e-6,  # Paper, C.2.
      schedule='cosine',  # Paper, C.2.
      final_fraction=0.1,  # Paper, C.2.
      weight_decay=0.1 if mini else 0.0,  # Ours.
      warmup_steps=20 if mini else 0,
  )
  c.loop.evaluate_every = 2000 if mini else 50
  return c.lock()
