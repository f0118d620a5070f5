# SPDX-License-Identifier: Apache-2.0
r"""First-step numbers of every stage, as they came out when last looked at.

  python -m tests.golden_test --update     writes tests/golden/*.json anew
"""

import json
import pathlib
import sys
import tempfile

import jax
import pytest

from tests import tiny

# Nothing that is zero but for rounding: there is no tolerance for that.
METRICS = {
    'pretrain': (
        'pretrain/loss',
        'pretrain/accuracy',
        'pretrain/weight',
        'opt/grad_norm',
        'opt/update_norm',
        'validation/loss',
    ),
    'sft': (
        'sft/loss',
        'sft/accuracy',
        'sft/weight',
        'opt/grad_norm',
        'opt/update_norm',
        'validation/loss',
    ),
    'rm': (
        'rm/loss',
        'rm/accuracy',
        'rm/margin',
        'rm/pairs',
        'opt/grad_norm',
        'opt/update_norm',
        'validation/accuracy',
    ),
    'ppo': (
        'rollout/score',
        'rollout/length',
        'rollout/entropy',
        'rollout/return',
        'policy/loss',
        'policy/approx_kl',
        'policy/weight',
        'opt/update_norm',
        'value/loss',
        'value/grad_norm',
    ),
    'ppo_ptx': (
        'rollout/score',
        'policy/loss',
        'policy/grad_norm',
        'policy/approx_kl',
        'ptx/loss',
        'ptx/grad_norm',
        'ptx/weight',
        'opt/grad_norm',
        'opt/update_norm',
        'value/loss',
    ),
}

_MESSAGE = """
tests/golden/{stage}.json: {name} was {want!r} and is {got!r}.

It is right to update these numbers when you meant to change what the first step
computes (a loss, an initialisation, the order of data, the draws of a sampler)
or the data and configs of tests/tiny.py: say so in the commit and in
CHANGELOG.md. It is not when you meant to change anything else, such as speed,
layout or names: then this is a bug. Another jax, flax or numpy should not move
them either.

  python -m tests.golden_test --update
"""


def first_step(stage: str, root: pathlib.Path) -> dict[str, float]:
  """Runs the first step of a stage, and its evaluation after it."""
  from rlhf.stages import STAGES

  changes = {'loop.evaluate_every': 1}
  if stage == 'pretrain':
    changes['steps'] = 1
  if stage in ('ppo', 'ppo_ptx'):
    changes['ppo.episodes'] = 16
  config = tiny.config(stage, root, f'golden_{stage}', **changes)
  STAGES[config.stage](config)
  found: dict[str, float] = {}
  for line in tiny.metrics(root / f'golden_{stage}'):
    if line['step'] == 1:
      found |= line
  return {name: found[name] for name in METRICS[stage]}


def _file(stage: str) -> pathlib.Path:
  return pathlib.Path(__file__).parent / 'golden' / f'{stage}.json'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  with tiny.quick_compilation():
    yield tiny.make_root(tmp_path_factory.mktemp('golden'))


@pytest.mark.parametrize('stage', METRICS)
def test_first_step(stage, root):
  want = json.loads(_file(stage).read_text())
  got = first_step(stage, root)
  assert set(got) == set(want)
  for name in METRICS[stage]:
    message = _MESSAGE.format(
        stage=stage, name=name, want=want[name], got=got[name]
    )
    assert got[name] == pytest.approx(want[name], rel=1e-4), message


def update() -> None:
  """Writes the numbers of this machine."""
  jax.config.update('jax_platforms', 'cpu')
  with tempfile.TemporaryDirectory() as folder, tiny.quick_compilation():
    root = tiny.make_root(pathlib.Path(folder))
    for stage in METRICS:
      _file(stage).parent.mkdir(exist_ok=True)
      text = json.dumps(first_step(stage, root), indent=2)
      _file(stage).write_text(text + '\n')
      print(f'wrote {_file(stage)}')


if __name__ == '__main__':
  if sys.argv[1:] != ['--update']:
    sys.exit(__doc__)
  update()
