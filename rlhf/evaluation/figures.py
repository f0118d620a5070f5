# SPDX-License-Identifier: Apache-2.0
"""Figures: the miniature's findings, training curves, the hacked RM, real text.

Error bars are the 95 % intervals of results.json.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf.evaluation.findings import NAMES
from rlhf.evaluation.measurements import MODELS

# By name of a metric, (iterations, values) of a run.
Curves = dict[str, tuple[np.ndarray, np.ndarray]]

_COLORS = {
    'base': '#8c8c8c',
    'prompted': '#b3a369',
    'sft': '#4878a8',
    'ppo': '#d1752c',
    'ppo_ptx': '#3c8d5a',
}
_GROUPS = (
    ('win_rate/training_labelers', 'training labelers', 1.0),
    ('win_rate/heldout_labelers', 'held-out labelers', 0.5),
)
_FLAWS = (
    ('invention_rate', 'invents\n(closed tasks)'),
    ('rude_rate/plain', 'rude\n(plain)'),
    ('rude_rate/respectful', 'rude (asked\nfor respect)'),
)
_SMOOTHING = 15  # Iterations.


def read_curves(run: pathlib.Path, prefix: str = 'rollout/') -> Curves:
  """Metrics of a run whose names begin so, from its metrics.jsonl.

  A run that was interrupted and started over has its later lines taken.
  """
  found: dict[str, dict[int, float]] = {}
  with open(run / 'metrics.jsonl', encoding='utf-8') as f:
    for line in f:
      row = json.loads(line)
      for name, value in row.items():
        if name.startswith(prefix):
          found.setdefault(name, {})[row['step']] = value
  return {
      name: (
          np.array(sorted(by_step), float),
          np.array([value for _, value in sorted(by_step.items())]),
      )
      for name, by_step in found.items()
  }


def ends(curves: Curves, count: int = 10) -> dict[str, tuple[float, float]]:
  """Means of the first and of the last iterations of each metric."""
  return {
      name: (float(values[:count].mean()), float(values[-count:].mean()))
      for name, (_, values) in curves.items()
  }


def smoothed(values: np.ndarray, width: int = _SMOOTHING) -> np.ndarray:
  """Centred moving average; at the ends of what there is."""
  half = width // 2
  return np.array([
      values[max(i - half, 0) : i + half + 1].mean() for i in range(len(values))
  ])


def findings_figure(
    results: Mapping,
    curves: Mapping[str, Sequence[Curves]],
    path: pathlib.Path,
) -> None:
  """Wins, tax and flaws by model above, PPO's training curves below.

  Args:
    results: of a results.json.
    curves: of 'ppo' and 'ppo_ptx', a run or one of each seed.
    path: of the PNG.
  """
  figure = _figure(width=11, height=6.2)
  axes = figure.subplots(2, 3)
  models = results['models']
  ceiling = results['clean_writer']['win_rate/training_labelers']['mean']
  _wins(axes[0, 0], models, ceiling)
  _tax(axes[0, 1], results['contrasts'])
  _flaws(axes[0, 2], models)
  for ax, name, title in zip(
      axes[1],
      ('rollout/score', 'rollout/kl', 'rollout/length'),
      ('reward model score', 'KL from SFT, nats an answer', 'length, tokens'),
      strict=True,
  ):
    for model, runs in curves.items():
      _curve(ax, runs, name, NAMES[model], _COLORS[model])
    ax.set(title=title, xlabel='PPO iteration')
    ax.margins(x=0.01)
  axes[1, 0].legend(frameon=False)
  _finish(figure, path)


def overoptimisation_figure(
    curves: Mapping[str, Curves], path: pathlib.Path
) -> None:
  """What a weak reward model says, and what is so, over iterations.

  Args:
    curves: of runs by their label in the legend, with 'rollout/gold'.
    path: of the PNG.
  """
  figure = _figure(width=11, height=3.3)
  axes = figure.subplots(1, 3)
  colors = ('#b3342d', '#4878a8', '#3c8d5a')
  for ax, name, title in zip(
      axes,
      ('rollout/score', 'rollout/gold', 'rollout/length'),
      ('score by the weak reward model', 'gold utility', 'length, tokens'),
      strict=True,
  ):
    for (label, run), color in zip(curves.items(), colors, strict=False):
      _curve(ax, [run], name, label, color)
    ax.set(title=title, xlabel='PPO iteration')
    ax.margins(x=0.01)
  axes[0].legend(frameon=False)
  _finish(figure, path)


# Of each panel of `real_figure`: title, and (stage, metric) with a label and a
# colour; colours of models are for what is smoothed.
_GREY, _BLUE = '#8c8c8c', '#4878a8'
_LEARNING: tuple[tuple[str, tuple[tuple[str, str, str, str], ...]], ...] = (
    ('pretraining: loss, nats a token', (
        ('pretrain', 'pretrain/loss', 'training', _GREY),
        ('pretrain', 'validation/loss', 'held out', _BLUE),
    )),
    ('SFT: loss, nats a token', (
        ('sft', 'sft/loss', 'training', _GREY),
        ('sft', 'validation/loss', 'held-out demonstrations', _BLUE),
    )),
    ('reward model: ranking loss', (
        ('rm', 'rm/loss', 'training', _GREY),
    )),
    ('reward model: accuracy', (
        ('rm', 'rm/accuracy', 'training', _GREY),
        ('rm', 'validation/accuracy', 'held out', _BLUE),
    )),
)
_ROLLOUTS = (
    ('rollout/score', 'reward model score'),
    ('rollout/kl', 'KL from SFT, nats an answer'),
    ('rollout/length', 'length, tokens'),
    ('ptx/loss', 'loss of the pretraining term'),
)


def real_figure(curves: Mapping[str, Curves], path: pathlib.Path) -> None:
  """Losses of the first three stages above, PPO against PPO-ptx below.

  Args:
    curves: all metrics of each stage that there is, by its name.
    path: of the PNG.
  """
  figure = _figure(width=13, height=5.6)
  axes = figure.subplots(2, 4)
  for ax, (title, lines) in zip(axes[0], _LEARNING, strict=True):
    for stage, metric, label, color in lines:
      if metric in curves.get(stage, {}):
        style = 'o-' if metric.startswith('validation/') else '-'
        steps, values = curves[stage][metric]
        ax.plot(steps, values, style, color=color, label=label, ms=4, lw=1.2)
    ax.set(title=title, xlabel='step')
  for ax, (metric, title) in zip(axes[1], _ROLLOUTS, strict=True):
    for model in ('ppo', 'ppo_ptx'):
      run = curves.get(model, {})
      if metric in run:
        _curve(ax, [run], metric, NAMES[model], _COLORS[model])
    ax.set(title=title, xlabel='PPO iteration')
  for ax in figure.axes:
    ax.margins(x=0.02)
    if ax.lines:
      ax.legend(frameon=False, fontsize=8)
    else:
      ax.text(0.5, 0.5, 'not run', ha='center', transform=ax.transAxes)
  _finish(figure, path)


def _figure(*, width: float, height: float) -> Figure:
  return Figure(figsize=(width, height), dpi=150, layout='constrained')


def _finish(figure: Figure, path: pathlib.Path) -> None:
  for ax in figure.axes:
    ax.title.set_fontsize(11)
    for side in ('top', 'right'):
      ax.spines[side].set_visible(False)
  figure.savefig(path)


def _wins(ax: Axes, models: Mapping, ceiling: float) -> None:
  x = np.arange(len(MODELS))
  colors = [_COLORS[m] for m in MODELS]
  for side, (name, label, alpha) in zip((-0.2, 0.2), _GROUPS, strict=True):
    rows = [models[m][name] for m in MODELS]
    means, errors = _means_and_errors(rows, 100)
    ax.bar(
        x + side, means, 0.38, yerr=errors, color=colors, alpha=alpha,
        error_kw=_ERROR, label=label,
    )
  ax.axhline(50, color='black', lw=0.8, ls='--')
  ax.axhline(100 * ceiling, color='black', lw=0.8, ls=':')
  ax.text(
      -0.45, 100 * ceiling + 1, 'a writer without flaws', fontsize=8
  )
  ax.set_xticks(x, [NAMES[m] for m in MODELS], fontsize=9)
  ax.tick_params(axis='x', length=0)
  ax.set(title='wins against SFT, %', ylim=(0, 122))
  ax.set_yticks(range(0, 101, 25))
  # Colours stand for models here, so the legend shows shades of grey.
  legend = ax.legend(frameon=False, loc='upper right', ncols=2, fontsize=8)
  for handle, (_, _, alpha) in zip(
      legend.legend_handles, _GROUPS, strict=True
  ):
    if handle is not None:
      handle.set(facecolor='#555555', alpha=alpha)


def _tax(ax: Axes, contrasts: Mapping) -> None:
  """Loss above SFT's on the same text: the levels' own spread is the text's."""
  names = ('base', 'ppo', 'ppo_ptx')
  rows = [contrasts[f'pretrain_loss/{name}'] for name in names]
  means, errors = _means_and_errors(rows, 1)
  ax.bar(
      range(len(names)), means, 0.6, yerr=errors, error_kw=_ERROR,
      color=[_COLORS[name] for name in names],
  )
  for x, (mean, reach) in enumerate(zip(means, errors[1], strict=True)):
    # Above the error bar, or above zero for what is below it.
    ax.annotate(
        f'{mean:+.3f}', (x, max(mean + reach, 0)), (0, 3), ha='center',
        textcoords='offset points', fontsize=8,
    )
  ax.axhline(0, color='black', lw=0.8)
  ax.set_xticks(range(len(names)), [NAMES[m] for m in names], fontsize=9)
  ax.tick_params(axis='x', length=0)
  ax.set(title='loss on plain text above that of SFT, nats')
  ax.margins(y=0.15)


