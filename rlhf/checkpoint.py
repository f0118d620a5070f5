# SPDX-License-Identifier: Apache-2.0
"""Saving and restoring: runs in progress, and the networks they hand on.

A stage's directory holds

  checkpoints/<step>/   everything the run is, to go on from (orbax)
  model/                the network that later stages read: parameters and the
                        model config; written once, when the stage is done

The `CheckpointManager` API of orbax is used throughout, not its v1.
"""

import json
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from safetensors import numpy as safetensors

from rlhf import sharding
from rlhf.dims import Params
from rlhf.model import ModelConfig


class Checkpoints:
  """The checkpoints of a run in progress; the newest `keep` are kept."""

  def __init__(self, directory: pathlib.Path, *, keep: int = 2):
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=True
    )
    self._manager = ocp.CheckpointManager(
        pathlib.Path(directory).absolute(), options=options
    )

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Saves arrays and JSON-able facts; returns before they are on disk."""
    self._manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra)
        ),
    )

  def restore(self, template: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest checkpoint as (step, state, extra); None if there is none.

    Args:
      template: a state of the same structure; its shapes, dtypes and shardings
        are those of the result.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract),
            extra=ocp.args.JsonRestore(),
        ),
    )
    return step, restored['state'], restored['extra']

  def close(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()
    self._manager.close()


def save_model(
    directory: pathlib.Path, params: Params, cfg: ModelConfig, facts: dict
) -> None:
  """Writes a network for later stages to read.

  Args:
    directory: the stage's `model/`; replaced if it exists.
    params: nested dict of arrays.
    cfg: how to run them.
    facts: what is worth knowing about them (metrics, step), JSON-able.
  """
  directory = pathlib.Path(directory).absolute()
  # Gone first and written last, so that a directory with this file is whole.
  about = directory / 'model.json'
  about.unlink(missing_ok=True)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(directory / 'params', params, force=True)
  text = json.dumps({'model': vars(cfg), 'facts': facts}, indent=2)
  about.write_text(text + '\n')


def read_facts(directory: pathlib.Path) -> dict:
  """The facts that `save_model` wrote into a `model/`."""
  about = json.loads((pathlib.Path(directory) / 'model.json').read_text())
  return about['facts']


def load_model(
    path: pathlib.Path, mesh: jax.sharding.Mesh | None = None
) -> tuple[Params, ModelConfig, dict]:
  """Reads a network: a stage's directory, its `model/`, or a .safetensors file.

  Args:
    path: where.
    mesh: the devices it is read onto, sharded as it is read; by default the
      first device.

  Returns:
    Parameters, model config, facts.

  Raises:
    FileNotFoundError: naming what was looked for.
  """
  path = pathlib.Path(path).absolute()
  if path.suffix == '.safetensors':
    params, cfg, facts = load_safetensors(path)
    if mesh is not None:
      params = jax.device_put(params, sharding.shardings(params, mesh))
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
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
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


def save_safetensors(
    path: pathlib.Path, params: Params, cfg: ModelConfig, facts: dict
) -> None:
  """Writes a network as one portable file, names joined by '/'."""
  named = jax.tree_util.tree_flatten_with_path(params)[0]
  arrays = {
      '/'.join(entry.key for entry in keys): jax.device_get(leaf)
      for keys, leaf in named
  }
  metadata = {'model': json.dumps(vars(cfg)), 'facts': json.dumps(facts)}
  safetensors.save_file(arrays, str(path), metadata)


def load_safetensors(path: pathlib.Path) -> tuple[Params, ModelConfig, dict]:
  """Reads what `save_safetensors` wrote."""
  if not path.exists():
    raise FileNotFoundError(f'no network: {path} does not exist')
  with open(path, 'rb') as f:
    header = json.loads(f.read(int.from_bytes(f.read(8), 'little')))
  about = header['__metadata__']
  params: dict = {}
  for name, array in safetensors.load_file(str(path)).items():
    *parents, leaf = name.split('/')
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = jax.numpy.asarray(array)
  cfg = ModelConfig(**json.loads(about['model']))
  return params, cfg, json.loads(about['facts'])
