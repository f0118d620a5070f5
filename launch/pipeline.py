# SPDX-License-Identifier: Apache-2.0
"""Which stage needs which, and running them in that order.

Several hosts run the same stages. The first one looks what is finished, for
all, so that they never disagree, and a stage is over when all are through.
"""

import functools
import importlib.util
import logging as stdlib_logging
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from absl import logging
from etils import epath

# An ml_collections.ConfigDict, whose fields no type checker can know.
Config = Any

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def quiet_libraries() -> None:
  """Logs this repository's own information, and only warnings of others'."""
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_is_news)


def _is_news(record: stdlib_logging.LogRecord) -> bool:
  # An environment may lie inside the repository.
  library = '/site-packages/' in record.pathname
  if record.levelno < stdlib_logging.WARNING:
    return record.pathname.startswith(str(REPOSITORY)) and not library
  # What orbax logs of a write that failed, 200 lines of it, it raises too; and
  # of that a line is told (rlhf/checkpoint).
  return not (library and '/orbax/' in record.pathname and record.exc_info)


def keep_compiled_programs() -> None:
  """Has JAX read and write compiled programs below the repository's .cache.

  Compiling is about a fifth of a miniature run from cold. A folder that the
  environment names (JAX_COMPILATION_CACHE_DIR) is used instead.
  """
  import jax

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    folder = str(REPOSITORY / '.cache' / 'jax')
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def load_config(spec: str) -> Config:
  """The config of 'configs/sft.py:mini': a file, and what follows the colon.

  Raises:
    FileNotFoundError: naming the file.
  """
  name, _, argument = spec.partition(':')
  path = REPOSITORY / name
  if not path.exists():
    raise FileNotFoundError(f'no config {name}: {path} does not exist')
  module_spec = importlib.util.spec_from_file_location(path.stem, path)
  assert module_spec is not None and module_spec.loader is not None
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  return module.get_config(argument) if argument else module.get_config()


def directory(config: Config) -> epath.Path:
  """Where a stage works."""
  return epath.Path(config.root) / config.run


def finished(path: epath.Path) -> bool:
  """Whether a stage came to its end there."""
  return (path / 'results.json').exists()


def run(
    config: Config,
    *,
    seconds: dict[str, float] | None = None,
    stage: Callable[[Config], None] | None = None,
) -> None:
  """Runs a stage after the stages that it requires.

  Args:
    config: the stage's.
    seconds: filled with the wall time of each stage that was run.
    stage: run instead of `STAGES[config.stage]`: that, with more arguments.

  Raises:
    ConfigError: with all that is wrong with this config and those of the stages
      before it, or if one of these is missing and `config.prerequisites`
      forbids running it.
  """
  import jax

  from rlhf import hosts, problems
  from rlhf.problems import Problem

  path = directory(config)
  if hosts.agree(f'is {path} finished', lambda: finished(path)):
    logging.info('%s: finished before, in %s', config.run, path)
    return
  earlier: dict[str, Config] = {}
  missing: list[Problem] = []
  _gather(config, earlier, missing)
  problems.check(
      config,
      earlier=tuple(earlier.values()),
      devices=jax.device_count,
      missing=missing,
  )
  for one in earlier.values():
    logging.info('%s needs %s: running it first', config.run, one.run)
    _run_one(one, seconds)
  _run_one(config, seconds, stage)


def _run_one(
    config: Config,
    seconds: dict[str, float] | None,
    stage: Callable[[Config], None] | None = None,
) -> None:
  """One stage, and nothing before it; alone in its directory."""
  from rlhf import hosts, lock, watch
  from rlhf.stages import STAGES

  start = time.monotonic()
  path = directory(config)
  with lock.hold(path):
    if hosts.stopping():
      raise watch.StoppedError(f'told to stop before {config.run}')
    # Whoever held the directory may have come to the end meanwhile.
    if hosts.agree(f'has {path} been finished', lambda: finished(path)):
      return
    (stage or STAGES[config.stage])(config)
    hosts.barrier(f'the end of {path}')
  if seconds is not None:
    seconds[config.run] = time.monotonic() - start


def _gather(
    config: Config, earlier: dict[str, Config], missing: list[Any]
) -> None:
  """Finds the stages to be run before one.

  Args:
    config: of that one.
    earlier: gets their configs by directory, in the order of running.
    missing: gets a problem for each that `config.prerequisites` forbids to run.
  """
  from rlhf import hosts
  from rlhf.problems import Problem

  for name, spec in config.requires.items():
    path = _home(config, name) / name
    if not _reads(config, path) or str(path) in earlier:
      continue
    if hosts.agree(f'is {path} finished', functools.partial(finished, path)):
      continue
    if config.prerequisites != 'auto':
      message = (
          f'{config.run} needs {path}, which is not there. This makes it:\n'
          f'      python launch/train.py --config={spec}'
          f' --config.root={path.parent} --config.seed={config.seed}\n'
          '    (with the --config.data... flags of your data), or'
          ' --config.prerequisites=auto makes it now'
      )
      missing.append(Problem(f'requires.{name}', spec, message))
      continue
    one = _earlier(config, spec, str(path.parent))
    _gather(one, earlier, missing)
    earlier[str(path)] = one


def _home(config: Config, name: str) -> epath.Path:
  """The root that an earlier stage is below."""
  root = config.get('reward_root', config.root) if name == 'rm' else config.root
  return epath.Path(root)


def _reads(config: Config, path: epath.Path) -> bool:
  """Whether some field of the config is a path at or below `path`."""
  for value in config.values():
    if hasattr(value, 'values'):
      if _reads(value, path):
        return True
    elif isinstance(value, str) and not value.startswith('configs/'):
      if path in (epath.Path(value), *epath.Path(value).parents):
        return True
  return False


# What an earlier stage takes over from the one that needs it, where both have
# it: the same experiment on the same data.
_SHARED = ('seed', 'prerequisites', 'folder', 'mesh')
_SHARED_DATA = (
    'vocabulary',
    'text',
    'demonstrations',
    'prompts',
    'strict',
    'modules',
    'chat_template',
    'fields',
    'hygiene',
    'test_share',
    'tfds_dir',
)


def _earlier(config: Config, spec: str, root: str) -> Config:
  """The config of an earlier stage, of the same experiment but for its root."""
  earlier = load_config(spec)
  with earlier.unlocked():
    for name in _SHARED:
      if name in earlier and name in config:
        earlier[name] = config[name]
    earlier.root = root
    for name in _SHARED_DATA:
      if config.data[name] != earlier.data[name]:
        earlier.data[name] = config.data[name]
  return earlier
