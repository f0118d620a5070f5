# SPDX-License-Identifier: Apache-2.0
"""How problems of a config are found and told.

Which there are is in tests/wrong_configs_test.py.
"""

import json
import math

import pytest
from ml_collections import config_dict

from launch import pipeline
from rlhf import problems
from rlhf.data.report import sources as report_sources
from rlhf.problems import fits, networks, ranges, rules, sources
from rlhf.stages import STAGES
from tests import tiny


@pytest.fixture
def root(tmp_path):
  return tiny.make_root(tmp_path)


def _keys(found):
  return [problem.key for problem in found]


# -- What is told -------------------------------------------------------------


@pytest.mark.parametrize(
    'value, want',
    [
        (3, 'a.b=3: is odd: give 4'),
        ('', "a.b='': is odd: give 4"),
        (None, 'a.b=None: is odd: give 4'),
        ('two\nlines', "a.b='two\\nlines': is odd: give 4"),
        (config_dict.ConfigDict({'c': 1}), "a.b={'c': 1}: is odd: give 4"),
    ],
)
def test_a_problem_is_one_line(value, want):
  assert str(problems.Problem('a.b', value, 'is odd: give 4')) == want


def test_a_long_value_is_cut_in_its_middle():
  line = str(problems.Problem('a', 'x' * 1000 + 'END', 'is odd'))
  assert len(line) < 200 and 'END: is odd' in line


def test_an_error_has_all_problems_one_below_the_other():
  one = problems.Problem('a', 1, 'is odd: give 2')
  two = problems.Problem('b', 3, 'is odd: give 4', run='sft')
  error = problems.ConfigError([one, two], 'configs/ppo.py')
  assert str(error) == (
      '2 problems with configs/ppo.py:\n'
      '  a=1: is odd: give 2\n'
      '  sft: b=3: is odd: give 4'
  )
  assert error.problems == (one, two)
  assert str(problems.ConfigError([one])).startswith('1 problem with')


def test_a_good_config_has_none_and_is_left_as_it_was(root):
  for stage in ('pretrain', 'sft', 'rm', 'ppo', 'ppo_ptx'):
    config = tiny.config(stage, root)
    if stage == 'sft':
      config.loop.evaluate_every, config.pretraining_share = 2, 0.2
    before = config.to_dict()
    assert problems.find(config) == []
    problems.check(config)
    assert config.to_dict() == before


def test_earlier_stages_are_marked_and_what_they_share_is_told_once(tmp_path):
  config = pipeline.load_config('configs/ppo.py')
  earlier = pipeline.load_config('configs/sft.py')
  for one in (config, earlier):
    one.root = str(tmp_path)
    one.temperature = 0.0
  earlier.batch = 0
  with pytest.raises(problems.ConfigError) as raised:
    problems.check(config, earlier=[earlier], name='configs/ppo.py')
  lines = str(raised.value).splitlines()
  assert lines[0] == '2 problems with configs/ppo.py:'
  assert lines[1].startswith('  temperature=0.0: ')
  assert lines[2].startswith('  sft: batch=0: ')


# -- Values of any kind -------------------------------------------------------

_ODD = (
    None, -1, 0, 1, 7, 10**12, 0.5, math.nan, math.inf, True, '', 'x', '\n',
    (), (1,), ('x',), [None], {}, {'x': 1}, {1: 2},
)  # fmt: skip


@pytest.mark.parametrize('stage', ['pretrain', 'sft', 'rm', 'ppo_ptx'])
def test_odd_values_are_problems_and_never_errors(root, stage):
  """Of any field, and of whole sections."""
  good = tiny.config(stage, root).to_dict()
  assert good['stage'] in STAGES
  for name in sources.leaves(tiny.config(stage, root)):
    for value in _ODD:
      config = config_dict.ConfigDict(good, type_safe=False)
      *above, last = name.split('.')
      section = config
      for part in above:
        section = section[part]
      section[last] = value
      for problem in problems.find(config, devices=1):
        assert '\n' not in str(problem) and ': ' in str(problem)


def test_a_section_that_is_not_there_is_no_error():
  assert _keys(problems.find(config_dict.ConfigDict())) == []
  (found,) = problems.find(config_dict.ConfigDict({'stage': 'pp'}))
  assert found.key == 'stage' and "did you mean 'ppo'?" in found.message


@pytest.mark.parametrize('of', range(1, 30))
def test_the_divisor_that_is_proposed_divides_and_is_the_nearest(of):
  for value in range(1, 40):
    found = list(fits.divides('a', value, of, f'b={of}'))
    if of % value == 0:
      assert not found
      continue
    ((problem,), words) = found, found[0].message.split()
    proposed = int(words[-1])
    assert problem.value == value and of % proposed == 0
    nearer = [d for d in range(1, of + 1)
              if abs(d - value) < abs(proposed - value)]  # fmt: skip
    assert all(of % d for d in nearer)


# -- Devices ------------------------------------------------------------------


