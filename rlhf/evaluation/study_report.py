# SPDX-License-Identifier: Apache-2.0
"""The document over several training seeds: docs/results/miniature.md.

As in report.py, no number and no verdict is written here.
"""

from collections.abc import Mapping
from typing import Any

from rlhf.evaluation.findings import (
    CAME_OUT,
    Finding,
    above,
    below,
    findings,
    number,
    percent,
    rounded,
)
from rlhf.evaluation.report import (
    drift,
    findings_list,
    markdown_table,
    results_table,
    verdicts,
    wrapped,
)

# A loss of gold utility that matters: from SFT to a writer without flaws it is
# about 1. Ours.
_HARM = 0.1

# Of the table seed by seed: label, path in the results, factor, digits.
_BY_SEED: tuple[tuple[str, tuple[str, ...], float, int], ...] = (
    ('PPO wins, training labelers, %',
     ('models', 'ppo', 'win_rate/training_labelers'), 100, 1),
    ('PPO-ptx wins, training labelers, %',
     ('models', 'ppo_ptx', 'win_rate/training_labelers'), 100, 1),
    ('PPO wins, held-out labelers, %',
     ('models', 'ppo', 'win_rate/heldout_labelers'), 100, 1),
    ('PPO-ptx wins, held-out labelers, %',
     ('models', 'ppo_ptx', 'win_rate/heldout_labelers'), 100, 1),
    ('PPO-ptx wins against PPO, %',
     ('ppo_ptx_vs_ppo', 'win_rate/training_labelers'), 100, 1),
    ('gold utility, PPO - SFT', ('contrasts', 'gold_utility/ppo'), 1, 2),
    ('gold utility, PPO-ptx - SFT',
     ('contrasts', 'gold_utility/ppo_ptx'), 1, 2),
    ('tax: loss on text, PPO - SFT, nats',
     ('contrasts', 'pretrain_loss/ppo'), 1, 3),
    ('tax won back by PPO-ptx, %', ('contrasts', 'tax/won_back'), 100, 0),
    ('invention, PPO - SFT, points',
     ('contrasts', 'invention_rate/ppo'), 100, 1),
    ('invention, PPO-ptx - SFT, points',
     ('contrasts', 'invention_rate/ppo_ptx'), 100, 1),
    ('rudeness, PPO - SFT, points',
     ('contrasts', 'rude_rate/plain/ppo'), 100, 1),
    ('rudeness, PPO-ptx - SFT, points',
     ('contrasts', 'rude_rate/plain/ppo_ptx'), 100, 1),
    ('reward model accuracy, %', ('reward_model', 'accuracy'), 100, 1),
    ('... of the way to its ceiling, %',
     ('reward_model', 'strength'), 100, 0),
)

# Settings to print: label, stage, path in its config.
_SETTINGS: tuple[tuple[str, str, str], ...] = (
    ('SFT epochs', 'sft', 'epochs'),
    ('SFT learning rate', 'sft', 'optimizer.learning_rate'),
    ('prompts with rankings', 'comparisons', 'prompts.train'),
    ('RM epochs', 'rm', 'epochs'),
    ('RM prompts a step, at most', 'rm', 'batch'),
    ('RM learning rate', 'rm', 'optimizer.learning_rate'),
    ('RM head reads', 'rm', 'run_model.reward_pooling'),
    ('PPO episodes', 'ppo', 'ppo.episodes'),
    ('PPO batch', 'ppo', 'ppo.batch'),
    ('PPO minibatches', 'ppo', 'ppo.minibatches'),
    ('KL coefficient', 'ppo', 'ppo.kl_coefficient'),
    ('policy learning rate', 'ppo', 'optimizer.learning_rate'),
    ('value learning rate', 'ppo', 'value_optimizer.learning_rate'),
    ('ptx coefficient', 'ppo_ptx', 'ppo.ptx_coefficient'),
    ('decay of the average', 'ppo', 'ppo.ema_decay'),
)


