# SPDX-License-Identifier: Apache-2.0
"""Two processes with different string hashes make the same world."""

import os
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parents[2]
_PROGRAM = '''
import hashlib, random
import numpy as np
from rlhf.world import (
    calibration, comparisons, corpus, labelers, lexicon, probes, rubric,
    writer)
from rlhf.world.prompts import prompts, users

asked = prompts('train', 200, 0)
rng = random.Random(0)
responses = [[writer.write(p, rng) for _ in range(4)] for p in asked]
features = [
    rubric.grade_many([p] * 4, r, [True] * 4)
    for p, r in zip(asked, responses)]
rows = comparisons.ranking_rows(
    asked, responses, features, labelers.TRAINING, np.random.default_rng(0))
world = (
    lexicon.WORDS, corpus.documents(0, 300), users('test'), asked, rows,
    sorted(rubric.legal_trigrams()), writer.few_shot_prefix(0),
    probes.copy_story(), labelers.HELD_OUT.weights_LX.tolist(),
    [s.tolist() for s in calibration.stand_in_sets('test', 50, 0)])
print(hashlib.sha256(repr(world).encode()).hexdigest())
'''


def test_the_salt_of_string_hashes_changes_nothing():
  runs = [
      subprocess.Popen(
          [sys.executable, '-c', _PROGRAM], cwd=_ROOT, text=True,
          stdout=subprocess.PIPE,
          env={**os.environ, 'PYTHONHASHSEED': seed, 'PYTHONPATH': '.'})
      for seed in ('1', '2')]
  digests = [run.communicate(timeout=60)[0].strip() for run in runs]
  assert [run.returncode for run in runs] == [0, 0]
  assert len(digests[0]) == 64
  assert digests[0] == digests[1]


def test_the_world_needs_neither_jax_nor_tensorflow():
  program = (
      'import sys\n'
      'from rlhf.world import calibration, comparisons, probes\n'
      "assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)\n")
  subprocess.run(
      [sys.executable, '-c', program], cwd=_ROOT, check=True,
      env={**os.environ, 'PYTHONPATH': '.'})
