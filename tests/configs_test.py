# SPDX-License-Identifier: Apache-2.0
"""Every config at every size: it loads, is locked, and fits what it sets.

The paper's numbers are in tests/paper_test.py.
"""

import pathlib

import pytest

from configs import real_data, real_small
from launch import pipeline
from rlhf.data.prompting import PromptFormat
from rlhf.loop import LoopConfig
from rlhf.model import SIZES, ModelConfig
from rlhf.optim import OptimizerConfig
from rlhf.sharding import AXES, SPREAD
from rlhf.stages import STAGES

_CONFIGS = pathlib.Path(pipeline.REPOSITORY, 'configs')
# All that take a size: new files are found by themselves.
SIZED = sorted(
    path.stem
    for path in _CONFIGS.glob('*.py')
    if path.stem
    not in ('__init__', 'common', 'comparisons', 'real_data', 'real_small')
)
SPECS = [
    *(f'configs/{name}.py:{size}' for name in SIZED for size in SIZES),
    'configs/comparisons.py:mini',
    *(f'configs/real_small.py:{stage}' for stage in real_small.STAGES),
    *(f'configs/real_data.py:{name}' for name in real_data.NAMES),
]
every_spec = pytest.mark.parametrize('spec', SPECS)


def _texts(config):
  """Every string in a config."""
  for value in config.to_dict().values():
    if isinstance(value, str):
      yield value
    elif isinstance(value, dict):
      yield from (v for v in value.values() if isinstance(v, str))


@every_spec
def test_it_loads_locked_and_complete(spec):
  c = pipeline.load_config(spec)
  assert c.is_locked
  with pytest.raises((AttributeError, KeyError), match='epohcs'):
    c.epohcs = 1
  assert c.stage in STAGES and c.run and c.root
  assert c.prerequisites in ('auto', 'require')
  assert set(c.mesh) == set(AXES)
  LoopConfig(**c.loop)
  PromptFormat(**c.data.prompt_format)
  for section in ('optimizer', 'value_optimizer'):
    if section in c:
      OptimizerConfig(**c[section], total_steps=100)
  if 'model' in c:
    ModelConfig(**c.model)
  if 'run_model' in c:
    ModelConfig(**SIZES['mini'] | c.run_model.to_dict())
  if c.stage == 'ppo':
    assert set(c.ppo.spread) == {'policy', 'value', 'reference', 'reward'}
    for axes in c.ppo.spread.values():
      assert set(axes) <= set(SPREAD)


@every_spec
def test_what_it_requires_can_be_made_and_is_where_it_looks(spec):
  c = pipeline.load_config(spec)
  for name, earlier_spec in c.requires.items():
    earlier = pipeline.load_config(earlier_spec)
    # The directory that is waited for is the one that will be written.
    root = c.get('reward_root', c.root) if name == 'rm' else c.root
    assert earlier.run == name and earlier.root == root
  wanted = [c.get(field) for field in ('init_from', 'reward_model')]
  for path in filter(None, wanted):
    if path.startswith(c.root):
      assert pathlib.Path(path).name in c.requires


@every_spec
def test_root_moves_every_path(spec):
  c = pipeline.load_config(spec)
  before = c.root
  assert any(before in text for text in _texts(c))
  c.root = '/elsewhere'
  # The paper's reward model has a root of its own, below which one of 6B lies.
  if 'reward_root' in c and not spec.endswith(':mini'):
    assert c.reward_model == 'runs/6b/rm'
    c.reward_root = '/elsewhere'
    assert c.reward_model == '/elsewhere/rm'
  left = [text for text in _texts(c) if before in text]
  # What ships with the package doesn't move.
  assert [t for t in left if 'base.safetensors' not in t] == []


def test_a_folder_of_data_is_named_once():
  for stage in real_small.STAGES:
    c = pipeline.load_config(f'configs/real_small.py:{stage}')
    assert c.folder == '../shared/data'
    c.folder = '/elsewhere'
    assert not any('shared/data' in text for text in _texts(c))
    assert c.data.text.count('/elsewhere/text/') == c.data.text.count(',') + 1


@pytest.mark.parametrize(
    'spec', [spec for spec in SPECS if 'configs/real_' in spec]
)
def test_real_configs_name_files_that_are_there(spec, shared_data):
  c = pipeline.load_config(spec)
  c.folder = str(shared_data)
  names = ('text', 'demonstrations', 'prompts', 'rankings', 'vocabulary')
  for name in names:
    for path in (c.data.get(name) or '').split(','):
      assert not path or pathlib.Path(path).exists(), path


@pytest.mark.parametrize('name', SIZED)
def test_an_unknown_size_is_refused_by_name(name):
  with pytest.raises(ValueError, match="'2b'.*mini.*1.3b.*175b"):
    pipeline.load_config(f'configs/{name}.py:2b')


def test_an_unknown_stage_is_refused_by_name():
  with pytest.raises(ValueError, match="'ppotx'.*ppo_ptx"):
    pipeline.load_config('configs/real_small.py:ppotx')


def test_comparisons_are_the_miniatures_only():
  with pytest.raises(ValueError, match='--config.data.rankings='):
    pipeline.load_config('configs/comparisons.py:6b')


def test_only_the_miniature_trains_what_is_missing():
  for name in SIZED:
    for size in SIZES:
      want = 'auto' if size == 'mini' else 'require'
      got = pipeline.load_config(f'configs/{name}.py:{size}').prerequisites
      assert got == want


def test_a_misspelt_field_gets_the_nearest_name():
  c = pipeline.load_config('configs/sft.py')
  with pytest.raises((AttributeError, KeyError), match='Did you mean.*epochs'):
    c.epoch = 3
