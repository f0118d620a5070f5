# SPDX-License-Identifier: Apache-2.0
"""What an exam yields: values prompt by prompt, and their intervals.

Values are kept, not only means, so that models can be compared on the same
prompts and intervals taken over prompts and over training seeds alike.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from rlhf.statistics import interval, interval_over_seeds

# By name, a value a prompt, float [n]; or [n, 2], the numerators and
# denominators of a ratio.
Measurements = dict[str, np.ndarray]
# Of an exam, by subject: a model, 'reward_model', 'contrasts', ...
Exam = Mapping[str, Measurements]

MODELS = ('base', 'prompted', 'sft', 'ppo', 'ppo_ptx')


def summaries(measured: Mapping[str, np.ndarray]) -> dict[str, dict]:
  """Intervals over prompts of every measurement."""
  return {
      name: interval(*_columns(values)) for name, values in measured.items()
  }


def summarised(exams: Sequence[Exam]) -> dict:
  """The intervals of a results.json, by subject and name.

  Models are together under 'models', the other subjects beside that.

  Args:
    exams: one, for intervals over prompts; or one of each training seed, for
      intervals over seeds and prompts.
  """
  if len(exams) == 1:
    found = {name: summaries(group) for name, group in exams[0].items()}
  else:
    found = {
        subject: {
            name: _over_seeds([exam[subject][name] for exam in exams])
            for name in group
        }
        for subject, group in exams[0].items()
    }
  models = {model: found.pop(model) for model in MODELS}
  return {'models': models} | found


def _over_seeds(runs: Sequence[np.ndarray]) -> dict:
  values, weights = zip(*map(_columns, runs), strict=True)
  return interval_over_seeds(values, None if weights[0] is None else weights)


def _columns(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """A measurement as values and, for a ratio, weights."""
  return (values, None) if values.ndim == 1 else (values[:, 0], values[:, 1])


def save(path: pathlib.Path, exam: Exam) -> None:
  """Writes an exam as one .npz."""
  arrays = {
      f'{subject}|{name}': values
      for subject, group in exam.items()
      for name, values in group.items()
  }
  np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType]


def load(path: pathlib.Path) -> dict[str, Measurements]:
  """Reads what `save` wrote."""
  exam: dict[str, Measurements] = {}
  with np.load(path) as arrays:
    for key, values in arrays.items():
      subject, _, name = key.partition('|')
      exam.setdefault(subject, {})[name] = values
  return exam
