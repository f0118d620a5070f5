# SPDX-License-Identifier: Apache-2.0
"""Experience against a plain loop over single, unpadded sequences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf import experience as experience_lib
from rlhf.data import packing
from rlhf.experience import ExperienceConfig, Networks
from rlhf.sampling import SamplingConfig, generate
from rlhf.stages import ppo_programs
from tests import tiny

BETA, LAM = 0.3, 0.9
P, R = 9, 7
PROMPTS = ([29, 3, 4], [29, 5, 6, 7, 8, 9], [29, 1], [29, 3, 4, 5, 6, 7, 8, 1])
PROMPTS = PROMPTS * 3
_BR = ('mask_BR', 'log_probs_BR', 'values_BR', 'advantages_BR', 'returns_BR')


@pytest.fixture(scope='module', autouse=True)
def quick():
  with tiny.quick_compilation():
    yield


# Two settings, all else is compared within one of them.
PLAIN = ExperienceConfig(lam=LAM)
OTHER = ExperienceConfig(lam=LAM, temperature=0.6, missing_eos_score=-5.0)
POOLING = {PLAIN: 'last_and_mean', OTHER: 'last'}


def _networks(config=PLAIN):
  """Four different networks, so that no two can be confused."""
  return Networks(
      policy=tiny.network(1)[0],
      reference=tiny.network(2)[0],
      reward=tiny.network(3, head=POOLING[config])[0],
      value=tiny.network(4, head=POOLING[config])[0],
  )


REWARD_CFG = {
    config: dataclasses.replace(tiny.CFG, reward_pooling=pooling)
    for config, pooling in POOLING.items()
}


@functools.cache
def _sample(config=PLAIN):
  sampling = SamplingConfig(R, (tiny.EOS,), temperature=config.temperature)
  draw = functools.partial(generate, cfg=tiny.CFG, sampling=sampling)
  prompts = packing.left_pad(PROMPTS, P, tiny.PAD)
  policy = _networks().policy
  samples = jax.jit(draw)(policy, *prompts, jax.random.key(5))
  # Otherwise these tests show neither padding after an EOS nor a cut response.
  assert 0 < np.mean(samples.finished) < 1
  assert len(set(np.sum(samples.mask_BR, axis=1).tolist())) > 2
  return prompts, samples


@functools.cache
def _compiled(config, whiten_rewards):
  return jax.jit(
      functools.partial(
          experience_lib.make_experience,
          policy_cfg=tiny.CFG,
          reward_cfg=REWARD_CFG[config],
          config=dataclasses.replace(config, whiten_rewards=whiten_rewards),
      )
  )


def _experience(
    prompts, samples, networks=None, *, config=PLAIN, beta=BETA, whiten=False
):
  make = _compiled(config, whiten)
  networks = networks or _networks(config)
  return make(networks, *prompts, samples, jnp.float32(beta))


# -- The oracle: one sequence at a time, no left padding, plain loops ---------


def _log_probs(params, prompt, response, temperature):
  return tiny.log_probs_alone(params, [*prompt, *response], temperature)[
      len(prompt) - 1 :
  ]


def _alone(networks, config, prompt, response, finished):
  """What an experience holds of one response, by its names; score and kl."""
  temperature, missing = config.temperature, config.missing_eos_score
  log_probs = _log_probs(networks.policy, prompt, response, temperature)
  reference = _log_probs(networks.reference, prompt, response, temperature)
  values = tiny.scalars_alone(networks.value, prompt, response)[:-1]
  score = tiny.scalars_alone(networks.reward, prompt, response)[-1]
  # Each token pays for its KL; the last one is paid the score as well.
  rewards = -BETA * (log_probs - reference)
  rewards[-1] += score if finished or missing is None else missing
  advantages = np.zeros(len(response))
  for t in range(len(response)):
    for later in range(t, len(response)):
      following = values[later + 1] if later + 1 < len(response) else 0.0
      delta = rewards[later] + following - values[later]
      advantages[t] += LAM ** (later - t) * delta
  return {
      'log_probs_BR': log_probs,
      'values_BR': values,
      'advantages_BR': advantages,
      'returns_BR': advantages + values,
      'score': score,
      'kl': np.sum(log_probs - reference),
  }


@pytest.mark.parametrize('config', [PLAIN, OTHER], ids=['plain', 'other'])
def test_batch_of_padded_rows_is_each_sequence_alone(config):
  """The values before, the score at the EOS, a penalty where there is none."""
  prompts, samples = _sample(config)
  experience, scores, metrics = jax.device_get(
      _experience(prompts, samples, config=config)
  )
  wanted = []
  for row, prompt in enumerate(PROMPTS):
    mask = np.asarray(samples.mask_BR[row])
    response = np.asarray(samples.tokens_BR[row])[mask].tolist()
    finished = bool(samples.finished[row])
    assert finished == (response[-1] == tiny.EOS)
    want = _alone(_networks(config), config, prompt, response, finished)
    np.testing.assert_allclose(scores[row], want['score'], rtol=1e-4, atol=1e-5)
    for name in _BR[1:]:
      got = getattr(experience, name)[row]
      np.testing.assert_allclose(
          got[mask], want[name], rtol=1e-4, atol=1e-5, err_msg=f'{name}[{row}]'
      )
      np.testing.assert_array_equal(got[~mask], 0.0, err_msg=f'{name}[{row}]')
    wanted.append(want)

  def over_tokens(name):
    return np.concatenate([want[name] for want in wanted]).mean()

  expected = {
      'kl': np.mean([want['kl'] for want in wanted]),
      'score': np.mean([want['score'] for want in wanted]),
      'length': np.mean([len(want['values_BR']) for want in wanted]),
      'finished': np.mean(samples.finished),
      'entropy': -over_tokens('log_probs_BR'),
      'return': over_tokens('returns_BR'),
      'advantage': over_tokens('advantages_BR'),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5)
  assert metrics['sampler_gap'] < 1e-5


def test_left_padding_does_not_matter():
  prompts, samples = _sample()
  near, scores, _ = _experience(prompts, samples)
  wider = packing.left_pad(PROMPTS, P + 6, tiny.PAD)
  far, far_scores, _ = _experience(wider, samples)
  np.testing.assert_allclose(scores, far_scores, atol=1e-5)
  for name in _BR:
    np.testing.assert_allclose(
        getattr(near, name), getattr(far, name), atol=2e-5, err_msg=name
    )


def test_what_stands_after_the_eos_does_not_matter():
  prompts, samples = _sample()
  experience, scores, _ = _experience(prompts, samples)
  junk_BR = jnp.where(samples.mask_BR, samples.tokens_BR, 7)
  junk, junk_scores, _ = _experience(
      prompts, dataclasses.replace(samples, tokens_BR=junk_BR)
  )
  assert np.any(junk_BR != samples.tokens_BR)
  np.testing.assert_array_equal(scores, junk_scores)
  for name in _BR:
    np.testing.assert_array_equal(
        getattr(experience, name), getattr(junk, name), err_msg=name
    )


@pytest.mark.parametrize('config', [PLAIN, OTHER], ids=['plain', 'other'])
def test_before_the_first_update_ratio_is_one_and_kl_zero(config):
  networks = _networks(config)
  networks = dataclasses.replace(networks, reference=networks.policy)
  sampled = _sample(config)
  experience, _, metrics = _experience(*sampled, networks, config=config)
  assert metrics['kl'] == 0.0
  # Paying for a KL of zero changes nothing, whatever beta is.
  free, _, _ = _experience(*sampled, networks, config=config, beta=0.0)
  np.testing.assert_array_equal(experience.returns_BR, free.returns_BR)
  # The temperature of the sampling divides here too, or the ratio is not 1.
  term = ppo_programs.policy_term(
      tiny.CFG, clip=0.2, temperature=config.temperature
  )
  loss = jax.jit(term.loss)
  _, learnt = loss(networks.policy, experience, jax.random.key(0))
  np.testing.assert_allclose(learnt['ratio'], 1.0, atol=1e-6)
  assert learnt['approx_kl'] < 1e-11
  assert learnt['clip_fraction'] == 0.0


def test_value_function_starts_as_the_reward_model():
  """One scalar head: what it reads at the last token is the score."""
  networks = _networks()
  networks = dataclasses.replace(networks, value=networks.reward)
  prompts, samples = _sample()
  experience, scores, _ = _experience(prompts, samples, networks)
  scalars_BT = jax.jit(
      functools.partial(
          experience_lib.response_scalars, cfg=REWARD_CFG[PLAIN]
      )
  )(
      networks.reward,
      experience.tokens_BT,
      experience.segment_ids_BT,
      samples.mask_BR,
  )
  scalars_BT, values_BR = np.asarray(scalars_BT), experience.values_BR
  for row, length in enumerate(np.sum(samples.mask_BR, axis=1)):
    # States: before the first token, after it, ..., after the EOS.
    states = scalars_BT[row, P - 1 : P + length]
    np.testing.assert_allclose(states[-1], scores[row], rtol=1e-5)
    np.testing.assert_allclose(states[:-1], values_BR[row, :length], rtol=1e-5)


def test_whitened_rewards_keep_their_mean():
  networks = _networks()
  zero = jax.tree.map(jnp.zeros_like, networks.value)
  networks = dataclasses.replace(networks, value=zero)
  prompts, samples = _sample()
  rewards = []
  for whiten in (False, True):
    experience, _, _ = _experience(prompts, samples, networks, whiten=whiten)
    # Without values A_t = r_t + lambda A_{t+1}.
    advantages_BR = np.asarray(experience.advantages_BR)
    later_BR = np.pad(advantages_BR[:, 1:], ((0, 0), (0, 1)))
    mask_BR = np.asarray(samples.mask_BR)
    rewards.append((advantages_BR - LAM * later_BR)[mask_BR])
  plain, white = rewards
  want = (plain - plain.mean()) / plain.std() + plain.mean()
  np.testing.assert_allclose(white, want, rtol=1e-3, atol=1e-4)


# -- A few rows at a time -----------------------------------------------------


@pytest.mark.parametrize('size', [0, 1, 2, 3, 4, 6, 12])
def test_parts_come_together_in_their_order(size):
  rows = {'x': np.arange(24.0).reshape(12, 2), 'n': np.arange(12)}
  seen = []

  def function(rows):
    seen.append(rows['n'].shape[0])
    return rows['x'] * rows['n'][:, None], {'n': -rows['n']}

  got, other = experience_lib.in_parts(function, rows, size)
  np.testing.assert_array_equal(got, rows['x'] * rows['n'][:, None])
  np.testing.assert_array_equal(other['n'], -rows['n'])
  # What the function sees is what bounds the memory.
  assert set(seen) == {size or 12}


def test_parts_have_to_divide_the_batch():
  with pytest.raises(ValueError, match='ppo.score_rows=5 does not divide.*12'):
    experience_lib.in_parts(lambda rows: rows, jnp.ones((12, 2)), 5)


# -- Minibatches --------------------------------------------------------------


def _minibatches(experience, seed=0, **kwargs):
  return experience_lib.minibatches(experience, jax.random.key(seed), **kwargs)


@pytest.fixture(scope='module')
def made():
  experience, _, _ = _experience(*_sample())
  # Rows carry their number where nothing else looks.
  numbers_BT = experience.tokens_BT.at[:, 0].set(jnp.arange(len(PROMPTS)))
  return dataclasses.replace(experience, tokens_BT=numbers_BT)


def test_minibatches_are_a_partition_of_the_rows(made):
  parts = _minibatches(made, count=3, whiten_advantages=False)
  orders = [part.tokens_BT[:, 0].tolist() for part in parts]
  assert [len(order) for order in orders] == [4, 4, 4]
  rows = sum(orders, [])
  assert sorted(rows) == list(range(12)) and rows != sorted(rows)
  for name in _BR:
    # Every array of a row went with it.
    got = np.concatenate([getattr(part, name) for part in parts])
    np.testing.assert_array_equal(got, np.asarray(getattr(made, name))[rows])


def test_each_epoch_has_an_order_of_its_own(made):
  orders = [
      [part.tokens_BT[:, 0].tolist() for part in _minibatches(made, s, count=3)]
      for s in (0, 1, 0)
  ]
  assert orders[0] == orders[2] != orders[1]


def test_advantages_are_whitened_within_each_minibatch(made):
  # One response far better than all: it must not set every minibatch's scale.
  advantages_BR = made.advantages_BR.at[0].mul(100.0)
  made = dataclasses.replace(made, advantages_BR=advantages_BR)
  for part in _minibatches(made, count=3):
    mask_BR = np.asarray(part.mask_BR)
    rows = np.asarray(part.tokens_BT[:, 0])
    plain = np.asarray(advantages_BR)[rows][mask_BR]
    white = np.asarray(part.advantages_BR)
    want = (plain - plain.mean()) / plain.std()
    np.testing.assert_allclose(white[mask_BR], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(white[mask_BR].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(white[mask_BR].std(), 1.0, atol=1e-4)
    np.testing.assert_array_equal(white[~mask_BR], 0.0)


def test_micro_batches_are_cut_after_whitening(made):
  whole = _minibatches(made, count=3)
  split = _minibatches(made, count=3, micro_batches=2)
  for one, two in zip(whole, split, strict=True):
    assert two.tokens_BT.shape[:2] == (2, 2)
    joined = jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), two)
    tiny.assert_same(joined, one)
