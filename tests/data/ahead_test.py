# SPDX-License-Identifier: Apache-2.0
"""Batches made ahead are those made when asked for."""

import threading

import pytest

from rlhf.data.ahead import Ahead


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
