# SPDX-License-Identifier: Apache-2.0
"""What every stage builds from its config before it trains."""

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from rlhf import (
  hosts,
  loop,
  model,
  networks,
  optim,
  resume,
  sharding,
  update,
)
from rlhf.checkpoint import fingerprints, leaves
from rlhf.data import cleaning, loading, streams
from rlhf.data.prompting import PromptFormat
from rlhf.data.rows import DataError
from rlhf.dims import Batch, Params
from rlhf.inference import Codec, lay_out
from rlhf.model import ModelConfig, choose_kernel
from rlhf.sampling import SamplingConfig
from rlhf.watching.display import say
from rlhf.watching.workdir import Workdir

# An ml_collections.ConfigDict, whose fields no type checker can know.
Config = Any


@dataclasses.dataclass(frozen=True)
class Setup:
  """A stage's surroundings.

  Attributes:
    config: the stage's.
    workdir: where it writes.
    mesh: the devices.
    codec: text to tokens.
    key: the run's key.
    networks: fingerprints of the networks that were read, by path.
  """

  config: Config
  workdir: Workdir
  mesh: jax.sharding.Mesh
  codec: Codec
  key: jax.Array
  networks: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def identity(self) -> resume.Identity:
    """What a checkpoint has to agree with; after the networks are read."""
    return resume.Identity(
        config=self.config.to_dict(),
        key=resume.key_words(self.key),
        networks=dict(self.networks),
        **self.config.resume,
    )

  @functools.cached_property
  def sampling(self) -> SamplingConfig:
    """How this run draws responses; any EOS ends one."""
    return SamplingConfig(
        max_tokens=self.config.data.response_tokens,
        stop_tokens=(self.codec.vocabulary.eos_id,),
        temperature=self.config.get('temperature', 1.0),
    )

  def start(self) -> tuple[Params, ModelConfig]:
    """The network that the stage trains on: see rlhf/resume.py for which.

    Raises:
      DataError: if its vocabulary is not this run's.
    """
    path, words = resume.start(self.config)
    if path:
      say(f'{self.config.run}: starts from {path} ({words})')
      return self.load_model(path)
    say(f'{self.config.run}: starts from scratch')
    cfg = ModelConfig(
        **self.config.model,
        vocab_size=self.codec.vocabulary.vocab_size,
        pad_id=self.codec.vocabulary.pad_id,
    )
    cfg = kernel_for(cfg, self.config, self.mesh)
    init = functools.partial(model.init, cfg=cfg)
    where = sharding.shardings(jax.eval_shape(init, self.key), self.mesh)
    return jax.jit(init, out_shardings=where)(self.key), cfg

  def load_model(self, path: str) -> tuple[Params, ModelConfig]:
    """A network of an earlier stage, placed on the mesh.

    Raises:
      DataError: if its vocabulary is not this run's.
    """
    params, cfg, _ = networks.load_model(epath.Path(path), self.mesh)
    size = self.codec.vocabulary.vocab_size
    if cfg.vocab_size != size:
      raise DataError(
          f'{path} has {cfg.vocab_size} tokens but data.vocabulary'
          f'={self.config.data.vocabulary!r} has {size}: they must be the same'
      )
    self.networks[resume.below_root(path, self.config.root)] = (
        fingerprints.combined(leaves.named(params))
    )
    # A config may change how a network is run (dropout, precision), not what
    # it is.
    changes = {'kernel': 'auto', **self.config.get('run_model', {})}
    cfg = dataclasses.replace(cfg, **changes)
    return params, kernel_for(cfg, self.config, self.mesh)

  def compile_step(
      self, state: update.TrainState, term: update.Term, tx: optim.Optimizer
  ) -> Any:
    """The update of a stage that trains one network on one objective."""
    return update.compile_step(
        state, self.mesh, terms=(term,), tx=tx, freeze=freezes(self.config)
    )

  def run(self, stage: loop.Stage, state: Any) -> tuple[Any, dict[str, Any]]:
    """The state to hand on, and facts about it: see `loop.run`."""
    return loop.run(
        stage,
        state,
        config=loop.LoopConfig(**self.config.loop),
        workdir=self.workdir,
        identity=self.identity,
    )

  def hand_on(self, params: Params, cfg: ModelConfig, facts: dict) -> None:
    """Writes the network for later stages, and with it the stage is done."""
    # By which later stages tell that they read the same tokens.
    facts = facts | {'vocabulary': self.codec.fingerprint}
    networks.save_model(self.workdir.path / 'model', params, cfg, facts)
    self.workdir.write_json('results', facts)

  def put(self, batch: Batch, micro_batches: int = 1) -> Batch:
    """A host batch on the mesh, cut into micro-batches."""
    batch = update.split_batch(batch, micro_batches)
    return sharding.put_batch(batch, self.mesh, stacked=micro_batches > 1)

  def examples(self, name: str, kind: str, split: str) -> Any:
    """A data set's examples, of text its tokens: see `loading.load`.

    Args:
      name: a field of the config's data section.
      kind: 'text', 'demonstrations', 'rankings' or 'prompts'.
      split: of the data set.

    Raises:
      DataError: if the config names no such data set.
    """
    data = self.config.data
    source = data.get(name)
    if not source:
      raise DataError(
          f'this stage reads {kind}: set --config.data.{name}= to a seqio'
          ' task, tfds:NAME or files'
      )
    limits = data.get('limits', {})
    return loading.load(
        source,
        kind,
        split,
        self.codec.vocabulary,
        self.codec.prompt_format,
        limit=limits.get(f'{name}_{split}', limits.get(name)),
        max_prompt_tokens=data.prompt_tokens,
        max_response_tokens=data.response_tokens,
        separate_documents=data.get('separate_documents', False),
        reading=cleaning.reading(data, kind),
        folder=data.get('store', ''),
        vocabulary_fingerprint=self.codec.fingerprint,
    )

  def text_rows(self, split: str, row_tokens: int, name='text') -> np.ndarray:
    """Pretraining text as rows of `row_tokens`, int32 BT."""
    tokens = self.examples(name, 'text', split)
    count = len(tokens) // row_tokens
    return tokens[: count * row_tokens].reshape(count, row_tokens)

  def text_stream(
      self, split: str, rows: int, row_tokens: int, micro_batches: int = 1
  ) -> streams.TextStream:
    """Batches of pretraining text."""
    vocabulary, data = self.codec.vocabulary, self.config.data
    return streams.TextStream(
        self.examples('text', 'text', split),
        row_length=row_tokens,
        rows=rows,
        pad_id=vocabulary.pad_id,
        seed=self.config.seed,
        bos_and_eos=(
            (vocabulary.bos_id, vocabulary.eos_id)
            if data.get('separate_documents')
            else None
        ),
        local=self.local_rows(rows, micro_batches),
    )

  def local_rows(self, rows: int, micro_batches: int = 1) -> np.ndarray | None:
    """Which rows of a batch this host has to fill; None: all."""
    return hosts.local_rows(rows, self.mesh, micro_batches=micro_batches)


