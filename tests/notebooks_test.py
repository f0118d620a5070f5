# SPDX-License-Identifier: Apache-2.0
"""The notebook is committed clean, and runs from top to bottom.

At smoke size nothing is learnt, so what is tested is the code: that every cell
runs with the functions and configs as they are now.
"""

import os
import pathlib

import nbclient
import nbformat
import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PATH = _ROOT / 'notebooks' / 'quickstart.ipynb'


@pytest.fixture
def notebook():
  return nbformat.read(_PATH, as_version=4)


def _run(notebook, folder: pathlib.Path, temporary: pathlib.Path) -> None:
  """Executes a notebook, in place, with `folder` as working directory."""
  environment = {
      **os.environ,
      'PYTHONPATH': str(_ROOT),
      'RLHF_SMOKE': '1',
      # A reader's JAX is not that of the tests, which refuses what Flax does.
      'JAX_NUMPY_RANK_PROMOTION': 'allow',
      # Where the notebook makes its folder.
      'TMPDIR': str(temporary),
      'IPYTHONDIR': str(temporary / 'ipython'),
      'MPLCONFIGDIR': str(temporary / 'matplotlib'),
  }
  nbclient.NotebookClient(
      notebook,
      timeout=300,
      kernel_name='python3',
      resources={'metadata': {'path': str(folder)}},
  ).execute(env=environment)


def _tagged(notebook, tag: str):
  cell, = [c for c in notebook.cells if tag in c.metadata.get('tags', ())]
  return cell


def _printed(cell) -> str:
  streams = [o for o in cell.outputs if o.output_type == 'stream']
  return ''.join(o.text for o in streams if o.name == 'stdout')


def _images(cell) -> int:
  return sum('image/png' in o.get('data', {}) for o in cell.outputs)


def test_is_valid_and_has_no_outputs(notebook):
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert len(code) > 10
  for cell in code:
    assert not cell.outputs, f'clear the outputs of {cell.id}'
    assert cell.execution_count is None, cell.id
  assert notebook.metadata.kernelspec.name == 'python3'
  assert 'widgets' not in notebook.metadata


def test_every_code_cell_is_introduced(notebook):
  """No more than three code cells follow each other without a word."""
  kinds = [cell.cell_type for cell in notebook.cells]
  assert kinds[0] == 'markdown'
  assert 'code code code code' not in ' '.join(kinds)


def test_finds_the_repository_wherever_it_is_started(notebook, tmp_path):
  source = _tagged(notebook, 'setup').source
  folders = [_ROOT, _ROOT / 'notebooks', tmp_path]
  probe = nbformat.v4.new_notebook(
      cells=[
          nbformat.v4.new_code_cell(f'%cd -q {folder}\n{source}')
          for folder in folders
      ]
  )
  _run(probe, tmp_path, tmp_path)
  for cell in probe.cells:
    assert _printed(cell) == f'repository: {_ROOT}\n'


@pytest.mark.slow
def test_runs_from_top_to_bottom(notebook, tmp_path):
  folder = _ROOT / 'runs' / 'quickstart'
  had_folder = folder.exists()
  _run(notebook, tmp_path, tmp_path)
  for cell in notebook.cells:
    for output in cell.get('outputs', ()):
      assert output.output_type != 'error', output

  wins = _tagged(notebook, 'win-rates')
  models = [line[:16].strip() for line in _printed(wins).splitlines()[1:]]
  assert models == [
      'base', 'prompted base', 'SFT', 'PPO', 'PPO-ptx', 'hacked weak RM'
  ]
  assert _images(wins) == 1

  last = [cell for cell in notebook.cells if cell.cell_type == 'code'][-1]
  assert last == _tagged(notebook, 'comparison')
  assert 'my objective' in _printed(last)
  assert _images(last) == 1
  # It trained in a folder of its own, and left the reader's alone.
  assert list(tmp_path.glob('quickstart-*/my_objective'))
  assert folder.exists() == had_folder
