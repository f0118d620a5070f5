# SPDX-License-Identifier: Apache-2.0
"""Text in, text and numbers out, with a vocabulary of letters."""

import jax
import numpy as np
import pytest

from rlhf import inference
from rlhf.data import packing
from rlhf.data.prompting import PromptFormat
from rlhf.inference import Codec, Completion
from rlhf.sampling import SamplingConfig
from tests import tiny

P, R = 12, 6
SAMPLING = SamplingConfig(R, (tiny.EOS,))


class Letters:
  """a to z, a space, ':' and '.'; no TensorFlow needed."""

  characters = 'abcdefghijklmnopqrstuvwxyz :.'
  eos_id, pad_id, vocab_size = tiny.EOS, tiny.PAD, tiny.CFG.vocab_size
  bos_id = tiny.EOS

  def encode(self, text):
    return [self.characters.index(c) for c in text]

  def decode(self, ids):
    assert self.pad_id not in ids
    return ''.join(self.characters[i] for i in ids if i != self.eos_id)


CODEC = Codec(Letters(), PromptFormat(suffix=' :'), prompt_tokens=P)
PROMPTS = ['say cat', 'a', 'say it', 'the dog', 'no', 'owl', 'b c d']


@pytest.fixture(scope='module', autouse=True)
def quick_compilation():
  with tiny.quick_compilation():
    yield


@pytest.fixture(scope='module')
def completions():
  return inference.complete(
      *tiny.network(1),
      PROMPTS,
      jax.random.key(0),
      codec=CODEC,
      sampling=SAMPLING,
      batch=4,
  )


def test_completions_are_in_the_order_of_their_prompts(completions):
  assert [c.prompt for c in completions] == PROMPTS
  finished = [c.finished for c in completions]
  assert True in finished and False in finished
  for c in completions:
    # BOS, the prompt, what stands behind it.
    assert list(c.prompt_ids) == [tiny.EOS, *Letters().encode(c.prompt + ' :')]
    assert c.finished == (c.response_ids[-1] == tiny.EOS)
    assert tiny.EOS not in c.response_ids[:-1]
    assert c.finished or len(c.response_ids) == R
    said = c.response_ids[:-1] if c.finished else c.response_ids
    assert c.response == ''.join(Letters.characters[i] for i in said).strip()


def test_each_copy_of_a_prompt_gets_its_own_draw():
  def complete(seed):
    completions = inference.complete(
        *tiny.network(1),
        ['say cat'] * 4,
        jax.random.key(seed),
        codec=CODEC,
        sampling=SAMPLING,
        batch=4,
    )
    return [c.response_ids for c in completions]

  assert len(set(complete(0))) > 1
  assert complete(0) == complete(0) != complete(1)


def test_later_batches_have_their_own_draws(completions):
  """The key is folded with the position: batches of equal prompts differ."""
  again = inference.complete(
      *tiny.network(1),
      PROMPTS[:4] * 2,
      jax.random.key(0),
      codec=CODEC,
      sampling=SAMPLING,
      batch=4,
  )
  assert [c.response_ids for c in again[:4]] == [
      c.response_ids for c in completions[:4]
  ]
  assert [c.response_ids for c in again[4:]] != [
      c.response_ids for c in again[:4]
  ]


@pytest.mark.parametrize('pooling', ['last', 'last_and_mean'])
def test_reward_scores_are_those_of_each_completion_alone(
    completions, pooling
):
  params, cfg = tiny.network(2, head=pooling)
  got = inference.reward_scores(
      params, cfg, completions, prompt_tokens=P, response_tokens=R, batch=4
  )
  want = [
      tiny.scalars_alone(params, c.prompt_ids, c.response_ids)[-1]
      for c in completions
  ]
  assert got.shape == (len(PROMPTS),)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('temperature', [1.0, 0.5])
def test_log_probs_are_the_sums_over_each_response_alone(
    completions, temperature
):
  params, cfg = tiny.network(3)
  got = inference.log_probs(
      params,
      cfg,
      completions,
      prompt_tokens=P,
      response_tokens=R,
      temperature=temperature,
      batch=4,
  )
  want = []
  for c in completions:
    tokens = [*c.prompt_ids, *c.response_ids]
    log_probs = tiny.log_probs_alone(params, tokens, temperature)
    want.append(np.sum(log_probs[len(c.prompt_ids) - 1 :]))
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_greedy_takes_the_most_likely_token_each_time():
  params, cfg = tiny.network(4)
  prompts = [[tiny.EOS, 3, 4, 5], [tiny.EOS, 7]]
  samples = inference.greedy(
      params,
      *packing.left_pad(prompts, P, tiny.PAD),
      cfg=cfg,
      sampling=SamplingConfig(R, (tiny.EOS,), temperature=0.0),
  )
  for row, prompt in enumerate(prompts):
    tokens = list(prompt)
    table_VD = np.asarray(params['embed']['tokens']['table'], np.float64)
    while len(tokens) < len(prompt) + R and tokens[1:].count(tiny.EOS) == 0:
      logits = tiny.states_alone(params, tokens)[-1] @ table_VD.T
      logits[tiny.PAD] = -np.inf
      tokens.append(int(np.argmax(logits)))
    said = np.asarray(samples.tokens_BR[row])[np.asarray(samples.mask_BR[row])]
    assert said.tolist() == tokens[len(prompt) :]


def test_a_prompt_that_is_too_long_is_refused():
  CODEC.encode_prompt('nine char')
  with pytest.raises(ValueError, match="13 tokens.*limit of 12.*'ten charac'"):
    CODEC.encode_prompt('ten charac')


def test_sample_rows_pair_completions_with_scores():
  c = Completion('say cat', 'cat', (29, 1), (2, 29), True)
  rows = inference.sample_rows([c], np.array([0.5, 7.0], np.float32))
  assert len(rows) == 1
  assert rows[0]['prompt'] == 'say cat' and rows[0]['response'] == 'cat'
  assert rows[0]['score'] == 0.5 and isinstance(rows[0]['score'], float)
