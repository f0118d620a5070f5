# SPDX-License-Identifier: Apache-2.0
"""The base model that ships: it copies from its context and knows its facts.

A base that can't copy can't follow an instruction, whatever is done to it
later; that is how the first miniature failed.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import losses, model, networks
from rlhf.data import packing, vocabularies
from rlhf.world import BASE_CHECKPOINT, corpus, probes


@pytest.fixture(scope='module')
def base():
  params, cfg, _ = networks.load_model(BASE_CHECKPOINT)
  return params, cfg, vocabularies.vocabulary('miniature')


def _accuracy(base, pairs) -> float:
  params, cfg, vocabulary = base
  rows = [[vocabulary.eos_id, *vocabulary.encode(text)] for text, _ in pairs]
  tokens_BP, mask_BP = packing.left_pad(rows, max(map(len, rows)), cfg.pad_id)
  x_BTD = model.forward(
      params, jnp.asarray(tokens_BP), jnp.asarray(mask_BP, jnp.int32), cfg
  )
  guesses = np.argmax(model.lm_logits(params, x_BTD[:, -1], cfg), axis=-1)
  answers = [vocabulary.encode(word)[0] for _, word in pairs]
  return float(np.mean(guesses == np.array(answers)))


@pytest.mark.parametrize('make', [probes.copy_heading, probes.copy_story])
def test_it_copies_from_its_context(base, make):
  assert _accuracy(base, make()) == 1.0


def test_it_knows_the_facts(base):
  assert _accuracy(base, probes.fact_cloze()) > 0.95


def test_its_loss_on_new_text_is_the_one_it_shipped_with(base):
  params, cfg, vocabulary = base
  # Documents of a seed that no stage reads.
  documents = [vocabulary.encode(d) for d in corpus.documents(99, 600)]
  tokens_BT = jnp.asarray(packing.text_rows(documents, 128, vocabulary.eos_id))
  x_BTD = model.forward(params, tokens_BT, jnp.ones_like(tokens_BT), cfg)
  logits_BTV = model.lm_logits(params, x_BTD, cfg)
  scores = losses.token_log_probs(logits_BTV, losses.next_tokens(tokens_BT))
  loss, _ = losses.language_loss(*scores, jnp.ones(tokens_BT.shape, bool))
  shipped = networks.load_model(BASE_CHECKPOINT)[2]['validation_loss']
  assert float(loss) == pytest.approx(shipped, abs=0.03)