def _flaws(ax: Axes, models: Mapping) -> None:
  groups = np.arange(len(_FLAWS))
  width = 0.8 / len(MODELS)
  for i, model in enumerate(MODELS):
    rows = [models[model][name] for name, _ in _FLAWS]
    means, errors = _means_and_errors(rows, 100)
    ax.bar(
        groups + (i - 2) * width, means, width, yerr=errors,
        color=_COLORS[model], error_kw=_ERROR, label=NAMES[model],
    )
  ax.set_xticks(groups, [label for _, label in _FLAWS], fontsize=9)
  ax.tick_params(axis='x', length=0)
  ax.set(title='answers with a flaw, %', ylim=(0, 135))
  ax.set_yticks(range(0, 101, 25))
  ax.legend(
      frameon=False, ncols=3, fontsize=8, loc='upper right', columnspacing=1
  )


_ERROR = dict(elinewidth=1, capsize=2, ecolor='black')


def _means_and_errors(rows: Sequence[Mapping], factor: float):
  """Means [n] and distances to both ends of the intervals [2, n]."""
  means = factor * np.array([row['mean'] for row in rows])
  low = factor * np.array([row['low'] for row in rows])
  high = factor * np.array([row['high'] for row in rows])
  # A percentile interval may leave out the mean by a rounding error.
  return means, np.maximum([means - low, high - means], 0)


def _curve(
    ax: Axes, runs: Sequence[Curves], name: str, label: str, color: str
) -> None:
  """The mean of some runs, smoothed, over each run as it was."""
  for run in runs:
    ax.plot(*run[name], color=color, lw=0.7, alpha=0.3)
  steps = runs[0][name][0]
  mean = np.mean([run[name][1] for run in runs], axis=0)
  ax.plot(steps, smoothed(mean), color=color, lw=1.8, label=label)
  ax.xaxis.set_major_locator(MaxNLocator(integer=True))
