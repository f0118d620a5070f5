# SPDX-License-Identifier: Apache-2.0
"""How fast data become batches, and whether a training step waits for them.

  python benchmarks/data.py                     # tables; six minutes
  python benchmarks/data.py --write=docs/results
  python benchmarks/data.py --only=pipeline --folder=my/data

`pipeline`: tokens a second of every stage from files to batches, on one core.
Text is that of the .jsonl.gz files below --folder, and tokens are GPT-2's if it
has gpt2_bpe/. Without that folder text is the miniature's, in bytes.
`waits`: of the miniature's SFT, RM and PPO-ptx runs, the share of a step in
which the program waits for its next batch; the goal is under 2 %.

Reading goes through seqio, so it needs TensorFlow.
"""

import contextlib
import functools
import gzip
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np
from absl import app, flags

from launch import pipeline
from rlhf.data import (
    cleaning,
    examples,
    hygiene,
    packing,
    pii,
    prompting,
    store,
)
from rlhf.data.account import Account
from rlhf.data.examples import Demonstration, PromptExample, Ranking
from rlhf.data.streams import (
    DemonstrationStream,
    PromptStream,
    RankingStream,
    TextStream,
)
from rlhf.world import BASE_CHECKPOINT

_WRITE = flags.DEFINE_string('write', '', 'Folder for data.md.')
_FOLDER = flags.DEFINE_string('folder', '../shared/data', 'Files to read.')
_ONLY = flags.DEFINE_enum(
    'only', 'all', ['all', 'pipeline', 'waits'], 'What to measure.'
)
_ROWS = flags.DEFINE_integer('rows', 4000, 'Most rows of a kind to read.')
_STEPS = flags.DEFINE_integer('steps', 40, 'Steps of each training run.')

Row = tuple[str, ...]
# Tokens of a row, prompts and responses, as in the paper's runs on long text.
_ROW_TOKENS, _PROMPT, _RESPONSE = 2048, 1024, 1024
_BATCHES = 50
_REPEATS = 3
_LENIENT = cleaning.Reading(strict=False, allow_empty_responses=True)


def seconds(function: Callable[[], Any]) -> float:
  """Median wall time of a call."""
  times = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return statistics.median(times)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
  """Keeps this process on one core, where the system can."""
  if not hasattr(os, 'sched_setaffinity'):
    yield
    return
  cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {max(cores)})
  try:
    yield
  finally:
    os.sched_setaffinity(0, cores)


# -- From files to batches ----------------------------------------------------


def files(folder: pathlib.Path, kind: str) -> list[str]:
  """Files of a kind; those of other shapes are left out."""
  name = {'text': 'text/*', 'demonstrations': '*/*demonstrations*'}[kind]
  return sorted(str(path) for path in folder.glob(f'{name}.jsonl.gz'))


def world_files(folder: pathlib.Path) -> None:
  """Writes the miniature's text and demonstrations as such files."""
  from rlhf.data import tasks

  for name, rows in (
      ('text/world', [{'text': t} for t in tasks.documents('validation')]),
      ('world/demonstrations', tasks.demonstrations('validation')),
  ):
    path = folder / f'{name}.jsonl.gz'
    path.parent.mkdir(parents=True)
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    path.write_bytes(gzip.compress(lines.encode()))


def read(paths: Sequence[str], kind: str) -> list[tuple[str, dict]]:
  """Checked rows of files, no more than --rows."""
  from rlhf.data import sources

  task = sources.resolve(','.join(paths), kind, _LENIENT)
  found = sources.read(task, kind, 'all', _LENIENT, _ROWS.value)
  return list(cleaning.counted(found, Account(strict=False)))


def tokenised(rows, kind: str, vocabulary: Any) -> list:
  """Rows as examples, within the limits on prompts and responses."""
  tokeniser = examples.Tokeniser(
      vocabulary, prompting.DIALOGUE, _PROMPT, _RESPONSE
  )
  account = Account(kept={'all': len(rows)})
  return list(tokeniser.examples(rows, kind, account, 'all'))


def count(made: Sequence[Any]) -> int:
  """Tokens of examples."""
  return sum(sum(lengths) for lengths in store.index_of(made).lengths)


