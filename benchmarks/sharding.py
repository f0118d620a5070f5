# SPDX-License-Identifier: Apache-2.0
"""What fully sharded training saves: memory and work of a device, by devices.

  python benchmarks/sharding.py                 # one JSON line a program
  python benchmarks/sharding.py --write=docs/results

The SFT stage's own step is compiled for 1, 2, 4 and 8 fake CPU devices on the
mesh's `fsdp` axis, from shapes alone: there are no weights and nothing is run.
It needs neither TensorFlow nor an accelerator, and about a minute.

  state      arguments of the step: weights, Adam's moments, the batch
  peak       state, and what the compiled program needs beside it
  flops      of its matrix products, loops multiplied out (rlhf/planning/hlo.py)

`..._over_ideal` is n times a device's share over the whole of one device: 1
where it falls as 1/n. Three things don't. Biases and norms are copied to every
device (`copied_bytes`, 2 in 1000 of the state). The weights of the layer at
work, their gradients, and the token table are gathered to be used, and those
bytes don't fall with n: they are the more of the peak the fewer layers there
are, hence the two depths. And a device has at least one row.
"""

import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags

_DEVICES = flags.DEFINE_integer(
    'devices', 0, 'Compile for so many only, in this process.'
)
_WRITE = flags.DEFINE_string(
    'write', '', 'Folder for sharding.json and sharding.png.'
)

DEVICES = (1, 2, 4, 8)
LAYERS = (8, 32)
MODEL: dict = dict(
    width=512,
    heads=8,
    head_size=64,
    context=256,
    vocab_size=8192,
    pad_id=0,
    attention='dense',
    dtype='float32',
    remat='full',
    loss_chunk=32,
)
ROWS, ROW_TOKENS = 8, 256
_SHARES = ('state_bytes', 'peak_bytes', 'flops')


def measure(layers: int, devices: int) -> dict:
  """Compiles the step for the devices that this process has."""
  # Late: XLA_FLAGS says how many devices there are.
  import jax
  import numpy as np

  from rlhf import model, optim, sharding, update
  from rlhf.planning import compiled, programs, shapes, works
  from rlhf.stages.sft import language_term

  assert jax.device_count() == devices, (devices, jax.device_count())
  cfg = model.ModelConfig(layers=layers, **MODEL)
  mesh = sharding.make_mesh({'fsdp': devices})
  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=1e-5))
  state = shapes.train_state(cfg, tx, mesh)
  batch = {'sft': shapes.text_batch(ROWS, ROW_TOKENS, 1, mesh)}
  step = update.compile_step(
      state, mesh, terms=(language_term('sft', cfg),), tx=tx
  )
  found = compiled.compile_program(
      programs.Program(
          call=works.Call('sft', ()),
          mesh=mesh,
          jitted=step,
          args=(state, batch, shapes.key(mesh)),
          reads=(),
      )
  )
  memory, analysis = found.memory, found.analysis
  assert memory is not None and analysis is not None
  assert not analysis.unknown_loops, analysis.unknown_loops
  copied = [
      leaf.size * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(state)
      if leaf.sharding.is_fully_replicated
  ]
  return {
      'layers': layers,
      'devices': devices,
      'parameters': sum(x.size for x in jax.tree.leaves(state.params)),
      'state_bytes': memory.arguments,
      'copied_bytes': int(np.sum(copied)) if devices > 1 else 0,
      'temporary_bytes': memory.temporaries,
      'peak_bytes': memory.peak,
      'flops': analysis.flops,
  }


def measure_apart(devices: int) -> list[dict]:
  """`measure` of all depths, in a process with so many devices."""
  flags_of_xla = os.environ.get('XLA_FLAGS', '')
  done = subprocess.run(
      [sys.executable, __file__, f'--devices={devices}'],
      env={
          **os.environ,
          'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': (
              f'{flags_of_xla} --xla_force_host_platform_device_count={devices}'
          ),
      },
      stdout=subprocess.PIPE,
      text=True,
      check=True,
  )
  return [json.loads(line) for line in done.stdout.splitlines()]


def with_ratios(rows: list[dict]) -> list[dict]:
  """Adds n times each share over the whole of one device."""
  one = {row['layers']: row for row in rows if row['devices'] == 1}
  return [
      row
      | {
          f'{name.removesuffix("_bytes")}_over_ideal': round(
              row[name] * row['devices'] / one[row['layers']][name], 4
          )
          for name in _SHARES
      }
      for row in rows
  ]


def draw(rows: list[dict], path: pathlib.Path) -> None:
  """Bytes of a device by depth, and how far each share is from 1/n."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 3.3), dpi=150, layout='constrained')
  *bars, ratios = figure.subplots(1, 1 + len(LAYERS))
  x = list(range(len(DEVICES)))
  for ax, layers in zip(bars, LAYERS, strict=True):
    of_depth = [row for row in rows if row['layers'] == layers]
    gigabytes = {
        name: [row[f'{name}_bytes'] / 1e9 for row in of_depth]
        for name in ('state', 'peak')
    }
    ax.bar(x, gigabytes['peak'], color='#d1752c', label='temporary')
    ax.bar(x, gigabytes['state'], color='#4878a8', label='weights, moments')
    ideal = [gigabytes['peak'][0] / n for n in DEVICES]
    ax.plot(x, ideal, 'k_', ms=26, label='1/n of one device')
    ax.set(title=f'{layers} layers: GB a device, at the peak')
  bars[0].legend(frameon=False)
  for name, layers, style, color in (
      ('peak', LAYERS[0], 'o-', '#d1752c'),
      ('peak', LAYERS[1], 'o--', '#d1752c'),
      ('state', LAYERS[1], 's-', '#4878a8'),
      ('flops', LAYERS[1], '.-', '#3c8d5a'),
  ):
    of_depth = [row for row in rows if row['layers'] == layers]
    ratios.plot(
        [row[f'{name}_over_ideal'] for row in of_depth],
        style,
        color=color,
        ms=4,
        label=f'{name}, {layers} layers',
    )
  ratios.set(title='n times the share of a device', ylim=(0.9, None))
  ratios.legend(frameon=False)
  for ax in (*bars, ratios):
    ax.set_xticks(x, [str(n) for n in DEVICES])
    ax.set_xlabel('devices on fsdp')
    ax.title.set_fontsize(11)
    for side in ('top', 'right'):
      ax.spines[side].set_visible(False)
  figure.savefig(path)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  if _DEVICES.value:
    for layers in LAYERS:
      print(json.dumps(measure(layers, _DEVICES.value)))
    return
  rows = []
  for devices in DEVICES:
    rows += measure_apart(devices)
  rows = with_ratios(rows)
  for row in rows:
    print(json.dumps(row))
  if _WRITE.value:
    folder = pathlib.Path(_WRITE.value)
    facts = {
        'model': MODEL, 'rows': ROWS, 'row_tokens': ROW_TOKENS, 'programs': rows
    }
    text = json.dumps(facts, indent=2) + '\n'
    (folder / 'sharding.json').write_text(text)
    draw(rows, folder / 'sharding.png')


if __name__ == '__main__':
  app.run(main)
