# SPDX-License-Identifier: Apache-2.0
"""What every stream promises: batch s follows from (seed, s) alone, an epoch
holds everything once, and a host reads only what is in its rows."""

import collections
import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest

from rlhf.data import store
from rlhf.data.streams import fingerprint
from tests.data import made


def _mixed(seed=0, *, items=None, **options):
  text = made.text_stream(seed)
  return made.demonstration_stream(seed, items=items, mix=(text, 2), **options)


def _buckets(seed=0, *, items=None, **options):
  options = dict(lengths=(3, 6, 12)) | options
  items = made.prompts(lengths=(2, 3, 5, 9)) if items is None else items
  return made.prompt_stream(seed, items=items, **options)


STREAMS = {
    'text': made.text_stream,
    'demonstrations': made.demonstration_stream,
    'unpacked': lambda seed=0, **options: made.demonstration_stream(
        seed, pack=False, **options
    ),
    'mixed': _mixed,
    'rankings': made.ranking_stream,
    'prompts': made.prompt_stream,
    'buckets': _buckets,
}
# Of each: examples, and rows of a batch.
SIZES = {
    'text': (10, 3),
    'demonstrations': (made.N, 4),
    'unpacked': (made.N, 4),
    'mixed': (made.N, 6),
    'rankings': (made.N, 16),
    'prompts': (10, 4),
    'buckets': (made.N, 4),
}
EVERY = pytest.mark.parametrize('kind', STREAMS)


def _examples_of(kind, batch):
  """Numbers of the examples in a batch, each once."""
  tokens = made.tokens(batch)
  if kind == 'mixed':
    tokens = tokens[:4]
  return list(dict.fromkeys(made.marks(tokens)))


@EVERY
def test_a_batch_does_not_depend_on_what_was_asked_before(kind):
  forward = STREAMS[kind]()
  in_order = [forward.batch(s) for s in range(25)]
  backward = STREAMS[kind]()
  for step in (24, 3, 17, 0, 24):
    assert made.equal(backward.batch(step), in_order[step])


