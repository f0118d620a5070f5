# SPDX-License-Identifier: Apache-2.0
"""Batches by step: nothing lost or repeated, and no memory of earlier asks."""

import collections
import itertools

import jax
import numpy as np
import pytest

from rlhf.data import examples, packing, streams

PAD, BOS, EOS = 0, 1, 1


def _demonstrations(n, rng):
  """Each with a token of its own, 100 + i, at the head of its response."""
  found = []
  for i in range(n):
    prompt = [BOS, *rng.integers(2, 90, rng.integers(1, 6))]
    response = [100 + i, *rng.integers(2, 90, rng.integers(0, 6)), EOS]
    found.append(
        examples.Demonstration(
            np.array(prompt, np.int32), np.array(response, np.int32), '', ''
        )
    )
  return found


def _rankings(n, rng):
  """Each with a token of its own, 100 + i, in its prompt."""
  found = []
  for i in range(n):
    k = int(rng.integers(2, 10))
    responses = tuple(
        np.array([*rng.integers(2, 90, rng.integers(0, 5)), EOS], np.int32)
        for _ in range(k)
    )
    ranks = (1, 2, *rng.integers(1, 4, k - 2).tolist())
    prompt = np.array([BOS, 100 + i, *rng.integers(2, 90, 2)], np.int32)
    found.append(
        examples.Ranking(prompt, responses, ranks, '', ('',) * k)
    )
  return found


def _prompts(n):
  return [
      examples.PromptExample(
          np.array([BOS, *[7] * (i % 4), 100 + i], np.int32), f'text {i}'
      )
      for i in range(n)
  ]


def _text(seed=0, rows=3):
  documents = [np.full(5, 100 + i) for i in range(40)]
  rows_MT = packing.text_rows(documents, 24, EOS)  # 240 tokens, 10 rows.
  return streams.TextStream(rows_MT, rows=rows, pad_id=PAD, seed=seed)


def _demonstration_stream(seed=0, n=40, **options):
  options = {'rows': 4, 'row_length': 24, 'pad_id': PAD} | options
  demonstrations = _demonstrations(n, np.random.default_rng(9))
  return streams.DemonstrationStream(demonstrations, seed=seed, **options)


def _ranking_stream(seed=0, n=40, **options):
  options = {
      'rows': 16, 'row_length': 24, 'max_prompts': 4, 'max_responses': 9
  } | options  # fmt: skip
  rankings = _rankings(n, np.random.default_rng(9))
  return streams.RankingStream(rankings, seed=seed, pad_id=PAD, **options)


def _prompt_stream(seed=0, n=10):
  return streams.PromptStream(
      _prompts(n), batch_size=4, length=6, pad_id=PAD, seed=seed
  )


def _marks(tokens):
  """The marks of examples, 100 and up, in a batch's tokens."""
  return [t - 100 for t in np.asarray(tokens).ravel().tolist() if t >= 100]


def _equal(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in leaves)


STREAMS = {
    'text': _text,
    'demonstrations': _demonstration_stream,
    'unpacked': lambda seed=0: _demonstration_stream(seed, pack=False),
    'mixed': lambda seed=0: _demonstration_stream(seed, mix=(_text(seed), 2)),
    'rankings': _ranking_stream,
    'prompts': _prompt_stream,
}


@pytest.mark.parametrize('kind', STREAMS)
def test_a_batch_does_not_depend_on_what_was_asked_before(kind):
  forward = STREAMS[kind]()
  in_order = [forward.batch(s) for s in range(30)]
  backward = STREAMS[kind]()
  for step in (29, 3, 17, 0, 29):
    assert _equal(backward.batch(step), in_order[step])
  shapes = {tuple(x.shape for x in jax.tree.leaves(b) if hasattr(x, 'shape'))
            for b in in_order}  # fmt: skip
  assert len(shapes) == 1, 'one program serves every step'


@pytest.mark.parametrize('kind', STREAMS)
def test_another_seed_is_another_order(kind):
  assert not _equal(STREAMS[kind](0).batch(0), STREAMS[kind](1).batch(0))


@pytest.mark.parametrize(
    'stream',
    [
        _demonstration_stream(),
        _demonstration_stream(pack=False),
        _demonstration_stream(n=3),
        _ranking_stream(),
        _ranking_stream(rows=12, max_prompts=40),
    ],
)
def test_every_epoch_holds_every_example_once(stream):
  ranking = isinstance(stream, streams.RankingStream)
  n = 3 if stream.steps(30) < 30 else 40
  seen = []
  for step in range(stream.steps(5)):
    batch = stream.batch(step)
    if not ranking:
      seen.append(_marks(batch.tokens_BT))
      continue
    heads = batch.end_BK[batch.mask_BK.any(1), 0] // stream.row_length
    assert len(heads) <= stream.max_prompts
    # A prompt appears once a response: K marks in all.
    marks = collections.Counter(_marks(batch.tokens_MT))
    assert sorted(marks.values()) == sorted(batch.mask_BK.sum(1)[: len(heads)])
    seen.append(list(marks))
  if n == 40:
    # Within a batch the packed order is not the stream's, so look at the
    # counts: after any step no example is more than one epoch ahead.
    counts = collections.Counter()
    for marks in seen:
      counts.update(marks)
      assert max(counts.values()) - min(counts[i] for i in range(n)) <= 1
  total = collections.Counter(itertools.chain(*seen))
  assert set(total) == set(range(n)) and min(total.values()) >= 5
  assert sum(total.values()) - len(seen[-1]) < 5 * n, 'a step too many'


