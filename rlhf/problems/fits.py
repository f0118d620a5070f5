# SPDX-License-Identifier: Apache-2.0
"""Numbers that have to fit each other. Each is good by itself (`ranges`)."""

from collections.abc import Iterator
from typing import Any

from rlhf.problems import networks, rules
from rlhf.problems.rules import Config, Problem

# Metrics of each stage's evaluation; of those in LOWER less is better.
EVALUATED = {
    'pretrain': ('validation/loss',),
    'sft': ('validation/loss', 'validation/rm_score'),
    'reward': ('validation/accuracy',),
}
LOWER = ('validation/loss',)
# Below it a variance says little (detail 30 in docs/details.md).
_ROWS_TO_WHITEN = 8


def find(config: Config) -> Iterator[Problem]:
  """What does not fit, of all stages."""
  yield from _batches(config)
  yield from ppo(config)
  yield from _comparisons(config)
  yield from _shares(config)
  yield from _lengths(config)
  yield from _warmup(config)
  yield from _best(config)


def divides(key: str, value: int, of: int, what: str) -> Iterator[Problem]:
  """A problem unless `value` divides `of`, which `what` names."""
  if of % value:
    divisors = [n for n in range(1, of + 1) if of % n == 0]
    nearest = min(divisors, key=lambda n: abs(n - value))
    message = f'does not divide {what}: give a divisor, such as {nearest}'
    yield Problem(key, value, message)


def _batches(config: Config) -> Iterator[Problem]:
  """Gradient accumulation of the stages that have a batch of rows."""
  batch = rules.count(config, 'batch')
  parts = rules.count(config, 'micro_batches')
  share = rules.get(config, 'pretraining_share')
  if batch is None:
    return
  rows, what = batch, f'batch={batch}'
  if rules.is_number(share) and 0 < share < 1:
    # As in rlhf/stages/sft.py.
    text = round(batch * share / (1 - share))
    rows += text
    what = f'the {rows} rows of a step (batch={batch} and {text} of text)'
    if not text:
      yield Problem(
          'pretraining_share',
          share,
          f'is less than half a row of text beside batch={batch}, so that there'
          f' would be none: give 0, {0.501 / (batch + 0.501):.4f} or more, or a'
          ' larger batch',
      )
  if parts is not None:
    yield from divides('micro_batches', parts, rows, what)
    packed = rules.count(config, 'rows')
    if packed is not None:
      yield from divides('micro_batches', parts, packed, f'rows={packed}')


