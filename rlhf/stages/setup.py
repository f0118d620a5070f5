# SPDX-License-Identifier: Apache-2.0
"""What every stage builds from its config before it trains."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from rlhf import checkpoint, sharding, update
from rlhf.data import packing, streams
from rlhf.data.prompting import PromptFormat
from rlhf.dims import Batch, Params
from rlhf.inference import Codec, lay_out
from rlhf.loop import LoopConfig
from rlhf.model import ModelConfig, choose_kernel
from rlhf.optim import OptimizerConfig
from rlhf.sampling import SamplingConfig
from rlhf.workdir import Workdir

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
  """

  config: Config
  workdir: Workdir
  mesh: jax.sharding.Mesh
  codec: Codec
  key: jax.Array

  @property
  def loop(self) -> LoopConfig:
    return LoopConfig(**self.config.loop)

  @functools.cached_property
  def sampling(self) -> SamplingConfig:
    """How this run draws responses; any EOS ends one."""
    return SamplingConfig(
        max_tokens=self.config.data.response_tokens,
        stop_tokens=(self.codec.vocabulary.eos_id,),
        temperature=self.config.get('temperature', 1.0),
    )

  def load_model(self, path: str) -> tuple[Params, ModelConfig]:
    """A network of an earlier stage, placed on the mesh.

    Raises:
      ValueError: if its vocabulary is not this run's.
    """
    params, cfg, _ = checkpoint.load_model(epath.Path(path), self.mesh)
    size = self.codec.vocabulary.vocab_size
    if cfg.vocab_size != size:
      raise ValueError(
          f'{path} has {cfg.vocab_size} tokens but data.vocabulary'
          f'={self.config.data.vocabulary!r} has {size}: they must be the same'
      )
    # A config may change how a network is run (dropout, precision), not what
    # it is.
    changes = {'kernel': 'auto', **self.config.get('run_model', {})}
    cfg = dataclasses.replace(cfg, **changes)
    return params, kernel_for(cfg, self.config, self.mesh)

  def put(self, batch: Batch, micro_batches: int = 1) -> Batch:
    """A host batch on the mesh, cut into micro-batches."""
    batch = update.split_batch(batch, micro_batches)
    return sharding.put_batch(batch, self.mesh, stacked=micro_batches > 1)

  def examples(self, name: str, kind: str, split: str) -> list:
    """A data set's examples; `name` is a field of the config's data section.

    Raises:
      ValueError: if the config names no such data set.
    """
    data = self.config.data
    source = data.get(name)
    if not source:
      raise ValueError(
          f'this stage reads {kind}: set --config.data.{name}= to a seqio task'
          ' or to .jsonl files'
      )
    limits = data.get('limits', {})
    return streams.load(
        source,
        kind,
        split,
        self.codec.vocabulary,
        self.codec.prompt_format,
        limit=limits.get(f'{name}_{split}', limits.get(name)),
        max_prompt_tokens=data.prompt_tokens,
        max_response_tokens=data.response_tokens,
        validation_share=data.get('validation_share', 0.05),
        allow_empty_responses=kind == 'rankings',
    )

  def text_rows(self, split: str, row_tokens: int, name='text') -> np.ndarray:
    """Pretraining text as rows of `row_tokens`, int32 BT."""
    documents = self.examples(name, 'text', split)
    eos = self.codec.vocabulary.eos_id
    return packing.text_rows(documents, row_tokens, eos)

  def text_stream(self, split: str, rows: int, row_tokens: int):
    """Batches of pretraining text."""
    return streams.TextStream(
        self.text_rows(split, row_tokens),
        rows=rows,
        pad_id=self.codec.vocabulary.pad_id,
        seed=self.config.seed,
    )


def make(config: Config) -> Setup:
  """Builds a stage's surroundings and writes its config to its directory."""
  # Late: seqio takes ten seconds to import.
  from rlhf.data import vocabularies

  data = config.data
  if not data.vocabulary:
    raise ValueError(
        'no vocabulary: set --config.data.vocabulary= to a folder with'
        ' encoder.json and vocab.bpe'
    )
  directory = epath.Path(config.root) / config.run
  workdir = Workdir(directory, tensorboard=config.loop.tensorboard)
  workdir.write_json('config', config.to_dict())
  codec = Codec(
      vocabulary=vocabularies.vocabulary(data.vocabulary),
      prompt_format=PromptFormat(**data.prompt_format),
      prompt_tokens=data.prompt_tokens,
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


def model_config(config: Config, vocabulary: Any) -> ModelConfig:
  """The config's model, with the vocabulary's size and padding id."""
  return ModelConfig(
      **config.model,
      vocab_size=vocabulary.vocab_size,
      pad_id=vocabulary.pad_id,
  )


def row_lengths(config: Config) -> tuple[int, ...]:
  """Tokens of every kind of row that a stage's programs read."""
  data = config.data
  rows = {
      data.prompt_tokens,
      data.prompt_tokens + data.response_tokens,
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


def optimizer_config(section: Config, total_steps: int) -> OptimizerConfig:
  """An optimizer section, with the number of steps that it falls over."""
  return OptimizerConfig(**section, total_steps=total_steps)
