# SPDX-License-Identifier: Apache-2.0
"""Batches made ahead are those made when asked for."""

import gc
import threading
import time

import pytest

from rlhf.data.ahead import Ahead
from rlhf.data.rows import DataError


def test_steps_in_any_order_give_what_was_asked_for():
  batches = Ahead(lambda step: step * step, 10**13)
  for step in (0, 1, 2, 3, 10, 11, 10, 0, 1, 10**12):
    assert batches(step) == step * step
  assert batches.waited >= 0


def test_the_next_batch_is_made_without_being_asked_for():
  made = {step: threading.Event() for step in range(9)}
  batches = Ahead(lambda step: made[step].set(), 9)
  batches(3)
  assert made[4].wait(10), 'one ahead'
  assert not made[5].is_set(), 'and no more'
  batches(4)
  assert made[5].wait(10) and not made[6].is_set()


def test_each_step_of_a_run_is_made_once_on_another_thread():
  asked, threads = [], set()

  def make(step):
    asked.append(step)
    threads.add(threading.get_ident())
    return step

  batches = Ahead(make, 20)
  assert [batches(step) for step in range(20)] == list(range(20))
  # Nothing is made beyond the end, and a step there may still be asked for.
  assert asked == list(range(20))
  assert batches(25) == 25 and asked[20:] == [25]
  assert len(threads) == 1 and threading.get_ident() not in threads


def test_an_error_comes_with_its_own_step():
  def make(step):
    if step == 3:
      raise ValueError('a.arrayrecord: record 7 cannot be read')
    return step

  batches = Ahead(make, 9)
  assert [batches(step) for step in range(3)] == [0, 1, 2]
  for _ in range(2):  # Whoever asks again is told again.
    with pytest.raises(ValueError, match='record 7 cannot be read'):
      batches(3)
  assert batches(4) == 4, 'and the rest is still to be had'


class _ReaderError(Exception):
  """As a library raises it, which knows neither file nor batch."""


_ReaderError.__module__ = 'array_record.python'


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (OSError(5, 'Input/output error', '/data/text.arrayrecord'),
         r'^/data/text.arrayrecord: could not be read at batch 3 \(OSError:'
         r' Input/output error\): is the disk still there'),
        (ConnectionResetError('reset'),
         r'^text: could not be read at batch 3 \(ConnectionResetError: reset'),
        (IndexError('9 of 5'), r'^text: could not .* 3 \(IndexError: 9 of 5'),
        (EOFError('at 7'), r'^text: could not .* 3 \(EOFError: at 7'),
        (_ReaderError('bad chunk\nin C++'), r'^text: could not .* bad chunk\)'),
        (DataError('a.arrayrecord: record 7 cannot be read'),
         r'^a.arrayrecord: record 7 cannot be read \(at batch 3 of text\)$'),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_data_that_die_are_named_with_their_batch(error, line):
  def make(step):
    if step == 3:
      raise error
    return step

  batches = Ahead(make, 9, 'text')
  assert [batches(step) for step in range(3)] == [0, 1, 2]
  for _ in range(2):
    with pytest.raises(DataError, match=line) as caught:
      batches(3)
    assert caught.value.__cause__ is error
    assert '\n' not in str(caught.value)


def test_a_fault_of_ours_is_no_fault_of_the_data():
  def make(step):
    raise KeyError(step)

  with pytest.raises(KeyError):
    Ahead(make, 9)(0)


def test_a_thread_ends_with_its_batches():
  before = threading.active_count()
  batches = Ahead(lambda step: step, 9)
  assert batches(0) == 0 and threading.active_count() == before + 1
  del batches
  gc.collect()
  end = time.monotonic() + 10
  while threading.active_count() > before and time.monotonic() < end:
    time.sleep(0.01)
  assert threading.active_count() == before


@pytest.mark.parametrize('seconds', [0.2, 10**6])
def test_a_batch_that_never_comes_does_not_hold_up_the_exit(
    fresh_python, seconds
):
  """And one that soon comes is not cut off in the middle."""
  said = fresh_python(f'''
import time
from rlhf.data import ahead
ahead.EXIT_SECONDS = 1 if {seconds} > 100 else 60
def make(step):
  if step:
    time.sleep({seconds})
    print('made', step, flush=True)
  return step
batches = ahead.Ahead(make, 9)
batches(0)
print('end', flush=True)
''')
  assert said.split() == ['end', *(['made', '1'] if seconds < 1 else [])]
