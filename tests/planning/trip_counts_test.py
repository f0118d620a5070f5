# SPDX-License-Identifier: Apache-2.0
"""Trip counts worked out from programs of a few lines."""

import textwrap

import pytest

from rlhf.planning import instructions, trip_counts


def _loops(text):
  module = instructions.parse('HloModule test\n\n' + textwrap.dedent(text))
  found, loops = trip_counts.executions(module)
  return found, {loop.name: loop for loop in loops}


def _counting(condition, step='add(%i, %step)', by=1, start=0, limit=8):
  """A loop whose counter is element 0, and whose element 2 never changes."""
  return f"""\
      %body (state: (s32[], f32[4], s32[])) -> (s32[], f32[4], s32[]) {{
        %state = (s32[]{{:T(128)}}, f32[4]{{0}}, s32[]) parameter(0)
        %i = s32[]{{:T(128)}} get-tuple-element(%state), index=0
        %step = s32[] constant({by})
        %next = s32[] {step}
        %x = f32[4]{{0:T(128)}} get-tuple-element(%state), index=1
        %limit.2 = s32[] get-tuple-element(%state), index=2
        ROOT %out = (s32[], f32[4]{{0}}, s32[]) tuple(%next, %x, %limit.2)
      }}

      %compare_in_a_fusion (a: s32[], b: s32[], c: pred[]) -> pred[] {{
        %a = s32[] parameter(0)
        %b = s32[] parameter(1)
        %c = pred[] parameter(2)
        %inside = pred[] compare(%a, %b), direction=LT
        %negated = pred[] not(%c)
        ROOT %both = pred[] and(%negated, %inside)
      }}

      %condition (state.1: (s32[], f32[4], s32[])) -> pred[] {{
        %state.1 = (s32[], f32[4]{{0}}, /*index=2*/s32[]) parameter(0)
        %j = s32[] get-tuple-element(%state.1), index=0
        %limit = s32[] constant({limit})
        %carried = s32[] get-tuple-element(%state.1), index=2
        %done = pred[] constant(false)
        {condition}
      }}

      ENTRY %main (x.1: f32[4]) -> f32[4] {{
        %x.1 = f32[4]{{0}} parameter(0)
        %zero = s32[] constant({start})
        %copied = s32[] copy(%zero)
        %ten = s32[] constant(10)
        %start = (s32[], f32[4]{{0}}, s32[]) tuple(%copied, %x.1, %ten)
        %loop = (s32[], f32[4]{{0}}, s32[]) while(%start), condition=%condition, body=%body, metadata={{op_name="jit(f)/while"}}
        ROOT %y = f32[4]{{0}} get-tuple-element(%loop), index=1
      }}
      """  # noqa: E501


_LESS = 'ROOT %c = pred[] compare(%j, %limit), direction=LT'


@pytest.mark.parametrize(
    'text, trips, exact',
    [
        (_counting(_LESS), 8, True),
        (_counting(_LESS, start=3), 5, True),
        # Collective matrix products go on by 2 or 4.
        (_counting(_LESS, by=2), 4, True),
        (_counting(_LESS, by=4, limit=15), 4, True),
        (_counting(_LESS, start=9), 0, True),
        (_counting(_LESS.replace('LT', 'LE')), 9, True),
        (_counting(_LESS.replace('LT', 'NE'), by=2), 4, True),
        (
            _counting(_LESS.replace('LT', 'GE'), by=-1, start=7, limit=0),
            8,
            True,
        ),
        (
            _counting(
                _LESS.replace('LT', 'GT'),
                step='subtract(%i, %step)',
                start=8,
                limit=0,
            ),
            8,
            True,
        ),
        # Written the other way round.
        (
            _counting('ROOT %c = pred[] compare(%limit, %j), direction=GT'),
            8,
            True,
        ),
        # The limit is carried through the loop, which leaves it as it is.
        (
            _counting('ROOT %c = pred[] compare(%j, %carried), direction=LT'),
            10,
            True,
        ),
        # A decoder: until all have ended, but no more than the limit.
        (
            _counting(
                'ROOT %c = pred[] fusion(%j, %limit, %done), kind=kLoop,'
                ' calls=%compare_in_a_fusion'
            ),
            8,
            False,
        ),
        # Nothing to go by.
        (_counting('ROOT %c = pred[] copy(%done)'), None, False),
        (_counting(_LESS, step='multiply(%i, %step)'), None, False),
        (_counting(_LESS, by=0), None, False),
        (_counting(_LESS, by=-1), None, False),
        (_counting(_LESS.replace('LT', 'NE'), by=3), None, False),
    ],
)
def test_trips(text, trips, exact):
  found, loops = _loops(text)
  assert loops['loop'].trips == trips
  assert loops['loop'].exact == exact
  assert loops['loop'].op_name == 'jit(f)/while'
  runs = found['body']
  assert runs.in_loop and runs.count == (1 if trips is None else trips)
  assert not found['main'].in_loop


def test_what_the_compiler_notes_is_believed():
  text = _counting(_LESS).replace(
      'body=%body,',
      'body=%body, backend_config={"known_trip_count":{"n":"5"}},',
  )
  _, loops = _loops(text)
  assert loops['loop'].trips == 5 and loops['loop'].exact


def test_loops_multiply_and_branches_are_each_counted():
  """2 trips of 3; and a call from two places is two."""
  text = """\
      %leaf (x: f32[]) -> f32[] {
        ROOT %x = f32[] parameter(0)
      }

      %other (x.1: f32[]) -> f32[] {
        ROOT %x.1 = f32[] parameter(0)
      }

      %holds (s: (s32[], f32[])) -> pred[] {
        %s = (s32[], f32[]) parameter(0)
        ROOT %p = pred[] constant(true)
      }

      %inner (s.1: (s32[], f32[])) -> (s32[], f32[]) {
        %s.1 = (s32[], f32[]) parameter(0)
        %v = f32[] get-tuple-element(%s.1), index=1
        %once = f32[] call(%v), to_apply=%leaf
        %again = f32[] call(%once), to_apply=%leaf
        %n = s32[] get-tuple-element(%s.1), index=0
        %b = f32[] conditional(%n, %v, %again), branch_computations={%leaf, %other}
        ROOT %t = (s32[], f32[]) tuple(%n, %b)
      }

      %outer (s.2: (s32[], f32[])) -> (s32[], f32[]) {
        %s.2 = (s32[], f32[]) parameter(0)
        ROOT %w = (s32[], f32[]) while(%s.2), condition=%holds, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
      }

      ENTRY %main (s.3: (s32[], f32[])) -> (s32[], f32[]) {
        %s.3 = (s32[], f32[]) parameter(0)
        ROOT %w.1 = (s32[], f32[]) while(%s.3), condition=%holds, body=%outer, backend_config={"known_trip_count":{"n":"2"}}
      }
      """  # noqa: E501
  found, loops = _loops(text)
  assert {name: loop.trips for name, loop in loops.items()} == {
      'w.1': 2,
      'w': 3,
  }
  # Six runs, each with two calls and a branch.
  assert found['leaf'].count == 18 and found['other'].count == 6
  # Of the outer loop 2 + 1 looks, of the inner one 2 * (3 + 1).
  assert found['holds'].count == 11
