# SPDX-License-Identifier: Apache-2.0
"""Tokens a second and MFU of a GPT of a given size, on the devices at hand.

  python benchmarks/throughput.py --size=1.3b       # a JSON line each
  python benchmarks/throughput.py --size=mini --rows=4 --tokens=64

The update of SFT with each attention kernel that the devices have, and decoding
at batch 64. Weights are random and f32 with Adam, as in a run; needs no
TensorFlow. FLOPs are the model's (PaLM, appendix B), those of recomputation not
counted; `--peak_tflops` of the device makes them an MFU.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from rlhf import inference, model, optim, sampling, sharding, update
from rlhf.data.batches import TextBatch
from rlhf.planning import cost, works
from rlhf.stages.sft import language_term

# bf16, without sparsity: NVIDIA's data sheets.
_PEAKS = {'H100': 989e12, 'H200': 989e12, 'A100': 312e12}


def seconds(function, repeats: int) -> float:
  """Median wall time of a call, after one that compiles."""
  jax.block_until_ready(function())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def training(cfg, mesh, args, params) -> dict:
  """The SFT step on rows of random tokens."""
  tx = optim.optimizer(optim.OptimizerConfig(learning_rate=1e-5))
  state = update.create_state(params, tx, mesh)
  term = language_term('sft', cfg, micro_batches=args.micro_batches)
  step = update.compile_step(state, mesh, terms=(term,), tx=tx)
  rng = np.random.default_rng(0)
  shape = (args.rows, args.tokens)
  batch = TextBatch(
      rng.integers(0, cfg.pad_id, shape).astype(np.int32),
      np.ones(shape, np.int32),
      np.arange(args.tokens)[None] > np.zeros((args.rows, 1)),
  )
  parts = args.micro_batches
  batch = sharding.put_batch(
      update.split_batch(batch, parts), mesh, stacked=parts > 1
  )
  key = jax.random.key(0)

  def once():
    nonlocal state
    state, metrics = step(state, {'sft': batch}, key)
    return metrics

  took = seconds(once, args.repeats)
  work = works.Work(
      'sft', cfg, 'train', args.rows, args.tokens, head_tokens=args.tokens
  )
  rate = cost.model_flops(work) / took / mesh.size
  return {
      'tokens_per_second': round(args.rows * args.tokens / took),
      'model_tflops_per_device': round(rate / 1e12, 1),
      'mfu': round(rate / args.peak, 3) if args.peak else None,
  }


def decoding(cfg, mesh, args, params) -> dict:
  """Responses of full length to a batch of prompts."""
  rollout_mesh = sharding.rollout_mesh(mesh)
  weights = inference.lay_out(params, cfg, rollout_mesh, ('tensor',))(params)
  new, prompt = args.new_tokens, args.prompt_tokens
  # No stop token is ever drawn: every response has its full length.
  draw = sampling.SamplingConfig(max_tokens=new, stop_tokens=(cfg.pad_id,))
  program = jax.jit(
      sharding.under(
          rollout_mesh,
          functools.partial(sampling.generate, cfg=cfg, sampling=draw),
      )
  )
  batch = sharding.put_batch(
      (
          np.ones((args.decode_rows, prompt), np.int32),
          np.ones((args.decode_rows, prompt), bool),
      ),
      rollout_mesh,
  )
  key = jax.random.key(0)
  took = seconds(lambda: program(weights, *batch, key), args.repeats)
  return {
      'new_tokens_per_second': round(args.decode_rows * new / took),
      'milliseconds_per_token': round(1e3 * took / new, 2),
  }


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', default='mini', choices=list(model.SIZES))
  for name, default in dict(
      rows=8, tokens=128, micro_batches=1, repeats=5, decode_rows=64,
      prompt_tokens=64, new_tokens=64,
  ).items():
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--peak_tflops', type=float, default=0.0)
  args = parser.parse_args()
  device = jax.devices()[0]
  known = [v for k, v in _PEAKS.items() if k in device.device_kind]
  args.peak = args.peak_tflops * 1e12 or next(iter(known), 0.0)
  mesh = sharding.make_mesh({'fsdp': -1})
  cfg = model.ModelConfig(**model.SIZES[args.size])
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), cfg))
  params = jax.jit(
      lambda: model.init(jax.random.key(0), cfg),
      out_shardings=sharding.shardings(shapes, mesh),
  )()
  about = {
      'size': args.size, 'device': device.device_kind, 'devices': mesh.size,
      'jax': jax.__version__,
  }
  own = model.choose_kernel(cfg, mesh, (args.tokens,)).kernel
  for kernel in dict.fromkeys((own, 'xla')):
    with_kernel = dataclasses.replace(cfg, kernel=kernel)
    found = training(with_kernel, mesh, args, params)
    print(json.dumps(about | {'train': kernel} | found), flush=True)
  cfg = dataclasses.replace(cfg, kernel='xla')
  found = decoding(cfg, mesh, args, params)
  print(json.dumps(about | {'decode_rows': args.decode_rows} | found))


if __name__ == '__main__':
  main()
