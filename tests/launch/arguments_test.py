# SPDX-License-Identifier: Apache-2.0
"""Reading a command line: against what absl and ml_collections make of it.

What is refused is in tests/wrong_configs_test.py.
"""

import pytest
from absl import flags
from ml_collections import config_flags

from launch import arguments, config_files, pipeline, train

# Its flags are those that absl knows here, too.
assert train.main


@pytest.fixture(autouse=True)
def here(monkeypatch):
  monkeypatch.chdir(pipeline.REPOSITORY)


def _theirs(*argv):
  """The config that ml_collections makes of the same arguments."""
  values = flags.FlagValues()
  argv = ['train.py', *argv]
  config_flags.DEFINE_config_file(
      'config', lock_config=True, flag_values=values, sys_argv=argv
  )
  values(argv)
  return values.config.to_dict()


# ml_collections loads a config's file in a way that Python is giving up.
@pytest.mark.filterwarnings('ignore:the load_module')
@pytest.mark.parametrize(
    'argv',
    [
        ['--config=configs/sft.py'],
        ['--config', 'configs/sft.py:1.3b', '--config.batch', '8'],
        ['-config=configs/sft.py', '-config.batch=0x10'],
        ['--config=configs/sft.py', '--config.batch=4', '--config.batch=5'],
        ['--config=configs/sft.py', '--config.temperature=1'],
        ['--config=configs/sft.py', '--config.optimizer.eps', '1e-5'],
        ['--config=configs/sft.py', '--config.root=a=b c'],
        ['--config=configs/sft.py', '--config.root', '-x'],
        ['--config=configs/sft.py', '--config.data.pack'],
        ['--config=configs/sft.py', '--noconfig.data.pack'],
        ['--config=configs/sft.py', '--config.data.pack=false'],
        ['--config=configs/sft.py:1.3b', '--config.data.text=t.jsonl'],
        ['--config=configs/sft.py', '--config.data.prompt_buckets=(8, 16)'],
        ['--config=configs/sft.py', '--config.data.prompt_buckets=8'],
        ['--config=configs/sft.py', '--config.resume.changed=batch'],
        ['--config=configs/sft.py', "--config.data.limits={'prompts': 5}"],
        ['--config=configs/ppo.py', '--config.ppo.missing_eos_score=-1'],
        ['--config=configs/ppo.py', '--config.ppo.minibatches=4'],
        [
            '--config=configs/ppo.py',
            "--config.ppo.adaptive_kl={'target': 6.0, 'horizon': 10000.0}",
        ],
    ],
    ids=str,
)
def test_what_is_right_is_read_as_ml_collections_reads_it(argv):
  line = arguments.read(['train.py', *argv])
  assert line.problems == []
  assert line.config.to_dict() == _theirs(*argv)


def test_flags_of_the_program_and_of_absl_are_known():
  argv = [
      'train.py', '--config=configs/sft.py', '--num_processes', '2',
      '--start_seconds=5', '--v=1', '--nologtostderr', '--alsologtostderr',
  ]  # fmt: skip
  assert arguments.check(argv) == []


@pytest.mark.parametrize('flag', ['--help', '-helpfull', '--help=true'])
def test_help_is_absls(flag):
  found = arguments.check(['train.py', flag, '--nonsense=1'])
  assert bool(found) == ('=' in flag)


def test_without_a_config_there_may_be_other_flags():
  assert arguments.check(['train.py'], required=False) == []
  (found,) = arguments.check(['train.py'])
  assert found.key == '--config' and 'configs/sft.py' in found.message


def test_a_field_before_its_config_is_told_of():
  (found,) = arguments.check(
      ['train.py', '--config.batch=8', '--config=configs/sft.py']
  )
  assert found.key == 'batch' and 'after' in found.message


def test_a_flag_file_counts_as_its_lines(tmp_path):
  file = tmp_path / 'flags'
  file.write_text('--config=configs/sft.py\n--config.batch=x\n')
  (found,) = arguments.read(['train.py', f'--flagfile={file}']).problems
  assert str(found) == 'batch=x: want an integer'


def test_what_a_misspelt_flag_was_to_set_is_not_told_of_as_missing():
  found = arguments.check([
      'train.py', '--config=configs/sft.py:1.3b', '--config.batch=0',
      '--config.data.vocabulary=bytes', '--config.data.demonstration=d.jsonl',
  ])  # fmt: skip
  assert [p.key for p in found] == ['data.demonstration', 'batch']
  assert '--config.data.demonstrations' in found[0].message


# -- Files of configs ---------------------------------------------------------


@pytest.mark.parametrize(
    'code, want',
    [
        ('def get_config():\n  return 1\n', 'returns no ConfigDict'),
        ('x = 1\n', 'AttributeError'),
        ('def get_config(:\n', 'is no Python in line 1'),
        ('import nowhere\n', 'fails in line 1: ModuleNotFoundError'),
        ('def get_config():\n\n  return {}[0]\n', 'in line 3: KeyError: 0'),
        ('def get_config():\n  raise ValueError("a\\nb")\n', 'a b'),
    ],
)
def test_a_config_that_fails_is_told_in_one_line(tmp_path, code, want):
  file = tmp_path / 'mine.py'
  file.write_text(code)
  (found,) = arguments.check(['train.py', f'--config={file}'])
  assert found.value == str(file) and want in found.message
  assert '\n' not in str(found) and 'Traceback' not in str(found)


def test_shipped_configs_are_named_without_their_helpers():
  names = config_files.shipped()
  assert 'configs/ppo_ptx.py' in names and 'configs/common.py' not in names


@pytest.mark.parametrize(
    'given, want',
    [
        ('lr', 'optimizer.learning_rate'),
        ('value_optimizer.lr', 'value_optimizer.learning_rate'),
        ('optim.b1', 'optimizer.b1'),
        ('ppo.kl_coef', 'ppo.kl_coefficient'),
        ('log_every', 'loop.log_every'),
        ('minibatch', 'ppo.minibatches'),
        ('data.promts', 'data.prompts'),
        ('xyzzy', None),
    ],
)
def test_the_nearest_name_comes_first(given, want):
  config = pipeline.load_config('configs/ppo.py')
  found = config_files.suggested(config, given)
  assert (found[0] if found else None) == want
