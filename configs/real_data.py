# SPDX-License-Identifier: Apache-2.0
r"""Public data at the paper's lengths: what a 1.3B model would be trained on.

  python launch/data.py --config=configs/real_data.py:hh_rlhf

reports on them; `:alpaca_eval`, `:oasst`, `:t0_mixture`, `:flan_cot`, `:text`
and `:prompts` are the others. launch/train.py would run the stage that reads
them, on enough chips. The data are .jsonl.gz files in `--config.folder=`, as
for configs/real_small.py, and GPT-2's encoder.json and vocab.bpe in its
gpt2_bpe/.

Expected: seconds for each, on one CPU core; docs/data.md shows one.
"""

from configs import common, ppo, pretrain, rm, sft

# For the reward model's bias.
_DEMONSTRATIONS = {'demonstrations': ('oasst/demonstrations',)}
# Stage, and the files of each of its data sets.
_SETS = {
    'hh_rlhf': (
        rm,
        _DEMONSTRATIONS | {'rankings': ('hh_rlhf/harmless_base_rankings',)},
    ),
    'alpaca_eval': (
        rm,
        _DEMONSTRATIONS | {'rankings': ('alpaca_eval/rankings_k4_9',)},
    ),
    'oasst': (rm, _DEMONSTRATIONS | {'rankings': ('oasst/rankings',)}),
    't0_mixture': (sft, {'demonstrations': ('t0_mixture/demonstrations',)}),
    'flan_cot': (sft, {'demonstrations': ('flan_cot/demonstrations',)}),
    'text': (
        pretrain,
        {
            'text': (
                'text/gutenberg_books',
                'text/tiny_shakespeare',
                'text/wikitext2_valid',
                'text/wikitext2_test',
            )
        },
    ),
    'prompts': (
        ppo,
        {
            'prompts': (
                'oasst/prompts',
                'alpaca_eval/prompts',
                'koala/prompts',
            )
        },
    ),
}
# Packed rows that 64 of their rankings fill: far fewer than at K = 9 and the
# full lengths, for which configs/rm.py has room.
_ROWS = {'hh_rlhf': 16, 'alpaca_eval': 128, 'oasst': 64}
NAMES = tuple(_SETS)


def get_config(name: str = 'hh_rlhf'):
  if name not in _SETS:
    raise ValueError(
        f'unknown data {name!r}: want one of {", ".join(NAMES)}'
    )
  stage, data = _SETS[name]
  c = stage.get_config('1.3b').unlock()
  c.run = name
  c.folder = '../shared/data'
  c.data.vocabulary = common.below(c, 'folder', 'gpt2_bpe')
  for field, files in data.items():
    paths = common.below(c, 'folder', f'{files[0]}.jsonl.gz')
    for file in files[1:]:
      paths = paths + ',' + common.below(c, 'folder', f'{file}.jsonl.gz')
    c.data[field] = paths
  if name in _ROWS:
    c.rows = _ROWS[name]
  return c.lock()
