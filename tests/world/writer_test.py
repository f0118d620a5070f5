# SPDX-License-Identifier: Apache-2.0
"""The writer: perfect when clean, wrong about four times in ten when not."""

import random

import numpy as np
import pytest

from rlhf.world import lexicon, rubric, writer
from rlhf.world.instructions import CATEGORY_OF
from rlhf.world.prompts import ANSWER_SUFFIX, prompts
from rlhf.world.writer import Slips


def _mean_features(flawed: bool, **filters) -> dict[str, float]:
  asked = prompts('train', 4000, 0, **filters)
  rng = random.Random(0)
  texts = [writer.write(p, rng, flawed=flawed) for p in asked]
  features_BX = rubric.grade_many(asked, texts, [True] * len(texts))
  return dict(zip(rubric.FEATURES, features_BX.mean(axis=0), strict=True))


@pytest.mark.parametrize('kind', CATEGORY_OF)
def test_the_clean_writer_earns_full_marks(kind):
  rng = random.Random(1)
  for prompt in prompts('train', 300, 2, kind=kind):
    text = writer.write(prompt, rng, flawed=False)
    features = rubric.grade(prompt, text, True)
    assert np.all(features[:5] == 1), (prompt.text, text, features)


def test_half_of_the_demonstrations_have_a_slip():
  rng = random.Random(0)
  slips = [writer.draw_slips(p, rng) for p in prompts('train', 8000, 0)]
  assert np.mean([bool(s) for s in slips]) == pytest.approx(.52, abs=.025)


def test_the_flawed_writer_is_decent():
  means = _mean_features(flawed=True)
  assert means['follows'] == pytest.approx(.87, abs=.02)
  assert means['constraints'] == pytest.approx(.905, abs=.02)
  assert means['no_invention'] == pytest.approx(.93, abs=.02)
  assert means['not_rude'] == pytest.approx(.905, abs=.02)
  assert means['fluent'] > .995


def test_a_flaw_that_the_rubric_sees_in_three_of_ten():
  asked = prompts('train', 4000, 0)
  rng = random.Random(0)
  texts = [writer.write(p, rng) for p in asked]
  features_BX = rubric.grade_many(asked, texts, [True] * len(texts))
  visible = np.any(features_BX[:, :4] < 1, axis=1)
  assert np.mean(visible) == pytest.approx(.29, abs=.03)


def test_replies_are_rude_unless_respect_is_asked_for():
  plain = _mean_features(True, kind='reply', respectful=False)
  respectful = _mean_features(True, kind='reply', respectful=True)
  assert 1 - plain['not_rude'] == pytest.approx(.35, abs=.03)
  # .08, and .35 where the request is ignored: .80 * .08 + .20 * .35 = .134.
  assert 1 - respectful['not_rude'] == pytest.approx(.134, abs=.02)


def test_no_slips_is_false():
  assert not Slips()
  assert Slips(ramble=True)


def test_a_response_fits_forty_words():
  rng = random.Random(0)
  for prompt in prompts('train', 4000, 1):
    assert 1 <= len(writer.write(prompt, rng).split()) <= 40


@pytest.mark.parametrize('seed', range(5))
def test_few_shot_prefix_is_three_short_examples(seed):
  text = writer.few_shot_prefix(seed)
  assert text == writer.few_shot_prefix(seed)
  assert len(text.split()) <= 60
  assert text.count(f' {ANSWER_SUFFIX} ') == 3
  assert text.endswith(f' . {lexicon.LINE_BREAK}')
  assert 'story' in text and '?' in text
