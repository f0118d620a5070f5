# SPDX-License-Identifier: Apache-2.0
"""Which stage runs before which, with stages that only say that they ran."""

import json
import pathlib

import pytest

from launch import pipeline
from rlhf import problems, stages


@pytest.fixture(autouse=True)
def nothing_is_wrong(monkeypatch):
  """Configs here name data that nobody has; order is what is looked at."""
  monkeypatch.setattr(problems, 'find', lambda config: [])
  monkeypatch.setattr(problems.networks, 'vocabulary', lambda config: [])


@pytest.fixture
def ran(monkeypatch):
  """Runs of stages, in order: (stage, run, root, seed)."""
  seen = []

  def fake(stage):
    def run(config):
      seen.append((stage, config.run, config.root, config.seed))
      path = pipeline.directory(config)
      path.mkdir(parents=True, exist_ok=True)
      (path / 'results.json').write_text(json.dumps({}))

    return run

  monkeypatch.setattr(
      stages, 'STAGES', {stage: fake(stage) for stage in stages.STAGES}
  )
  return seen


def _config(spec, root, **changes):
  c = pipeline.load_config(spec)
  c.root = str(root)
  c.update(changes)
  return c


# -- Configs ------------------------------------------------------------------


def test_a_spec_is_a_file_and_an_argument():
  c = pipeline.load_config('configs/sft.py:1.3b')
  assert c.root == 'runs/1.3b' and c.stage == 'sft'
  assert pipeline.load_config('configs/sft.py').root == 'runs/mini'


def test_specs_do_not_hang_on_the_working_directory(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert pipeline.load_config('configs/rm.py').stage == 'reward'


def test_a_missing_config_is_named():
  with pytest.raises(FileNotFoundError, match='no config configs/sfd.py'):
    pipeline.load_config('configs/sfd.py')


# -- Order --------------------------------------------------------------------


def test_missing_stages_are_run_first_with_the_same_root_and_seed(
    ran, tmp_path
):
  seconds = {}
  config = _config('configs/ppo_ptx.py', tmp_path, seed=3)
  pipeline.run(config, seconds=seconds)
  assert [stage for stage, *_ in ran] == ['sft', 'comparisons', 'reward', 'ppo']
  assert [run for _, run, *_ in ran] == ['sft', 'comparisons', 'rm', 'ppo_ptx']
  assert {(root, seed) for *_, root, seed in ran} == {(str(tmp_path), 3)}
  assert list(seconds) == ['sft', 'comparisons', 'rm', 'ppo_ptx']
  assert all(value >= 0 for value in seconds.values())


def test_real_text_goes_through_all_its_stages(ran, tmp_path):
  pipeline.run(_config('configs/real_small.py:ppo_ptx', tmp_path))
  assert [run for _, run, *_ in ran] == ['pretrain', 'sft', 'rm', 'ppo_ptx']


def test_finished_stages_are_not_run_again(ran, tmp_path):
  pipeline.run(_config('configs/rm.py', tmp_path))
  ran.clear()
  pipeline.run(_config('configs/ppo.py', tmp_path))
  assert [run for _, run, *_ in ran] == ['ppo']
  ran.clear()
  pipeline.run(_config('configs/ppo.py', tmp_path))
  assert ran == []


def test_a_stage_that_began_but_did_not_finish_is_run(ran, tmp_path):
  (tmp_path / 'comparisons').mkdir()
  pipeline.run(_config('configs/sft.py', tmp_path))
  (tmp_path / 'comparisons').rmdir()
  ran.clear()
  pipeline.run(_config('configs/rm.py', tmp_path))
  assert [run for _, run, *_ in ran] == ['comparisons', 'rm']


def test_a_missing_stage_is_asked_for_by_its_command(ran, tmp_path):
  config = _config('configs/ppo_ptx.py:1.3b', tmp_path, seed=5)
  with pytest.raises(problems.ConfigError) as error:
    pipeline.run(config)
  message = str(error.value)
  assert f'ppo_ptx needs {tmp_path / "rl_init"}' in message
  command = (
      'python launch/train.py --config=configs/rl_init.py:1.3b'
      f' --config.root={tmp_path} --config.seed=5'
  )
  assert command in message
  # It says so too where the user forbids what would be done without asking.
  config = _config('configs/ppo.py', tmp_path, prerequisites='require')
  with pytest.raises(problems.ConfigError, match='ppo needs'):
    pipeline.run(config)
  assert ran == []


def test_a_network_that_lies_elsewhere_is_not_made_again(ran, tmp_path):
  """The paper's 1.3B policy has a reward model of 6B."""
  (tmp_path / 'rl_init').mkdir()
  (tmp_path / 'rl_init' / 'results.json').write_text('{}')
  config = _config('configs/ppo_ptx.py:1.3b', tmp_path)
  assert config.reward_model == 'runs/6b/rm'
  config.reward_root = str(tmp_path / '6b')
  with pytest.raises(problems.ConfigError) as raised:
    pipeline.run(config)
  assert f'ppo_ptx needs {tmp_path}/6b/rm' in str(raised.value)
  assert (
      f'--config=configs/rm.py:6b --config.root={tmp_path}/6b '
      in str(raised.value)
  )
  config.reward_model = 'elsewhere/rm'
  pipeline.run(config)
  assert [run for _, run, *_ in ran] == ['ppo_ptx']


def test_earlier_stages_take_over_the_experiment(monkeypatch, tmp_path):
  """Its prerequisites too, all the way down, and the data that it names."""
  seen = {}

  def run(config):
    seen[config.run] = config
    path = pipeline.directory(config)
    path.mkdir(parents=True, exist_ok=True)
    (path / 'results.json').write_text('{}')

  monkeypatch.setattr(
      stages, 'STAGES', dict.fromkeys(stages.STAGES, run)
  )
  config = _config(
      'configs/rm.py:1.3b', tmp_path, prerequisites='auto', seed=7
  )
  config.mesh.fsdp = 1
  config.data.vocabulary = 'gpt2_bpe'
  config.data.demonstrations = 'd.jsonl'
  pipeline.run(config)
  assert list(seen) == ['pretrain', 'sft', 'rm']
  for earlier in seen.values():
    assert earlier.seed == 7 and earlier.mesh.fsdp == 1
    assert earlier.data.vocabulary == 'gpt2_bpe'
    assert earlier.data.demonstrations == 'd.jsonl'

  seen.clear()
  config = _config('configs/real_small.py:sft', tmp_path / 'real')
  config.folder = '/data'
  pipeline.run(config)
  assert seen['pretrain'].data.text.startswith('/data/text/')


def test_work_directories_are_below_the_root(tmp_path):
  config = _config('configs/rm.py', tmp_path)
  assert pipeline.directory(config) == pathlib.Path(tmp_path) / 'rm'
  assert not pipeline.finished(tmp_path / 'rm')
