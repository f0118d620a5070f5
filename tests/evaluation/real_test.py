# SPDX-License-Identifier: Apache-2.0
"""The exam of tiny networks, and the page that launch/real_small.py writes.

Nothing is trained: networks are written where stages would have left them.
PPO-ptx is the SFT model once more, so that what compares the two is zero.
"""

import json

import numpy as np
import pytest

from launch import real_small
from rlhf import networks
from rlhf.evaluation import figures, real, real_inputs
from rlhf.watching.workdir import Workdir
from tests import tiny

_NETWORKS = {'pretrain': 0, 'sft': 1, 'rm': 2, 'ppo': 3, 'ppo_ptx': 1}
_METRICS = {
    'pretrain': ('pretrain/loss', 'validation/loss'),
    'sft': ('sft/loss', 'validation/loss'),
    'rm': ('rm/loss', 'rm/accuracy', 'validation/accuracy'),
    'ppo': ('rollout/score', 'rollout/kl', 'rollout/length'),
    'ppo_ptx': ('rollout/score', 'rollout/kl', 'rollout/length', 'ptx/loss'),
}


def _leave(root, stage):
  """What a finished stage leaves."""
  workdir = Workdir(root / stage, tensorboard=False)
  with tiny.config(stage, root).unlocked() as config:
    config.labeler_agreement = 0.726
  workdir.write_json('config', config.to_dict())
  head = 'last_and_mean' if stage == 'rm' else None
  network = tiny.network(_NETWORKS[stage], head=head)
  networks.save_model(root / stage / 'model', *network, {})
  for step in range(1, 7):
    values = dict.fromkeys(_METRICS[stage], 1 / step)
    workdir.scalars(step, values | {'seconds': 2.0 * step})
  workdir.write_json('results', {'steps': 6})


@pytest.fixture(scope='module', autouse=True)
def _quick():
  with tiny.quick_compilation():
    yield


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('real')
  tiny.write_data(root)
  for stage in _NETWORKS:
    _leave(root, stage)
  return root


@pytest.fixture(scope='module')
def page(root):
  """The page's text; results and figure are beside it."""
  target = root / 'page' / 'real.md'
  quotable = [f'{root.name}/prompts.jsonl']
  real_small.write(root, target, quotable=quotable, remark='Alone.')
  return target


@pytest.fixture(scope='module')
def results(page):
  return json.loads(page.with_suffix('.json').read_text())


def test_the_page_its_figure_and_its_numbers(page, results):
  text = page.read_text()
  assert '--write=docs/results/real.md' in text
  assert 'Alone.' in text
  assert 'nan' not in text
  assert page.with_suffix('.png').stat().st_size > 20_000
  assert results['times'] == dict.fromkeys(_NETWORKS, 12.0)
  assert 0 < len(results['samples']) <= 10


def test_rows_are_counted(root, results):
  lines = (root / 'prompts.jsonl').read_text().splitlines()
  file, = results['data']['prompts']['files']
  assert file['name'] == f'{root.name}/prompts.jsonl'
  rows = [file[split]['rows'] for split in ('train', 'validation')]
  assert sum(rows) == len(lines) and min(rows) > 0
  assert results['answers']['prompts'] == file['validation']['kept']


def test_loss_on_text_is_that_of_each_row_alone(root, results):
  setup = real_inputs.surroundings(root, 'pretrain')
  file, = real_inputs.read_files(setup, 'text')
  joined = [
      token
      for document in file.examples['validation']
      for token in (tiny.EOS, *document.tolist())
  ]
  length = setup.config.data.row_tokens
  rows = [
      joined[start : start + length]
      for start in range(0, len(joined) - length + 1, length)
  ]
  assert 1 < len(rows) <= 100
  params, _ = tiny.network(_NETWORKS['pretrain'])
  want = np.mean([-tiny.log_probs_alone(params, row).mean() for row in rows])
  assert results['text']['base']['mean'] == pytest.approx(want, rel=1e-4)
  assert results['text']['base']['n'] == len(rows)


def test_loss_on_demonstrations_is_over_response_tokens(root, results):
  setup = real_inputs.surroundings(root, 'sft')
  file, = real_inputs.read_files(setup, 'demonstrations')
  params, _ = tiny.network(_NETWORKS['sft'])
  nats = tokens = 0
  for d in file.examples['validation']:
    ids = [*d.prompt_ids.tolist(), *d.response_ids.tolist()]
    log_probs = tiny.log_probs_alone(params, ids)
    nats -= log_probs[-len(d.response_ids) :].sum()
    tokens += len(d.response_ids)
  got = results['demonstrations']['sft']
  assert got['mean'] == pytest.approx(nats / tokens, rel=1e-4)
  assert got['n'] == len(file.examples['validation'])


def test_equal_models_say_the_same(results):
  assert results['answers']['ppo_ptx'] == results['answers']['sft']
  assert results['answers']['sft']['kl_from_sft']['mean'] == pytest.approx(0)
  assert results['contrasts']['rm_score/ppo_ptx']['high'] == 0
  assert results['contrasts']['text/ppo_ptx_over_sft']['mean'] == 0
  assert results['contrasts']['rm_score/ppo']['mean'] != 0
  for sample in results['samples']:
    assert sample['answers']['sft'] == sample['answers']['ppo_ptx']
  assert any(
      sample['answers']['ppo'] != sample['answers']['sft']
      for sample in results['samples']
  )


def test_what_was_examined_is_not_examined_again(root, page, results):
  del page, results
  path = root / 'evaluation' / 'results.json'
  quotable = [f'{root.name}/prompts.jsonl']
  before = path.stat().st_mtime_ns
  real.examine(root, quotable)
  assert path.stat().st_mtime_ns == before


def test_nothing_to_examine(tmp_path):
  with pytest.raises(ValueError, match='no finished pretraining'):
    real.examine(tmp_path, [])


def test_frequencies_by_hand():
  trained = [np.array([1, 1, 2]), np.array([1])]
  rows_BT = np.array([[0, 1, 2], [3, 0, 0]])
  # Counts, one more each: EOS (0) twice, 1 three times, 2 once, 3 never.
  p = np.array([3, 4, 2, 1]) / 10
  want = [-np.log(p[[1, 2]]).mean(), -np.log(p[0])]
  got = real.frequency_loss(trained, rows_BT, eos_id=0, vocab_size=4)
  np.testing.assert_allclose(got, want)


def test_contrasts_are_of_what_there_is():
  text = {'frequencies': np.array([3.0]), 'base': np.array([1.0])}
  said = {'base': np.array([[9.0, 2.0]]), 'sft': np.array([[5.0, 2.0]])}
  found = real.loss_contrasts({'text': text, 'demonstrations': said})
  assert set(found) == {
      'text/base_over_frequencies', 'demonstrations/sft_over_base'
  }
  assert found['text/base_over_frequencies'].tolist() == [-2.0]
  assert found['demonstrations/sft_over_base'].tolist() == [[-4.0, 2.0]]


def test_spread():
  assert real.spread(0, 3).tolist() == []
  assert real.spread(2, 3).tolist() == [0, 1]
  assert real.spread(9, 3).tolist() == [0, 4, 8]


def test_the_figure_reads_every_stage(root):
  for stage, names in _METRICS.items():
    assert set(names) <= set(figures.read_curves(root / stage, prefix=''))
