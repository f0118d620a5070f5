# SPDX-License-Identifier: Apache-2.0
"""Wrong configs and command lines: each is refused before anything starts.

What is said names the field, its value and the remedy; of several things that
are wrong, all are told at once.
"""

import dataclasses
import shlex

import pytest

from configs import real_data, real_small
from launch import arguments, pipeline, train
from rlhf import problems
from rlhf.model import SIZES
from tests import conftest, tiny
from tests.configs_test import SIZED, SPECS

# Its flags are those that absl knows here, too.
assert train.main

# Config; arguments after it; the field, its value as it is shown, and words of
# the remedy.
_WRONG = [
    # -- The command line itself.
    ('sft.py', '--config.epoch=1', 'epoch', '1', '--config.epochs'),
    ('sft.py', '--config.batchsize=8', 'batchsize', '8', '--config.batch'),
    ('ppo.py', '--config.batch=8', 'batch', '8', '--config.ppo.batch'),
    ('sft.py', '--config.lr=.1', 'lr', '.1', 'optimizer.learning_rate'),
    ('sft.py', '--config.learning_rate 1', 'learning_rate', '1', 'optimizer.l'),
    ('ppo.py', '--config.ppo.klcoef=1', 'ppo.klcoef', '1', 'kl_coefficient'),
    ('sft.py', '--config.batch.size=8', 'batch.size', '8', '--config.batch='),
    ('sft.py', '--config.batch=abc', 'batch', 'abc', 'want an integer'),
    ('sft.py', '--config.batch=8.5', 'batch', '8.5', 'want an integer'),
    ('sft.py', '--config.batch', '--config.batch', "''", '.batch=VALUE'),
    ('sft.py', '--config.data.pack=so', 'data.pack', 'so', 'true or false'),
    ('sft.py', '--config.data=x', 'data', 'x', '--config.data.'),
    ('sft.py', '--noconfig.batch', 'noconfig.batch', 'false', '--config.batch'),
    ('ppo.py', '--config.ppo.clip=high', 'ppo.clip', 'high', 'want a number'),
    ('ppo.py', '--config.ppo.ema_decay=None', 'ppo.ema_decay', 'None',
     'want a number'),
    ('sft.py', '--config.loop="{\'keep\': 1}"', 'loop', "{'keep': 1}", 'lose'),
    ('sft.py', '--confg.batch=8', '--confg.batch', '8', '--config.batch'),
    ('sft.py', '--num_proceses=2', '--num_proceses', '2', '--num_processes'),
    ('sft.py', '--process_id=one', '--process_id', 'one', 'int'),
    ('sft.py', 'batch=8', 'argument', 'batch=8', '--config.batch=8'),
    ('sff.py', '', '--config', 'configs/sff.py', 'configs/sft.py'),
    ('sft.py:2b', '', '--config', 'sft.py:2b', 'mini, 125m'),
    ('real_small.py:ppotx', '', '--config', 'real_small.py:ppotx', 'ppo_ptx'),
    ('rm.py:6b', '--config.data.text=None', 'data.text', 'None', 'leave the'),
    # -- Single values.
    ('sft.py', '--config.stage=sfft', 'stage', 'sfft', "mean 'sft'"),
    ('sft.py', '--config.root=', 'root', "''", 'give a name'),
    ('sft.py', '--config.batch=0', 'batch', '0', '1 or more'),
    ('sft.py', '--config.epochs=-1', 'epochs', '-1', '1 or more'),
    ('sft.py', '--config.temperature=0', 'temperature', '0.0', 'above 0'),
    ('sft.py', '--config.prerequisites=no', 'prerequisites', 'no', 'auto'),
    ('rm.py', '--config.k_max=1', 'k_max', '1', '2 or more'),
    ('comparisons.py', '--config.k_min=12', 'k_min', '12', '9 or less'),
    ('sft.py', '--config.optimizer.b1=1', 'optimizer.b1', '1.0', 'below 1'),
    ('sft.py', '--config.optimizer.learning_rate=nan',
     'optimizer.learning_rate', 'nan', 'above 0'),
    ('sft.py', '--config.optimizer.schedule=cosin',
     'optimizer.schedule', 'cosin', "mean 'cosine'"),
    ('sft.py', '--config.optimizer.eps_form=tf',
     'optimizer.eps_form', 'tf', 'optax, tensorflow'),
    ('pretrain.py', '--config.steps=50',
     'optimizer.warmup_steps', '100', 'less than 50'),
    ('sft.py', '--config.pretraining_share=1.0',
     'pretraining_share', '1.0', 'below 1'),
    ('sft.py', '--config.pretraining_share=0.01',
     'pretraining_share', '0.01', 'give 0'),
    ('sft.py', '--config.run_model.dropout=1', 'run_model.dropout', '1.0',
     'in [0, 1)'),
    ('sft.py:1.3b', '--config.run_model.remat=all', 'run_model.remat', 'all',
     "'full'"),
    ('pretrain.py', '--config.model.layers=0', 'model.layers', '0', '>= 1'),
    ('pretrain.py', '--config.model="{\'layer\': 2}"', 'model.layer', '2',
     "mean 'layers'"),
    # -- The loop.
    ('sft.py', '--config.loop.log_every=0', 'loop.log_every', '0', '1 or more'),
    ('sft.py', '--config.loop.keep=0', 'loop.keep', '0', '1 or more'),
    ('sft.py', '--config.loop.nonfinite=go', 'loop.nonfinite', 'go',
     'stop, skip, rollback'),
    ('sft.py', '--config.loop.best=validation/loss',
     'loop.best', 'validation/loss', 'give -validation/loss'),
    ('rm.py', '--config.loop.best=-validation/accuracy',
     'loop.best', '-validation/accuracy', 'give validation/accuracy'),
    ('rm.py', '--config.loop.best=-validation/loss',
     'loop.best', '-validation/loss', 'give validation/accuracy'),
    ('ppo.py', '--config.loop.best=rollout/score',
     'loop.best', 'rollout/score', 'leave it empty'),
    ('sft.py', '--config.loop.best=validation/rm_score',
     'loop.best', 'validation/rm_score', '--config.reward_model='),
    ('sft.py', '--config.resume.changed=optimiser.b1',
     'resume.changed', "('optimiser.b1',)", "mean 'optimizer.b1'"),
    # -- What has to divide, and how many there are.
    ('ppo.py', '--config.ppo.minibatches=7', 'ppo.minibatches', '7',
     'ppo.batch=64: give a divisor, such as 8'),
    ('ppo.py', '--config.ppo.micro_batches=5', 'ppo.micro_batches', '5',
     'such as 4'),
    ('ppo_ptx.py', '--config.ppo.ptx_micro_batches=100',
     'ppo.ptx_micro_batches', '100', 'such as 128'),
    ('ppo.py', '--config.ppo.rollout_rows=60', 'ppo.rollout_rows', '60',
     'such as 64'),
    ('ppo.py', '--config.ppo.score_rows=5', 'ppo.score_rows', '5', 'such as 4'),
    ('ppo.py', '--config.ppo.whiten_rewards --config.ppo.minibatches=16',
     'ppo.whiten_rewards', 'True', 'fewer ppo.minibatches'),
    ('ppo.py', '--config.ppo.episodes=8', 'ppo.episodes', '8', 'ppo.batch=64'),
    ('ppo.py', '--config.ppo.episodes=64',
     'ppo.value_warmup_iterations', '5', 'more ppo.episodes'),
    ('sft.py', '--config.micro_batches=4', 'micro_batches', '4', 'such as 3'),
    ('rm.py', '--config.micro_batches=4', 'micro_batches', '4',
     'batch=6: give a divisor'),
    ('pretrain.py', '--config.micro_batches=3', 'micro_batches', '3',
     'such as 2'),
    # -- PPO.
    ('ppo.py', '--config.ppo.kl_coefficient=-0.1', 'ppo.kl_coefficient', '-0.1',
     '0 or more'),
    ('ppo.py', '--config.ppo.gamma=1.1', 'ppo.gamma', '1.1', 'from 0 to 1'),
    ('ppo.py', '--config.ppo.ema_decay=1', 'ppo.ema_decay', '1.0', 'below 1'),
    ('ppo.py', '--config.ppo.adaptive_kl="{\'target\': 6}"',
     'ppo.adaptive_kl', "{'target': 6}", "'horizon': 10000.0"),
    ('ppo.py', '--config.ppo.adaptive_kl="{\'goal\': 6}"',
     'ppo.adaptive_kl.goal', '6', 'target, horizon'),
    ('ppo.py', '--config.ppo.alarms="{\'kl\': \'x\'}"', 'ppo.alarms.kl', 'x',
     'give a number'),
    ('ppo.py', '--config.ppo.spread.policy="(\'dta\',)"',
     'ppo.spread.policy', "('dta',)", 'fsdp, tensor, sequence'),
    # -- Lengths.
    ('pretrain.py', '--config.data.row_tokens=256', 'data.row_tokens', '256',
     '128 or less'),
    ('sft.py', '--config.data.row_tokens=40', 'data.row_tokens', '40',
     '56 or more'),
    ('sft.py:1.3b', '--config.data.row_tokens=4096', 'data.row_tokens', '4096',
     '2048 or less'),
    ('ppo.py', '--config.data.response_tokens=100', 'data.response_tokens',
     '100', '96 or less'),
    ('ppo_ptx.py', '--config.data.ptx_row_tokens=200', 'data.ptx_row_tokens',
     '200', '128 or less'),
    ('ppo.py', '--config.data.prompt_buckets="(16, 8)"', 'data.prompt_buckets',
     '(16, 8)', 'lengths that rise'),
    ('ppo.py', '--config.data.prompt_buckets="(16, 32)"', 'data.prompt_buckets',
     '(16, 32)', 'leave them out'),
    # -- The mesh.
    ('sft.py', '--config.mesh.data=0', 'mesh.data', '0', '1 or more, or -1'),
    ('sft.py', '--config.mesh.data=-1', 'mesh.fsdp', '-1', 'a number of'),
    ('sft.py', '--config.mesh="{\'tp\': 2}"', 'mesh.tp', '2',
     'data, fsdp, tensor, sequence'),
    # -- Data and networks.
    ('sft.py:1.3b', '', 'data.vocabulary', 'None', 'encoder.json'),
    ('sft.py:1.3b', '', 'data.demonstrations', 'None', 'files or globs'),
    ('sft.py', '--config.data.vocabulary=nowhere', 'data.vocabulary', 'nowhere',
     'tokenizer.json'),
    ('sft.py', '--config.data.demonstrations=d*.jsonl', 'data.demonstrations',
     'd*.jsonl', 'paths or globs'),
    ('sft.py', '--config.data.demonstrations=miniature_demonstration',
     'data.demonstrations', 'miniature_demonstration', 'demonstrations'),
    ('sft.py', '--config.data.demonstrations=README.md', 'data.demonstrations',
     'README.md', '.jsonl'),
    ('sft.py', '--config.data.modules="(\'my_taks\',)"', 'data.modules',
     "('my_taks',)", 'Python can import'),
    ('sft.py', '--config.data.chat_template=chatl', 'data.chat_template',
     'chatl', "mean 'chatml'"),
    ('sft.py:1.3b', '--config.data.chat_template=chatml', 'data.chat_template',
     'chatml', '--config.data.prompt_format.prefix='),
    ('sft.py', '--config.data.hygiene.prompts.pii="(\'mail\',)"',
     'data.hygiene.prompts.pii', "('mail',)", "mean 'email'"),
    ('sft.py', '--config.data.limits="{\'prompt\': 5}"', 'data.limits.prompt',
     '5', "mean 'prompts'"),
    ('sft.py', '--config.data.limits="{\'prompts\': \'all\'}"',
     'data.limits.prompts', 'all', 'give an integer'),
    ('sft.py', '--config.data.fields.prompts="{\'promt\': \'q\'}"',
     'data.fields.prompts.promt', 'q', "mean 'prompt'"),
    ('sft.py', '--config.data.test_share=0.96', 'data.test_share', '0.96',
     'less than 1'),
    ('real_small.py:sft', '--config.folder=no/where', 'folder', 'no/where',
     'that of the data'),
    ('ppo.py', '--config.init_from=no/where', 'init_from', 'no/where',
     'a finished stage'),
    ('ppo.py', '--config.reward_model=no/where', 'reward_model', 'no/where',
     'a finished stage'),
    ('sft.py', '--config.init_from=b.safetensors', 'init_from', 'b.safetensors',
     'a finished stage'),
]  # fmt: skip


