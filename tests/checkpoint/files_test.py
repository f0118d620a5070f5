# SPDX-License-Identifier: Apache-2.0
"""Directories of checkpoints, of which only the facts are real."""

import json

import pytest
from etils import epath

from rlhf.checkpoint import files as files
from tests import object_store_test

bucket = object_store_test.bucket


def _make(folder, *names, facts=None):
  for name in names:
    step = int(name.split('.')[0])
    path = epath.Path(folder) / name
    (path / 'state').mkdir(parents=True)
    (path / 'facts').mkdir()
    document = files.seal({'step': step, 'facts': facts or {}, 'leaves': {}})
    (path / 'facts' / 'metadata').write_text(json.dumps(document))


def _names(folder):
  return sorted((p.name for p in folder.iterdir()), key=lambda n: (len(n), n))


def _delete(folder, settled, keep=2, keep_every=0, best=None, damaged=()):
  files.delete_old(
      epath.Path(folder), settled, keep=keep, keep_every=keep_every, best=best,
      damaged=damaged,
  )
  return _names(folder)


def test_steps_are_the_newest_first_and_nothing_else(tmp_path):
  _make(tmp_path, '4', '10', '4.replaced', '7.replaced')
  for name in ('12.orbax-checkpoint-tmp', '13.deleted', 'notes'):
    (tmp_path / name).mkdir()
  got = [(n, path.name) for n, path in files.steps(epath.Path(tmp_path))]
  assert got == [
      (10, '10'), (7, '7.replaced'), (4, '4'), (4, '4.replaced')
  ]
  assert files.steps(epath.Path(tmp_path / 'none')) == []


def test_facts_come_back_whole_or_not_at_all(tmp_path):
  facts = {'x': [1.5, float('inf'), None], 'é': {'b': 1, 'a': 2}}
  _make(tmp_path, '5', facts=facts)
  path = epath.Path(tmp_path / '5')
  assert files.read(path, 5)['facts'] == facts
  assert files.problem(path, 6) == 'it is step 5 by its facts'
  text = (path / 'facts' / 'metadata').read_text()
  (path / 'facts' / 'metadata').write_text(text.replace('1.5', '1.6'))
  with pytest.raises(files.DamagedError, match='SHA-256'):
    files.read(path, 5)
  for other in (text[:40], '[]', '{}', '\xff'):
    (path / 'facts' / 'metadata').write_bytes(other.encode('latin-1'))
    assert files.problem(path, 5)
  (path / 'facts' / 'metadata').write_text(text)
  assert not files.problem(path, 5)
  (path / 'state').rmdir()
  assert files.problem(path, 5) == 'its arrays are not there'


def test_the_newest_every_so_many_and_the_best_stay(tmp_path):
  _make(tmp_path, *'2 4 6 8 10 12 14'.split())
  kept = _delete(tmp_path, 14, keep=2, keep_every=4, best=6)
  assert kept == ['4', '6', '8', '12', '14']


def test_one_that_is_not_whole_does_not_count(tmp_path):
  _make(tmp_path, *'2 4 6 8'.split())
  (tmp_path / '6' / 'facts' / 'metadata').write_text('{')
  assert _delete(tmp_path, 8) == ['4', '8']
  _make(tmp_path, '9')
  assert _delete(tmp_path, 9, damaged=['8']) == ['4', '9']


def test_what_a_run_left_that_went_back_goes(tmp_path):
  _make(tmp_path, *'2 4 6 8 8.replaced 10 12'.split())
  # 12 is the best; 8 has been saved again.
  assert _delete(tmp_path, 8, best=12) == ['6', '8', '12']
  _make(tmp_path, '8.replaced')
  assert _delete(tmp_path, 8, best=8) == ['6', '8']


def test_a_step_saved_again_waits_beside_the_new_one(tmp_path):
  _make(tmp_path, '4', '4.replaced')
  (tmp_path / '4' / 'newer').touch()
  files.move_aside(epath.Path(tmp_path / '4'))
  assert _names(tmp_path) == ['4.replaced']
  assert (tmp_path / '4.replaced' / 'newer').exists()
  files.move_aside(epath.Path(tmp_path / '4'))
  assert _names(tmp_path) == ['4.replaced']


def test_what_killed_runs_leave_is_cleaned(tmp_path):
  _make(tmp_path, '4', '6.replaced', '8.deleted')
  (tmp_path / '8.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
  files.clean(epath.Path(tmp_path))
  assert _names(tmp_path) == ['4', '6.replaced']


def test_a_deletion_that_fails_does_not_stop_the_run(tmp_path, monkeypatch):
  _make(tmp_path, '2', '4', '6')

  def fails(self, *_, **__):
    raise PermissionError(13, 'Permission denied', str(self))

  monkeypatch.setattr(type(epath.Path(tmp_path)), 'rename', fails)
  assert _delete(tmp_path, 6, keep=1) == ['2', '4', '6']


def test_an_object_store_has_a_file_that_says_it_is_complete(bucket):
  folder = epath.Path('gs://bucket/run/checkpoints')
  assert files.steps(folder) == []
  for step in (2, 4, 6, 8):
    path = folder / str(step)
    document = files.seal({'step': step, 'facts': {}, 'leaves': {}})
    (path / 'facts' / 'metadata').write_text(json.dumps(document))
    (path / 'state' / 'manifest.ocdbt').write_text('')
    if step != 8:  # Killed meanwhile.
      (path / 'commit_success.txt').write_text('')
  assert bucket
  found = files.steps(folder)
  assert [step for step, _ in found] == [6, 4, 2]
  assert not any(files.problem(path, step) for step, path in found)
  files.clean(folder)
  assert sorted(p.name for p in folder.iterdir()) == ['2', '4', '6']
  files.delete_old(folder, 6, keep=2, keep_every=0, best=None, damaged=[])
  assert [step for step, _ in files.steps(folder)] == [6, 4]
  files.move_aside(folder / '4')
  assert [path.name for _, path in files.steps(folder)] == ['6', '4.replaced']
  assert not files.problem(folder / '4.replaced', 4)
