# SPDX-License-Identifier: Apache-2.0
"""Real files load, and every batch of them is as it should be."""

import numpy as np
import pytest

from rlhf.data import cleaning, loading, prompting, streams, vocabularies

P, R = 128, 96


@pytest.fixture(scope='module')
def load(shared_data):
  bpe = vocabularies.vocabulary(str(shared_data / 'gpt2_bpe'))

  def run(names, kind, split='all', **options):
    paths = ','.join(str(shared_data / f'{n}.jsonl.gz') for n in names.split())
    options = {
        'max_prompt_tokens': P,
        'max_response_tokens': R,
        # Some published rows are not what rows should be; they are counted.
        'reading': cleaning.Reading(strict=False, allow_empty_responses=True),
    } | options
    found = loading.load(
        paths, kind, split, bpe, prompting.DIALOGUE, **options
    )
    return found, bpe

  return run


@pytest.mark.parametrize(
    ('names', 'rows', 'k'),
    [
        ('alpaca_eval/rankings_k4_9', 399, range(4, 10)),
        ('oasst/rankings', 150, range(2, 10)),
        ('hh_rlhf/harmless_base_rankings', 1629, [2]),
    ],
)
def test_rankings(load, names, rows, k):
  found, bpe = load(names, 'rankings')
  assert 0.5 * rows < len(found) <= rows
  assert {len(r.ranks) for r in found} <= set(k)
  ended = 0
  for ranking in found:
    text = bpe.decode(ranking.prompt_ids)
    assert ranking.prompt_ids[0] == bpe.eos_id
    assert text.startswith('\n\nHuman:') and text.endswith('\n\nAssistant:')
    assert text.count('\n\nHuman:') == max(
        1, ranking.prompt_text.count('\n\nHuman:')
    )
    for ids, raw in zip(
        ranking.responses_ids, ranking.response_texts, strict=True
    ):
      assert bpe.eos_id not in ids[:-1] and len(ids) <= R
      if ids[-1] == bpe.eos_id:
        ended += 1
        assert bpe.decode(ids) == ' ' + raw.strip()
      else:
        assert len(ids) == R, 'only a cut response has no EOS'
  assert ended

  stream = streams.RankingStream(
      found, rows=16, row_length=P + R, max_prompts=4, max_responses=9,
      pad_id=bpe.pad_id, seed=0,
  )  # fmt: skip
  batch = stream.batch(3)
  ends = batch.tokens_MT.ravel()[batch.end_BK[batch.mask_BK]]
  last = batch.segment_ids_MT.ravel()[batch.end_BK[batch.mask_BK]]
  assert len(set(zip(batch.end_BK[batch.mask_BK], last, strict=True))) == len(
      ends
  )
  assert (batch.segment_ids_MT == 0).sum() == (
      batch.tokens_MT == bpe.pad_id
  ).sum()


def test_demonstrations(load):
  names = 'oasst/demonstrations self_instruct/seed_demonstrations '
  names += 'gpteacher_roleplay/demonstrations'
  train, bpe = load(names, 'demonstrations', 'train')
  held_out, _ = load(names, 'demonstrations', 'validation')
  both, _ = load(names, 'demonstrations')
  assert len(both) == len(train) + len(held_out) > 1800
  assert 0.02 < len(held_out) / len(both) < 0.09
  assert not {d.prompt_text for d in train} & {d.prompt_text for d in held_out}
  # Where rows are but twice the longest example, fewer short ones are left over
  # for the gaps: measured 0.95. (One example a row fills 0.30.)
  for row_length, least in ((2 * (P + R), 0.94), (2048, 0.98)):
    stream = streams.DemonstrationStream(
        train, rows=8, row_length=row_length, pad_id=bpe.pad_id, seed=0
    )
    steps = range(stream.steps(1))
    filled = [(stream.batch(s).segment_ids_BT > 0).mean() for s in steps]
    assert np.mean(filled) > least


def test_text(load):
  names = 'text/wikitext2_valid text/tiny_shakespeare'
  run, bpe = load(names, 'text')
  # One EOS a document, before it.
  cuts = np.flatnonzero(run == bpe.eos_id)
  assert len(cuts) == 430 + 46 and cuts[0] == 0
  assert run.max() < bpe.pad_id and np.diff(cuts).min() > 1
  stream = streams.TextStream(
      run, row_length=256, rows=4, pad_id=bpe.pad_id, seed=0
  )
  rows = np.concatenate([b.tokens_BT for b in stream.once()])[: stream.count]
  assert np.array_equal(rows.ravel(), run[: rows.size])
  assert 0 <= len(run) - rows.size < 256


def test_prompts(load):
  names = 'alpaca_eval/prompts koala/prompts oasst/prompts'
  found, bpe = load(names, 'prompts', max_prompt_tokens=64)
  stream = streams.PromptStream(
      found, batch_size=8, lengths=(24, 32, 64), pad_id=bpe.pad_id, seed=0
  )
  assert stream.lengths == [24, 32, 64]
  for step in range(9):
    batch, texts = stream.batch(step)
    for tokens, mask, text in zip(
        batch.tokens_BP, batch.mask_BP, texts, strict=True
    ):
      assert tokens[mask][0] == bpe.eos_id
      assert (tokens[~mask] == bpe.pad_id).all()
      assert bpe.decode(tokens) == (
          f'\n\nHuman: {text.rstrip()}\n\nAssistant:'
      )