def _found(config: str, rest: str) -> list[problems.Problem]:
  """All problems of a command line, as launch/train.py would tell them."""
  argv = ['train.py', f'--config=configs/{config}', *shlex.split(rest)]
  found = arguments.check(argv)
  if found:
    return found
  line = arguments.read(argv)
  return problems.find(line.config)


@pytest.mark.parametrize(
    'config, rest, key, value, remedy',
    _WRONG,
    ids=[f'{row[0]} {row[1]}' for row in _WRONG],
)
def test_it_is_refused_by_name_with_a_remedy(
    monkeypatch, config, rest, key, value, remedy
):
  monkeypatch.chdir(pipeline.REPOSITORY)
  found = _found(config, rest)
  ours = [p for p in found if p.key == key]
  assert ours, f'not told of: {[str(p) for p in found]}'
  assert any(
      str(p).startswith(f'{key}=')
      and value in str(p).removesuffix(p.message)
      and remedy in p.message
      for p in ours
  ), [str(p) for p in ours]
  for line in map(str, found):
    assert '\n' not in line and 'Traceback' not in line
    # Key, value, what is wrong and what to do: more than its name.
    assert line.count(': ') >= 1 and len(line) < 700


def test_all_are_told_at_once(monkeypatch):
  """Of the command line and of the config, in one list."""
  monkeypatch.chdir(pipeline.REPOSITORY)
  found = _found(
      'ppo.py',
      '--config.ppo.minibatches=7 --config.lr=1 --config.ppo.clip=x'
      ' --config.ppo.gamma=2 --config.data.response_tokens=100',
  )
  assert {p.key for p in found} == {
      'lr', 'ppo.clip', 'ppo.minibatches', 'ppo.gamma', 'data.response_tokens'
  }  # fmt: skip


