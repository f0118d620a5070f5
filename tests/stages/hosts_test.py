# SPDX-License-Identifier: Apache-2.0
"""Whole stages on two hosts that share a disk: they write what one does.

In tests/parity_test.py a few steps are compared, to 1e-5; here all that a run
is, from its files to its files, to what tens of updates leave of that.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from rlhf import hosts, networks
from rlhf.stages import ppo, reward, sft
from tests import pair as pairs
from tests import parity, tiny

STAGES = {'sft': sft, 'rm': reward, 'ppo_ptx': ppo}
# On two hosts of two devices: copies' storage is on both, and a layer's
# products are on each.
_MESH = {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.tensor': 2}


def train(root: pathlib.Path, suffix: str, **changes) -> None:
  """Runs the stages, each on the networks that the root began with."""
  for name, stage in STAGES.items():
    config = tiny.config(
        name,
        root,
        f'{name}_{suffix}',
        init_from=str(root / 'sft' / 'model'),
        **changes,
    )
    stage.run(config)


def main(root: str, port: str, index: str) -> None:
  with parity.quick_compilation():
    with hosts.joined(f'localhost:{port}', 2, int(index)):
      train(pathlib.Path(root), 'two', **_MESH)


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """A root where the stages have run on one host and on two."""
  folder = tmp_path_factory.mktemp('hosts')
  root = tiny.make_root(folder / 'root')

  def arguments(port, index):
    code = (
        'from tests.stages import hosts_test;'
        f' hosts_test.main({str(root)!r}, {str(port)!r}, {str(index)!r})'
    )
    return ['-c', code]

  with pairs.pair(arguments, folder) as pair:
    train(root, 'one', **{'mesh.fsdp': 1})
    for index in range(2):
      code, log = pair.wait(index, 500)
      assert code == 0, log
  return root


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize('stage', STAGES)
def test_two_hosts_write_what_one_does(both, stage):
  one, two = [tiny.metrics(both / f'{stage}_{n}') for n in ('one', 'two')]
  assert len(one) == len(two) > 1
  for got, want in zip(two, one, strict=True):
    assert got.keys() == want.keys()
    for name, value in tiny.without_clocks(want).items():
      np.testing.assert_allclose(
          got[name], value, rtol=1e-4, atol=1e-6, err_msg=name
      )


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize('stage', STAGES)
def test_two_hosts_hand_on_what_one_does(both, stage):
  (one, cfg, facts), (two, *about) = [
      networks.load_model(both / f'{stage}_{n}') for n in ('one', 'two')
  ]
  assert about[0] == cfg and about[1].keys() == facts.keys()
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for (path, want), got in zip(
      jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two),
      strict=True,
  ):
    distance = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert distance < 1e-4, (path, distance)


@pytest.mark.slow
@pytest.mark.multi_device
def test_two_hosts_say_what_one_does(both):
  one, two = [
      (both / f'ppo_ptx_{n}' / 'samples.jsonl').read_text().splitlines()
      for n in ('one', 'two')
  ]
  assert len(one) == len(two) > 0
  for lines in zip(two, one, strict=True):
    got, want = [json.loads(line) for line in lines]
    np.testing.assert_allclose(got.pop('score'), want.pop('score'), rtol=1e-4)
    assert got == want