@pytest.mark.parametrize(
    'mesh, devices, good',
    [
        (dict(data=1, fsdp=-1, tensor=1), 8, True),
        (dict(data=1, fsdp=-1, tensor=3), 8, False),
        (dict(data=2, fsdp=2, tensor=2), 8, True),
        (dict(data=2, fsdp=2, tensor=1), 8, False),
        (dict(data=1, fsdp=-1, tensor=16), 8, False),
    ],
)
def test_a_mesh_has_to_be_made_up_of_the_devices(root, mesh, devices, good):
  config = tiny.config('ppo', root)
  config.mesh.update(mesh)
  found = problems.find(config, devices=devices)
  assert _keys(found) == ([] if good else ['mesh'])
  assert all('8 devices' in problem.message for problem in found)


def test_devices_are_asked_for_only_when_all_else_is_good(root):
  config = tiny.config('ppo', root)
  config.ppo.rollout_tensor = 3
  with pytest.raises(problems.ConfigError, match='ppo.rollout_tensor=3: .* 2'):
    problems.check(config, devices=lambda: 2)
  config.ppo.gamma = 2.0
  with pytest.raises(problems.ConfigError, match='ppo.gamma=2.0') as raised:
    problems.check(config, devices=lambda: pytest.fail('they were started'))
  assert 'rollout_tensor' not in str(raised.value)


# -- Networks and vocabularies ------------------------------------------------


def test_the_context_is_that_of_the_network_that_is_there(root):
  # tests/tiny.py: 48 tokens; 16 of the prompt.
  config = tiny.config('ppo', root)
  config.data.response_tokens = 32
  assert problems.find(config) == []
  config.data.response_tokens = 33
  found = problems.find(config)
  assert _keys(found) == ['data.response_tokens'] * 2
  assert '48 tokens of context of init_from' in found[0].message
  assert '48 tokens of context of reward_model' in found[1].message


def test_without_init_from_the_stage_before_is_read(root):
  config = tiny.config('rm', root)
  config.init_from = ''
  config.data.row_tokens = 49
  assert dict(networks.contexts(config)) == {'init_from': 48}
  assert _keys(problems.find(config)) == ['data.row_tokens']


def test_a_portable_file_is_read_without_its_weights(tmp_path):
  path = tmp_path / 'network.safetensors'
  params, cfg = tiny.network(1)
  tiny.networks.save_safetensors(path, params, cfg, {'vocabulary': 'v'})
  # All of the weights are cut off.
  data = path.read_bytes()
  path.write_bytes(data[: 8 + int.from_bytes(data[:8], 'little')])
  found = networks.look({}, str(path))
  assert found.model == cfg and found.facts == {'vocabulary': 'v'}
  path.write_bytes(b'not a network')
  assert 'cannot be read' in networks.look({}, str(path)).problem


def test_a_damaged_description_is_named(root):
  path = root / 'sft' / 'model' / 'model.json'
  path.write_text('{"model":')
  (found,) = problems.find(tiny.config('ppo', root))
  assert found.key == 'init_from' and found.value == f'{root}/sft'
  assert 'cannot be read' in found.message and 'anew' in found.message


def test_a_reward_model_of_another_tokenizer_is_refused(root):
  """The tokens are as many, and yet others."""
  for name, digest in (('sft', 'aaaa'), ('rm', 'bbbb')):
    path = root / name / 'model' / 'model.json'
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {'facts': {'vocabulary': digest}}))
  (found,) = problems.find(tiny.config('ppo', root))
  assert found.key == 'reward_model' and found.value == f'{root}/rm'
  assert 'bbbb' in found.message and 'aaaa' in found.message


def test_a_network_of_another_vocabulary_is_refused(root):
  config = tiny.config('ppo', root)
  config.data.vocabulary = 'bytes'
  with pytest.raises(problems.ConfigError) as raised:
    problems.check(config)
  assert _keys(raised.value.problems) == ['init_from', 'reward_model']
  assert 'has 31 tokens' in str(raised.value)


# -- What is known elsewhere too ----------------------------------------------


def test_names_are_those_of_the_modules_that_use_them():
  """They import TensorFlow, or what is above; here they are written again."""
  from rlhf.data import tasks, vocabularies

  assert set(ranges.STAGES) == set(STAGES)
  assert sources.KINDS == report_sources.FIELDS
  files = [f for _, names in vocabularies._IN_A_FOLDER for f in names]
  assert set(sources.VOCABULARY_FILES) == set(files)
  tasks.register()
  from rlhf.data.sources import known_names

  assert set(sources.TASKS) <= known_names()


def test_every_rule_is_of_a_field_that_some_config_has():
  configs = [
      pipeline.load_config(f'configs/{name}.py')
      for name in ('pretrain', 'sft', 'comparisons', 'rm', 'ppo_ptx')
  ]
  unknown = [
      key
      for key, _ in ranges.TABLE
      if all(rules.get(c, key) is rules.ABSENT for c in configs)
      # What falls over no steps has no end.
      and key != 'value_optimizer.final_fraction'
  ]
  assert unknown == []


def test_configs_are_read_without_tensorflow(fresh_python):
  code = (
      'import sys\n'
      'from launch import arguments, pipeline\n'
      'from rlhf import problems\n'
      "problems.find(pipeline.load_config('configs/sft.py'))\n"
      "print('tensorflow' in sys.modules, 'seqio' in sys.modules)"
  )
  assert fresh_python(code).split() == ['False', 'False']
