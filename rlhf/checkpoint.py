# SPDX-License-Identifier: Apache-2.0
"""Saving and restoring: runs in progress, and the networks they hand on.

A stage's directory holds

  checkpoints/<step>/   everything the run is, to go on from (orbax)
  model/                the network that later stages read: parameters and the
                        model config; written once, when the stage is done

The `CheckpointManager` API of orbax is used throughout, not its v1.

Paths may be gs://. On several hosts every host calls these functions: each
writes its part of the arrays, and the first one the rest.
"""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from rlhf import hosts, networks


class Checkpoints:
  """The checkpoints of a run in progress; the newest `keep` are kept."""

  def __init__(self, directory: os.PathLike, *, keep: int = 2):
    self._directory = networks.absolute(directory)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=True,
        enable_async_checkpointing=True,
        # Hosts that listed the directory by themselves could go on from
        # different steps: a network file system shows some of them an old list.
        single_host_load_and_broadcast=hosts.several(),
    )
    self._manager = ocp.CheckpointManager(self._directory, options=options)

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

  def newest(self) -> str:
    """Words for the newest checkpoint that is whole."""
    steps = ocp.utils.checkpoint_steps(self._directory)
    if not steps:
      return f'no checkpoint is in {self._directory} yet'
    return f'the newest checkpoint is step {max(steps)} in {self._directory}'

  def close(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()
    self._manager.close()
