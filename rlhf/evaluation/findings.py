# SPDX-License-Identifier: Apache-2.0
"""The paper's claims, and whether they came out: decided by the numbers.

`contrasts` are the comparisons behind the claims, prompt by prompt; `findings`
reads their intervals and says 'came out', 'did not come out' or 'not clear'.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from rlhf.evaluation.measurements import MODELS, Measurements

CAME_OUT = 'came out'
DID_NOT = 'did not come out'
NOT_CLEAR = 'not clear'

NAMES = {
    'base': 'base',
    'prompted': 'prompted',
    'sft': 'SFT',
    'ppo': 'PPO',
    'ppo_ptx': 'PPO-ptx',
}

# Two policies whose wins over each other stay within this are about equal; the
# reward model should have come this far from chance to its ceiling. Ours.
_EQUAL = (0.45, 0.55)
_STRONG = 2 / 3
_TRAINING, _HELD_OUT = 'win_rate/training_labelers', 'win_rate/heldout_labelers'
_TRAINED = ('ppo', 'ppo_ptx')
_ENDS = ('mean', 'low', 'high')


@dataclasses.dataclass(frozen=True)
class Finding:
  """A claim of the paper in the miniature's terms.

  Attributes:
    claim: a sentence.
    verdicts: of each part of the claim (a model, often) what the numbers say.
    text: the numbers.
  """

  claim: str
  verdicts: dict[str, str]
  text: str

  @property
  def status(self) -> str:
    """The worst of the parts: one of CAME_OUT, NOT_CLEAR, DID_NOT."""
    return next(
        status
        for status in (DID_NOT, NOT_CLEAR, CAME_OUT)
        if any(v.startswith(status) for v in self.verdicts.values())
    )

  @property
  def verdict(self) -> str:
    """In words; part by part, where the parts differ."""
    if len(set(self.verdicts.values())) == 1:
      return next(iter(self.verdicts.values()))
    return '; '.join(f'{part}: {v}' for part, v in self.verdicts.items())


def contrasts(measured: Mapping[str, Measurements]) -> Measurements:
  """Differences between models on the same prompts, and ratios of them.

  Args:
    measured: of `miniature.examine_all`.

  Returns:
    Measurements, float [n] or [n, 2]:

      wins/sft_over_prompted, wins/prompted_over_base   in wins against SFT
      wins_on_unseen/<model>   against SFT, on texts that no stage read
      share_of_ceiling/<model> (wins - 1/2) / (clean writer's wins - 1/2)
      tax/won_back             (PPO - PPO-ptx) / (PPO - SFT), in pretrain loss
      respect/<model>          rudeness without - with the respectful request
      pretrain_loss/base       base - SFT
      <measurement>/<model>    PPO or PPO-ptx - SFT, for gold_utility,
                               pretrain_loss, invention_rate, rude_rate/plain
                               and length
  """
  wins = {model: measured[model][_TRAINING] for model in MODELS}
  loss = {model: measured[model]['pretrain_loss'] for model in MODELS}
  new = measured['prompts']['seen_in_training'] == 0
  possible = measured['clean_writer'][_TRAINING] - 0.5
  found = {
      'wins/sft_over_prompted': wins['sft'] - wins['prompted'],
      'wins/prompted_over_base': wins['prompted'] - wins['base'],
      'pretrain_loss/base': loss['base'] - loss['sft'],
      'tax/won_back': np.stack(
          [loss['ppo'] - loss['ppo_ptx'], loss['ppo'] - loss['sft']], 1
      ),
  }
  for model in MODELS:
    # Different prompts, paired at random: no gain, but no error either.
    found[f'respect/{model}'] = (
        measured[model]['rude_rate/plain']
        - measured[model]['rude_rate/respectful']
    )
  for model in _TRAINED:
    found[f'wins_on_unseen/{model}'] = wins[model][new]
    found[f'share_of_ceiling/{model}'] = np.stack(
        [wins[model] - 0.5, possible], 1
    )
    for name in (
        'gold_utility',
        'pretrain_loss',
        'invention_rate',
        'rude_rate/plain',
        'length',
    ):
      found[f'{name}/{model}'] = measured[model][name] - measured['sft'][name]
  return found


def above(interval: Mapping, threshold: float, shown: str) -> str:
  """Whether a mean is above a threshold, `shown` in the reader's units."""
  if not math.isfinite(interval['low'] + interval['high']):
    return f'{NOT_CLEAR}: not measured'
  if interval['low'] > threshold:
    return CAME_OUT
  if interval['high'] < threshold:
    return DID_NOT
  return f'{NOT_CLEAR}: the interval includes {shown}'


def below(interval: Mapping, threshold: float, shown: str) -> str:
  """Whether a mean is below a threshold."""
  turned = {'low': -interval['high'], 'high': -interval['low']}
  return above(turned, -threshold, shown)


def about_equal(interval: Mapping, low: float, high: float) -> str:
  """Whether a win rate is close to one half."""
  if low <= interval['low'] and interval['high'] <= high:
    return CAME_OUT
  if interval['high'] < low or interval['low'] > high:
    return DID_NOT
  if interval['low'] > 0.5 or interval['high'] < 0.5:
    return f'{DID_NOT}: the interval excludes 50 %'
  return (
      f'{NOT_CLEAR}: the interval includes 50 % and is not within'
      f' {100 * low:.0f} to {100 * high:.0f} %'
  )


def percent(interval: Mapping, digits: int = 1) -> str:
  """A share in per cent, with its interval."""
  return number({k: 100 * interval[k] for k in _ENDS}, digits) + ' %'


def points(interval: Mapping, digits: int = 1) -> str:
  """A difference of shares in percentage points, with its interval."""
  return number({k: 100 * interval[k] for k in _ENDS}, digits) + ' points'


def number(interval: Mapping, digits: int = 2) -> str:
  """A mean with its interval, 'mean [low, high]'."""
  mean, low, high = (rounded(interval[k], digits) for k in _ENDS)
  return f'{mean} [{low}, {high}]'


def rounded(value: float, digits: int) -> str:
  """A number to some digits, without the sign of a zero."""
  text = f'{value:.{digits}f}'
  return text.lstrip('-') if float(text) == 0 else text


def findings(results: Mapping) -> list[Finding]:
  """Every claim, with what the numbers of a `results.json` say of it."""
  models, found = results['models'], results['contrasts']
  return [
      *_preferences(results, models, found),
      *_costs(models, found),
      _respect(models, found),
      _reward_model(results['reward_model']),
  ]


def _each(judge: Callable[[str], str]) -> dict[str, str]:
  """`judge(model)` of PPO and PPO-ptx, by their names."""
  return {NAMES[model]: judge(model) for model in _TRAINED}


def _listed(values: Mapping, name: str, show: Callable, among=MODELS) -> str:
  """'SFT 1 [0, 2], PPO 3 [2, 4]' of one measurement."""
  return ', '.join(f'{NAMES[m]} {show(values[m][name])}' for m in among)


def _preferences(results, models, found) -> list[Finding]:
  clean = results['clean_writer'][_TRAINING]
  duel = results['ppo_ptx_vs_ppo']
  among = ('sft', *_TRAINED)
  return [
      Finding(
          'PPO and PPO-ptx are preferred to SFT by the training labelers.',
          _each(lambda m: above(models[m][_TRAINING], 0.5, '50 %')),
          f'Wins against SFT: {_listed(models, _TRAINING, percent, among)};'
          f' a writer without flaws {percent(clean)}. Of the way from one half'
          ' to that writer,'
          f' PPO goes {percent(found["share_of_ceiling/ppo"], 0)} and PPO-ptx'
          f' {percent(found["share_of_ceiling/ppo_ptx"], 0)}. The aim of 55 %'
          f' is {_reached(models)}. On prompts whose'
          ' text no stage read, PPO wins'
          f' {percent(found["wins_on_unseen/ppo"])} and PPO-ptx'
          f' {percent(found["wins_on_unseen/ppo_ptx"])}.',
      ),
      Finding(
          'Held-out labelers, who labelled no training data, prefer them too.',
          _each(lambda m: above(models[m][_HELD_OUT], 0.5, '50 %')),
          f'Wins against SFT: {_listed(models, _HELD_OUT, percent, among)}.',
      ),
      Finding(
          'The gold rubric agrees: their answers are better than those of SFT.',
          _each(lambda m: above(found[f'gold_utility/{m}'], 0, '0')),
          'Gold utility above that of SFT, on the same prompts: PPO'
          f' {number(found["gold_utility/ppo"])}, PPO-ptx'
          f' {number(found["gold_utility/ppo_ptx"])}.',
      ),
      Finding(
          'PPO-ptx and PPO are about equally good.',
          {'': about_equal(duel[_TRAINING], *_EQUAL)},
          f'PPO-ptx wins {percent(duel[_TRAINING])} against PPO;'
          f' {percent(duel[_HELD_OUT])} with held-out labelers.',
      ),
      Finding(
          'SFT is preferred to the prompted base.',
          {'': above(found['wins/sft_over_prompted'], 0, '0')},
          'SFT wins more often against SFT than the prompted base does, by'
          f' {points(found["wins/sft_over_prompted"])}.',
      ),
      Finding(
          'The prompted base is preferred to the base.',
          {'': above(found['wins/prompted_over_base'], 0, '0')},
          'Wins against SFT:'
          f' {_listed(models, _TRAINING, percent, ("base", "prompted"))};'
          f' difference {points(found["wins/prompted_over_base"])}.',
      ),
  ]


def _reached(models) -> str:
  missed = [NAMES[m] for m in _TRAINED if models[m][_TRAINING]['mean'] < 0.55]
  return f'missed by {" and ".join(missed)}' if missed else 'reached by both'


def _costs(models, found) -> list[Finding]:
  among = ('sft', *_TRAINED)
  loss = _listed(
      models, 'pretrain_loss', lambda x: number(x, 3), ('base', *among)
  )
  return [
      Finding(
          'PPO pays an alignment tax: it grows worse at pretraining text.',
          {'': above(found['pretrain_loss/ppo'], 0, '0')},
          f'Loss on held-out text, nats a token: {loss}. PPO against SFT:'
          f' {number(found["pretrain_loss/ppo"], 3)}.',
      ),
      Finding(
          'PPO-ptx wins back at least half of it.',
          {'': _won_back(found)},
          f'Won back: {percent(found["tax/won_back"], 0)} of the tax (over'
          ' 100 % is better than SFT was). PPO-ptx against SFT:'
          f' {number(found["pretrain_loss/ppo_ptx"], 3)}.',
      ),
      Finding(
          'Less is invented in closed-domain tasks than by SFT.',
          _each(lambda m: below(found[f'invention_rate/{m}'], 0, '0')),
          'Answers with something invented:'
          f' {_listed(models, "invention_rate", percent, among)}. Against SFT:'
          f' PPO {points(found["invention_rate/ppo"])}, PPO-ptx'
          f' {points(found["invention_rate/ppo_ptx"])}.',
      ),
      Finding(
          'They are less often rude than SFT.',
          _each(lambda m: below(found[f'rude_rate/plain/{m}'], 0, '0')),
          'Rude replies to a comment, respect not asked for:'
          f' {_listed(models, "rude_rate/plain", percent, among)}.',
      ),
  ]


def _won_back(found) -> str:
  # A ratio to a tax that may be zero says nothing.
  if found['pretrain_loss/ppo']['low'] <= 0:
    return f'{NOT_CLEAR}: no clear tax to win back'
  return above(found['tax/won_back'], 0.5, '50 %')


def _respect(models, found) -> Finding:
  return Finding(
      'Asked to be respectful, SFT is less often rude.',
      {'': above(found['respect/sft'], 0, '0')},
      'Rude replies, asked to be respectful:'
      f' {_listed(models, "rude_rate/respectful", percent)}. The request lowers'
      f' the rate of SFT by {points(found["respect/sft"])}, of PPO by'
      f' {points(found["respect/ppo"])}, of PPO-ptx by'
      f' {points(found["respect/ppo_ptx"])}.',
  )


def _reward_model(rm: Mapping) -> Finding:
  return Finding(
      'The reward model comes two thirds of the way to its ceiling.',
      {'': above(rm['strength'], _STRONG, '67 %')},
      f'Of new comparisons it orders {percent(rm["accuracy"])} rightly. Two'
      f' labelers agree on {percent(rm["agreement"])}; their mean noiseless'
      f' opinion, the ceiling, is right about {percent(rm["ceiling"])}. From'
      f' chance to there it comes {percent(rm["strength"], 0)} of the way.'
      f' Held-out labelers: {percent(rm["accuracy_held_out"])} right, of a'
      f' ceiling of {percent(rm["ceiling_held_out"])}.',
  )
