# SPDX-License-Identifier: Apache-2.0
"""Alarms over made-up curves: the bad ones speak, once, and the good ones not.

The healthy curves are shaped like those of docs/results/miniature.md; the bad
ones leave them at iteration 60.
"""

import json

import numpy as np
import pytest

from rlhf.watching import alarms

TURN = 60


def healthy(steps=120, seed=0):
  """Metrics of a run as the miniature's, with the noise of 64 responses."""
  rng = np.random.default_rng(seed)
  done = np.arange(steps) / steps
  score = 1.1 * (1 - np.exp(-4 * done)) + rng.normal(0, 2.3 / 8, steps)
  values = {
      'kl': 15 * done + rng.normal(0, 0.02, steps),
      'score': score,
      'score_std': 2.3 + rng.normal(0, 0.2, steps),
      'length': 11.5 - 2 * done + rng.normal(0, 0.4, steps),
      'finished': np.minimum(1, 0.97 + rng.normal(0, 0.01, steps)),
      'entropy': 0.6 - 0.25 * done + rng.normal(0, 0.05, steps),
      'empty': np.maximum(0, rng.normal(0.01, 0.02, steps)),
  }
  return values


def spoken(values, **config):
  """{iteration: messages} of a whole run."""
  watch = alarms.Alarms(alarms.AlarmConfig(**config))
  steps = len(next(iter(values.values())))
  said = {}
  for index in range(steps):
    row = {f'rollout/{k}': v[index] for k, v in values.items()}
    if messages := watch.look(index + 1, row | {'policy/loss': 0.1}):
      said[index + 1] = messages
  return said


@pytest.mark.parametrize('seed', range(20))
def test_a_healthy_run_raises_none(seed):
  assert spoken(healthy(seed=seed)) == {}


def _after(values, name, change):
  late = np.arange(len(values[name])) >= TURN
  since = np.maximum(0, np.arange(len(values[name])) - TURN + 1)
  return values | {name: np.where(late, change(since), values[name])}


