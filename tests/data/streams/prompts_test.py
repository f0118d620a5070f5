# SPDX-License-Identifier: Apache-2.0
"""Batches of prompts, and the buckets that they are in by length."""

import collections

import numpy as np
import pytest

from tests.data import made


def _lengths(count, *most):
  """`count` prompts of random lengths from 2 to each of `most`, in turn."""
  rng = np.random.default_rng(0)
  return [int(rng.integers(2, most[i % len(most)] + 1)) for i in range(count)]


def test_prompts_come_padded_with_their_texts():
  stream = made.prompt_stream()
  for step in range(6):
    batch, texts = stream.batch(step)
    indices = stream.indices(step)
    assert list(texts) == [f'text {i}' for i in indices] == texts[:]
    assert made.marks(batch.tokens_BP[:, -1]) == indices.tolist()
    for row, i in enumerate(indices):
      assert batch.mask_BP[row].tolist() == [False] * (4 - i % 4) + [True] * (
          2 + i % 4
      )
      assert (batch.tokens_BP[row][~batch.mask_BP[row]] == made.PAD).all()


def test_texts_are_read_when_they_are_asked_for():
  recorder = made.Recorder(made.prompts(10))
  stream = made.prompt_stream(items=recorder, local=np.arange(4) == 0)
  recorder.read.clear()
  _, texts = stream.batch(0)
  indices = stream.indices(0).tolist()
  assert recorder.read == {indices[0]} and len(texts) == 4
  assert texts[2] == f'text {indices[2]}'
  assert recorder.read == {indices[0], indices[2]}


@pytest.mark.parametrize('batch_size', [1, 4, 7])
def test_every_prompt_is_in_the_shortest_bucket_that_holds_it(batch_size):
  lengths = _lengths(200, 5, 9, 30)
  stream = made.prompt_stream(
      items=made.prompts(200, lengths), batch_size=batch_size,
      lengths=(32, 4, 16, 8),
  )  # fmt: skip
  assert stream.lengths == [4, 8, 16, 32]
  counts = collections.Counter()
  for step in range(stream.steps(6)):
    batch, _ = stream.batch(step)
    indices = stream.indices(step)
    width = batch.tokens_BP.shape[1]
    for row, i in enumerate(indices.tolist()):
      home = next(n for n in (4, 8, 16, 32) if n >= lengths[i])
      assert width == home and batch.mask_BP[row].sum() == lengths[i]
    counts.update(indices.tolist())
  # None is lost, and none is read for another: each bucket is to within a batch
  # or two of six epochs.
  assert len(counts) == 200
  sizes = collections.Counter(
      next(n for n in (4, 8, 16, 32) if n >= length) for length in lengths
  )
  for i, count in counts.items():
    size = sizes[next(n for n in (4, 8, 16, 32) if n >= lengths[i])]
    assert abs(count - 6) <= 1 + 4 * batch_size / size


def test_buckets_take_turns_in_proportion_to_their_prompts():
  lengths = [2] * 120 + [8] * 40 + [16] * 20
  stream = made.prompt_stream(
      items=made.prompts(180, lengths), lengths=(4, 8, 16)
  )
  widths = [
      stream.batch(s)[0].tokens_BP.shape[1] for s in range(stream.steps(2))
  ]
  assert collections.Counter(widths) == {4: 60, 8: 20, 16: 10}
  # Not one bucket after another: the rarest comes once in nine steps or so.
  at = np.flatnonzero(np.array(widths) == 16)
  assert np.diff(at).min() >= 6 and np.diff(at).max() <= 12


def test_every_bucket_has_epochs_of_its_own():
  lengths = _lengths(60, 4, 12)
  stream = made.prompt_stream(
      items=made.prompts(60, lengths), lengths=(4, 12), batch_size=4
  )
  seen = {4: [], 12: []}
  for step in range(60):
    batch, _ = stream.batch(step)
    seen[batch.tokens_BP.shape[1]] += stream.indices(step).tolist()
  for width, order in seen.items():
    home = {i for i in range(60) if (4 if lengths[i] <= 4 else 12) == width}
    n = len(home)
    for start in range(0, len(order) - n + 1, n):
      assert set(order[start : start + n]) == home


@pytest.mark.parametrize(
    ('counts', 'lengths'),
    [
        # (prompts of 3, of 6, of 12 tokens) -> buckets with four or more.
        ((10, 10, 10), [4, 8, 16]),
        # Too few short ones join the next longer.
        ((3, 10, 10), [8, 16]),
        ((3, 0, 10), [16]),
        # Too few long ones take those before them along.
        ((10, 10, 3), [4, 16]),
        ((10, 1, 2), [16]),
        # None that are long need no room.
        ((10, 10, 0), [4, 8]),
        ((10, 0, 0), [4]),
        # Fewer prompts than a batch are one bucket.
        ((1, 1, 0), [8]),
        ((0, 0, 1), [16]),
    ],
)
def test_small_buckets_join_others(counts, lengths):
  tokens = np.repeat([3, 6, 12], counts).tolist()
  stream = made.prompt_stream(
      items=made.prompts(len(tokens), tokens), lengths=(4, 8, 16)
  )
  assert stream.lengths == lengths
  seen = set()
  for step in range(4 * stream.steps(1) + 8):
    batch, texts = stream.batch(step)
    assert batch.tokens_BP.shape == (4, batch.tokens_BP.shape[1])
    assert len(texts) == 4
    seen.update(stream.indices(step).tolist())
  assert seen == set(range(len(tokens)))


def test_an_example_of_each_bucket_has_its_shape():
  stream = made.prompt_stream(
      items=made.prompts(20, [3, 6, 12, 3]), lengths=(4, 8, 16)
  )
  for length in stream.lengths:
    assert stream.example(length).tokens_BP.shape == (4, length)


def test_once_goes_in_the_order_of_the_data_at_full_width():
  stream = made.prompt_stream(
      items=made.prompts(22, [3, 12, 6, 3]), lengths=(4, 8, 16)
  )
  out = list(stream.once())
  texts = [text for _, part in out for text in part]
  assert texts == [f'text {i}' for i in range(22)]
  assert {batch.tokens_BP.shape for batch, _ in out} == {(4, 16)}
  assert [len(part) for _, part in out] == [4, 4, 4, 4, 4, 2]
  # The last rows are there, and repeat the last prompt.
  assert made.marks(out[-1][0].tokens_BP) == [20, 21, 21, 21]


def test_what_cannot_be_served_is_refused_at_once():
  with pytest.raises(ValueError, match='there are no prompts'):
    made.prompt_stream(items=[])
  with pytest.raises(ValueError, match='prompt 3 has 5 tokens but a row has 4'):
    made.prompt_stream(lengths=(2, 4))