def ppo(config: Config) -> Iterator[Problem]:
  """Of a PPO batch: its parts, and how many there are."""
  batch = rules.count(config, 'ppo.batch')
  parts = rules.count(config, 'ppo.minibatches')
  if batch is None:
    return
  for key in ('ppo.rollout_rows', 'ppo.score_rows'):
    rows = rules.count(config, key)
    if rows is not None:
      yield from divides(key, rows, batch, f'ppo.batch={batch}')
  if parts is not None:
    wrong = [
        *divides('ppo.minibatches', parts, batch, f'ppo.batch={batch}')
    ]
    yield from wrong or _minibatch(config, batch // parts)
  yield from _iterations(config, batch)


def _minibatch(config: Config, rows: int) -> Iterator[Problem]:
  micro = rules.count(config, 'ppo.micro_batches')
  if micro is not None:
    what = f'the {rows} rows of a minibatch (ppo.batch / ppo.minibatches)'
    yield from divides('ppo.micro_batches', micro, rows, what)
  ratio = rules.count(config, 'ppo.ptx_ratio')
  parts = rules.count(config, 'ppo.ptx_micro_batches')
  if ratio is not None and parts is not None:
    text = ratio * rows
    what = f'the {text} rows of pretraining text of an update'
    yield from divides('ppo.ptx_micro_batches', parts, text, what)
  whiten = rules.get(config, 'ppo.whiten_rewards')
  if whiten is True and rows < _ROWS_TO_WHITEN:
    yield Problem(
        'ppo.whiten_rewards',
        whiten,
        f'wants at least {_ROWS_TO_WHITEN} rows a minibatch, and there are'
        f' {rows}: give a larger ppo.batch, fewer ppo.minibatches, or False',
    )


def _iterations(config: Config, batch: int) -> Iterator[Problem]:
  episodes = rules.count(config, 'ppo.episodes')
  if episodes is None:
    return
  if episodes < batch:
    yield Problem(
        'ppo.episodes',
        episodes,
        f'is less than a batch: give ppo.batch={batch} or more, or a smaller'
        ' ppo.batch',
    )
    return
  iterations = -(-episodes // batch)
  warmup = rules.count(config, 'ppo.value_warmup_iterations')
  if warmup is not None and warmup >= iterations:
    yield Problem(
        'ppo.value_warmup_iterations',
        warmup,
        f'leaves the policy untrained in all {iterations} iterations'
        f' (ppo.episodes / ppo.batch): give {iterations - 1} or less, or more'
        ' ppo.episodes',
    )


def _comparisons(config: Config) -> Iterator[Problem]:
  low, high = rules.count(config, 'k_min'), rules.count(config, 'k_max')
  if low is not None and high is not None and low > high:
    yield Problem(
        'k_min', low, f'is above k_max={high}: give {high} or less'
    )


def _shares(config: Config) -> Iterator[Problem]:
  names = ('data.validation_share', 'data.test_share')
  shares = [rules.get(config, name) for name in names]
  good = all(rules.is_number(s) and 0 <= s < 1 for s in shares)
  if good and sum(shares) >= 1:
    yield Problem(
        names[1],
        shares[1],
        f'leaves nothing to train beside {names[0]}={shares[0]}: give shares'
        ' that sum to less than 1',
    )


def _lengths(config: Config) -> Iterator[Problem]:
  stage = rules.get(config, 'stage')
  prompt = rules.count(config, 'data.prompt_tokens')
  response = rules.count(config, 'data.response_tokens')
  row = rules.count(config, 'data.row_tokens')
  both = None if prompt is None or response is None else prompt + response
  yield from _buckets(config, prompt)
  # What the stage reads at once, and the remedy.
  read: list[tuple[str, Any, str]] = []
  if stage in ('ppo', 'comparisons'):
    name = 'data.response_tokens'
    read.append((name, both, f'with data.prompt_tokens={prompt} makes {both}'))
  if stage in ('pretrain', 'sft', 'reward'):
    read.append(('data.row_tokens', row, 'is a row'))
  if stage == 'ppo' and rules.get(config, 'ppo.ptx_coefficient'):
    ptx = rules.count(config, 'data.ptx_row_tokens')
    read.append(('data.ptx_row_tokens', ptx, 'is a row'))
  for key, tokens, what in read:
    for network, context in networks.contexts(config):
      if network == 'reward_model' and 'ptx' in key:
        continue  # The reward model reads no text.
      if tokens is not None and tokens > context:
        largest = context - (tokens - (rules.count(config, key) or 0))
        yield Problem(
            key,
            rules.get(config, key),
            f'{what}, more than the {context} tokens of context of {network}:'
            f' give {max(largest, 1)} or less',
        )
  if stage in ('sft', 'reward') and both is not None and row is not None:
    if both > row:
      yield Problem(
          'data.row_tokens',
          row,
          f'is too short for data.prompt_tokens={prompt} and'
          f' data.response_tokens={response}: give {both} or more, or less of'
          ' those',
      )


def _buckets(config: Config, prompt: int | None) -> Iterator[Problem]:
  key = 'data.prompt_buckets'
  value = rules.get(config, key)
  if value is rules.ABSENT:
    return
  remedy = 'give lengths that rise, as in "(128, 512)", or "()"'
  if not isinstance(value, tuple | list) or not all(
      rules.is_integer(n) and n >= 1 for n in value
  ):
    yield Problem(key, value, f'is no tuple of lengths: {remedy}')
  elif list(value) != sorted({*value}):
    yield Problem(key, value, f'is not in order: {remedy}')
  elif prompt is not None and value and value[-1] >= prompt:
    yield Problem(
        key,
        value,
        f'holds lengths that are not below data.prompt_tokens={prompt}, the'
        ' last bucket by itself: leave them out',
    )


def _warmup(config: Config) -> Iterator[Problem]:
  """Where the number of updates is known before the data are."""
  total, key = rules.count(config, 'steps'), 'steps'
  if rules.get(config, 'stage') == 'ppo':
    total, key = _updates(config), 'ppo.episodes'
  for name in ('optimizer', 'value_optimizer'):
    steps = rules.count(config, f'{name}.warmup_steps')
    # A short trial of a rate that stays may well end in its warm-up; one that
    # falls would have no steps to fall over.
    falls = rules.get(config, f'{name}.schedule') in ('cosine', 'linear')
    if not falls or steps is None or total is None:
      continue
    if steps >= total:
      yield Problem(
          f'{name}.warmup_steps',
          steps,
          f'leaves none of the {total} updates to the schedule: give less than'
          f' {total}, or more {key}',
      )


def _updates(config: Config) -> int | None:
  """Optimizer steps of PPO's run; None if they can't be told."""
  updates = 1
  for name in ('minibatches', 'inner_epochs'):
    updates *= rules.count(config, f'ppo.{name}') or 0
  episodes = rules.count(config, 'ppo.episodes') or 0
  batch = rules.count(config, 'ppo.batch')
  return updates * -(-episodes // batch) or None if batch else None


def _best(config: Config) -> Iterator[Problem]:
  key = 'loop.best'
  best = rules.get(config, key)
  if best is rules.ABSENT or best == '':
    return
  known = EVALUATED.get(str(rules.get(config, 'stage')), ())
  right = [f'-{name}' if name in LOWER else name for name in known]
  if not known:
    yield Problem(key, best, 'this stage evaluates nothing: leave it empty')
    return
  metric = best.removeprefix('-') if isinstance(best, str) else ''
  if metric not in known:
    choices = ' or '.join(right)
    message = f'this stage does not evaluate it: give {choices}'
    yield Problem(key, best, message)
    return
  wanted = right[known.index(metric)]
  if best != wanted:
    better = 'less' if metric in LOWER else 'more'
    message = f'of {metric} {better} is better: give {wanted}'
    yield Problem(key, best, message)
  if metric == 'validation/rm_score' and not rules.get(config, 'reward_model'):
    yield Problem(
        key,
        best,
        'needs a reward model: set --config.reward_model= to the directory of a'
        ' finished one',
    )
