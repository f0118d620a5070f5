# SPDX-License-Identifier: Apache-2.0
"""A method so small that a stage takes seconds: data, networks, configs.

The vocabulary is 30 characters in the files of a GPT-2 encoder, so nothing here
hangs on the words of the embedded world. Configs are the shipped ones, shrunk.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from launch import pipeline
from rlhf import model as lm
from rlhf import networks

EOS, PAD = 29, 30
CFG = lm.ModelConfig(
    layers=2,
    width=16,
    heads=2,
    head_size=6,
    context=48,
    vocab_size=31,
    pad_id=PAD,
    attention='alternating',
    band=7,
    init_std=None,
    dtype='float32',
    remat='none',
    unroll=False,
)
WORDS = (
    'ant', 'bee', 'cat', 'dog', 'elk', 'fox', 'gnu', 'hen', 'ibis', 'jay',
    'kiwi', 'lion', 'mole', 'newt', 'owl',
)


def network(
    seed: int, *, head: str | None = None, cfg: lm.ModelConfig = CFG, eos=EOS
):
  """`(params, cfg)` of a random network that ends a response now and then.

  Args:
    seed: of its weights. All of them count: no bias is 0, no scale 1.
    head: None, or the scalar head's pooling.
    cfg: of which size.
    eos: id whose logit is raised by 2.5.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    x = rng.normal(size=leaf.shape) * (0.1 if path[-1].key == 'bias' else 0.25)
    return jnp.asarray(x + (path[-1].key == 'scale'), jnp.float32)

  shapes = jax.eval_shape(lambda: lm.init(jax.random.key(0), cfg))
  params = jax.tree_util.tree_map_with_path(draw, shapes)
  stop = params['embed']['tokens']['table'][eos]
  params['final_norm']['bias'] += 2.5 * stop / jnp.sum(jnp.square(stop))
  if head is not None:
    cfg = dataclasses.replace(cfg, reward_pooling=head)
    names = ['last', 'mean'] if head == 'last_and_mean' else ['last']
    kernels = {n: {'kernel': jnp.float32(rng.normal(size=cfg.width))}
               for n in names}
    params['scalar_head'] = kernels | {'bias': jnp.float32(0.5)}
  return params, cfg


def make_root(root: pathlib.Path) -> pathlib.Path:
  """Fills a directory with data, a policy (`sft`) and a reward model (`rm`)."""
  write_data(root)
  networks.save_model(root / 'sft' / 'model', *network(1), {})
  reward = network(2, head='last_and_mean')
  networks.save_model(root / 'rm' / 'model', *reward, {})
  return root


def write_data(root: pathlib.Path) -> None:
  """Writes a vocabulary, text, demonstrations, prompts and rankings."""
  rng = random.Random(0)
  (root / 'vocabulary').mkdir(parents=True, exist_ok=True)
  # 'Ġ' is how GPT-2's files spell a space.
  characters = [*'abcdefghijklmnopqrstuvwxyz', 'Ġ', ':', '.', '<|endoftext|>']
  ids = {character: i for i, character in enumerate(characters)}
  (root / 'vocabulary' / 'encoder.json').write_text(json.dumps(ids))
  (root / 'vocabulary' / 'vocab.bpe').write_text('#version: 0.2\n')

  def words(count):
    return ' '.join(rng.choice(WORDS) for _ in range(count))

  def prompt():
    return 'say ' + words(rng.randint(1, 2))

  _write(root / 'text.jsonl', ({'text': words(9) + '.'} for _ in range(150)))
  _write(
      root / 'demonstrations.jsonl',
      (
          {'prompt': f'say {word}', 'response': word, 'user': f'user {i % 25}'}
          for i, word in enumerate(words(75).split())
      ),
  )
  _write(
      root / 'prompts.jsonl',
      ({'prompt': prompt(), 'user': f'user {i % 25}'} for i in range(75)),
  )
  for split, count in (('train', 24), ('validation', 12)):
    _write(
        root / 'comparisons' / f'rankings_{split}.jsonl',
        (_ranking(prompt(), rng) for _ in range(count)),
    )


