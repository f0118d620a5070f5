# SPDX-License-Identifier: Apache-2.0
"""gs:// paths, on objects in memory that can't be appended to.

epath's own way to gs:// is taken, as far as the file system under it. What
orbax writes (arrays) goes another way, by tensorstore, and is not tested here.
"""

import json

import pytest
from etils.epath import backend, gpath
from fsspec.implementations import memory

from launch import pipeline
from rlhf import networks, stages
from rlhf.data import store
from rlhf.watching import lines
from rlhf.watching.workdir import Workdir
from tests import tiny
from tests.data import made


class _Objects(memory.MemoryFileSystem):
  """Objects are written whole, and none is changed."""

  protocol = 'gs'
  cachable = False
  store: dict = {}
  pseudo_dirs: list = ['']
  written: list = []

  def _open(self, path, mode='rb', **options):
    assert 'a' not in mode and '+' not in mode, f'{path} is opened to {mode}'
    if 'w' in mode:
      self.written.append(path.rpartition('/')[2])
    return super()._open(path, mode, **options)


@pytest.fixture
def bucket(monkeypatch):
  """Names of the objects that are written, in order."""
  for name, empty in (('store', {}), ('pseudo_dirs', ['']), ('written', [])):
    monkeypatch.setattr(_Objects, name, empty)
  objects = _Objects()
  monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
  monkeypatch.setattr(
      backend.fsspec_backend, '_get_filesystem', lambda name: objects
  )
  return _Objects.written


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_work_directory_keeps_its_two_slashes(bucket):
  where = Workdir('gs://bucket/runs/a', tensorboard=False)
  assert str(where.path) == 'gs://bucket/runs/a'
  where.write_json('config', {'seed': 1})
  assert where.read_json('config') == {'seed': 1}
  assert not where.finished
  where.write_json('results', {})
  assert where.finished
  with pytest.raises(FileNotFoundError):
    where.read_json('nothing')


def test_lines_are_kept_and_written_whole(bucket, monkeypatch):
  for step in (1, 3):  # The second is a resumed run.
    where = Workdir('gs://bucket/a', tensorboard=False)
    where.scalars(step, {'loss': 0.5})
    where.scalars(step + 1, {'loss': 0.25})
    assert bucket.count('metrics.jsonl') == step // 2  # Nothing until its end,
    where.close()
  path = where.path / 'metrics.jsonl'
  assert [line['step'] for line in _lines(path)] == [1, 2, 3, 4]
  where.rewind(2)
  assert [line['step'] for line in _lines(path)] == [1, 2]
  where.samples(5, [{'prompt': 'p', 'response': 'ä', 'score': 1.0}])
  where.flush()  # or until all has to be there,
  assert _lines(where.path / 'samples.jsonl')[0]['response'] == 'ä'
  where.close()
  monkeypatch.setattr(lines, 'UPLOAD_SECONDS', 0)  # or until it is time.
  lines.Lines(path).append([{'step': 3}])
  assert [line['step'] for line in _lines(path)] == [1, 2, 3]


def test_stages_are_found_and_followed(bucket, monkeypatch):
  ran = []

  def stage(config):
    ran.append(config.run)
    where = Workdir(pipeline.directory(config), tensorboard=False)
    where.write_json('results', {})

  monkeypatch.setattr(stages, 'STAGES', dict.fromkeys(stages.STAGES, stage))
  config = pipeline.load_config('configs/rm.py')
  config.root = 'gs://bucket/runs'
  pipeline.run(config)
  assert ran == ['sft', 'comparisons', 'rm']
  pipeline.run(config)
  assert len(ran) == 3
  assert str(pipeline.directory(config)) == 'gs://bucket/runs/rm'


def test_a_network_as_one_object(bucket):
  params, cfg = tiny.network(0)
  path = 'gs://bucket/models/tiny.safetensors'
  networks.save_safetensors(path, params, cfg, {'steps': 3})
  read, read_cfg, facts = networks.load_model(path)
  tiny.assert_same(read, params)
  assert read_cfg == cfg and facts == {'steps': 3}


def test_a_missing_network_is_named_as_it_was_given(bucket):
  with pytest.raises(FileNotFoundError, match='no network in gs://bucket/a:'):
    networks.load_model('gs://bucket/a')
  with pytest.raises(FileNotFoundError, match='gs://bucket/a.safetensors'):
    networks.load_model('gs://bucket/a.safetensors')


def test_a_store_is_written_once_and_copied(bucket, tmp_path, monkeypatch):
  folder = 'gs://bucket/data/prompts-train'
  prompts, built = made.prompts(), []

  def opened():
    def build():
      built.append(True)
      store.write_examples(here, prompts, lambda: {'kind': 'prompts'})

    here = store.local(folder)
    store.build_once(folder, build)
    return store.StoredExamples(here)

  for host in ('first', 'second'):
    monkeypatch.setattr(store.tempfile, 'tempdir', str(tmp_path / host))
    (tmp_path / host).mkdir()
    for found in (opened(), opened()):
      assert len(found) == len(prompts)
      assert made.equal_examples(found[3], prompts[3])
  assert len(built) == 1
  # What says that it is whole was written last.
  assert bucket == ['examples.arrayrecord', 'index.npz', 'store.json']


def test_facts_are_read_where_they_lie(bucket):
  where = Workdir('gs://bucket/sft/model', tensorboard=False)
  where.write_json('model', {'facts': {'merit': 1.5}})
  assert networks.read_facts(where.path) == {'merit': 1.5}
