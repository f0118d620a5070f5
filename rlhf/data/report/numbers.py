# SPDX-License-Identifier: Apache-2.0
"""Counts and lengths of a data set: the paper's tables of its own data.

Ouyang et al. 2022: use cases (table 1), sizes of splits (table 6), lengths of
prompts by data set and by category (tables 9 and 10) and of demonstrations
(table 11). Lengths are in tokens as the model reads them: a prompt with its BOS
and format, a response with its EOS.
"""

import collections
import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf.data import rows as rows_lib
from rlhf.data.examples import Demonstration, Example, PromptExample, Ranking

PERCENTILES = (25, 50, 75, 95)


@dataclasses.dataclass(frozen=True)
class Kept:
  """A row that is left after every rule, where it stands, and as tokens."""

  where: str
  row: rows_lib.Row
  example: Example

  @property
  def source(self) -> str:
    """The row's own source, or who labelled it, or its file or task."""
    return self.row['source'] or self.row['labeler'] or _file(self.where)

  @property
  def text(self) -> str:
    """What makes the row: its prompt, or of text the document."""
    return self.row['prompt' if 'prompt' in self.row else 'text']


# Split -> what is left of it.
Splits = Mapping[str, Sequence[Kept]]


def spread(values: Iterable[int]) -> dict[str, float]:
  """Count, mean, standard deviation (of a sample), extremes, percentiles."""
  array = np.fromiter(values, np.int64)
  if not array.size:
    return {'count': 0}
  percentiles = np.percentile(array, PERCENTILES).tolist()
  return {
      'count': array.size,
      'mean': float(array.mean()),
      'std': float(array.std(ddof=1)) if array.size > 1 else 0.0,
      'min': int(array.min()),
      **{f'p{q}': p for q, p in zip(PERCENTILES, percentiles, strict=True)},
      'max': int(array.max()),
  }


def parts(example: Example) -> tuple[tuple[str, int], ...]:
  """What an example is made of, and the tokens of each: ('prompt', 12), ..."""
  if isinstance(example, PromptExample):
    return (('prompt', len(example.ids)),)
  if isinstance(example, Demonstration):
    prompt, response = len(example.prompt_ids), len(example.response_ids)
    return ('prompt', prompt), ('response', response)
  if isinstance(example, Ranking):
    responses = [('response', len(ids)) for ids in example.responses_ids]
    return ('prompt', len(example.prompt_ids)), *responses
  return (('document', len(example)),)


def tokens(example: Example) -> int:
  """Tokens that the model reads; of a ranking each response has its prompt."""
  of_parts = [n for _, n in parts(example)]
  if isinstance(example, Ranking):
    return of_parts[0] * (len(of_parts) - 1) + sum(of_parts[1:])
  return sum(of_parts)


def sizes(splits: Splits) -> dict[str, dict[str, Any]]:
  """Rows, users, prompts (of text: documents) and tokens of each split.

  `users` are distinct and named; `rows_a_user` is the mean over them.
  """
  found = {}
  for split, kept in splits.items():
    users = collections.Counter(k.row['user'] for k in kept)
    without = users.pop('', 0)
    named = len(kept) - without
    found[split] = {
        'rows': len(kept),
        'users': len(users),
        'rows_a_user': named / len(users) if users else 0.0,
        'rows_without_user': without,
        'distinct_prompts': len({_normal(k.text) for k in kept}),
        'tokens': sum(tokens(k.example) for k in kept),
    }
  return found


def shared(splits: Splits) -> list[dict[str, Any]]:
  """Prompts and users that two splits have in common: there should be none.

  Prompts are compared with white space collapsed and case folded.
  """
  prompts = {s: {_normal(k.text) for k in kept} for s, kept in splits.items()}
  users = {
      s: {k.row['user'] for k in kept} - {''} for s, kept in splits.items()
  }
  return [
      {
          'splits': [a, b],
          'prompts': len(prompts[a] & prompts[b]),
          'users': len(users[a] & users[b]),
      }
      for a, b in itertools.combinations(splits, 2)
  ]


