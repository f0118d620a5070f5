# SPDX-License-Identifier: Apache-2.0
"""The report names what is there, fits a screen, and the batch comes back."""

import json
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from etils import epath

from rlhf import update
from rlhf.data.batches import TextBatch
from rlhf.watching import diagnosis


def _state():
  params = {
      'embed': {'table': jnp.full((6, 4), 0.5)},
      'layers': {'w': jnp.full((2, 4, 4), -3.0, jnp.bfloat16)},
      'key': jax.random.key(0),
      'count': jnp.arange(3),
      'none': jnp.zeros((0, 4)),
  }
  params['embed']['table'] = params['embed']['table'].at[1, :3].set(jnp.nan)
  params['embed']['table'] = params['embed']['table'].at[5, 0].set(-jnp.inf)
  params['embed']['table'] = params['embed']['table'].at[0, 0].set(7.25)
  return params


def _batch():
  tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
  return {
      'sft': TextBatch(tokens, np.ones((3, 4), np.int32), tokens % 4 > 0),
      'scores': jnp.array([1.5, jnp.nan, -2.5], jnp.bfloat16),
  }


def _report(**changes):
  history = [
      {'step': s, 'sft/loss': 0.5, 'opt/grad_norm': 1.5**s, 'time/wait': 0.0}
      for s in range(1, 41)
  ]
  values = {
      'title': 'sft',
      'step': 41,
      'numbers': {
          'sft/loss': math.inf,
          'sft/accuracy': 0.25,
          'opt/grad_norm': math.nan,
          'opt/learning_rate': 3e-4,
      },
      'history': history,
      'state': _state(),
      'batch': _batch(),
      'samples': [{'prompt': 'Hi?', 'response': 'Yes.\nNo', 'score': 1.25}],
      'saved_in': '/runs/sft/nonfinite_step_41',
      'policy': 'stop',
  } | changes
  return diagnosis.report(**values)


def test_it_says_what_where_and_what_to_do():
  text = _report()
  lines = text.splitlines()
  assert lines[0] == 'sft: step 41 is not finite'
  assert lines[1] == 'not finite: sft/loss = inf, opt/grad_norm = nan'
  assert lines[2] == 'opt/learning_rate = 0.0003'
  assert 'the state: 1 of 2 leaves are not finite' in lines
  assert '  embed/table  4 of 24 are not finite' in lines
  assert '  embed/table  |x| up to 7.25' in lines
  assert '  layers/w  |x| up to 3' in lines
  assert 'the batch: 4 arrays' in lines
  assert '  scores  bfloat16 3  -2.5 to 1.5, 1 not finite' in lines
  assert '  sft/tokens_BT  int32 3x4  0 to 11' in lines
  assert '  sft/loss_mask_BT  bool 3x4  75% true' in lines
  assert '  | Hi? -> Yes. No [1.25]' in lines
  assert 'saved: /runs/sft/nonfinite_step_41' in lines
  assert "load_batch('/runs/sft/nonfinite_step_41')" in text
  assert '--config.loop.nonfinite=skip' in text and '=rollback' in text


def test_the_table_is_the_last_steps_and_this_one():
  lines = _report(headline=['sft/accuracy']).splitlines()
  start = lines.index('the last logged steps, and this one:') + 1
  names = lines[start].split()
  assert names[:4] == ['step', 'sft/loss', 'opt/grad_norm', 'sft/accuracy']
  table = [line.split() for line in lines[start + 1 : start + 9]]
  assert [int(row[0]) for row in table] == list(range(34, 42))
  assert table[-1][1:] == ['inf', 'nan', '0.25']
  assert float(table[0][2]) == pytest.approx(1.5**34, rel=1e-3)
  # 1.5 ** (40 - 34).
  assert lines[start + 9] == '  grown: opt/grad_norm, 11 times'
  calm = [{'step': s, 'opt/grad_norm': 1.0} for s in range(1, 41)]
  assert 'grown' not in _report(history=calm)
  # A step that was logged already comes once.
  twice = _report(history=[*calm, {'step': 41, 'opt/grad_norm': math.nan}])
  assert [line for line in twice.splitlines() if line.startswith('      41')
          ] == ['      41        inf            nan']  # fmt: skip


def test_what_grew_in_the_state_is_told():
  before = {'embed/table': 0.5, 'layers/w': 2.5}
  lines = _report(before=before).splitlines()
  assert '  embed/table  |x| up to 7.25, was 0.5: it grows' in lines
  assert '  layers/w  |x| up to 3, was 2.5' in lines
  assert diagnosis.sizes(_state()) == {'embed/table': 7.25, 'layers/w': 3.0}


