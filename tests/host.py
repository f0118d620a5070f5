# SPDX-License-Identifier: Apache-2.0
"""One host of several, for tests: joins the others and does what it is told.

  python tests/host.py PORT INDEX TASK [FOLDER]
"""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf import hosts, lock, loop, networks, sharding, watch
from rlhf.watching.display import say
from rlhf.watching.workdir import Workdir


def train(folder: str, *, step_timeout: float = 60.0, steps: int = 10**6):
  """Adds up an array that lies on the devices of all hosts."""
  where = NamedSharding(sharding.make_mesh({'data': -1}), P('data'))
  ones = np.ones(16, np.float32)
  state = {'x': jax.make_array_from_callback((16,), where, lambda i: ones[i])}
  grow = jax.jit(lambda x: (x + 1, jnp.sum(x)))

  def step(state, index):
    if index == 6 and hosts.label() == 'host 1 of 2':
      (pathlib.Path(folder) / 'six').touch()
      time.sleep(40 if step_timeout < 10 else 0)
    x, total = grow(state['x'])
    return {'x': x}, {'total': total}

  state, _ = loop.run(
      loop.Stage('toy', step, steps, headline=('total',)),
      state,
      config=loop.LoopConfig(
          log_every=1, save_every=5, tensorboard=False,
          step_timeout=step_timeout,
      ),
      workdir=Workdir(folder, tensorboard=False),
  )
  return state


def slow(folder: str):
  """Host 1 hangs in step 7."""
  train(folder, step_timeout=3.0)


def train_again(folder: str):
  """A second stage: its steps count from 0 anew."""
  train(f'{folder}/first', steps=12)
  train(folder)


def waits(folder: str):
  """Host 0 waits for host 1, in C++."""
  if hosts.is_first():
    (pathlib.Path(folder) / 'waiting').touch()
    hosts.barrier('never', seconds=100)
  time.sleep(100)


def breaks(folder: str):
  """Host 1 fails by itself, while host 0 waits for it."""
  del folder
  if not hosts.is_first():
    raise RuntimeError('a bug of host 1')
  hosts.barrier('never', seconds=100)


def _late():
  """Host 1 does not come to a barrier."""
  if hosts.is_first():
    try:
      hosts.barrier('the party', seconds=1)
    except watch.LostHostError as error:
      print(f'caught: {error}', flush=True)
  else:
    time.sleep(2)


def together(folder: str):
  """Everything that a stage writes, in a folder that both hosts see."""
  _late()
  state = train(folder, steps=7)
  say('said once')
  params = {'embed': {'tokens': {'table': state['x'][:, None]}}}
  cfg = networks.ModelConfig(
      layers=1, width=1, heads=1, head_size=1, context=1, vocab_size=16,
      pad_id=0,
  )
  path = pathlib.Path(folder)
  networks.save_model(path / 'model', params, cfg, {'steps': 7})
  mesh = sharding.make_mesh({'data': -1})
  for where in (None, mesh):
    read, _, facts = networks.load_model(path, where)
    table = sharding.fetch(read)['embed']['tokens']['table']
    assert facts == {'steps': 7} and (table == 8).all(), table
  networks.save_safetensors(path / 'm.safetensors', params, cfg, {})
  hosts.barrier('written')
  read, _, _ = networks.load_model(path / 'm.safetensors', mesh)
  table = sharding.fetch(read)['embed']['tokens']['table']
  assert (table == 8).all(), table
  # The first host's answer, whatever another would have found.
  assert hosts.agree('is it so', lambda: hosts.is_first())
  known = hosts.told('what', lambda: {'ä' * 99: [hosts.is_first(), None]})
  assert known == {'ä' * 99: [True, None]}, known
  _locks(path)
  Workdir(folder, tensorboard=False).write_json('results', {'by': os.getpid()})
  assert train(folder, steps=7)['x'].shape == (16,)  # Resumed at its end.


def _locks(path: pathlib.Path):
  """All are refused what the first host can't have."""
  with lock.hold(path / 'free'):
    hosts.barrier('held')
  try:
    with lock.hold(path / 'taken'):
      print('not refused')
  except lock.HeldError as error:
    print(f'refused: {error}', flush=True)


def main(port: str, index: str, task: str, folder: str = ''):
  with hosts.joined(
      f'localhost:{port}',
      2,
      int(index),
      start_seconds=3 if task == 'alone' else 60,
      heartbeat_seconds=6,
  ):
    globals()[task](folder)


if __name__ == '__main__':
  main(*sys.argv[1:])
