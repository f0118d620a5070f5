# SPDX-License-Identifier: Apache-2.0
"""Alarms over PPO's metrics: a run that is going wrong says so while it runs.

Rules look at the metrics of one iteration after another, all 'rollout/...'
(rlhf/experience.py). None stops a run: what is odd for one data set is the aim
of another. Of 32 recorded runs, of the miniature and of the small real model,
the defaults are silent on 30; in the other two a weak reward model and a fifth
of our KL coefficient lead the policy into gibberish, whose score still rises.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

# Iterations that means are over: batches are small and of different prompts.
WINDOW = 5
# Iterations for which a rule has to be still before it speaks again.
QUIET = 10

# Nats a response below which a KL that grows fast is no news.
_GROWTH_FLOOR = 10.0
# Nats a response that sampling noise can take the estimate of a KL below 0.
_BELOW_ZERO = -1.0

_READ = (
    'kl', 'score', 'score_std', 'length', 'finished', 'entropy', 'empty'
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
  """When alarms go off; 0 switches a rule off. A config's `ppo.alarms` section.

  Attributes:
    kl: nats a response, KL from the reference; also tells of a negative one.
    kl_per_token: the same in nats a token of it, in the mean of `WINDOW`
      iterations. 2 nats: the reference finds its tokens 7 times less likely.
    kl_growth: times that the KL has grown within `WINDOW` iterations, above 10
      nats.
    score_drop: the mean score of `WINDOW` iterations below the best such mean,
      in standard deviations of the responses' scores.
    score_spread: the standard deviation of the scores, as a fraction of the
      widest so far: all responses score the same.
    empty: fraction of responses without a token before the EOS.
    unfinished: fraction of responses without an EOS, in the mean of `WINDOW`
      iterations; only of a policy that once ended half of them.
    entropy: nats a token, as a fraction of those of the first `WINDOW`
      iterations.
  """

  kl: float = 100.0
  kl_per_token: float = 2.0
  kl_growth: float = 10.0
  score_drop: float = 1.0
  score_spread: float = 0.01
  empty: float = 0.5
  unfinished: float = 0.9
  entropy: float = 0.05


class Alarms:
  """Tells of what is wrong, once each: a run has one, and looks each iteration.

  What it remembers follows from the metrics alone, is of bounded size, and goes
  into the checkpoint (`state`), so that a resumed run speaks when the unbroken
  one would have.
  """

  def __init__(self, config: AlarmConfig = AlarmConfig()):
    self._config = config
    self._memory = _nothing()

  def look(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
    """Messages of the alarms that newly went off, of one or two lines each.

    Args:
      step: the iteration, counted from 1.
      metrics: of it; scalars under their names. Rules whose metrics are missing
        or not finite are silent.
    """
    row = {}
    for name in _READ:
      value = float(metrics.get(f'rollout/{name}', math.nan))
      if math.isfinite(value):
        row[name] = value
    if not row:
      return []
    memory = self._memory
    memory['recent'] = [*memory['recent'], row][-WINDOW:]
    _remember(memory, step)
    heard = dict(_rules(self._config, memory, row))
    new = [text for name, text in heard.items() if name not in memory['on']]
    for name in [*heard, *memory['on']]:
      quiet = 0 if name in heard else memory['on'][name] + 1
      memory['on'][name] = quiet
      if quiet >= QUIET:
        del memory['on'][name]
    return [f'iteration {step}: {text}' for text in new]

  def state(self) -> dict[str, Any]:
    """What it remembers; JSON-able, and the same after a trip through it."""
    return copy.deepcopy(self._memory)

  def restore(self, state: Mapping[str, Any]) -> None:
    """Goes on from a `state()`; from an empty one, as at the start."""
    self._memory = _nothing() | copy.deepcopy(dict(state))


def _nothing() -> dict[str, Any]:
  """The memory before the first iteration.

  recent: metrics of up to `WINDOW` iterations; best: the best mean score, the
  scores' mean standard deviation then, and the step; widest: largest standard
  deviation; finished: best mean; entropy: first mean; on: rules that have
  spoken, and for how many iterations they have been still.
  """
  return {
      'recent': [],
      'best': None,
      'widest': 0.0,
      'finished': 0.0,
      'entropy': None,
      'on': {},
  }


def _remember(memory: dict[str, Any], step: int) -> None:
  """Brings what is remembered of the whole run up to date."""
  score, std = _mean(memory, 'score'), _mean(memory, 'score_std')
  best = memory['best']
  if score is not None and (best is None or score > best['score']):
    memory['best'] = {'score': score, 'std': std or 0.0, 'step': step}
  latest = memory['recent'][-1].get('score_std', 0.0)
  memory['widest'] = max(memory['widest'], latest)
  finished = _mean(memory, 'finished')
  memory['finished'] = max(memory['finished'], finished or 0.0)
  if memory['entropy'] is None:
    memory['entropy'] = _mean(memory, 'entropy')


def _mean(memory: Mapping[str, Any], name: str) -> float | None:
  """Over the last `WINDOW` iterations; None until there are as many."""
  values = [row[name] for row in memory['recent'] if name in row]
  return sum(values) / WINDOW if len(values) == WINDOW else None


def _rules(
    config: AlarmConfig, memory: Mapping[str, Any], row: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
  """(name of the rule, what it says) of every rule that holds now."""
  yield from _kl_rules(config, memory, row)
  yield from _score_rules(config, memory, row)
  yield from _response_rules(config, memory, row)


def _kl_rules(config, memory, row):
  kl, mean = row.get('kl'), _mean(memory, 'kl')
  if config.kl and kl is not None and kl > config.kl:
    yield (
        'kl',
        f'the KL from the reference is {kl:.3g} nats a response'
        f' (ppo.alarms.kl={config.kl:g}): {_FAR}\n{_STAY}',
    )
  if config.kl and mean is not None and mean < _BELOW_ZERO:
    yield (
        'kl_negative',
        f'the KL from the reference is {mean:.3g} nats a response over'
        f' {WINDOW} iterations, and a KL is never negative: responses are not'
        ' drawn from the policy that is trained\nlook at rollout/sampler_gap,'
        ' and sample with temperature alone, without top_k and top_p',
    )
  length = _mean(memory, 'length')
  if config.kl_per_token and mean is not None and length is not None:
    each = mean / max(length, 1.0)
    if each > config.kl_per_token:
      yield (
          'kl_per_token',
          f'the KL from the reference is {each:.2f} nats a token over'
          f' {WINDOW} iterations ({mean:.3g} a response;'
          f' ppo.alarms.kl_per_token={config.kl_per_token:g}): {_FAR}\n{_STAY}',
      )
  before = [r['kl'] for r in memory['recent'][:-1] if 'kl' in r]
  if config.kl_growth and kl is not None and before:
    least = max(min(before), 0.0)
    if kl > _GROWTH_FLOOR and kl > config.kl_growth * least:
      yield (
          'kl_growth',
          f'the KL from the reference grew from {least:.3g} to {kl:.3g} nats a'
          f' response within {WINDOW} iterations'
          f' (ppo.alarms.kl_growth={config.kl_growth:g}): updates are too large'
          '\nlower optimizer.learning_rate, or take more warmup_steps',
      )


def _score_rules(config, memory, row):
  score, best = _mean(memory, 'score'), memory['best']
  if config.score_drop and score is not None and best is not None:
    drop = best['score'] - score
    std = max(best['std'], _mean(memory, 'score_std') or 0.0)
    if std > 0 and drop > config.score_drop * std:
      yield (
          'score_drop',
          f'the score collapsed: {score:.3g} over {WINDOW} iterations, after'
          f' {best["score"]:.3g} at iteration {best["step"]};'
          f' {drop / std:.1f} standard deviations'
          f' (ppo.alarms.score_drop={config.score_drop:g})\ngo back to a'
          ' checkpoint from before, and lower optimizer.learning_rate',
      )
  std, widest = row.get('score_std'), memory['widest']
  if config.score_spread and std is not None:
    if std <= config.score_spread * widest:
      yield (
          'score_spread',
          f'every response scores the same ({row.get("score", 0.0):.3g}'
          f' +- {std:.2g}; the widest so far was {widest:.2g}): there is'
          ' nothing to learn from\nlook whether the responses are all alike, or'
          ' the reward model answers all alike',
      )


def _response_rules(config, memory, row):
  empty = row.get('empty')
  if config.empty and empty is not None and empty >= config.empty:
    yield (
        'empty',
        f'{empty:.0%} of the responses are empty'
        f' (ppo.alarms.empty={config.empty:g}): the reward model likes silence'
        f' better than the policy\'s words\n{_STAY}, and train the reward model'
        ' on rankings that hold empty responses, ranked last',
    )
  finished, once = _mean(memory, 'finished'), memory['finished']
  if config.unfinished and finished is not None and once >= 0.5:
    if 1 - finished >= config.unfinished:
      yield (
          'unfinished',
          f'{1 - finished:.0%} of the responses have no end (at best it was'
          f' {1 - once:.0%}; ppo.alarms.unfinished={config.unfinished:g}): the'
          ' reward model likes length\nset ppo.missing_eos_score below what a'
          ' poor response scores',
      )
  entropy, first = _mean(memory, 'entropy'), memory['entropy']
  if config.entropy and entropy is not None and first is not None:
    if entropy <= config.entropy * first:
      yield (
          'entropy',
          f'the entropy fell to {entropy:.2g} nats a token, from {first:.2g} at'
          f' the start (ppo.alarms.entropy={config.entropy:g}): the policy says'
          ' the same thing always, and explores no more\nraise'
          ' ppo.kl_coefficient, or lower optimizer.learning_rate',
      )


_FAR = (
    'the policy is far from what it started as, where the reward model knows'
    ' little and is easily fooled'
)
_STAY = (
    'read samples.jsonl; raise ppo.kl_coefficient, or stop at an earlier'
    ' checkpoint'
)
