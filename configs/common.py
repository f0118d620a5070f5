# SPDX-License-Identifier: Apache-2.0
"""What the configs share. A number's source stands beside it:

  `Paper, ...`  the InstructGPT paper; `Paper, C` is its appendix C
  `Ours`        not printed there, or another scale than the paper's
"""

from typing import Any

from ml_collections import config_dict

from rlhf.model import SIZES


def base(stage: str, run: str, size: str) -> Any:
  """Fields that every stage has.

  Args:
    stage: a key of rlhf.stages.STAGES.
    run: name of the stage's directory below `root`.
    size: a key of rlhf.model.SIZES.

  Returns:
    A ConfigDict; Any to a type checker, which can't know its fields.

  Raises:
    ValueError: for an unknown size.
  """
  if size not in SIZES:
    raise ValueError(f'unknown size {size!r}: want one of {", ".join(SIZES)}')
  c = config_dict.ConfigDict()
  c.stage = stage
  c.seed = 0
  # Every stage of an experiment is below it. Paths to other stages refer to it,
  # so --config.root= moves them all.
  c.root = f'runs/{size}'
  c.run = run
  # A missing earlier stage: 'auto' trains it first, 'require' says which
  # command does.
  c.prerequisites = 'auto' if size == 'mini' else 'require'
  c.requires = config_dict.ConfigDict()  # Directory below root -> its config.
  # Devices along each axis (rlhf/sharding.py); -1: all that are left.
  c.mesh = dict(data=1, fsdp=-1, tensor=1, sequence=1)
  c.loop = dict(
      log_every=10,
      evaluate_every=0,
      save_every=500 if size == 'mini' else 100,
      keep=2,
      keep_every=0,
      # A metric of the evaluation, '-NAME' if lower is better: what is handed
      # on is its best state; '': the last state.
      best='',
      tensorboard=True,
      wandb='',  # A project of Weights & Biases.
      step_timeout=1800.0,  # Seconds; on several hosts only. 0: never.
      nonfinite='stop',  # Or 'skip' the update, or 'rollback': rlhf/loop.py.
      nonfinite_bound=10,  # So often, then the run stops all the same.
  )
  # What a run may find changed when it goes on: rlhf/resume.py.
  c.resume = dict(changed=(), missing=(), left_over=())
  if size == 'mini':
    c.data = miniature_data()
  else:
    c.data = gpt3_data() | dict(store=below_root(c, 'data'))
  return c


def reading(**rules) -> dict:
  """How rows are read and cleaned: rlhf/data/cleaning.py, `Reading`.

  Args:
    **rules: of hygiene, by kind of data; without them all are off.
  """
  off = dict(prefix_characters=0, prefix_share=0.9, per_user=0, pii=())
  kinds = ('text', 'demonstrations', 'rankings', 'prompts')
  return dict(
      strict=True,  # A bad row stops the run; else it is counted and left out.
      modules=(),  # Python modules to import: they register seqio tasks.
      chat_template='',  # Of rows with messages: rlhf/data/chat.py.
      # Our name of a field -> the source's, such as prompt='instruction'.
      fields={kind: {} for kind in kinds},
      hygiene={kind: off | rules.get(kind, {}) for kind in kinds},
      validation_share=0.05,  # Ours; by user, of sources that have no splits.
      test_share=0.0,
      tfds_dir='',  # Where TFDS data sets lie; '': TFDS's own default.
      store='',  # Folder of tokenised data; '': in memory, anew in each run.
  )


def miniature_data() -> dict:
  """The embedded world (rlhf/world/), through its seqio tasks."""
  return reading() | dict(
      vocabulary='miniature',
      prompt_format=dict(prefix='', suffix=' answer :', response_prefix=' '),
      text='miniature_text',
      demonstrations='miniature_demonstrations',
      prompts='miniature_prompts',
      prompt_tokens=32,
      response_tokens=24,
      row_tokens=64,
      pack=True,
      limits=dict(prompts_validation=200),
      planned=dict(
          text_tokens=12_300_000, demonstrations=4_000, rankings=12_000
      ),
      prompt_buckets=(),
      # Rows are short, and few-shot prompts need all of their positions.
      separate_documents=False,
  )