def make(config: Config) -> Setup:
  """Builds a stage's surroundings."""
  # Late: seqio takes ten seconds to import.
  from rlhf.data import vocabularies

  for module in config.data.get('modules', ()):
    importlib.import_module(module)  # Registers seqio tasks of the user's.

  data = config.data
  if not data.vocabulary:
    raise DataError(
        'no vocabulary: set --config.data.vocabulary= to a folder with'
        ' encoder.json and vocab.bpe, a tokenizer.json or a SentencePiece model'
    )
  directory = epath.Path(config.root) / config.run
  workdir = Workdir(
      directory, tensorboard=config.loop.tensorboard, wandb=config.loop.wandb
  )
  codec = Codec(
      vocabulary=vocabularies.vocabulary(data.vocabulary),
      prompt_format=PromptFormat(**data.prompt_format),
      prompt_tokens=data.prompt_tokens,
      fingerprint=vocabularies.fingerprint(data.vocabulary),
  )
  mesh = sharding.make_mesh(config.mesh)
  # Made on the mesh, so that every process holds the same global key.
  make_key = jax.jit(
      lambda: jax.random.key(config.seed),
      out_shardings=sharding.replicated(mesh),
  )
  return Setup(
      config=config,
      workdir=workdir,
      mesh=mesh,
      codec=codec,
      key=make_key(),
  )


def freezes(config: Config) -> bool:
  """Whether a network stands still after an update that is not finite."""
  return config.loop.nonfinite != 'skip'


def row_lengths(config: Config) -> tuple[int, ...]:
  """Tokens of every kind of row that a stage's programs read."""
  data = config.data
  prompts = streams.prompt_lengths(data)
  rows = {
      *prompts,
      *(tokens + data.response_tokens for tokens in prompts),
      data.row_tokens,
      data.get('ptx_row_tokens', data.row_tokens),
  }
  return tuple(sorted(rows))


def kernel_for(cfg: ModelConfig, config: Config, mesh: Any) -> ModelConfig:
  """`cfg` with the attention kernel that the mesh's devices have."""
  return choose_kernel(cfg, mesh, row_lengths(config))


def freeze(
    params: Params,
    cfg: ModelConfig,
    mesh: jax.sharding.Mesh,
    spread: Sequence[str] = sharding.SPREAD,
) -> Params:
  """A network that is only read: in `cfg.dtype`, over the axes of `spread`."""
  return lay_out(params, cfg, mesh, spread)(params)


def optimizer_config(
    section: Config, total_steps: int
) -> optim.OptimizerConfig:
  """An optimizer section, with the number of steps that it falls over."""
  return optim.OptimizerConfig(**section, total_steps=total_steps)