def measure_pipeline(folder: pathlib.Path) -> tuple[str, list[Row]]:
  """(what was read, rows of the table)."""
  from rlhf.data import vocabularies

  texts, pairs = files(folder, 'text'), files(folder, 'demonstrations')
  bpe = folder / 'gpt2_bpe'
  name = str(bpe) if bpe.is_dir() else 'bytes'
  vocabulary = vocabularies.vocabulary(name)
  text, asked = read(texts, 'text'), read(pairs, 'demonstrations')
  documents = tokenised(text, 'text', vocabulary)
  made = tokenised(asked, 'demonstrations', vocabulary)
  tokens = count(documents)
  about = (
      f'{len(text):,} documents of {tokens:,} tokens and {len(asked):,} '
      f'demonstrations of {count(made):,}, '
      + ("GPT-2's tokens" if bpe.is_dir() else 'bytes as tokens')
  )
  table: list[Row] = []

  def row(what: str, tokens: float, function: Callable[[], Any]) -> None:
    table.append((what, f'{tokens / seconds(function):,.0f}', ''))

  row('read and check .jsonl.gz, text', tokens, lambda: read(texts, 'text'))
  row(
      'read and check .jsonl.gz, demonstrations',
      count(made),
      lambda: read(pairs, 'demonstrations'),
  )
  words = vocabularies.vocabulary('miniature')
  for label, its, rows in (
      ('tokenise, GPT-2 BPE', vocabulary if bpe.is_dir() else None, text),
      ('tokenise, bytes', vocabularies.vocabulary('bytes'), text),
      ("tokenise, the miniature's words", words, _world_rows()),
  ):
    if its is not None:
      convert = functools.partial(tokenised, rows, 'text', its)
      row(label, count(convert()), convert)
  row(
      'find personal data in text',
      tokens,
      lambda: [pii.find(row['text']) for _, row in text],
  )
  prompts = [row['prompt'] for _, row in asked]
  only = [PromptExample(d.prompt_ids, d.prompt_text) for d in made]
  row(
      'find repeated prompts',
      count(only),
      lambda: hygiene.deduplicate(prompts),
  )
  with tempfile.TemporaryDirectory() as stores:
    table += _measure_stores(
        pathlib.Path(stores), documents, made, only, vocabulary, row
    )
  return about, table


def _world_rows() -> list[tuple[str, dict]]:
  from rlhf.data import tasks

  documents = tasks.documents('validation')[: _ROWS.value]
  return [('', {'text': text}) for text in documents]


def _measure_stores(
    folder: pathlib.Path,
    documents: list[np.ndarray],
    made: list[Demonstration],
    prompts: list[PromptExample],
    vocabulary: Any,
    row: Callable[..., None],
) -> list[Row]:
  """Writing stores, and the streams from memory and from them."""
  run = packing.joined(documents, vocabulary.bos_id, vocabulary.eos_id)
  kinds = {
      'demonstrations': made,
      'rankings': _rankings(made),
      'prompts': prompts,
  }
  numbers = itertools.count()

  def write_text():
    path = folder / f'text-{next(numbers)}'
    store.write_tokens(path, documents, lambda: {'kind': 'text'})

  def write(kind):
    path = folder / f'{kind}-{next(numbers)}'
    store.write_examples(path, kinds[kind], lambda: {'kind': kind})

  row('write a store of text', count(documents), write_text)
  for kind in kinds:
    row(
        f'write a store of {kind}', count(kinds[kind]),
        functools.partial(write, kind),
    )  # fmt: skip
  store.write_tokens(folder / 'text', [run], lambda: {'kind': 'text'})
  table = _streams('text', run, store.StoredTokens(folder / 'text'))
  for kind, held in kinds.items():
    store.write_examples(folder / kind, held, lambda k=kind: {'kind': k})
    table += _streams(kind, held, store.StoredExamples(folder / kind))
  return table


def _rankings(made: Sequence[Demonstration]) -> list[Ranking]:
  """Four demonstrations' responses to the prompt of the first."""
  return [
      Ranking(
          made[i].prompt_ids,
          tuple(d.response_ids for d in made[i : i + 4]),
          (1, 2, 3, 4),
          made[i].prompt_text,
          tuple(d.response_text for d in made[i : i + 4]),
      )
      for i in range(0, len(made) - 3, 4)
  ]


def _streams(kind: str, memory: Any, stored: Any) -> list[Row]:
  """Rows of the table for a kind's batches."""
  return [
      (f'batches of {kind}, from {place}', *_batches_of(kind, items))
      for place, items in (('memory', memory), ('a store', stored))
  ]


def _batches_of(kind: str, items: Any) -> Row:
  """(tokens a second, batches a second), padding not counted."""
  common: dict[str, Any] = dict(pad_id=0, seed=0)
  row_length = min(_ROW_TOKENS, len(items)) if kind == 'text' else _ROW_TOKENS
  if kind == 'text':
    stream = TextStream(items, row_length=row_length, rows=16, **common)
  elif kind == 'demonstrations':
    stream = DemonstrationStream(
        items, row_length=row_length, rows=16, **common
    )
  elif kind == 'rankings':
    stream = RankingStream(
        items, row_length=row_length, rows=16, max_prompts=16, max_responses=4,
        **common,
    )  # fmt: skip
  else:
    stream = PromptStream(
        items, batch_size=64, lengths=(128, 256, 512, _PROMPT), **common
    )
  tokens = 0
  stream.batch(0)
  start = time.perf_counter()
  for step in range(1, _BATCHES + 1):
    batch: Any = stream.batch(step)
    if kind == 'prompts':
      tokens += int(batch[0].mask_BP.sum())
    elif kind == 'rankings':
      tokens += int((batch.segment_ids_MT > 0).sum())
    else:
      tokens += int((batch.segment_ids_BT > 0).sum())
  took = time.perf_counter() - start
  return f'{tokens / took:,.0f}', f'{_BATCHES / took:,.0f}'