@pytest.mark.parametrize('policy', ['stop', 'skip', 'rollback'])
def test_however_much_there_is_it_fits_a_screen(policy):
  name = 'a_very_long_name_of_a_metric_that_somebody_logs'
  many = {f'{name}_{i}': math.nan for i in range(50)}
  deep = {f'{"block/" * 20}{i}': jnp.full((3,), jnp.nan) for i in range(40)}
  wide = {f'{"field" * 20}{i}': np.full((2, 3), 1e30) for i in range(40)}
  wide['empty'] = np.zeros((0, 3))
  rows = [{'prompt': 'x ' * 300, 'response': 'y' * 900, 'score': -1e-9}] * 9
  text = _report(
      numbers=many | {'opt/grad_norm': math.inf, 'value/learning_rate': 1e-9},
      history=[{'step': s} | many for s in range(99)],
      state=deep,
      batch=wide,
      samples=rows,
      saved_in='/runs/' + 'long/' * 30,
      policy=policy,
      headline=list(many),
      before=dict.fromkeys(diagnosis.sizes(deep), 1e-9),
  )
  lines = text.splitlines()
  assert len(lines) <= 40
  long = [line for line in lines if len(line) > 80]
  assert all('/runs/' in line for line in long), long
  assert 'what to do:' in lines
  assert f'loop.nonfinite={policy}' in text or policy == 'stop'


def test_almost_nothing_is_enough():
  text = _report(
      numbers={'loss': math.nan}, history=[], state={}, batch={}, samples=(),
      saved_in='',
  )  # fmt: skip
  assert 'loss = nan' in text and 'saved' not in text
  assert len(text.splitlines()) < 20


def test_a_train_state_is_named_by_its_fields():
  tx = optax.adam(1e-3)
  state = update.new_state({'w': jnp.ones(3)}, tx)
  names = set(diagnosis.sizes(state))
  assert 'params/w' in names
  assert any(name.endswith('nu/w') for name in names), names


@pytest.mark.parametrize(
    'dtype',
    [np.bool_, np.int8, np.int32, np.uint32, np.float16, np.float32,
     np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn],
)  # fmt: skip
@pytest.mark.parametrize('shape', [(), (0, 3), (2, 3)])
def test_arrays_of_any_dtype_come_back_bit_for_bit(tmp_path, dtype, shape):
  rng = np.random.default_rng(0)
  array = rng.integers(0, 2, shape).astype(dtype)
  batch = {'ppo': [np.array(array, order='F')], 'other': np.ones(2)}
  where = diagnosis.save(tmp_path, step=3, batch=batch, text='')
  found = diagnosis.load_batch(where)
  assert sorted(found) == ['other', 'ppo/0']
  got = found['ppo/0']
  assert got.dtype == np.dtype(dtype) and got.shape == shape
  assert got.tobytes() == array.tobytes()


def test_a_saved_batch_lies_beside_its_report(tmp_path):
  text = _report()
  numbers = {'sft/loss': math.nan, 'sft/accuracy': np.float32(0.5)}
  for _ in range(2):  # A second try replaces the first.
    where = diagnosis.save(
        tmp_path, step=41, batch=_batch(), text=text, numbers=numbers
    )
  assert where == str(tmp_path / 'nonfinite_step_41')
  assert where == str(diagnosis.folder(tmp_path, 41))
  folder = epath.Path(where)
  assert sorted(p.name for p in folder.iterdir()) == [
      'batch.safetensors', 'numbers.json', 'report.txt'
  ]  # fmt: skip
  assert (folder / 'report.txt').read_text() == text

  def refuse(word):
    raise AssertionError(f'{word} is no JSON')

  read = (folder / 'numbers.json').read_text()
  assert json.loads(read, parse_constant=refuse) == {
      'sft/loss': 'nan', 'sft/accuracy': 0.5
  }  # fmt: skip
  found = diagnosis.load_batch(folder / 'batch.safetensors')
  assert np.array_equal(found['sft/tokens_BT'], _batch()['sft'].tokens_BT)
  assert found['scores'].dtype == jnp.bfloat16
  assert np.isnan(found['scores'].astype(np.float32)).tolist() == [
      False, True, False
  ]  # fmt: skip


def test_keys_go_along_and_texts_stay_behind(tmp_path):
  batch = {'key': jax.random.key(7), 'texts': ['a', 'b'], 'none': None}
  found = diagnosis.load_batch(
      diagnosis.save(tmp_path, step=1, batch=batch, text='')
  )
  assert list(found) == ['key']
  assert found['key'].tolist() == jax.random.key_data(batch['key']).tolist()


def test_no_batch_is_an_error_that_names_the_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/batch.safetensors'):
    diagnosis.load_batch(tmp_path)


def test_another_host_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(diagnosis.hosts, 'is_first', lambda: False)
  where = diagnosis.save(tmp_path, step=1, batch=_batch(), text='')
  assert where.endswith('nonfinite_step_1')
  assert not list(tmp_path.iterdir())
