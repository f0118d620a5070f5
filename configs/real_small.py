# SPDX-License-Identifier: Apache-2.0
r"""The whole method on real text: a GPT of 10M parameters, on two CPU cores.

  python launch/train.py --config=configs/real_small.py:ppo_ptx

trains every stage before it too; `:pretrain`, `:sft`, `:rm`, `:ppo` stop
earlier. The data are .jsonl.gz files in `--config.folder=`, in the formats of
rlhf/data/sources.py, and GPT-2's encoder.json and vocab.bpe in its gpt2_bpe/.
A model this small does not become an assistant: docs/results/real_small.md
says what it learns, and how long each stage takes.
"""

from configs import common

STAGES = ('pretrain', 'sft', 'rm', 'ppo', 'ppo_ptx')

_TEXT = (
    'text/gutenberg_books.jsonl.gz',
    'text/tiny_shakespeare.jsonl.gz',
    'text/wikitext2_valid.jsonl.gz',
    'text/wikitext2_test.jsonl.gz',
)
_DEMONSTRATIONS = (
    'oasst/demonstrations.jsonl.gz',
    'self_instruct/seed_demonstrations.jsonl.gz',
    'gpteacher_roleplay/demonstrations.jsonl.gz',
)
# K = 4 to 9 outputs of real models, and pairs judged by people.
_RANKINGS = (
    'alpaca_eval/rankings_k4_9.jsonl.gz',
    'oasst/rankings.jsonl.gz',
    'hh_rlhf/harmless_base_rankings.jsonl.gz',
)
_PROMPTS = (
    'oasst/prompts.jsonl.gz',
    'alpaca_eval/prompts.jsonl.gz',
    'koala/prompts.jsonl.gz',
)


def get_config(stage: str = 'ppo_ptx'):
  if stage not in STAGES:
    raise ValueError(f'unknown stage {stage!r}: want one of {STAGES}')
  kind = {'rm': 'reward', 'ppo_ptx': 'ppo'}.get(stage, stage)
  c = common.base(kind, stage, 'mini')
  c.root = 'runs/real_small'
  c.folder = '../shared/data'
  c.data = common.gpt3_data() | dict(
      vocabulary=_below(c, ('gpt2_bpe',)),
      text=_below(c, _TEXT),
      demonstrations=_below(c, _DEMONSTRATIONS),
      prompts=_below(c, _PROMPTS),
      prompt_tokens=128,
      response_tokens=96,
      row_tokens=256,
      prompt_buckets=(),
      separate_documents=False,
      pack=True,
      test_share=0.0,
  )
  {
      'pretrain': _pretrain,
      'sft': _sft,
      'rm': _rm,
      'ppo': _ppo,
      'ppo_ptx': _ppo,
  }[stage](c)
  return c.lock()


def _below(c, names):
  """Comma-separated paths of `names` in the folder, wherever that is set."""
  folder = c.get_ref('folder')
  path = folder + f'/{names[0]}'
  for name in names[1:]:
    path = path + ',' + folder + f'/{name}'
  return path


def _pretrain(c):
  c.init_from = ''
  c.model = dict(
      layers=6,
      width=160,
      heads=5,
      head_size=32,
      context=256,
      init_std=None,  # Ours: see ModelConfig.
      dtype='float32',
      remat='none',
  )
  c.batch = 8
  c.micro_batches = 8  # Logits of one row at a time stay near the cache.
  c.epochs = 1
  c.steps = 400  # 0.8M tokens, about half of the text.
  c.optimizer = common.adam(
      2e-3, schedule='cosine', warmup_steps=50, weight_decay=0.1
  )
  c.loop.evaluate_every = 200


def _sft(c):
  c.init_from = common.below_root(c, 'pretrain')
  c.requires.pretrain = 'configs/real_small.py:pretrain'
  c.batch = 7
  c.micro_batches = 8  # One of these 8 rows is pretraining text.
  c.epochs = 1
  c.pretraining_share = 0.125
  c.loop.best = '-validation/loss'
  c.reward_model = ''
  c.temperature = 1.0
  c.run_model = dict(dropout=0.1)
  c.optimizer = common.adam(5e-4, schedule='cosine', warmup_steps=20)
  c.loop.evaluate_every = 60


def _rm(c):
  c.init_from = common.below_root(c, 'sft')
  c.requires.sft = 'configs/real_small.py:sft'
  c.data.rankings = _below(c, _RANKINGS)
  c.data.validation_rankings = c.data.get_ref('rankings')
  c.data.splits = dict(rankings='train', validation_rankings='validation')
  # Held-out rankings are few: a fifth of the prompts makes intervals useful.
  c.data.validation_share = 0.2
  c.batch = 16
  c.micro_batches = 1
  c.k_max = 9
  c.rows = 32
  c.epochs = 1  # Paper, C.2.
  c.run_model = dict(reward_pooling='last_and_mean', dropout=0.1)
  c.optimizer = common.adam(3e-4, schedule='cosine', warmup_steps=10)
  c.loop.evaluate_every = 50


def _ppo(c):
  c.init_from = common.below_root(c, 'sft')
  c.reward_model = common.below_root(c, 'rm')
  c.requires.sft = 'configs/real_small.py:sft'
  c.requires.rm = 'configs/real_small.py:rm'
  c.labeler_agreement = 0.726  # Paper, 3.3.
  c.temperature = 1.0
  c.data.response_tokens = 48
  c.data.ptx_row_tokens = 64
  c.ppo = common.ppo(
      episodes=16 * 30,
      batch=16,
      minibatches=2,
      micro_batches=8,  # As above: a few rows' logits at a time.
      kl_coefficient=0.1,
      ptx_coefficient=1.0 if c.run == 'ppo_ptx' else 0.0,
      value_warmup_iterations=5,
      ema_decay=0.98,
  )
  c.optimizer = common.adam(
      1e-4, schedule='constant', warmup_steps=20, warmup_from=0.1
  )
  c.value_optimizer = common.adam(
      3e-4, schedule='constant', warmup_steps=20, warmup_from=0.1
  )
  c.loop.log_every = 1
  c.loop.save_every = 5
  c.loop.evaluate_every = 10
