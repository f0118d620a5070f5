# SPDX-License-Identifier: Apache-2.0
"""What is compiled before the first step is what the first step runs."""

import logging
import re

import jax
import jax.numpy as jnp
import pytest

from rlhf import compilation
from rlhf.stages import ppo
from rlhf.stages import setup as setup_lib
from tests import tiny


@pytest.fixture
def compiled(caplog):
  """`compiled()`: names of the programs compiled since it was last asked."""
  jax.config.update('jax_log_compiles', True)
  caplog.set_level(logging.WARNING, logger='jax')

  def names():
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    found = [re.match(r'Compiling (\S+) ', line) for line in lines]
    return [match[1] for match in found if match]

  yield names
  jax.config.update('jax_log_compiles', False)


def test_it_returns_what_the_next_program_takes():
  double = jax.jit(lambda x: {'twice': 2.0 * x})
  found = compilation.ahead('double', double, jnp.ones((2, 3)))
  assert found['twice'].shape == (2, 3)
  assert found['twice'].dtype == jnp.float32
  assert found['twice'].sharding == double(jnp.ones((2, 3)))['twice'].sharding
  total = jax.jit(lambda tree: jnp.sum(tree['twice']))
  assert compilation.ahead('total', total, found).shape == ()


def test_a_long_compilation_is_told(monkeypatch, capsys):
  monkeypatch.setattr(compilation, '_QUIET', -1.0)
  compilation.ahead('double', jax.jit(lambda x: 2.0 * x), jnp.ones(3))
  assert capsys.readouterr().out.startswith('double: compiled in 0 s, 0.0 GiB')


@pytest.mark.parametrize('rows', [0, 8], ids=['whole', 'in parts'])
def test_no_program_of_ppo_is_compiled_twice(tmp_path, compiled, rows):
  root = tiny.make_root(tmp_path)
  changes = {'ppo.rollout_rows': rows, 'ppo.episodes': 16}
  trainer = ppo.Trainer(
      setup_lib.make(tiny.config('ppo_ptx', root, **changes))
  )
  compiled()
  trainer.compile_ahead()
  ahead = compiled()
  programs = {'generate', 'make_experience', 'minibatches', 'train_step'}
  for program in programs:
    times = 2 if program == 'train_step' else 1  # Of policy and of value.
    assert sum(program in name for name in ahead) == times, (program, ahead)
  trainer.iteration(trainer.state, 0)
  again = compiled()
  assert not [n for n in again if any(p in n for p in programs)], again
