# SPDX-License-Identifier: Apache-2.0
"""What a finished run on files leaves to be examined: configs, rows, curves."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from rlhf.data import cleaning, loading
from rlhf.data import examples as examples_lib
from rlhf.data.account import Account
from rlhf.dims import Params
from rlhf.evaluation import figures
from rlhf.model import ModelConfig
from rlhf.stages import setup as setup_lib

STAGES = ('pretrain', 'sft', 'rm', 'ppo', 'ppo_ptx')

_SPLITS = ('train', 'validation')
# Of a stage's config, what the report prints where it is there.
_SETTINGS = (
    'seed',
    'batch',
    'epochs',
    'steps',
    'pretraining_share',
    'run_model.dropout',
    'run_model.reward_pooling',
    'ppo.episodes',
    'ppo.batch',
    'ppo.minibatches',
    'ppo.kl_coefficient',
    'ppo.ptx_coefficient',
    'ppo.value_warmup_iterations',
    'ppo.ema_decay',
    'optimizer.learning_rate',
    'value_optimizer.learning_rate',
)
_CURVES = ('pretrain/', 'sft/', 'rm/', 'validation/', 'rollout/', 'ptx/')


@dataclasses.dataclass(frozen=True)
class File:
  """A file as a stage reads it.

  Attributes:
    name: folder and file.
    rows: how many there are in each of the two splits, by its name.
    examples: those that were kept, in each split.
  """

  name: str
  rows: dict[str, int]
  examples: dict[str, list]


def finished(root: pathlib.Path) -> dict[str, dict]:
  """The results.json of each of `STAGES` that came to its end."""
  paths = {name: root / name / 'results.json' for name in STAGES}
  return {
      name: json.loads(path.read_text())
      for name, path in paths.items()
      if path.exists()
  }


def written_config(root: pathlib.Path, stage: str) -> dict:
  """The config that a stage ran with."""
  return json.loads((root / stage / 'config.json').read_text())


def surroundings(root: pathlib.Path, stage: str) -> setup_lib.Setup:
  """What a finished stage ran in, with another directory to write to."""
  written = written_config(root, stage)
  # Networks are run as they were saved.
  written.pop('run_model', None)
  config: Any = config_dict.ConfigDict(written)
  config.root, config.run = str(root), 'evaluation'
  config.loop.tensorboard = False
  return setup_lib.make(config)


def load_model(
    setup: setup_lib.Setup, path: pathlib.Path
) -> tuple[Params, ModelConfig]:
  """A stage's network; those of one shape have equal configs."""
  params, cfg = setup.load_model(str(path))
  # Off outside of training; so that one compiled program serves all models.
  return params, dataclasses.replace(cfg, dropout=0.0)


def read_files(setup: setup_lib.Setup, name: str) -> list[File]:
  """Both splits of every file of a data set, as the stage reads them.

  Args:
    setup: of the stage.
    name: a kind of data, and the config's field that lists its files.
  """
  data = setup.config.data
  files = []
  for path in filter(None, map(str.strip, data[name].split(','))):
    reading = cleaning.reading(data, name)
    account = Account(strict=reading.strict)
    splits = loading.rows_by_split(path, name, None, reading, account)
    rows = {split: len(splits[split]) for split in _SPLITS}
    tokeniser = examples_lib.Tokeniser(
        setup.codec.vocabulary,
        setup.codec.prompt_format,
        data.prompt_tokens,
        data.response_tokens,
    )
    # A small file may have no rows held out.
    kept = {
        split: list(tokeniser.examples(splits[split], name, account, split))
        for split in _SPLITS
    }
    files.append(File(_short(path), rows, kept))
  return files


def _short(path: str) -> str:
  """Folder and file: what is above is one machine's."""
  return '/'.join(pathlib.PurePath(path).parts[-2:])


def held_out(files: Sequence[File]) -> list:
  """The validation examples of some files, in order."""
  return [example for file in files for example in file.examples['validation']]


def counts(setup: setup_lib.Setup, files: Sequence[File]) -> dict:
  """Rows read and kept of each file and split, and how they were cut."""
  rows = []
  for file in files:
    row: dict[str, Any] = {'name': file.name}
    for split in _SPLITS:
      kept = file.examples[split]
      row[split] = {'rows': file.rows[split], 'kept': len(kept)}
      if kept and isinstance(kept[0], np.ndarray):
        row[split]['tokens'] = sum(map(len, kept))
    rows.append(row)
  data = setup.config.data
  return lengths(setup) | {
      'row_tokens': data.row_tokens,
      'share': data.validation_share,
      'files': rows,
  }


def lengths(setup: setup_lib.Setup) -> dict[str, int]:
  """Most tokens of a prompt and of a response."""
  data = setup.config.data
  return dict(
      prompt_tokens=data.prompt_tokens, response_tokens=data.response_tokens
  )


def size(params: Params, cfg: ModelConfig) -> dict[str, int]:
  """What there is of a network; 'table' is its token table's share."""
  names = ('layers', 'width', 'heads', 'head_size', 'context', 'vocab_size')
  return {name: getattr(cfg, name) for name in names} | {
      'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
      'table': params['embed']['tokens']['table'].size,
  }


def settings(root: pathlib.Path, stage: str) -> dict[str, Any]:
  """A stage's numbers, by their dotted names in its config."""
  found = {}
  for name in _SETTINGS:
    value: Any = written_config(root, stage)
    for part in name.split('.'):
      value = value.get(part) if isinstance(value, dict) else None
    if value is not None:
      found[name] = value
  return found


def curve_ends(run: pathlib.Path) -> dict[str, tuple[float, float]]:
  """Means of a stage's metrics over the first and the last fifth."""
  curves = figures.read_curves(run, prefix='')
  return {
      name: figures.ends({name: curve}, max(1, len(curve[0]) // 5))[name]
      for name, curve in curves.items()
      if name.startswith(_CURVES)
  }


def seconds(run: pathlib.Path) -> float:
  """Wall time of a stage's loop, from its metrics.jsonl.

  The clock starts at 0 again where a run was resumed, or started over; in that
  case later lines take the place of earlier ones.
  """
  kept: list[tuple[int, float]] = []
  with open(run / 'metrics.jsonl', encoding='utf-8') as f:
    for line in f:
      row = json.loads(line)
      if 'seconds' in row:
        kept = [pair for pair in kept if pair[0] < row['step']]
        kept.append((row['step'], row['seconds']))
  times = [now for _, now in kept]
  return sum(
      now
      for now, later in zip(times, [*times[1:], 0.0], strict=True)
      if later < now
  )
