# SPDX-License-Identifier: Apache-2.0
"""Networks to the disk and back, and what a missing or half-made one says."""

import jax
import numpy as np
import pytest

from rlhf import networks
from rlhf.checkpoint import Checkpoints
from rlhf.world import BASE_CHECKPOINT, lexicon
from tests import tiny

FACTS = {'step': 3, 'accuracy': {'mean': 0.5}, 'note': 'as it was'}


@pytest.mark.parametrize('head', [None, 'last', 'last_and_mean'])
def test_model_round_trip(tmp_path, head):
  params, cfg = tiny.network(1, head=head)
  directory = tmp_path / 'rm'
  networks.save_model(directory / 'model', params, cfg, FACTS)
  for path in (directory, directory / 'model', str(directory)):
    got, got_cfg, facts = networks.load_model(path)
    tiny.assert_same(got, params)
    assert got_cfg == cfg and facts == FACTS
  assert networks.read_facts(directory / 'model') == FACTS


@pytest.mark.parametrize('head', [None, 'last_and_mean'])
def test_safetensors_round_trip(tmp_path, head):
  params, cfg = tiny.network(1, head=head)
  path = tmp_path / 'base.safetensors'
  networks.save_safetensors(path, params, cfg, FACTS)
  # The same by the road that every stage takes.
  for load in (networks.load_safetensors, networks.load_model):
    got, got_cfg, facts = load(path)
    tiny.assert_same(got, params)
    assert got_cfg == cfg and facts == FACTS


def test_the_base_that_ships_is_the_miniatures(tmp_path):
  del tmp_path
  params, cfg, _ = networks.load_model(BASE_CHECKPOINT)
  # Padding, EOS and unknown come before the words.
  assert cfg.vocab_size == len(lexicon.WORDS) + 3
  table_VD = params['embed']['tokens']['table']
  assert table_VD.shape == (cfg.vocab_size, cfg.width)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
  assert BASE_CHECKPOINT.stat().st_size < 3e6


def test_a_model_is_replaced_whole(tmp_path):
  first, second = tiny.network(1), tiny.network(2)
  networks.save_model(tmp_path / 'model', *first, {'step': 1})
  networks.save_model(tmp_path / 'model', *second, {'step': 2})
  got, _, facts = networks.load_model(tmp_path)
  tiny.assert_same(got, second[0])
  assert facts == {'step': 2}


def test_a_replacement_that_is_cut_short_is_not_taken_for_a_model(
    tmp_path, monkeypatch
):
  """New weights beside the old facts would be worse than nothing."""
  networks.save_model(tmp_path / 'model', *tiny.network(1), {'step': 1})

  def breaks(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(networks.ocp.StandardCheckpointer, 'save', breaks)
  with pytest.raises(KeyboardInterrupt):
    networks.save_model(tmp_path / 'model', *tiny.network(2), {'step': 2})
  with pytest.raises(FileNotFoundError):
    networks.load_model(tmp_path)


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing.*model.json.*not exist'):
    networks.load_model(tmp_path / 'nothing')
  with pytest.raises(FileNotFoundError, match='base.safetensors'):
    networks.load_model(tmp_path / 'base.safetensors')
  # A stage that has begun, with checkpoints of its own, but not ended.
  Checkpoints(tmp_path / 'sft' / 'checkpoints').close()
  with pytest.raises(FileNotFoundError, match='sft.*has not finished there'):
    networks.load_model(tmp_path / 'sft')