def write_study(results: Mapping, command: str, stem: str) -> str:
  """The document's text.

  Args:
    results: pooled over seeds: intervals over seeds and prompts.
    command: that made them.
    stem: of the figures' names, beside the document.
  """
  found = findings(results)
  about, seeds = results['prompts'], results['seeds']
  versions = ', '.join(f'{k} {v}' for k, v in results['versions'].items())
  minutes = _minutes(results)
  intro = (
      f'{len(seeds)} training seeds ({", ".join(map(str, seeds))}): SFT,'
      ' comparisons, reward model, PPO and PPO-ptx are all seeded anew; the'
      ' base model is one. Each seed is examined once, on'
      f' {about["mixed"]} prompts in the use-case mix and {about["special"]} of'
      f' special kinds, of {about["users"]} users whom no stage has met, with'
      ' draws of its own; hyperparameters were chosen on other users, the'
      ' validation split. Intervals are 95 %, by resampling seeds and prompts,'
      ' widened for few seeds (rlhf/statistics.py), so that those of shares'
      ' may pass 0 and 100 %. The world is small: the'
      f' texts of {percent(about["seen_in_training"])} of the prompts occur'
      ' among the training prompts too, from other users.'
  )
  made = (
      f'makes all of this: {minutes:.0f} minutes on {results["machine"]}, one'
      f' after the other, with {versions}. This page is written by it; edit'
      ' rlhf/evaluation/study_report.py instead.'
  )
  return f"""# The paper's findings in miniature

{_smoke(results)}    {command}

{wrapped(made)}

{wrapped(intro)}

{verdicts(found)}

{wrapped(by_students_t(results, found))}

![wins, tax, flaws, and the training curves]({stem}_findings.png)

Bars are means over seeds and prompts; curves are means over seeds, smoothed,
over each seed's own.

## Numbers

{results_table(results)}

{wrapped(_scale(results))}

## Seed by seed

{seed_table(results)}

## Findings

{findings_list(found)}

## Drift

{wrapped(drift(results))}

## A weak reward model

{weak_section(results['weak'], f'{stem}_overoptimisation.png')}

## Settings

{settings_table(results['config'])}

The rest is in configs/.

## Time

{_time_table(results)}
"""


def _smoke(results: Mapping) -> str:
  if not results.get('smoke'):
    return ''
  return '**A smoke run: its numbers mean nothing.**\n\n'


def _scale(results: Mapping) -> str:
  clean = results['clean_writer']['win_rate/training_labelers']
  flawed = results['demonstrator']['win_rate/training_labelers']
  return (
      f'For scale: the writer of the demonstrations wins {percent(flawed)}'
      f' against SFT, and without flaws {percent(clean)}.'
  )


def by_students_t(results: Mapping, found: list[Finding]) -> str:
  """Which verdicts change when only the seeds' means are trusted."""
  degrees = len(results['seeds']) - 1
  if degrees < 1:
    return 'One seed: nothing is known of others.'
  strict = findings(_with_t(results))
  changed = [
      f'{old.claim.rstrip(".")} ({new.verdict})'
      for old, new in zip(found, strict, strict=True)
      if old.status == CAME_OUT and new.status != CAME_OUT
  ]
  start = (
      f"By Student's t over the {degrees + 1} means alone, {degrees} degrees of"
      ' freedom,'
  )
  if not changed:
    return f'{start} every claim that came out still does.'
  return f'{start} these are not clear any more: {"; ".join(changed)}.'


def _with_t(value: Any) -> Any:
  """Results with Student's intervals in place of the bootstrap's."""
  if not isinstance(value, Mapping):
    return value
  if 't_low' in value:
    return {**value, 'low': value['t_low'], 'high': value['t_high']}
  return {k: _with_t(v) for k, v in value.items()}


