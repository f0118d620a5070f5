# SPDX-License-Identifier: Apache-2.0
"""What a run is compared by when it goes on, and where a stage starts."""

import json

import jax
import pytest

from launch import pipeline
from rlhf import resume
from rlhf.resume import Identity, ResumeError

_CONFIG = {
    'root': 'runs/a',
    'seed': 0,
    'init_from': 'runs/a/sft',
    'loop': {'log_every': 10, 'best': '', 'keep': 2},
    'optimizer': {'learning_rate': 0.1, 'schedule': 'cosine'},
    'data': {'limits': {}, 'prompt_buckets': (128, 512), 'store': 'runs/a/s'},
    'mesh': {'data': 1},
}
_DATA = {'text': {'epoch': 0, 'taken': 40, 'of': 100, 'data': 'ab12'}}


def _identity(changes=(), **fields):
  config = json.loads(json.dumps(_CONFIG))
  config['data']['prompt_buckets'] = (128, 512)
  for name, value in dict(changes).items():
    *sections, last = name.split('.')
    node = config
    for section in sections:
      node = node[section]
    if value is None:
      del node[last]
    else:
      node[last] = value
  networks = {'{root}/sft': 'f00'}
  return Identity(**{'config': config, 'key': 'k', 'networks': networks}
                  | fields)


def _facts(identity=None, data=None):
  """As they come back from a checkpoint."""
  identity = identity or _identity()
  return json.loads(json.dumps(
      identity.facts() | {'data': _DATA if data is None else data}
  ))


def _compare(identity, facts=None, data=None):
  return resume.compare(
      facts or _facts(), identity, data or _DATA, 'x/checkpoints/7'
  )


# -- What is compared ---------------------------------------------------------


def test_the_same_run_goes_on_without_a_word():
  assert _compare(_identity()) == []


@pytest.mark.parametrize(
    'changes',
    [
        {'loop.log_every': 1},
        {'loop.keep': 5},
        {'mesh.data': 8},
        {'data.store': '/elsewhere'},
        # The folder of all runs may be moved.
        {'root': 'b', 'init_from': 'b/sft', 'data.store': 'b/s'},
    ],
)
def test_harmless_changes_pass(changes):
  assert _compare(_identity(changes)) == []


@pytest.mark.parametrize(
    'changes, lines',
    [
        ({'seed': 1}, ['seed: was 0, is 1']),
        (
            {'optimizer.learning_rate': 0.2},
            ['optimizer.learning_rate: was 0.1, is 0.2'],
        ),
        (
            {'optimizer.schedule': None, 'data.prompt_buckets': (64,)},
            [
                'optimizer.schedule: was "cosine", is nothing',
                'data.prompt_buckets: was [128, 512], is [64]',
            ],
        ),
        ({'data.more': 1}, ['data.more: was nothing, is 1']),
        ({'loop.best': 'a'}, ['loop.best: was "", is "a"']),
        ({'init_from': 'runs/b/sft'}, ['was "{root}/sft", is "runs/b/sft"']),
    ],
)
def test_other_changes_stop_with_the_difference(changes, lines):
  with pytest.raises(ResumeError) as error:
    _compare(_identity(changes))
  text = str(error.value)
  assert 'x/checkpoints/7' in text and '--config.resume.changed=' in text
  for line in lines:
    assert line in text
  # Only those.
  assert text.count(': was ') == len(changes)
  # Naming them lets them pass, and so does a pattern.
  assert _compare(_identity(changes, changed=tuple(changes))) == []
  patterns = tuple(name.split('.')[0] + '*' for name in changes)
  assert _compare(_identity(changes, changed=patterns)) == []


def test_what_the_error_says_to_type_is_what_lets_it_pass():
  changes = {'seed': 1, 'optimizer.learning_rate': 0.2}
  with pytest.raises(ResumeError) as error:
    _compare(_identity(changes))
  flag = str(error.value).splitlines()[-1].strip()
  assert flag == (
      '--config.resume.changed="(\'optimizer.learning_rate\', \'seed\',)"'
  )


def test_other_data_networks_and_keys_stop_by_name():
  other = {'text': _DATA['text'] | {'data': 'cd34'}}
  with pytest.raises(ResumeError, match='stream.text: was .*ab12.*cd34'):
    _compare(_identity(), data=other)
  networks = {'{root}/sft': 'f01'}
  with pytest.raises(ResumeError, match='network.{root}/sft: was "f00", is "f'):
    _compare(_identity(networks=networks))
  with pytest.raises(ResumeError, match='key: was "k", is "l"'):
    _compare(_identity(key='l'))
  assert _compare(_identity(key='l', changed=('key',))) == []


def test_other_versions_and_devices_are_told():
  facts = _facts()
  facts['versions']['jax'] = '0.1'
  facts['devices']['count'] = 64
  lines = _compare(_identity(), facts)
  assert len(lines) == 2
  assert lines[0].startswith(f'jax was "0.1" and is "{jax.__version__}"')
  assert lines[1].startswith('count was 64 and is 1')
  assert all('last digits' in line for line in lines)


def test_a_key_is_its_kind_and_numbers():
  words = resume.key_words(jax.random.key(7))
  assert words == 'fry:0-7' or words == 'threefry2x32:0-7'
  assert words != resume.key_words(jax.random.key(8))
  assert words != resume.key_words(jax.random.key(7, impl='rbg'))


def test_versions_are_those_of_the_libraries():
  found = resume.versions()
  assert found['jax'] == jax.__version__
  assert {'python', 'code', 'orbax-checkpoint', 'optax'} <= set(found)


# -- Where a stage starts -----------------------------------------------------


def _start(spec, **changes):
  config = pipeline.load_config(spec).unlock()
  config.root = 'r'
  config.update(changes)
  return resume.start(config)


@pytest.mark.parametrize(
    'spec, changes, want',
    [
        ('configs/rm.py', {}, ('r/sft', 'the stage before')),
        ('configs/rm.py', {'init_from': ''}, ('r/sft', 'the stage before')),
        ('configs/rm.py', {'init_from': 'x'}, ('x', 'init_from')),
        ('configs/ppo.py', {'init_from': ''}, ('r/sft', 'the stage before')),
        (
            'configs/ppo_ptx.py:1.3b',
            {'init_from': ''},
            ('r/rl_init', 'the stage before'),
        ),
        ('configs/pretrain.py', {}, ('', 'scratch')),
        ('configs/pretrain.py', {'init_from': 'x'}, ('x', 'init_from')),
        ('configs/sft.py:1.3b', {}, ('r/pretrain', 'the stage before')),
    ],
)
def test_a_stage_starts_from_the_first_that_is_there(spec, changes, want):
  """After its own checkpoint, which tests/loop_test.py is about."""
  assert _start(spec, **changes) == want


def test_nothing_to_start_from_is_an_error_by_name():
  with pytest.raises(ValueError, match="init_from='': .*--config.init_from="):
    _start('configs/sft.py', init_from='')
