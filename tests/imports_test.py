# SPDX-License-Identifier: Apache-2.0
"""What an import brings with it: seconds, and whole frameworks."""

import pytest

_TENSORFLOW = ('seqio', 'tensorflow', 'tensorflow_datasets', 'tensorflow_text')


def _imports(modules: tuple[str, ...], unwanted: tuple[str, ...]) -> str:
  """Code that imports modules and prints which unwanted ones came along."""
  return '\n'.join([
      'import importlib, sys',
      f'for module in {modules!r}: importlib.import_module(module)',
      f'print(*(name for name in {unwanted!r} if name in sys.modules))',
  ])


@pytest.mark.parametrize(
    'module', ['rlhf.model', 'rlhf.losses', 'rlhf.advantages', 'rlhf.sampling']
)
def test_core_imports_without_tensorflow(fresh_python, module):
  assert fresh_python(_imports((module,), _TENSORFLOW)).split() == []


def test_core_runs_where_tensorflow_is_not_installed(fresh_python):
  # None in sys.modules makes `import` fail as if the package were missing.
  hide = f'import sys; sys.modules.update(dict.fromkeys({_TENSORFLOW!r}))\n'
  modules = ('rlhf.model', 'rlhf.losses', 'rlhf.sampling')
  fresh_python(hide + _imports(modules, ()))


def test_world_needs_neither_jax_nor_tensorflow(fresh_python):
  """Simulated people are plain Python: they run in any worker process."""
  list_all = (
      'import pkgutil, rlhf.world, sys, importlib\n'
      'for found in pkgutil.iter_modules(rlhf.world.__path__):\n'
      '  importlib.import_module("rlhf.world." + found.name)\n'
  )
  unwanted = ('jax', 'flax', *_TENSORFLOW)
  assert fresh_python(list_all + _imports((), unwanted)).split() == []
