# SPDX-License-Identifier: Apache-2.0
"""Will it fit, how fast can it be, what will it cost: before there are chips.

  python launch/plan.py --config=configs/ppo_ptx.py:175b --topology=v5p:4x4x4

compiles the run's own programs for those chips, on any machine, and prints
memory, collectives, floors of time, and what to change. It needs libtpu
(`pip install -e '.[plan]'`), but no TPU and no data; `--topology=cpu:8` needs
neither. Nothing is run: no time of a host, no input, no stragglers, no
fragmented memory is in its numbers, and its times are bounds, not forecasts.
"""

import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from rlhf.planning.environment import environment

# Before a config is read, for that imports jax.
os.environ.update(environment())

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'Chips: v5e:2x4, v5p:4x4x4, 2*v5p:4x4x4, or cpu:8.'
)
_JSON = flags.DEFINE_bool('json', False, 'Print one JSON object instead.')
_EFFORT = flags.DEFINE_enum(
    'effort',
    'default',
    ['default', 'fast'],
    'How hard the compiler tries; fast is for tests: it finds other memory.',
)
_PRICE = flags.DEFINE_float(
    'price_per_chip_hour', None, 'What a chip costs an hour, in any money.'
)
_SEARCH = flags.DEFINE_bool(
    'search', False, 'Try meshes and micro-batches; the config says the rest.'
)
_FITTING = flags.DEFINE_integer(
    'fitting', 3, 'With --search: how many layouts that fit are wanted.'
)
_COMPILES = flags.DEFINE_integer(
    'compiles', 10, 'With --search: programs that may be compiled for it.'
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  from rlhf.planning import topology as topology_lib

  try:
    topology = topology_lib.parse(_TOPOLOGY.value or '')
  except ValueError as error:
    sys.exit(f'error: {error}')
  if topology.chip.generation == 'cpu':
    os.environ.update(environment(cpu_devices=topology.devices))
  try:
    (_search if _SEARCH.value else _plan)(topology)
  except (ValueError, RuntimeError) as error:
    sys.exit(f'error: {error}')


def _say(text):
  # What is asked for goes to stdout, and nothing else.
  print(f'compiling {text} ...', file=sys.stderr, flush=True)


def _plan(topology):
  from rlhf.planning import plan as plan_lib
  from rlhf.planning import report

  plan = plan_lib.make(
      _CONFIG.value, topology, effort=_EFFORT.value, on_program=_say
  )
  if _JSON.value:
    print(json.dumps(plan_lib.as_json(plan, _PRICE.value), indent=2))
  else:
    report.console().print(report.report(plan, _PRICE.value))


def _search(topology):
  from rlhf.planning import report
  from rlhf.planning import search as search_lib

  found = search_lib.search(
      _CONFIG.value,
      topology,
      wanted=_FITTING.value,
      compiles=_COMPILES.value,
      effort=_EFFORT.value,
      say=_say,
  )
  if _JSON.value:
    print(json.dumps(search_lib.as_json(found), indent=2))
  else:
    report.console().print(report.search_report(found))


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'topology'])
  app.run(main)
