# SPDX-License-Identifier: Apache-2.0
"""Pretraining: a base from nothing, in a few steps."""

import dataclasses
import json

import numpy as np
import pytest

from rlhf import networks
from rlhf.stages import pretrain
from rlhf.stages import setup as setup_lib
from tests import tiny


@pytest.fixture(scope='module')
def trained(root):
  config = tiny.config(
      'pretrain', root, 'pretrained', steps=30, **{'loop.evaluate_every': 10}
  )
  with config.unlocked():
    config.optimizer.learning_rate = 1e-2
  pretrain.run(config)
  return config, root / 'pretrained'


def test_validation_loss_is_that_of_each_row_alone(trained):
  config, directory = trained
  params, _, facts = networks.load_model(directory)
  setup = setup_lib.make(config)
  rows = setup.text_rows('validation', config.data.row_tokens)
  assert len(rows) > 5 and len(rows) % config.batch
  losses = [-tiny.log_probs_alone(params, row) for row in rows]
  want = np.mean(np.concatenate(losses))
  np.testing.assert_allclose(facts['validation_loss'], want, rtol=1e-5)
  evaluations = [
      line['validation/loss']
      for line in tiny.metrics(directory)
      if 'validation/loss' in line
  ]
  assert evaluations[0] > evaluations[-1] == facts['validation_loss']
  assert len(evaluations) == 3


def test_it_hands_on_what_the_config_describes(trained):
  config, directory = trained
  params, cfg, facts = networks.load_model(directory)
  assert cfg == dataclasses.replace(tiny.CFG, vocab_size=31, pad_id=30)
  assert params['embed']['tokens']['table'].shape == (31, 16)
  assert 'scalar_head' not in params
  assert facts['steps'] == 30 and facts['tokens'] == 30 * 4 * 24
  results = json.loads((directory / 'results.json').read_text())
  assert results == facts
  written = json.loads((directory / 'config.json').read_text())
  assert written == json.loads(json.dumps(config.to_dict()))