def gpt3_data() -> dict:
  """GPT-3's tokens and the paper's lengths; the data are the user's own."""
  # Paper, 3.2: no personal data in the training splits; of prompts none that
  # repeats another's beginning, and 200 of a user. What counts as a repeat and
  # as personal is ours: rlhf/data/hygiene.py, rlhf/data/pii.py.
  no_pii = dict(pii=('email', 'phone', 'card', 'iban', 'ip', 'national_id'))
  prompts = no_pii | dict(prefix_characters=256, per_user=200)
  cleaned = reading(prompts=prompts, demonstrations=no_pii, rankings=no_pii)
  return cleaned | dict(
      chat_template='dialogue',
      # Folder with encoder.json and vocab.bpe of GPT-2; or a tokenizer.json, a
      # SentencePiece .model, 'bytes'.
      vocabulary=placeholder(),
      prompt_format=dict(
          prefix='\n\nHuman: ', suffix='\n\nAssistant:', response_prefix=' '
      ),
      # Each a seqio task or mixture, tfds:NAME, or files: rlhf/data/sources.py.
      text=placeholder(),
      demonstrations=placeholder(),
      prompts=placeholder(),
      prompt_tokens=1024,  # Paper, C: longer prompts are dropped.
      response_tokens=1024,  # Paper, C.
      row_tokens=2048,  # Paper, C: GPT-3's context.
      # Ours: prompts up to these lengths are answered apart from longer ones.
      prompt_buckets=(128, 512),
      # Ours: documents of a row do not see each other; in GPT-3 they do.
      separate_documents=True,
      pack=False,
      # How much there will be, for launch/plan.py; a run counts its own.
      planned=dict(
          text_tokens=300e9,  # Brown et al. 2020, 2.2.
          demonstrations=12_725,  # Paper, A.3: 11,295 + 1,430.
          rankings=33_207,  # Paper, A.3: 6,623 + 26,584.
      ),
      limits=dict(),
      test_share=0.05,  # Ours.
  )


def below(c: config_dict.ConfigDict, field: str, path: str):
  """`path` below the folder that a field names, wherever a flag may move it."""
  return c.get_ref(field) + f'/{path}'


def below_root(c: config_dict.ConfigDict, path: str):
  """`path` below the experiment's root."""
  return below(c, 'root', path)


def placeholder():
  """A name that the user has to give."""
  return config_dict.placeholder(str)


def optional_float():
  """A number that is off until a flag gives it."""
  return config_dict.placeholder(float)


def model(size: str, **changes) -> dict:
  return SIZES[size] | changes


def run_model(size: str, **changes) -> dict:
  """How a network that was trained before is run; what it is, it brings along.

  At the GPT-3 sizes the fields that trade memory for time are there to be set.
  """
  if size == 'mini':
    return changes
  return dict(remat='full', kernel='auto', loss_chunk=512) | changes


def adam(learning_rate: float, **changes) -> dict:
  """Adam with GPT-3's betas."""
  return dict(
      learning_rate=learning_rate,
      b1=0.9,  # Paper, C.
      b2=0.95,  # Paper, C.
      eps=1e-8,  # Brown et al. 2020, B.
      eps_form='optax',
      clip_norm=1.0,  # Brown et al. 2020, B.
      weight_decay=0.0,
  ) | changes


def by_size(size: str, mini, small, medium, large):
  """The value for mini, up to 2.7B, up to 13B, and 175B."""
  if size == 'mini':
    return mini
  if size == '175b':
    return large
  return medium if size in ('6b', '13b') else small


def ppo(**changes) -> Any:
  """The paper's PPO-ptx; an experiment says what it does differently."""
  return dict(
      episodes=256_000,  # Paper, C.4.
      batch=512,  # Paper, C.4.
      minibatches=8,  # Paper, C.4: of 64.
      inner_epochs=1,  # Paper, C.4.
      micro_batches=1,  # Above 1: gradient accumulation.
      ptx_micro_batches=0,  # 0: as many.
      rollout_tensor=0,  # Devices that share a copy while decoding; 0: mesh's.
      rollout_rows=0,  # Prompts that are answered at a time; 0: the batch.
      score_rows=0,  # Responses that are read at a time; 0: the batch.
      # The mesh axes that each network's weights are spread over.
      spread=dict(
          policy=('fsdp', 'tensor', 'sequence'),
          value=('fsdp', 'tensor', 'sequence'),
          reference=('fsdp', 'tensor', 'sequence'),
          reward=('fsdp', 'tensor', 'sequence'),
      ),
      kl_coefficient=0.02,  # Paper, C.4.
      adaptive_kl=dict(),  # Ours, off; {target, horizon} of Ziegler et al.
      clip=0.2,  # Paper, C.4.
      value_clip=0.2,  # Ours: not printed.
      value_coefficient=1.0,  # Ours: the value function has its own optimizer.
      gamma=1.0,  # Paper, C.4: no discount.
      gae_lambda=0.95,  # Ours: not printed.
      whiten_rewards=False,  # Ours: not printed.
      whiten_advantages=True,  # Ours: as in OpenAI's earlier code.
      missing_eos_score=optional_float(),  # Ours: off.
      # Paper, C.4. To what it is applied is ours: the mean over tokens of
      # pretraining text, beside the policy loss's mean over response tokens
      # (docs/details.md).
      ptx_coefficient=27.8,
      ptx_ratio=8,  # Paper, C.4: pretraining examples an episode.
      value_warmup_iterations=0,  # Ours, off.
      ema_decay=0.992,  # Paper, C.4.
      # Ours; when to warn, 0: never. Units: rlhf/watching/alarms.py.
      alarms=dict(
          kl=100.0,
          kl_per_token=2.0,
          kl_growth=10.0,
          score_drop=1.0,
          score_spread=0.01,
          empty=0.5,
          unfinished=0.9,
          entropy=0.05,
      ),
  ) | changes