def use_cases(splits: Splits) -> list[dict[str, Any]]:
  """Use cases, the commonest first; none if no row has one. Table 1."""
  counts = collections.Counter(k.row['use_case'] for k in _all(splits))
  if set(counts) <= {''}:
    return []
  total = counts.total()
  return [
      {'use_case': name or 'not labelled', 'rows': n, 'share': n / total}
      for name, n in _ordered(counts)
  ]


def lengths(splits: Splits) -> list[dict[str, Any]]:
  """Tokens of prompts and responses by split, source and use case.

  Tables 9, 10 and 11. Each has `by` ('split', 'source' or 'use case'), `group`
  (which one), `what` ('prompt', 'response' or 'document') and what `spread`
  gives.
  """
  groups: dict[tuple[str, str, str], list[int]] = {}
  for split, kept in splits.items():
    for k in kept:
      homes = [('split', split), ('source', k.source)]
      if k.row['use_case']:
        homes.append(('use case', k.row['use_case']))
      for what, count in parts(k.example):
        for by, group in homes:
          groups.setdefault((by, what, group), []).append(count)
  order = {'split': 0, 'source': 1, 'use case': 2}
  what_order = {'prompt': 0, 'response': 1, 'document': 2}
  # Within a table the largest group first; splits in their own order.
  keys = sorted(
      groups,
      key=lambda key: (
          order[key[0]],
          what_order[key[1]],
          0 if key[0] == 'split' else -len(groups[key]),
      ),
  )
  return [
      {'by': by, 'group': group, 'what': what} | spread(groups[by, what, group])
      for by, what, group in keys
  ]


def rankings(splits: Splits) -> dict[str, Any]:
  """How many responses a prompt has, pairs, ties and labelers.

  `pairs` counts K (K - 1) / 2 of each ranking; `tied_pairs` are of equal rank,
  and compare nothing.
  """
  k_counts, labelers = collections.Counter(), collections.Counter()
  tied = rows_with_ties = 0
  for kept in _all(splits):
    ranks = kept.row['ranks']
    k_counts[len(ranks)] += 1
    labelers[kept.row['labeler'] or 'not named'] += 1
    ties = sum(a == b for a, b in itertools.combinations(ranks, 2))
    tied += ties
    rows_with_ties += ties > 0
  pairs = sum(k * (k - 1) // 2 * n for k, n in k_counts.items())
  rows = k_counts.total()
  return {
      'responses_a_prompt': {str(k): k_counts[k] for k in sorted(k_counts)},
      'pairs': pairs,
      'tied_pairs': tied,
      'pairs_without_ties': pairs - tied,
      'tie_rate': tied / pairs if pairs else 0.0,
      'rows_with_ties': rows_with_ties,
      'share_of_rows_with_ties': rows_with_ties / rows if rows else 0.0,
      'labelers': dict(_ordered(labelers)),
  }


def responses(splits: Splits, eos_id: int) -> dict[str, Any]:
  """How many responses there are, are cut (have no EOS), and are empty."""
  count = cut = empty = 0
  for kept in _all(splits):
    example = kept.example
    if isinstance(example, Demonstration):
      ids = (example.response_ids,)
    elif isinstance(example, Ranking):
      ids = example.responses_ids
    else:
      continue
    count += len(ids)
    cut += sum(int(one[-1]) != eos_id for one in ids)
    empty += sum(one.tolist() == [eos_id] for one in ids)
  return {
      'count': count,
      'cut_without_eos': cut,
      'share_cut': cut / count if count else 0.0,
      'empty': empty,
  }


def sources(splits: Splits) -> dict[str, int]:
  """Rows of each source, the largest first."""
  return dict(_ordered(collections.Counter(k.source for k in _all(splits))))


def _all(splits: Splits) -> Iterable[Kept]:
  return itertools.chain(*splits.values())


def _ordered(counts: collections.Counter) -> list[tuple[str, int]]:
  return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _normal(text: str) -> str:
  return ' '.join(text.split()).casefold()


def _file(where: str) -> str:
  """'a/b/c.jsonl, row 3' as 'b/c.jsonl', 'task, split train, row 3' as 'task'.

  The folder is kept, for in collections of data files have the same names.
  """
  path = re.sub(r'(, split \w+)?, row \d+( \(line \d+\))?$', '', where)
  folder, name = os.path.split(path)
  return os.path.join(os.path.basename(folder), name)