# -- What training waits for --------------------------------------------------


def _config(name: str, root: pathlib.Path, start: str) -> Any:
  """A miniature config with one line of metrics a step, and no evaluation."""
  c = pipeline.load_config(f'configs/{name}.py').unlock()
  c.root, c.init_from = str(root), start
  c.loop.update(tensorboard=False, log_every=1, evaluate_every=0, save_every=0)
  return c


def _logged(directory: pathlib.Path) -> Row:
  """From the steps in a run's metrics.jsonl, without the first."""
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  metrics = [json.loads(line) for line in lines if 'time/wait' in line]
  took = metrics[-1]['seconds'] - metrics[0]['seconds']
  waited = sum(line['time/wait'] for line in metrics[1:])
  return _shares(len(metrics) - 1, took, waited)


def _shares(steps: int, took: float, waited: float) -> Row:
  return (
      str(steps),
      f'{1e3 * took / steps:,.1f}',
      f'{1e3 * waited / steps:,.2f}',
      f'{100 * waited / took:.2f} %',
  )


def _sft(root: pathlib.Path) -> Row:
  from rlhf.stages import sft

  c = _config('sft', root, str(BASE_CHECKPOINT))
  # A step is 16 rows of about two demonstrations.
  c.epochs, c.data.limits.demonstrations_train = 1, 34 * _STEPS.value
  sft.run(c.lock())
  return _logged(root / 'sft')


def _rm(root: pathlib.Path) -> Row:
  from rlhf.data import tasks
  from rlhf.stages import reward

  rows = tasks.demonstrations('train')
  for split, prompts in (('train', 6 * _STEPS.value), ('validation', 12)):
    path = root / 'comparisons' / f'rankings_{split}.jsonl.gz'
    path.parent.mkdir(exist_ok=True)
    ranked = [
        {
            'prompt': rows[9 * i]['prompt'],
            'responses': [row['response'] for row in rows[9 * i : 9 * i + k]],
            'ranks': list(range(1, k + 1)),
        }
        for i, k in zip(
            range(prompts), itertools.cycle(range(4, 10)), strict=False
        )
    ]
    lines = ''.join(json.dumps(row) + '\n' for row in ranked)
    path.write_bytes(gzip.compress(lines.encode()))
  c = _config('rm', root, str(root / 'sft' / 'model'))
  c.epochs = 1
  reward.run(c.lock())
  return _logged(root / 'rm')


def _ppo(root: pathlib.Path) -> Row:
  """Iterations of the trainer itself: a run would ask for a good reward model.
  """
  from rlhf.stages import ppo
  from rlhf.stages import setup as setup_lib

  c = _config('ppo_ptx', root, str(root / 'sft' / 'model'))
  c.ppo.episodes = c.ppo.batch * _STEPS.value
  c.ppo.value_warmup_iterations = 0
  trainer: Any = ppo.Trainer(setup_lib.make(c.lock()))
  trainer.compile_ahead()
  state, _, _ = trainer.iteration(trainer.state, 0)
  start, waited = time.monotonic(), 0.0
  for index in range(1, _STEPS.value):
    state, metrics, _ = trainer.iteration(state, index)
    waited += metrics['time/wait']
  jax.block_until_ready(state)
  return _shares(_STEPS.value - 1, time.monotonic() - start, waited)


def measure_waits() -> list[Row]:
  """A row of the table for each stage."""
  pipeline.keep_compiled_programs()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    return [
        ('SFT', *_sft(root)), ('RM', *_rm(root)), ('PPO-ptx', *_ppo(root))
    ]


# -- The page -----------------------------------------------------------------


def _table(header: Row, rows: Sequence[Row]) -> str:
  rule = ('---', *['---:'] * (len(header) - 1))
  return '\n'.join(f'| {" | ".join(row)} |' for row in (header, rule, *rows))


def main(argv: Sequence[str]) -> None:
  del argv
  parts = [
      '# How fast data become batches',
      '    python benchmarks/data.py --write=docs/results',
      f'makes this page; {platform.machine()}, Python '
      f'{platform.python_version()}. What is read how: see the benchmark.',
  ]
  if _ONLY.value != 'waits':
    folder = pathlib.Path(_FOLDER.value)
    with tempfile.TemporaryDirectory() as made, one_core():
      if not folder.is_dir():
        folder = pathlib.Path(made)
        world_files(folder)
      about, rows = measure_pipeline(folder)
    header = ('on one core', 'tokens/s', 'batches/s')
    parts += [f'Read: {about}.', _table(header, rows)]
  if _ONLY.value != 'pipeline':
    header = ('miniature', 'steps', 'ms a step', 'ms waited', 'share')
    parts += [
        'Waiting for a batch, the first step apart (goal: under 2 %):',
        _table(header, measure_waits()),
    ]
  page = '\n\n'.join(parts) + '\n'
  print(page)
  if _WRITE.value:
    (pathlib.Path(_WRITE.value) / 'data.md').write_text(page)


if __name__ == '__main__':
  app.run(main)
