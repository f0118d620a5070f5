# SPDX-License-Identifier: Apache-2.0
"""Networks on disk: what a stage hands on, and the base that ships.

  model/params/      the arrays (orbax)
  model/model.json   how to run them, and what is worth knowing; written last,
                     so a directory that has it is whole
  *.safetensors      the same in one portable file

Paths may be gs://. On several hosts every host calls these functions: each
writes its part of the arrays, and the first one the rest.
"""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from safetensors import numpy as safetensors

from rlhf import hosts, sharding
from rlhf.dims import Params
from rlhf.model import ModelConfig


def absolute(path: str | os.PathLike) -> epath.Path:
  """As orbax wants it; epath would put a folder before gs:// too."""
  path = epath.Path(path)
  return path if '://' in os.fspath(path) else path.absolute()


def save_model(
    directory: os.PathLike, params: Params, cfg: ModelConfig, facts: dict
) -> None:
  """Writes a network for later stages to read.

  Args:
    directory: the stage's `model/`; replaced if it exists.
    params: nested dict of arrays.
    cfg: how to run them.
    facts: what is worth knowing about them (metrics, step), JSON-able.
  """
  directory = absolute(directory)
  # Gone first and written last, so that a directory with this file is whole.
  about = directory / 'model.json'
  if hosts.is_first():
    about.unlink(missing_ok=True)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(directory / 'params', params, force=True)
  text = json.dumps({'model': _described(cfg), 'facts': facts}, indent=2)
  if hosts.is_first():
    about.write_text(text + '\n')
  hosts.barrier(f'{about} is written')


def read_facts(directory: os.PathLike) -> dict:
  """The facts that `save_model` wrote into a `model/`."""
  about = json.loads((epath.Path(directory) / 'model.json').read_text())
  return about['facts']


def read_config(directory: os.PathLike) -> ModelConfig:
  """The model config that `save_model` wrote into a `model/`."""
  about = json.loads((epath.Path(directory) / 'model.json').read_text())
  return ModelConfig(**about['model'])


def load_model(
    path: os.PathLike, mesh: jax.sharding.Mesh | None = None
) -> tuple[Params, ModelConfig, dict]:
  """Reads a network: a stage's directory, its `model/`, or a .safetensors file.

  Args:
    path: where.
    mesh: the devices it is read onto, sharded as it is read; by default this
      host's first device.

  Returns:
    Parameters, model config, facts.

  Raises:
    FileNotFoundError: naming what was looked for.
  """
  path = absolute(path)
  if path.suffix == '.safetensors':
    params, cfg, facts = load_safetensors(path)
    if mesh is not None:
      params = jax.tree.map(_spread, params, sharding.shardings(params, mesh))
    return params, cfg, facts
  directory = path if (path / 'model.json').exists() else path / 'model'
  if not (directory / 'model.json').exists():
    raise FileNotFoundError(
        f'no network in {path}: {directory / "model.json"} does not exist (the'
        ' stage that makes it has not finished there)'
    )
  about = json.loads((directory / 'model.json').read_text())
  cfg = ModelConfig(**about['model'])
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(directory / 'params').item_metadata.tree
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    where = (
        jax.tree.map(lambda _: one, tree)
        if mesh is None
        else sharding.shardings(tree, mesh)
    )
    template = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        tree,
        where,
    )
    params = checkpointer.restore(directory / 'params', template)
  logging.info('read %s', directory)
  return params, cfg, about['facts']


def _spread(leaf: Any, where: jax.sharding.Sharding) -> jax.Array:
  """A leaf that every host holds, as one array of all of them."""
  array = np.asarray(leaf)
  return jax.make_array_from_callback(array.shape, where, lambda i: array[i])


def _described(cfg: ModelConfig) -> dict:
  """The fields of a config; which kernel it runs on is the devices' to say."""
  return vars(dataclasses.replace(cfg, kernel='auto'))


def save_safetensors(
    path: os.PathLike, params: Params, cfg: ModelConfig, facts: dict
) -> None:
  """Writes a network as one portable file, names joined by '/'."""
  named = jax.tree_util.tree_flatten_with_path(sharding.fetch(params))[0]
  arrays = {
      '/'.join(entry.key for entry in keys): np.asarray(leaf)
      for keys, leaf in named
  }
  metadata = {'model': json.dumps(_described(cfg)), 'facts': json.dumps(facts)}
  if hosts.is_first():
    epath.Path(path).write_bytes(safetensors.save(arrays, metadata))


def load_safetensors(path: os.PathLike) -> tuple[Params, ModelConfig, dict]:
  """Reads what `save_safetensors` wrote.

  Raises:
    FileNotFoundError: naming the file.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'no network: {path} does not exist')
  data = path.read_bytes()
  header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
  about = header['__metadata__']
  params: dict = {}
  for name, array in safetensors.load(data).items():
    *parents, leaf = name.split('/')
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = jax.numpy.asarray(array)
  cfg = ModelConfig(**json.loads(about['model']))
  return params, cfg, json.loads(about['facts'])