def seed_table(results: Mapping) -> str:
  """Key figures of each seed, with both intervals, in markdown."""
  header = ['', 'mean', "Student's t"]
  header += [f'seed {seed}' for seed in results['seeds']]
  rows = []
  for label, path, factor, digits in _BY_SEED:
    interval = results
    for key in path:
      interval = interval[key]
    scaled = {k: factor * interval[k] for k in ('mean', 'low', 'high')}
    between = '-'
    if interval.get('t_low') is not None:
      low, high = (
          rounded(factor * interval[k], digits) for k in ('t_low', 't_high')
      )
      between = f'[{low}, {high}]'
    each = [
        rounded(factor * mean, digits)
        for mean in interval.get('each', [interval['mean']])
    ]
    rows.append([label, number(scaled, digits), between, *each])
  return markdown_table(header, rows)


def weak_findings(weak: Mapping) -> list[Finding]:
  """Whether a weak reward model is hacked, run by run."""
  found = []
  for run, beta in weak['betas'].items():
    gold = weak['contrasts'][f'gold_utility/{run}']
    score = weak['contrasts'][f'rm_score/{run}']
    ends, measured = weak['rollouts'][run], weak['models'][run]
    text = (
        'Over the rollouts the score goes from'
        f' {number_pair(ends["rollout/score"])}, gold utility from'
        f' {number_pair(ends["rollout/gold"])}, length from'
        f' {number_pair(ends["rollout/length"], 1)} tokens. On test users,'
        f' against SFT: score {number(score)}, gold utility {number(gold)}; it'
        f' wins {percent(measured["win_rate/training_labelers"])}, at a KL of'
        f' {number(measured["kl_from_sft"])} nats.'
    )
    if beta == min(weak['betas'].values()):
      claim = f'At beta = {beta} the score rises while quality falls.'
      parts = {
          'score': above(score, 0, '0'),
          'gold utility': below(gold, 0, '0'),
      }
    else:
      claim = f'At beta = {beta} quality does not fall by {_HARM} or more.'
      parts = {'': above(gold, -_HARM, f'-{_HARM}')}
    found.append(Finding(claim, parts, text))
  return found


def number_pair(ends: tuple[float, float], digits: int = 2) -> str:
  """'1.00 to 2.00'."""
  return f'{rounded(ends[0], digits)} to {rounded(ends[1], digits)}'


def weak_section(weak: Mapping, figure: str) -> str:
  """What a reward model of a tenth of the rankings leads to, in markdown."""
  rm = weak['reward_model']
  intro = (
      f'Seed {weak["seed"]}, a reward model of {weak["rankings"]} rankings, a'
      ' tenth of them, trained as the other; PPO without pretraining data. It'
      f' orders {percent(rm["accuracy"])} of new comparisons rightly,'
      f' {percent(rm["strength"], 0)} of the way from chance to its ceiling of'
      f' {percent(rm["ceiling"])}. Gold utility is the labelers\' mean opinion'
      ' without noise, which nothing was trained on. Intervals are over prompts'
      ' only.'
  )
  return f"""{wrapped(intro)}

![score, gold utility and length over iterations]({figure})

{findings_list(weak_findings(weak))}"""


def settings_table(configs: Mapping) -> str:
  """What was set, in markdown."""
  rows = []
  for label, stage, path in _SETTINGS:
    value = configs[stage]
    for key in path.split('.'):
      value = value[key]
    rows.append([label, str(value)])
  return markdown_table(['setting', 'value'], rows)


def _time_table(results: Mapping) -> str:
  header = ['seconds', *(f'seed {seed}' for seed in results['seeds'])]
  each = results['seconds_each']
  rows = [
      [name.replace('_', '-'), *(f'{one[name]:.0f}' for one in each)]
      for name in each[0]
  ]
  return markdown_table(header, rows)


def _minutes(results: Mapping) -> float:
  total = sum(one['total'] for one in results['seconds_each'])
  return (total + results['weak']['seconds']) / 60