# -- What ships ---------------------------------------------------------------

# What the user has to give at GPT-3's sizes.
_GIVEN = {
    'data.vocabulary', 'data.text', 'data.demonstrations', 'data.prompts',
    'data.rankings',
}  # fmt: skip


@pytest.mark.parametrize('spec', SPECS)
def test_shipped_configs_lack_what_users_give_and_nothing_else(
    spec, monkeypatch, tmp_path
):
  monkeypatch.chdir(pipeline.REPOSITORY)
  config = pipeline.load_config(spec)
  config.root = str(tmp_path)
  if 'folder' in config:
    # The data may not be here; tests/configs_test.py looks where they are.
    found = [p for p in problems.find(config) if p.key != 'folder']
    unset = {'data.prompts', 'data.text', 'data.demonstrations'}
    assert {p.key for p in found if p.value is None} <= unset
    assert all(p.value is None or 'no such' in p.message for p in found)
    return
  found = {p.key: p.value for p in problems.find(config)}
  mini = spec.endswith(':mini')
  assert set(found) <= (set() if mini else _GIVEN)
  assert mini or 'data.vocabulary' in found
  assert set(found.values()) <= {None}


def test_the_table_covers_every_kind_of_stage():
  names = {row[0].partition('.')[0] for row in _WRONG}
  assert names - {'sff'} >= {'pretrain', 'sft', 'comparisons', 'rm', 'ppo'}
  assert len(_WRONG) >= 40 and len(SIZES) == 9 and SIZED
  assert real_small.STAGES and real_data.NAMES


