# SPDX-License-Identifier: Apache-2.0
"""A reward model on held-out rankings, beside what length alone would say."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from rlhf.data import streams
from rlhf.data.examples import Ranking
from rlhf.dims import Params
from rlhf.evaluation.real_inputs import File, held_out
from rlhf.model import ModelConfig
from rlhf.stages import gate, reward
from rlhf.stages import setup as setup_lib
from rlhf.statistics import interval

_FEWEST = 10  # Prompts of a K of its own; sparser ones are taken together.


def examine(
    setup: setup_lib.Setup,
    judge: tuple[Params, ModelConfig],
    files: Sequence[File],
    demonstrations: Sequence[File],
) -> list[dict]:
  """`accuracies` of a reward model.

  Args:
    setup: its stage's.
    judge: parameters and config.
    files: of rankings.
    demonstrations: that the network was trained on before.
  """
  config, rankings = setup.config, held_out(files)
  stream = streams.RankingStream(
      rankings,
      rows=config.rows,
      row_length=config.data.row_tokens,
      max_prompts=config.batch,
      max_responses=config.k_max,
      pad_id=setup.codec.vocabulary.pad_id,
      seed=config.seed,
  )
  trained = {
      d.prompt_text for file in demonstrations for d in file.examples['train']
  }
  params, cfg = judge
  return accuracies(
      rankings,
      reward.comparisons_right(params, cfg, stream, setup.mesh),
      [file.name for file in files for _ in file.examples['validation']],
      trained,
  )


def accuracies(
    rankings: Sequence[Ranking],
    right: np.ndarray,
    owners: Sequence[str],
    trained: Collection[str],
) -> list[dict]:
  """Accuracy of a reward model and of length alone, by group of prompts.

  Args:
    rankings: held out.
    right: of each, comparisons ordered rightly and all, [n, 2].
    owners: the file that each is from.
    trained: prompts that an earlier stage has trained on.

  Returns:
    Rows {'group', 'prompts', 'pairs', 'rm', 'longer', 'shorter', 'better',
    'gain'}: intervals over prompts, where 'better' names the one of 'longer'
    and 'shorter' that does better there, and 'gain' is 'rm' less that one.
    Lengths are of whole responses in characters; the first row, of all
    prompts, has 'as_read': the same by the tokens that the model reads.
  """
  k = np.array([len(r.ranks) for r in rankings])
  groups = {'all': np.ones(len(k), bool)}
  for low, high in k_groups(k):
    label = f'K = {low}' if low == high else f'K = {low} to {high}'
    groups[label] = (low <= k) & (k <= high)
  for name in dict.fromkeys(owners):
    groups[name] = np.array([owner == name for owner in owners])
  unseen = np.array([r.prompt_text not in trained for r in rankings])
  if not unseen.all():
    groups['prompts that SFT did not train on'] = unseen
  by_text = _longer(rankings, [r.response_texts for r in rankings])
  by_token = _longer(rankings, [r.responses_ids for r in rankings])
  rows = [
      {'group': group} | _accuracy(right[chosen], by_text[chosen])
      for group, chosen in groups.items()
      if chosen.any()
  ]
  rows[0]['as_read'] = _accuracy(right, by_token)
  return rows


def _longer(rankings: Sequence[Ranking], responses: Sequence) -> np.ndarray:
  """Comparisons of each ranking that the longer wins; ties count one half."""
  return np.array([
      reward.right_and_all(np.array(list(map(len, said))), np.array(r.ranks))[0]
      for r, said in zip(rankings, responses, strict=True)
  ])


def _accuracy(right: np.ndarray, longer: np.ndarray) -> dict:
  rm, pairs = np.asarray(right, float).T
  length = {'longer': longer, 'shorter': pairs - longer}
  better = max(length, key=lambda name: length[name].sum())
  return {
      'prompts': len(pairs),
      'pairs': int(pairs.sum()),
      'rm': interval(rm, pairs),
      **{name: interval(values, pairs) for name, values in length.items()},
      'better': better,
      'gain': interval(rm - length[better], pairs),
  }


def k_groups(k: np.ndarray, fewest: int = _FEWEST) -> list[tuple[int, int]]:
  """Ranges (low, high) of K that hold at least `fewest` prompts each.

  Neighbours are taken together until there are enough; what is left over at
  the end joins the last range.
  """
  groups: list[tuple[int, int]] = []
  low, held = None, 0
  for value in sorted(set(k.tolist())):
    low = value if low is None else low
    held += int((k == value).sum())
    if held >= fewest:
      groups.append((low, value))
      low, held = None, 0
  if low is not None:
    start = groups.pop()[0] if groups else low
    groups.append((start, int(k.max())))
  return groups


def strength(accuracy: Mapping, agreement: float) -> dict:
  """How far from chance to the labelers' agreement an accuracy has come.

  Args:
    accuracy: an interval.
    agreement: how often two labelers agree.

  Returns:
    An interval, with 'agreement' and the gate's 'threshold'.
  """
  ends = {
      name: gate.strength(accuracy[name], agreement)
      for name in ('mean', 'low', 'high')
  }
  return ends | {
      'n': accuracy['n'], 'agreement': agreement, 'threshold': gate.THRESHOLD
  }
