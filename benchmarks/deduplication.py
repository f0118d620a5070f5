# SPDX-License-Identifier: Apache-2.0
"""Whether dropping repeated prompts stays linear, and drops the right ones.

  python benchmarks/deduplication.py            # a table
  python benchmarks/deduplication.py --write=docs/results

`rlhf.data.hygiene.deduplicate` with its defaults on synthetic prompts. One in
ten is planted: an earlier one again with other case and white space, with its
last words changed, cut or added to (by less than a tenth), or with nothing but
its first 256 characters kept. One in ten of the rest is a near miss: it shares
at most half with an earlier prompt, under 256 characters. The same prompts
every time. Needs no TensorFlow, and ten seconds.
"""

import pathlib
import platform
import random
import statistics
import sys
import textwrap
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags

from rlhf.data import hygiene

_WRITE = flags.DEFINE_string('write', '', 'Folder for deduplication.md.')

SIZES = (10_000, 20_000, 50_000, 100_000)
REPEATS = 5
SEED = 0
_LETTERS = 'abcdefghijklmnopqrstuvwxyz'


def make(n: int) -> tuple[list[str], list[bool]]:
  """n prompts of 40 to 600 characters, and which of them are planted."""
  rng = random.Random(SEED)
  words = [
      ''.join(rng.choices(_LETTERS, k=rng.randint(2, 9))) for _ in range(5000)
  ]

  def fresh() -> str:
    made = ' '.join(rng.choices(words, k=rng.randint(10, 90)))
    return made.ljust(40, 'x')

  originals, prompts, planted = [], [], []
  for i in range(n):
    is_planted = i > 0 and rng.random() < 0.1
    if is_planted:
      prompts.append(_near_duplicate(rng.choice(originals), fresh(), rng))
    else:
      prompt = fresh()
      if originals and rng.random() < 0.1:
        head = rng.choice(originals)
        head = head[: min(len(head) // 2, 200)]
        prompt = head + prompt.ljust(len(head), 'x')
      originals.append(prompt)
      prompts.append(prompt)
    planted.append(is_planted)
  return prompts, planted


def _near_duplicate(prompt: str, other: str, rng: random.Random) -> str:
  """A text that the docstring of `deduplicate` calls a repeat of `prompt`."""
  if len(prompt) > 300 and rng.random() < 0.5:
    return prompt[:256] + other
  tail = rng.randint(1, max(1, len(prompt) // 11))
  return rng.choice([
      '  ' + prompt.upper().replace(' ', ' \n'),
      prompt[:-tail],
      prompt[:-tail] + other[:tail],
      prompt + other[:tail],
  ])


def measure(n: int) -> dict:
  """Median time of `REPEATS` runs on n prompts, and what was dropped."""
  prompts, planted = make(n)
  times, repeats = [], []
  for _ in range(REPEATS):
    start = time.perf_counter()
    repeats = hygiene.deduplicate(prompts)
    times.append(time.perf_counter() - start)
  dropped = [index >= 0 for index in repeats]
  pairs = list(zip(dropped, planted, strict=True))
  return {
      'prompts': n,
      'seconds': statistics.median(times),
      'spread': max(times) - min(times),
      'planted': sum(planted),
      'found': sum(d and p for d, p in pairs),
      'false': sum(d and not p for d, p in pairs),
  }


def table(rows: list[dict]) -> str:
  first = rows[0]['seconds'] / rows[0]['prompts']
  lines = [
      '| prompts | seconds | slowest - fastest | µs a prompt | of linear '
      '| planted | found | false drops |',
      '| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
  ]
  for row in rows:
    each = row['seconds'] / row['prompts']
    lines.append(
        f'| {row["prompts"]:,} | {row["seconds"]:.2f} | {row["spread"]:.2f} '
        f'| {1e6 * each:.1f} | {each / first:.2f} | {row["planted"]:,} '
        f'| {row["found"]:,} | {row["false"]} |'
    )
  return '\n'.join(lines)


def page(rows: list[dict]) -> str:
  ratio = rows[-1]['seconds'] / rows[0]['seconds']
  times = rows[-1]['prompts'] / rows[0]['prompts']
  text = f"""Medians of {REPEATS} runs. 'Of linear' is the time a prompt over
  that of the first row: {times:.0f} times the prompts take {ratio:.1f} times as
  long. The prompts are synthetic, 40 to about 600 characters; one in ten is
  planted, a near duplicate of an earlier one by the rule in
  rlhf/data/hygiene.py, and one in ten of the others shares its first half with
  an earlier one and must stay. All that is planted has to be found: the rule is
  exact, and tests/data/hygiene_test.py holds it against a plain loop over all
  pairs."""
  command = 'python benchmarks/deduplication.py --write=docs/results'
  where = f'{platform.machine()}, with python {platform.python_version()}'
  return '\n\n'.join([
      '# Dropping repeated prompts: time and mistakes',
      f'    {command}',
      f'makes this page, on 1 CPU core, {where}.',
      table(rows),
      textwrap.fill(' '.join(text.split()), 80) + '\n',
  ])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  measure(1000)  # Warms up.
  rows = [measure(n) for n in SIZES]
  print(table(rows))
  if _WRITE.value:
    path = pathlib.Path(_WRITE.value) / 'deduplication.md'
    path.write_text(page(rows), encoding='utf-8')


if __name__ == '__main__':
  app.run(main)
