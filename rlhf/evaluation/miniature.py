# SPDX-License-Identifier: Apache-2.0
"""The miniature's exam: every model on held-out users' prompts."""

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from rlhf import inference
from rlhf.data import packing
from rlhf.dims import Params
from rlhf.evaluation import judging
from rlhf.evaluation.measurements import MODELS, Measurements
from rlhf.inference import Completion
from rlhf.model import ModelConfig
from rlhf.sampling import SamplingConfig
from rlhf.stages import setup as setup_lib
from rlhf.watching.display import say
from rlhf.world import BASE_CHECKPOINT, labelers, lexicon, probes, writer
from rlhf.world.instructions import CLOSED_DOMAIN
from rlhf.world.prompts import Prompt, prompts

_TEXT_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Questions:
  """What every model is asked: the same prompts, of users unseen in training.

  Attributes:
    mixed: in the paper's use-case mix; win rates and rubric means.
    closed: closed-domain tasks, where what the prompt lacks is invented.
    plain, respectful: replies to a comment, without and with the request to be
      respectful.
  """

  mixed: list[Prompt]
  closed: list[Prompt]
  plain: list[Prompt]
  respectful: list[Prompt]

  @property
  def all(self) -> list[Prompt]:
    return [*self.mixed, *self.closed, *self.plain, *self.respectful]

  def split(self, values: Sequence | np.ndarray) -> list[np.ndarray]:
    """Values of `all`, cut into the four parts."""
    sizes = [len(p) for p in (self.mixed, self.closed, self.plain)]
    return np.split(np.asarray(values), np.cumsum(sizes))