# -- As a program -------------------------------------------------------------


@pytest.mark.parametrize(
    'flags, name, lines',
    [
        (
            ('--config=configs/ppo.py', '--config.ppo.minibatches=7',
             '--config.batchsize', '4', '--config.ppo.clip=x', 'more'),
            'configs/ppo.py',
            ['batchsize=4: ', 'ppo.clip=x: ', 'argument=more: ',
             'ppo.minibatches=7: '],
        ),
        ((), 'the command line', ["--config='': is not set: "]),
        (
            ('--config=configs/sft.py:9b', '--num_processes=two'),
            'configs/sft.py:9b',
            ['--config=configs/sft.py:9b: unknown size', '--num_processes=two'],
        ),
    ],
)  # fmt: skip
def test_the_program_tells_of_all_and_writes_nothing(
    tmp_path, flags, name, lines
):
  root = tmp_path / 'root'
  moved = [f'--config.root={root}'] if 'configs/ppo.py' in flags else []
  done = conftest.train(*flags, *moved)
  assert done.returncode == 2 and done.stdout == ''
  assert 'Traceback' not in done.stderr and not root.exists()
  first, *rest = done.stderr.rstrip().split('\n')
  count = f'{len(lines)} problem{"s" if len(lines) > 1 else ""}'
  assert first == f'error: {count} with {name}:'
  assert len(rest) == len(lines)
  for line, start in zip(rest, lines, strict=True):
    assert line.startswith(f'  {start}'), line


def test_networks_of_other_tokens_are_told_of(tmp_path):
  root = tiny.make_root(tmp_path)
  config = tiny.config('ppo', root, 'other')
  assert problems.find(config) == []
  cfg = dataclasses.replace(tiny.CFG, vocab_size=32)
  tiny.networks.save_model(
      root / 'rm' / 'model', *tiny.network(2, head='last', cfg=cfg), {}
  )
  (found,) = problems.find(config)
  assert found.key == 'reward_model' and found.value == str(root / 'rm')
  for part in ('32 tokens', '31', f'init_from={root / "sft"}', 'tokenizer'):
    assert part in found.message
