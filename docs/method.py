# SPDX-License-Identifier: Apache-2.0
"""Draws docs/method.svg: the method, and the file of each of its parts.

  python docs/method.py
"""

import pathlib

import matplotlib

matplotlib.use('svg')

from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

_INK, _QUIET = '#1b2430', '#5b6878'
# Face and edge of what people give, of what trains, and of what comes out.
_DATA = ('#eef3fa', '#7f9cc4')
_STAGE = ('#ffffff', '#1b2430')
_NETWORK = ('#fbf0dc', '#c89b4a')


def _box(ax, x, y, width, height, title, lines=(), *, style, file=None):
  """A box from its centre; `file` is set below in a type-writer face."""
  face, edge = style
  ax.add_patch(
      FancyBboxPatch(
          (x - width / 2, y - height / 2),
          width,
          height,
          boxstyle='round,pad=0,rounding_size=1.1',
          facecolor=face,
          edgecolor=edge,
          linewidth=1.3,
      )
  )
  rows = [(title, 10.5, 'bold', _INK, 'sans-serif')]
  rows += [(line, 9, 'normal', _INK, 'sans-serif') for line in lines]
  if file:
    rows.append((file, 8, 'normal', _QUIET, 'monospace'))
  pitch = 2.55
  top = y + pitch * (len(rows) - 1) / 2
  for i, (text, size, weight, colour, family) in enumerate(rows):
    ax.text(
        x,
        top - pitch * i,
        text,
        ha='center',
        va='center',
        fontsize=size,
        fontweight=weight,
        color=colour,
        family=family,
    )


def _arrow(ax, points):
  """A line through `points` with a head at its end."""
  for start, end in zip(points[:-2], points[1:-1], strict=True):
    ax.plot(*zip(start, end, strict=True), color=_QUIET, linewidth=1.2)
  ax.annotate(
      '',
      xy=points[-1],
      xytext=points[-2],
      arrowprops=dict(
          arrowstyle='-|>', color=_QUIET, linewidth=1.2, shrinkA=0, shrinkB=0
      ),
  )


def _note(ax, x, y, lines, *, align='center'):
  """Words beside an arrow."""
  for i, line in enumerate(lines):
    ax.text(x, y - 2.1 * i, line, fontsize=8.5, color=_QUIET, ha=align,
            va='center', style='italic')


def _heading(ax, x, title, line):
  ax.text(x, 57.4, title, ha='center', fontsize=12, fontweight='bold',
          color=_INK)
  ax.text(x, 54.4, line, ha='center', fontsize=9.5, color=_QUIET)


def _collect(ax):
  """Steps 0 to 2: from text to a reward model."""
  data, stage, network = 46.5, 30, 14
  columns = (12, 41, 70)
  for x, title, line in zip(
      columns,
      ('Step 0', 'Step 1', 'Step 2'),
      (
          'a pretrained model',
          'imitate demonstrations',
          'learn what is preferred',
      ),
      strict=True,
  ):
    _heading(ax, x, title, line)
  _box(ax, 12, data, 21, 9, 'plain text', style=_DATA, file='data.text')
  _box(ax, 41, data, 21, 9, 'demonstrations', ['prompt, response'],
       style=_DATA, file='data.demonstrations')
  _box(ax, 70, data, 21, 9, 'rankings', ['K = 4 to 9 responses'],
       style=_DATA, file='data.rankings')
  _box(ax, 12, stage, 21, 10, 'pretraining', ['next-token loss'],
       style=_STAGE, file='stages/pretrain.py')
  _box(ax, 41, stage, 21, 10, 'SFT', ['loss on responses'],
       style=_STAGE, file='stages/sft.py')
  _box(ax, 70, stage, 21, 10, 'reward model', ['all pairs of a prompt'],
       style=_STAGE, file='stages/reward.py')
  _box(ax, 12, network, 17, 6, 'base', style=_NETWORK)
  _box(ax, 41, network, 17, 6, 'SFT policy', style=_NETWORK)
  _box(ax, 70, network, 17, 6, 'reward model', style=_NETWORK)
  for x in columns:
    _arrow(ax, [(x, 42), (x, 35)])
    _arrow(ax, [(x, 25), (x, 17)])
  _arrow(ax, [(20.5, 14), (26.5, 14), (26.5, 30), (30.5, 30)])
  # The labelers rank what the newest policy says.
  _arrow(ax, [(49.5, 14), (55.5, 14), (55.5, 46.5), (59.5, 46.5)])
  _arrow(ax, [(55.5, 30), (59.5, 30)])
  _note(ax, 54.9, 39.4, ['its samples,', 'ranked'], align='right')


