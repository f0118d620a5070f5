# SPDX-License-Identifier: Apache-2.0
"""Arrays of a checkpoint, which may be damaged, from files to devices."""

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from rlhf.checkpoint import leaves

# Of a reason; characters.
_LENGTH = 240


def read(
    path: epath.Path, wanted: Mapping[str, Any]
) -> tuple[dict[str, jax.Array], str]:
  """Reads some of the arrays, without a barrier or a word to other hosts.

  Args:
    path: of the arrays (`ocp.args.PyTreeSave` of a dict).
    wanted: by name, arrays or `jax.ShapeDtypeStruct` with shardings.

  Returns:
    The arrays on these shardings, and ''; or none, and why they can't be read.
  """
  if not wanted:
    return {}, ''
  abstract = {name: leaves.abstract(leaf) for name, leaf in wanted.items()}
  registry = ocp.type_handlers.create_type_handler_registry(
      (jax.Array, _Handler())
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  try:
    arrays = handler.restore(
        path,
        args=ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        ),
    )
  except jax.errors.JaxRuntimeError:
    raise  # No memory on the device, say: nothing is wrong with the files.
  except Exception as error:
    # Whatever it is: orbax and tensorstore raise exceptions of all kinds for
    # files that are cut short or changed.
    return {}, reason(error)
  for name, leaf in abstract.items():
    # Orbax's own list of them may be what is damaged.
    if not isinstance(arrays.get(name), jax.Array):
      return {}, f'{name} is not there'
    kind = leaves.kind(arrays[name])
    if kind != leaves.kind(leaf):
      return {}, f'{name} is {leaves.words(kind)}'
  return {name: arrays[name] for name in wanted}, ''


class _Handler(ocp.type_handlers.ArrayHandler):
  """Orbax's, but it waits for what is being read beside an array that fails.

  Orbax closes the event loop on that, of which Python then prints pages. (So it
  does if the tasks are cancelled: tensorstore still calls back.)
  """

  async def deserialize(self, infos, args=None):
    before = asyncio.all_tasks()
    try:
      return await super().deserialize(infos, args)
    except Exception:
      beside = asyncio.all_tasks() - before
      await asyncio.gather(*beside, return_exceptions=True)
      raise


def reason(error: BaseException) -> str:
  """One line of an exception."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = (str(error).strip().splitlines() or [''])[0] or type(error).__name__
  # Tensorstore tells all that it was about, and the system's error last.
  system = re.search(r"\[os_error_code='(\d+)'", text)
  if system:
    return os.strerror(int(system[1]))
  text = re.sub(r' \[(source locations|tensorstore_spec).*', '', text)
  return text if len(text) <= _LENGTH else f'... {text[-_LENGTH:]}'