@EVERY
def test_a_run_resumed_at_any_step_goes_on_as_if_unbroken(kind):
  unbroken = STREAMS[kind]()
  steps = unbroken.steps(2) + 3
  want = [unbroken.batch(s) for s in range(steps)]
  end = unbroken.steps(1)
  # In an epoch, at its end and on both sides of it.
  for start in (1, end // 2, end - 1, end, end + 1):
    resumed = STREAMS[kind]()
    for step in range(start, steps):
      assert made.equal(resumed.batch(step), want[step]), (start, step)


@EVERY
def test_one_program_serves_every_step(kind):
  stream = STREAMS[kind]()
  shapes = {
      made.tokens(stream.batch(s)).shape for s in range(stream.steps(2))
  }
  assert len(shapes) == (3 if kind == 'buckets' else 1)
  assert {rows for rows, _ in shapes} == {SIZES[kind][1]}


@EVERY
def test_another_seed_is_another_order(kind):
  one, other = [
      np.concatenate([made.marks(made.tokens(STREAMS[kind](seed).batch(s)))
                      for s in range(3)])
      for seed in (0, 1)
  ]
  assert one.tolist() != other.tolist()


@EVERY
def test_no_example_is_ever_an_epoch_ahead_of_another(kind):
  stream, (n, _) = STREAMS[kind](), SIZES[kind]
  counts = collections.Counter()
  for step in range(stream.steps(4)):
    tokens = made.tokens(stream.batch(step))
    if kind == 'rankings':  # Marked once a response; none is in a batch twice.
      counts.update(set(made.marks(tokens)))
    elif kind == 'text':
      counts.update(made.marks(tokens[:, 0]))
    else:  # A batch over the end of an epoch may hold an example of both.
      counts.update(made.marks(tokens[:4]))
    if kind != 'buckets':
      assert max(counts.values()) - min(counts[i] for i in range(n)) <= 1
  assert set(counts) == set(range(n))
  # Four epochs, and of a bucket a batch more or less.
  assert min(counts.values()) >= (3 if kind == 'buckets' else 4)


@EVERY
def test_an_epoch_is_as_many_steps_as_it_says(kind):
  stream, (n, _) = STREAMS[kind](), SIZES[kind]
  steps = stream.steps(1)
  assert stream.steps_per_epoch == steps
  seen = [_examples_of(kind, stream.batch(s)) for s in range(steps)]
  if kind == 'buckets':
    return  # To within a batch of each: tests/data/streams/prompts_test.py.
  assert set(itertools.chain(*seen)) == set(range(n))
  assert set(itertools.chain(*seen[:-1])) < set(range(n)), 'a step too many'


@EVERY
@pytest.mark.parametrize('hosts', [2, 3, 8])
def test_the_rows_of_all_hosts_make_up_the_batch(kind, hosts):
  """Hosts played one after another; tests/data/hosts_test.py has real ones."""
  rows = SIZES[kind][1]
  whole = STREAMS[kind]()
  masks = [np.arange(rows) % hosts == host for host in range(hosts)]
  streams = [STREAMS[kind](local=mask) for mask in masks]
  for step in range(6):
    want = made.arrays(whole.batch(step))
    parts = [stream.batch(step) for stream in streams]
    if isinstance(parts[0], tuple):
      assert all(list(p[1]) == list(whole.batch(step)[1]) for p in parts)
    for name, array in vars(want).items():
      got = [getattr(made.arrays(part), name) for part in parts]
      if name.endswith('BK'):
        assert all(np.array_equal(x, array) for x in got)
        continue
      union = np.zeros_like(array)
      for mask, x in zip(masks, got, strict=True):
        assert x.shape == array.shape and x.dtype == array.dtype
        union[mask] = x[mask]
      assert np.array_equal(union, array), name


_ITEMS = {
    'text': made.text,
    'demonstrations': made.demonstrations,
    'unpacked': made.demonstrations,
    'mixed': made.demonstrations,
    'rankings': made.rankings,
    'prompts': lambda: made.prompts(10),
    'buckets': lambda: made.prompts(lengths=(2, 3, 5, 9)),
}


@EVERY
def test_a_host_reads_only_what_is_in_its_rows(kind):
  rows = SIZES[kind][1]
  local = np.arange(rows) == 1
  read = there = 0
  recorder = made.Recorder(_ITEMS[kind]())
  stream, whole = STREAMS[kind](items=recorder, local=local), STREAMS[kind]()
  for step in range(8):
    # What the index needs in memory has been read before the first step.
    recorder.read.clear()
    stream.batch(step)
    tokens = made.tokens(whole.batch(step))
    if kind == 'mixed':
      tokens, mine = tokens[:4], local[:4]
    else:
      mine = local
    assert recorder.read == set(made.marks(tokens[mine])), step
    read += len(recorder.read)
    there += len(set(made.marks(tokens)))
  # All responses of a prompt are read for one of them.
  assert read < (0.6 if kind == 'rankings' else 0.4) * there


@EVERY
def test_once_is_everything_once(kind):
  stream, (n, rows) = STREAMS[kind](), SIZES[kind]
  out = list(stream.once())
  seen = [_examples_of(kind, batch) for batch in out]
  if kind in ('prompts', 'buckets'):
    seen = [found[: len(batch[1])]
            for found, batch in zip(seen, out, strict=True)]
  assert sorted(itertools.chain(*seen)) == list(range(n))
  shapes = {made.tokens(batch).shape for batch in out}
  assert len(shapes) == 1, 'padding fills the last batch'
  assert shapes.pop()[0] == (4 if kind == 'mixed' else rows)
  assert all(
      made.equal(a, b) for a, b in zip(out, stream.once(), strict=True)
  )


@EVERY
def test_the_position_is_what_was_dealt_before_a_step(kind):
  stream = STREAMS[kind]()
  assert stream.position(0)['epoch'] == stream.position(0)['taken'] == 0
  # A ranking is marked once a response; a batch of them is one item.
  dealt = 0
  for step in range(stream.steps(3)):
    where = stream.position(step)
    assert where == json.loads(json.dumps(where))
    assert where['epoch'] * where['of'] + where['taken'] == dealt
    assert 0 <= where['taken'] < where['of']
    tokens = made.tokens(stream.batch(step))
    dealt += {'rankings': 1, 'mixed': 4}.get(kind, len(tokens))
  assert stream.position(stream.steps(2))['epoch'] == 2
  if kind != 'rankings' and kind != 'demonstrations' and kind != 'mixed':
    assert where['of'] == SIZES[kind][0]
  assert ('text' in where) == (kind == 'mixed')


def test_mixed_text_has_a_position_of_its_own():
  stream, text = _mixed(), made.text_stream()
  for step in (0, 4, 5, 6):
    where = stream.position(step)['text']
    assert (where['epoch'], where['taken']) == divmod(2 * step, 10)
    assert where['of'] == 10 and where['data'] == text.position(0)['data']


@EVERY
def test_the_data_are_known_again_on_any_host(kind):
  want = STREAMS[kind]().position(7)
  assert len(want['data']) == 16 and int(want['data'], 16) >= 0
  rows = SIZES[kind][1]
  for host in range(3):
    mask = np.arange(rows) % 3 == host
    assert STREAMS[kind](local=mask).position(7) == want
  other = STREAMS[kind](1).position(0)['data']
  assert other == want['data'], 'the seed is no part of the data'


def _changes(kind):
  """Data that are not those of `kind`, by what is different."""
  items: Any = _ITEMS[kind]()
  if kind == 'text':
    changed = items.copy()
    changed[130] += 1
    return {'token': changed, 'removed': items[:-1]}
  field = {'rankings': 'prompt_ids', 'prompts': 'ids', 'buckets': 'ids'}
  field = field.get(kind, 'response_ids')

  def replaced(i, **values):
    return [*items[:i], dataclasses.replace(items[i], **values), *items[i + 1:]]

  ids = getattr(items[3], field)
  found = {
      'token': replaced(3, **{field: np.append(ids[:-1], ids[-1] + 1)}),
      'length': replaced(3, **{field: ids[:-1]}),
      'removed': items[:-1],
      'order': [items[1], items[0], *items[2:]],
  }
  if kind == 'rankings':
    found['ranks'] = replaced(3, ranks=items[3].ranks[::-1])
  return found


@EVERY
def test_changed_data_are_other_data(kind):
  seen = {STREAMS[kind]().position(0)['data']: 'as they were'}
  for name, items in _changes(kind).items():
    data = STREAMS[kind](items=items).position(0)['data']
    assert data not in seen, (name, seen[data])
    seen[data] = name


@EVERY
def test_a_store_is_known_as_what_was_written_to_it(kind, tmp_path):
  items: Any = _ITEMS[kind]()
  folder = tmp_path / 'a'
  if kind == 'text':
    store.write_tokens(folder, [items], lambda: {'kind': 'text'})
    stored: Any = store.StoredTokens(folder)
  else:
    name = {'unpacked': 'demonstrations', 'mixed': 'demonstrations'}
    name = {'buckets': 'prompts'}.get(kind, name.get(kind, kind))
    store.write_examples(folder, items, lambda: {'kind': name})
    stored = store.StoredExamples(folder)
  want = STREAMS[kind](items=items).position(9)
  assert STREAMS[kind](items=stored).position(9) == want


def test_of_a_long_store_a_thousand_items_are_read():
  recorder = made.Recorder(made.prompts(5000))
  before = fingerprint.of_examples(recorder)
  recorder.read.clear()  # What an index in memory needs.
  outline = store.index_of(recorder.items)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(store, 'index_of', lambda _: outline)
    assert fingerprint.of_examples(recorder) == before
  assert len(recorder.read) == 1000
  assert {0, 4999} <= recorder.read
  assert max(np.diff(sorted(recorder.read))) <= 6, 'evenly spaced'


def test_of_long_text_a_thousand_pieces_are_read():
  run = np.zeros(1_000_000, np.int32)
  want = fingerprint.of_text(run)
  for at in (0, 255, len(run) - 1):
    run[at] = 1
    assert fingerprint.of_text(run) != want
    run[at] = 0
  assert fingerprint.of_text(run[:-1]) != want