def _ranking(prompt, rng):
  responses = rng.sample(WORDS, rng.randint(4, 9))
  # The labeler likes the front of the alphabet, and lets neighbours tie.
  ranks = [WORDS.index(word) // 2 for word in responses]
  return {'prompt': prompt, 'responses': responses, 'ranks': ranks}


def _write(path: pathlib.Path, rows: Iterable[dict]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def config(
    stage: str, root: pathlib.Path, run: str | None = None, **changes
) -> config_dict.ConfigDict:
  """A shipped miniature config on the data, and to the size, of `root`.

  Args:
    stage: name of a file in configs/.
    root: filled by `make_root`.
    run: another name than the stage's own for its directory.
    **changes: fields by dotted name, `{'ppo.batch': 8}`.
  """
  c = pipeline.load_config(f'configs/{stage}.py').unlock()
  c.root = str(root)
  c.run = run or c.run
  c.loop.tensorboard = False
  c.loop.log_every = 1
  c.data.update(
      vocabulary=str(root / 'vocabulary'),
      prompt_format=dict(prefix='', suffix=' :', response_prefix=' '),
      text=str(root / 'text.jsonl'),
      demonstrations=str(root / 'demonstrations.jsonl'),
      prompts=str(root / 'prompts.jsonl'),
      prompt_tokens=16,
      response_tokens=8,
      row_tokens=24,
      validation_share=0.25,
  )
  c.data.update(limits={})
  for name in ('optimizer', 'value_optimizer'):
    if name in c:
      # Gradients of zero (a key's bias has them) stay zero: a smaller epsilon
      # makes updates of their rounding errors.
      c[name].update(eps=1e-3, warmup_steps=0)
  getattr(_Shrink, stage, lambda c: None)(c)
  c.update_from_flattened_dict(changes)
  return c.lock()


class _Shrink:
  """What each shipped config changes to become tiny."""

  @staticmethod
  def pretrain(c):
    sizes = vars(CFG)
    c.model = {k: sizes[k] for k in sizes if k not in ('vocab_size', 'pad_id')}
    c.batch, c.steps, c.loop.evaluate_every = 4, 3, 0

  @staticmethod
  def sft(c):
    c.init_from = f'{c.root}/sft/model'
    c.batch, c.epochs, c.loop.evaluate_every = 4, 1, 0

  @staticmethod
  def rm(c):
    for split, name in (
        ('train', 'rankings'), ('validation', 'validation_rankings')
    ):
      c.data[name] = f'{c.root}/comparisons/rankings_{split}.jsonl'
    c.data.row_tokens = 48
    c.batch, c.rows, c.epochs, c.loop.evaluate_every = 4, 8, 1, 0

  @staticmethod
  def ppo_ptx(c):
    c.data.ptx_row_tokens = 16
    c.ppo.update(
        episodes=32, batch=16, minibatches=2, value_warmup_iterations=0
    )
    if c.ppo.ptx_coefficient:
      c.ppo.ptx_coefficient = 2.5
    c.optimizer.learning_rate, c.value_optimizer.learning_rate = 3e-3, 1e-3
    c.loop.evaluate_every = 0

  ppo = ppo_ptx


def first_metrics(directory: pathlib.Path) -> dict[str, float]:
  """The first line of a stage's metrics."""
  with open(directory / 'metrics.jsonl') as f:
    return json.loads(f.readline())


def metrics(directory: pathlib.Path) -> list[dict[str, float]]:
  """All lines of a stage's metrics."""
  text = (directory / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def without_clocks(line: dict) -> dict:
  """A line of metrics, without what hangs on the time of day."""
  clocks = ('seconds', 'tokens_per_second')
  return {
      name: value
      for name, value in line.items()
      if name not in clocks and not name.startswith('time/')
  }


def assert_same(got, want) -> None:
  """Two trees hold the same bits."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for (path, a), (_, b) in zip(
      jax.tree_util.tree_leaves_with_path(got),
      jax.tree_util.tree_leaves_with_path(want),
      strict=True,
  ):
    name = jax.tree_util.keystr(path)
    assert a.dtype == b.dtype and jnp.array_equal(a, b), name


def states_alone(params, tokens, width: int = 32) -> np.ndarray:
  """Final hidden states [T, D] of one sequence, nothing before or beside it.

  What fills the row up stands behind it, where no token can look.
  """
  row = np.zeros((1, width), np.int32)
  row[0, : len(tokens)] = tokens
  x_BTD = _forward(params, row, np.ones_like(row))
  return np.asarray(x_BTD, np.float64)[0, : len(tokens)]


def log_probs_alone(params, tokens, temperature: float = 1.0) -> np.ndarray:
  """log p of each token but the first, float64 [T - 1]; a plain loop."""
  table = np.asarray(params['embed']['tokens']['table'], np.float64)
  logits = states_alone(params, tokens) @ table.T / temperature
  logits[:, PAD] = -np.inf
  return np.array([
      state[token] - np.log(np.sum(np.exp(state)))
      for state, token in zip(logits[:-1], tokens[1:], strict=True)
  ])


def scalars_alone(params, prompt, response) -> np.ndarray:
  """The scalar head before the response and at each of its tokens."""
  x = states_alone(params, [*prompt, *response])
  head = jax.tree.map(
      lambda leaf: np.asarray(leaf, np.float64), params['scalar_head']
  )
  result = []
  for t in range(len(prompt) - 1, len(prompt) + len(response)):
    scalar = x[t] @ head['last']['kernel'] + head['bias']
    said = x[len(prompt) : t + 1]
    if 'mean' in head and len(said):
      scalar += np.mean(said @ head['mean']['kernel'])
    result.append(scalar)
  return np.array(result)


@jax.jit
def _forward(params, tokens_BT, segment_ids_BT):
  return lm.forward(params, tokens_BT, segment_ids_BT, CFG)


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
  """Compiles in half the time: what is compiled here runs for milliseconds."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