def _optimise(ax):
  """Step 3: the loop of PPO-ptx."""
  left, right = 110, 139
  _heading(ax, 124.5, 'Step 3: PPO and PPO-ptx', 'optimise against the reward')
  ax.add_patch(
      FancyBboxPatch(
          (97, 8),
          55,
          44,
          boxstyle='round,pad=0,rounding_size=1.6',
          facecolor='none',
          edgecolor='#c3cbd6',
          linewidth=1.2,
          linestyle=(0, (4, 3)),
      )
  )
  _box(ax, left, 46.5, 21, 7, 'prompts', style=_DATA, file='data.prompts')
  _box(ax, right, 46.5, 21, 7, 'plain text', style=_DATA, file='data.text')
  _box(ax, left, 33.5, 21, 10, 'generate', [r'$y \sim \pi(\cdot \mid x)$'],
       style=_STAGE, file='sampling.py')
  _box(ax, left, 17, 21, 12, 'score',
       [r'$r(x, y) - \beta\,\log(\pi\,/\,\pi_\mathrm{SFT})$',
        'then advantages'],
       style=_STAGE, file='experience.py')
  _box(ax, right, 25.5, 22, 15.6, 'one Adam step',
       ['for each minibatch:', 'clipped policy loss',
        r'$+\;\gamma\,\cdot\,$language loss'],
       style=_STAGE, file='stages/ppo.py')
  _arrow(ax, [(left, 43), (left, 38.5)])
  _arrow(ax, [(left, 28.5), (left, 23)])
  _arrow(ax, [(right, 43), (right, 33.3)])
  _note(ax, right + 0.8, 39.4, ['PPO-ptx: 8', 'an episode'], align='left')
  _arrow(ax, [(120.5, 17), (124.3, 17), (124.3, 21.5), (128, 21.5)])
  _arrow(ax, [(128, 29), (124.3, 29), (124.3, 33.5), (120.5, 33.5)])
  _note(ax, 123.7, 26.1, ['new policy', 'and value'], align='right')
  _arrow(ax, [(78.5, 14), (99.5, 14)])
  _note(ax, 87.6, 16.6, ['gives the score,'])
  _note(ax, 87.6, 11.8, ['starts the value'])
  _arrow(ax, [(41, 11), (41, 4), (left, 4), (left, 11)])
  _note(ax, 75.5, 5.6, ['starts the policy, and stays its reference'])


def main() -> None:
  """Draws the figure beside this file, the same bytes each time."""
  plt.rcParams['svg.hashsalt'] = 'method'
  plt.rcParams['mathtext.fontset'] = 'dejavusans'
  plt.rcParams['svg.fonttype'] = 'path'  # Looks alike wherever it is shown.
  figure, ax = plt.subplots(figsize=(15, 6.1))
  ax.set(xlim=(0, 153), ylim=(1.5, 60.5))
  ax.axis('off')
  _collect(ax)
  _optimise(ax)
  figure.savefig(
      pathlib.Path(__file__).with_suffix('.svg'),
      metadata={'Date': None},
      bbox_inches='tight',
      pad_inches=0.1,
      facecolor='white',
  )


if __name__ == '__main__':
  main()