# What goes wrong, its first words, the switch, and within how many iterations
# it is told.
BAD = {
    'kl': (
        lambda v: _after(v, 'kl', lambda n: 8.0 + 10 * n) | {
            'length': np.full(120, 200.0)
        },
        'the KL from the reference is 108 nats a response', 'kl', 10,
    ),
    'far for its length': (
        lambda v: _after(v, 'kl', lambda n: 8.0 + 1.0 * n),
        'the KL from the reference is 2.', 'kl_per_token', 18,
    ),
    'kl in a leap': (
        lambda v: _after(v, 'kl', lambda n: 90.0 + 0 * n) | {
            'length': np.full(120, 200.0)
        },
        'the KL from the reference grew from', 'kl_growth', 1,
    ),
    'negative kl': (
        lambda v: _after(v, 'kl', lambda n: -0.5 * n),
        'the KL from the reference is -', 'kl', 6,
    ),
    'score': (
        lambda v: _after(v, 'score', lambda n: np.maximum(-3.0, 1 - 0.5 * n)),
        'the score collapsed: ', 'score_drop', 12,
    ),
    'flat': (
        lambda v: _after(v, 'score_std', lambda n: 1e-4 + 0 * n),
        'every response scores the same (', 'score_spread', 1,
    ),
    'empty': (
        lambda v: _after(v, 'empty', lambda n: np.minimum(1.0, n / 20)),
        '50% of the responses are empty', 'empty', 10,
    ),
    'endless': (
        lambda v: _after(v, 'finished', lambda n: np.maximum(0, 1 - n / 10)),
        '9', 'unfinished', 14,
    ),
    'one answer': (
        lambda v: _after(v, 'entropy', lambda n: 0.6 * 0.7**n),
        'the entropy fell to 0.0', 'entropy', 14,
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize('what', BAD)


def _bad(what):
  make, words, switch, within = BAD[what]
  values = healthy()
  if what == 'kl in a leap':  # From little, as a rate that is too high does.
    values['kl'] = values['kl'] / 10
  return make(values), words, switch, within


@EVERY
def test_what_goes_wrong_is_told_once_and_soon(what):
  values, words, _, within = _bad(what)
  said = spoken(values)
  mine = [
      (step, text)
      for step, texts in said.items()
      for text in texts
      if text.startswith(f'iteration {step}: {words}')
  ]
  assert len(mine) == 1, said
  (step, text), = mine  # fmt: skip
  assert TURN < step <= TURN + within
  assert min(said) > TURN
  assert len(text.splitlines()) == 2 and len(text) < 400


@EVERY
def test_zero_switches_a_rule_off(what):
  values, words, switch, _ = _bad(what)
  said = spoken(values, **{switch: 0.0})
  texts = [text for texts in said.values() for text in texts]
  assert not [t for t in texts if t.partition(': ')[2].startswith(words)]


@EVERY
@pytest.mark.parametrize('cut', [1, 3, 62, 75])
def test_a_resumed_run_alarms_as_the_unbroken_one(what, cut):
  values, *_ = _bad(what)
  rows = [
      {f'rollout/{k}': v[index] for k, v in values.items()}
      for index in range(120)
  ]
  first, resumed = alarms.Alarms(), alarms.Alarms()
  said = [first.look(i + 1, rows[i]) for i in range(cut)]
  saved = json.dumps(first.state())
  resumed.look(1, {'rollout/kl': 1e9})  # What it was before is forgotten.
  resumed.restore(json.loads(saved))
  for index in range(cut, 120):
    want = first.look(index + 1, rows[index])
    assert resumed.look(index + 1, rows[index]) == want
    said.append(want)
  assert resumed.state() == first.state()
  assert any(said)


def test_a_state_is_no_window_into_the_alarms():
  watch = alarms.Alarms()
  watch.look(1, {'rollout/kl': 1.0, 'rollout/score': 1.0})
  saved = watch.state()
  text = json.dumps(saved)
  watch.look(2, {'rollout/kl': 900.0})
  assert json.dumps(saved) == text
  watch.restore(saved)
  assert watch.look(2, {'rollout/kl': 900.0})
  assert json.dumps(saved) == text
  watch.restore({})
  assert watch.state() == alarms.Alarms().state()


def test_memory_is_bounded():
  watch, sizes = alarms.Alarms(), []
  for step in range(1, 400):
    values = {k: v[step % 120] for k, v in _bad('kl')[0].items()}
    watch.look(step, {f'rollout/{k}': v for k, v in values.items()})
    sizes.append(len(json.dumps(watch.state())))
  assert max(sizes[200:]) < max(sizes[:150]) + 200 < 3000


def test_an_alarm_speaks_again_only_after_it_has_been_quiet():
  watch = alarms.Alarms()
  levels = [0.6] + [0.1] * (alarms.QUIET - 1) + [0.6] + (
      [0.1] * alarms.QUIET + [0.6]
  )  # fmt: skip
  told = [bool(watch.look(i, {'rollout/empty': x}))
          for i, x in enumerate(levels, 1)]  # fmt: skip
  assert [i for i, x in enumerate(told) if x] == [0, len(levels) - 1]


def test_metrics_that_are_missing_or_not_finite_are_passed_over():
  watch = alarms.Alarms()
  assert watch.look(1, {}) == []
  assert watch.look(1, {'sft/loss': 1.0}) == []
  for step in range(2, 12):
    row = dict.fromkeys(['kl', 'score', 'score_std', 'empty'], np.nan)
    row |= {'entropy': np.inf}
    assert watch.look(step, {f'rollout/{k}': v for k, v in row.items()}) == []
  assert json.loads(json.dumps(watch.state(), allow_nan=False))


def test_a_base_that_never_ends_its_responses_is_no_alarm():
  """The small real model starts with a quarter of them ended."""
  values = healthy() | {'finished': np.linspace(0.25, 0.0, 120)}
  assert spoken(values) == {}


def test_scores_that_are_all_alike_from_the_start_are_told():
  said = spoken(healthy() | {'score_std': np.zeros(120)})
  assert list(said) == [1] and 'every response scores the same' in said[1][0]