def questions(split: str, seed: int, n: int = 1000) -> Questions:
  """Draws n mixed prompts, and 0.4 n, 0.2 n, 0.2 n of the special ones."""
  closed = [
      prompt
      for i, category in enumerate(CLOSED_DOMAIN)
      for prompt in prompts(
          split, n // 10, 5001 + 10 * seed + i, category=category
      )
  ]

  def replies(seed, respectful):
    return prompts(split, n // 5, seed, kind='reply', respectful=respectful)

  return Questions(
      mixed=prompts(split, n, 5000 + 10 * seed),
      closed=closed,
      plain=replies(5008 + 10 * seed, respectful=False),
      respectful=replies(5009 + 10 * seed, respectful=True),
  )


class Examiner:
  """Measures models against one SFT model; see `examine`."""

  def __init__(
      self,
      setup: setup_lib.Setup,
      split: str,
      *,
      n: int = 1000,
      seed: int = 0,
      reward: str = 'rm',
  ):
    """Loads the judges and draws the SFT model's own answers.

    Args:
      setup: of the evaluation; its root holds the stages.
      split: 'validation' while choosing hyperparameters, 'test' once.
      n: mixed prompts.
      seed: of prompts and draws.
      reward: the reward model, a directory below the root; may be missing.
    """
    self.setup, self.seed = setup, seed
    self.questions = questions(split, seed, n)
    self._key = jax.random.key(1_000_003 + seed)
    self.root = pathlib.Path(setup.config.root)
    self.sft, self.sft_cfg = setup.load_model(str(self.root / 'sft'))
    self._lengths = dict(
        prompt_tokens=setup.config.data.prompt_tokens,
        response_tokens=setup.config.data.response_tokens,
    )
    self._text_rows_BT = setup.text_rows('validation', _TEXT_TOKENS)
    path = self.root / reward
    self._reward = setup.load_model(str(path)) if path.exists() else None
    # The baseline of every comparison: draws of its own, so that SFT against
    # itself comes out at one half with noise.
    said = self._answer(self.sft, self.sft_cfg, 'baseline')
    self.baseline_BX = self.features(said)

  def load(self, model: str) -> tuple[Params, ModelConfig]:
    """A model of `MODELS`, or any directory below the root."""
    if model in ('base', 'prompted'):
      return self.setup.load_model(str(BASE_CHECKPOINT))
    return self.setup.load_model(str(self.root / model))

  def examine(self, model: str) -> tuple[Measurements, list[Completion]]:
    """All measurements of a model, and what it said."""
    params, cfg = self.load(model)
    prefix = writer.few_shot_prefix(0) if model == 'prompted' else ''
    said = self._answer(params, cfg, model, prefix)
    measured = self.judge(self.features(said))
    mixed = said[: len(self.questions.mixed)]
    measured['length'] = np.array([len(c.response_ids) for c in mixed], float)
    measured['finished'] = np.array([c.finished for c in mixed], float)
    # What the SFT model and the RM read has no examples before the prompt.
    codec = self.setup.codec
    bare = [
        dataclasses.replace(c, prompt_ids=tuple(codec.encode_prompt(p.text)))
        for c, p in zip(mixed, self.questions.mixed, strict=True)
    ]
    own = inference.log_probs(
        params,
        cfg,
        mixed,
        prompt_tokens=self._room(cfg, prefix),
        response_tokens=self._lengths['response_tokens'],
    )
    sft = inference.log_probs(self.sft, self.sft_cfg, bare, **self._lengths)
    measured['kl_from_sft'] = own - sft
    if self._reward is not None:
      measured['rm_score'] = inference.reward_scores(
          *self._reward, bare, **self._lengths
      )
    measured['pretrain_loss'] = text_loss(params, cfg, self._text_rows_BT)
    measured['fact_cloze'] = probe(
        params, cfg, self.setup, probes.fact_cloze()
    )
    return measured, said

  def features(self, said: Sequence[Completion]) -> np.ndarray:
    """Graded features_BX of answers to all questions."""
    return judging.grade_completions(self.questions.all, said)

  def judge(self, features_BX: np.ndarray) -> Measurements:
    """What labelers and the rubric think of answers to all questions."""
    mixed_BX, closed_BX, plain_BX, respectful_BX = self.questions.split(
        features_BX
    )
    measured = self.against(features_BX, self.baseline_BX)
    measured['gold_utility'] = labelers.TRAINING.utility(mixed_BX)
    return (
        measured
        | judging.rubric_values(mixed_BX)
        | {
            'invention_rate': judging.invention(closed_BX),
            'rude_rate/plain': judging.rudeness(plain_BX),
            'rude_rate/respectful': judging.rudeness(respectful_BX),
        }
    )

  def against(
      self, features_a_BX: np.ndarray, features_b_BX: np.ndarray
  ) -> Measurements:
    """Win rates of a over b by both groups of labelers."""
    n = len(self.questions.mixed)
    return judging.win_rates(features_a_BX[:n], features_b_BX[:n], self.seed)

  def examine_writer(self, *, flawed: bool) -> Measurements:
    """The demonstration writer in a model's place; without flaws, the ceiling.

    'length' is in tokens, the EOS included, as a model's is.
    """
    features_BX, lengths = judging.examine_writer(
        self.questions.all, flawed=flawed, seed=self.seed
    )
    mixed = lengths[: len(self.questions.mixed)]
    return self.judge(features_BX) | {'length': mixed}

  def examine_reward_model(self) -> Measurements:
    """How the reward model orders fresh SFT answers; see `judging.orders`.

    Raises:
      ValueError: if there is no reward model below the root.
    """
    if self._reward is None:
      raise ValueError(f'no reward model below {self.root}: train it first')
    mixed = self.questions.mixed
    asked = mixed[: max(1, 2 * len(mixed) // 5)]
    rng = np.random.default_rng((self.seed, 5))
    owners = np.repeat(
        np.arange(len(asked)), rng.integers(4, 10, len(asked))  # Paper: K.
    )
    said = inference.complete(
        self.sft,
        self.sft_cfg,
        [asked[i].text for i in owners],
        jax.random.fold_in(self._key, 5),
        codec=self.setup.codec,
        sampling=self.setup.sampling,
    )
    scores = inference.reward_scores(*self._reward, said, **self._lengths)
    features_MX = judging.grade_completions([asked[i] for i in owners], said)
    sets = [
        [i for i in np.flatnonzero(owners == owner)]
        for owner in range(len(asked))
    ]
    # Identical responses are shown once, as in training.
    sets = [list({said[i].response: i for i in rows}.values()) for rows in sets]
    return judging.orders(
        [(scores[rows], features_MX[rows]) for rows in sets if len(rows) > 1],
        rng,
    )

  def _room(self, cfg: ModelConfig, prefix: str) -> int:
    """Tokens of a prompt: with examples before it, all that the context has."""
    if prefix:
      return cfg.context - self.setup.sampling.max_tokens
    return self._lengths['prompt_tokens']

  def _answer(self, params, cfg, name, prefix='') -> list[Completion]:
    """One answer to every question, by draws that hang on the name."""
    key = jax.random.fold_in(self._key, sum(map(ord, name)))
    texts = [prompt.text for prompt in self.questions.all]
    if prefix:
      texts = [f'{prefix} {text}' for text in texts]
    codec = dataclasses.replace(
        self.setup.codec, prompt_tokens=self._room(cfg, prefix)
    )
    sampling = self.setup.sampling
    if name in ('base', 'prompted'):
      # Who was never taught to stop is cut at the first line break, as in the
      # paper's own evaluations.
      line_break, = codec.vocabulary.encode(lexicon.LINE_BREAK)
      stops = (*sampling.stop_tokens, line_break)
      sampling = dataclasses.replace(sampling, stop_tokens=stops)
    return inference.complete(
        params, cfg, texts, key, codec=codec, sampling=sampling
    )


def text_loss(
    params: Params, cfg: ModelConfig, tokens_BT: np.ndarray, batch: int = 128
) -> np.ndarray:
  """Mean loss of each full row of text, nats a token, float [rows]."""
  rows = [
      Completion('', '', (row[0],), tuple(row[1:]), finished=True)
      for row in tokens_BT.tolist()
  ]
  length = tokens_BT.shape[1] - 1
  log_probs = inference.log_probs(
      params,
      cfg,
      rows,
      prompt_tokens=1,
      response_tokens=length,
      batch=batch,
  )
  return -np.asarray(log_probs, float) / length


def probe(
    params: Params,
    cfg: ModelConfig,
    setup: setup_lib.Setup,
    pairs: Sequence[tuple[str, str]],
) -> np.ndarray:
  """Whether the most likely next word is the right one, float [n]."""
  vocabulary = setup.codec.vocabulary
  encoded = [[vocabulary.eos_id, *vocabulary.encode(text)] for text, _ in pairs]
  length = max(map(len, encoded))
  tokens_BP, mask_BP = packing.left_pad(encoded, length, vocabulary.pad_id)
  samples = inference.greedy(
      params,
      tokens_BP,
      mask_BP,
      cfg=cfg,
      sampling=SamplingConfig(
          max_tokens=1, stop_tokens=(vocabulary.eos_id,), temperature=0.0
      ),
  )
  answers = [vocabulary.encode(word)[0] for _, word in pairs]
  return np.asarray(samples.tokens_BR[:, 0] == np.array(answers), float)


def examine_all(
    examiner: Examiner,
) -> tuple[dict[str, Measurements], list[dict]]:
  """Examines everything that the report speaks of.

  Returns:
    Measurements of each of `MODELS`, of 'clean_writer', 'demonstrator',
    'ppo_ptx_vs_ppo' (its wins over PPO), 'reward_model' and 'prompts'; and the
    models' answers to a prompt of each of eight kinds, the first that came,
    rows {prompt, kind, answers}.
  """
  measured, said = {}, {}
  for model in MODELS:
    say(f'evaluation: {model}')
    measured[model], said[model] = examiner.examine(model)
  measured['clean_writer'] = examiner.examine_writer(flawed=False)
  measured['demonstrator'] = examiner.examine_writer(flawed=True)
  measured['ppo_ptx_vs_ppo'] = examiner.against(
      examiner.features(said['ppo_ptx']), examiner.features(said['ppo'])
  )
  measured['reward_model'] = examiner.examine_reward_model()
  mixed = examiner.questions.mixed
  seen = training_texts(examiner.root)
  measured['prompts'] = {
      'seen_in_training': np.array([p.text in seen for p in mixed], float)
  }
  first: dict[str, int] = {}
  for i, prompt in enumerate(mixed):
    first.setdefault(prompt.kind, i)
  samples = [
      {
          'prompt': mixed[i].text,
          'kind': kind,
          'answers': {model: said[model][i].response for model in MODELS},
      }
      for kind, i in list(first.items())[:8]
  ]
  return measured, samples


def training_texts(root: pathlib.Path) -> set[str]:
  """Texts of all prompts that any stage may have read."""
  from rlhf.data import tasks  # Late: it imports TensorFlow.

  texts = {row['prompt'] for row in tasks.demonstrations('train')}
  texts |= {prompt.text for prompt in tasks.prompts('train')}
  path = root / 'comparisons' / 'rankings_train.jsonl.gz'
  with gzip.open(path, 'rt', encoding='utf-8') as f:
    return texts | {json.loads(line)['prompt'] for line in f}