def test_prompts_and_text_cover_their_epochs():
  prompts = _prompt_stream()
  seen = [t for s in range(5) for t in prompts.batch(s)[1]]
  assert prompts.steps_per_epoch == 3 and prompts.steps(2) == 5
  # 10 prompts in batches of 4: two epochs end with the fifth batch.
  for epoch in (seen[:10], seen[10:]):
    assert sorted(epoch) == sorted(p.text for p in _prompts(10))
  assert seen[:10] != seen[10:]
  text = _text()
  rows = [r for s in range(10) for r in text.batch(s).tokens_BT.tolist()]
  assert sorted(rows[:10]) == sorted(rows[10:20]) == sorted(rows[20:])


def test_prompts_come_padded_with_their_texts():
  batch, texts = _prompt_stream().batch(0)
  indices = _prompt_stream().indices(0)
  assert texts == [f'text {i}' for i in indices]
  assert _marks(batch.tokens_BP[:, -1:]) == indices.tolist()
  for row, i in enumerate(indices):
    assert batch.mask_BP[row].tolist() == [False] * (4 - i % 4) + [True] * (
        2 + i % 4
    )


def test_demonstrations_learn_the_response_and_its_eos():
  stream = _demonstration_stream()
  batch = stream.batch(0)
  learnt = np.where(batch.loss_mask_BT, batch.tokens_BT, -1)
  # Every response starts at its mark and ends with the EOS; a segment's own
  # BOS (the same id) is not learnt.
  starts = sum(len(_marks(row)) for row in batch.tokens_BT)
  assert (learnt >= 100).sum() == starts == (learnt == EOS).sum()


def test_mixed_rows_of_text_come_last():
  batch = _demonstration_stream(mix=(_text(3), 2)).batch(5)
  assert batch.tokens_BT.shape == (6, 24)
  text = _text(3).take(5, 2)
  assert np.array_equal(batch.tokens_BT[4:], text.tokens_BT)
  assert np.array_equal(batch.loss_mask_BT[4:], text.loss_mask_BT)


@pytest.mark.parametrize(
    ('stream', 'n'),
    [
        (_demonstration_stream(), 40),
        (_demonstration_stream(pack=False), 40),
        (_ranking_stream(), 40),
        (_prompt_stream(), 10),
    ],
)
def test_once_gives_every_example_once_in_order(stream, n):
  if isinstance(stream, streams.PromptStream):
    out = list(stream.once())
    assert [t for _, ts in out for t in ts] == [f'text {i}' for i in range(n)]
    assert all(b.mask_BP.any(1).all() for b, _ in out)
    return
  if isinstance(stream, streams.RankingStream):
    out = list(stream.once())
    for batch, indices in zip(out, stream.once_indices(), strict=True):
      assert batch.mask_BK.any(1).sum() == len(indices)
      assert set(_marks(batch.tokens_MT)) == set(indices.tolist())
    assert sum(b.mask_BK.any(1).sum() for b in out) == n
    return
  marks = [_marks(batch.tokens_BT) for batch in stream.once()]
  assert sorted(itertools.chain(*marks)) == list(range(n))
  assert all(max(a) < min(b) for a, b in itertools.pairwise(marks))


def test_once_pads_the_last_rows_of_text():
  out = list(_text().once())
  assert len(out) == 4
  assert sum(b.segment_ids_BT.any(1).sum() for b in out) == 10
  assert not out[-1].loss_mask_BT[1:].any()


def test_what_cannot_be_served_is_refused_at_once():
  with pytest.raises(ValueError, match='there are no demonstrations'):
    _demonstration_stream(n=0)
  with pytest.raises(ValueError, match='a row has 5: lower max_prompt_tokens'):
    _demonstration_stream(row_length=5)
  with pytest.raises(ValueError, match='rows of text have 24 tokens, those of'):
    _demonstration_stream(row_length=30, mix=(_text(), 2))
  with pytest.raises(ValueError, match='9 responses but max_responses is 4'):
    _ranking_stream(max_responses=4)
  with pytest.raises(ValueError, match='does not fit into 1 rows of 24'):
    _ranking_stream(rows=1)
  with pytest.raises(ValueError, match='prompt 3 has 5 tokens but a row has 4'):
    streams.PromptStream(
        _prompts(9), batch_size=2, length=4, pad_id=PAD, seed=0
    )
  with pytest.raises(ValueError, match='there are no rows of text: give more'):
    streams.TextStream(
        packing.text_rows([[5]], 8, EOS), rows=2, pad_id=PAD, seed=0
    )
