# SPDX-License-Identifier: Apache-2.0
"""The report of one run of the miniature, from the numbers of results.json.

No number and no verdict is written here: a finding that does not come out is
printed as it is.
"""

import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from rlhf.evaluation.findings import (
    CAME_OUT,
    DID_NOT,
    NAMES,
    Finding,
    findings,
    number,
    percent,
    rounded,
)
from rlhf.evaluation.measurements import MODELS

# Of the table: name, label (20 characters serve a terminal of 80), factor,
# digits.
MEASURES: tuple[tuple[str, str, float, int], ...] = (
    ('win_rate/training_labelers', 'wins against SFT, %', 100, 1),
    ('win_rate/heldout_labelers', '  held-out labelers', 100, 1),
    ('gold_utility', 'gold utility', 1, 2),
    ('rubric/follows', 'rubric: follows', 1, 2),
    ('rubric/constraints', 'rubric: constraints', 1, 2),
    ('rubric/no_invention', 'rubric: no invention', 1, 2),
    ('rubric/not_rude', 'rubric: not rude', 1, 2),
    ('rubric/fluent', 'rubric: fluent', 1, 2),
    ('rubric/polite', 'rubric: polite', 1, 2),
    ('rubric/brief', 'rubric: brief', 1, 2),
    ('invention_rate', 'invents, closed, %', 100, 1),
    ('rude_rate/plain', 'rude, plain, %', 100, 1),
    ('rude_rate/respectful', 'rude, respectful, %', 100, 1),
    ('pretrain_loss', 'loss on text, nats', 1, 3),
    ('fact_cloze', 'facts recalled, %', 100, 1),
    ('kl_from_sft', 'KL from SFT, nats', 1, 2),
    ('length', 'length, tokens', 1, 1),
    ('finished', 'comes to an end, %', 100, 1),
    ('rm_score', 'reward model score', 1, 2),
)


def cells(models: Mapping, show) -> list[list[str]]:
  """Rows of the table: a label, and `show(interval, factor, digits)` of each
  model; a dash where nothing was measured."""
  return [
      [label]
      + [
          show(models[m][name], factor, digits) if name in models[m] else '-'
          for m in MODELS
      ]
      for name, label, factor, digits in MEASURES
  ]


def _bracketed(interval: Mapping, factor: float, digits: int) -> str:
  scaled = {k: factor * interval[k] for k in ('mean', 'low', 'high')}
  return number(scaled, digits)


def _plus_minus(interval: Mapping, factor: float, digits: int) -> str:
  mean = rounded(factor * interval['mean'], digits)
  half = f'{factor * (interval["high"] - interval["low"]) / 2:.{digits}f}'
  if half.startswith('0.'):
    half = half[1:]  # Five columns in a terminal of 80.
  return f'{mean} ±{half}'


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table; everything but the first column to the right."""
  lines = [header, ['---', *['--:'] * (len(header) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def results_table(results: Mapping) -> str:
  """Every measurement of every model with its interval, in markdown."""
  header = ['', *(NAMES[m] for m in MODELS)]
  return markdown_table(header, cells(results['models'], _bracketed))


def findings_list(found: Sequence[Finding]) -> str:
  """One paragraph a finding, in markdown."""
  return '\n\n'.join(
      wrapped(f'**{f.claim}** *{_capital(f.verdict)}.* {f.text}') for f in found
  )


def wrapped(text: str) -> str:
  """A paragraph in lines of 80."""
  return textwrap.fill(
      ' '.join(text.split()), 80, break_on_hyphens=False, break_long_words=False
  )


def _capital(text: str) -> str:
  return text[:1].upper() + text[1:]


def time_table(seconds: Mapping[str, float]) -> str:
  """Seconds of each stage, in markdown."""
  rows = [[name.replace('_', '-'), f'{s:.0f}'] for name, s in seconds.items()]
  return markdown_table(['stage', 'seconds'], rows)


def verdicts(found: Sequence[Finding]) -> str:
  """How many findings came out, and the verdict on each, in markdown."""
  came = sum(f.status == CAME_OUT for f in found)
  rows = [[f.claim.rstrip('.'), f.verdict] for f in found]
  table = markdown_table(['claim', 'verdict'], rows).replace('--:', ':--')
  return f'{came} of {len(found)} claims came out.\n\n{table}'


def write_demo(results: Mapping) -> str:
  """The text of report.md."""
  about = results['prompts']
  versions = ', '.join(f'{k} {v}' for k, v in results['versions'].items())
  found = findings(results)
  intro = (
      f'Seed {results["seed"]}; {about["mixed"]} prompts in the use-case mix'
      f' and {about["special"]} of special kinds, of {about["users"]} users'
      ' whom no stage has met. Intervals are 95 %, by resampling prompts;'
      ' they say nothing of other training seeds (docs/results/miniature.md'
      ' does). The world is small: the texts of'
      f' {percent(about["seen_in_training"])} of the prompts occur among the'
      f' training prompts too, from other users. Made with {versions}.'
  )
  scale = (
      'Wins are votes against other answers of the SFT model, so that SFT'
      ' itself stands at one half; ties count one half. For scale: the writer'
      ' of the demonstrations wins'
      f' {percent(results["demonstrator"]["win_rate/training_labelers"])}, and'
      ' without flaws'
      f' {percent(results["clean_writer"]["win_rate/training_labelers"])}. Gold'
      " utility is the labelers' mean opinion without noise. The prompted base"
      ' reads three worked examples before each prompt; its loss and facts are'
      " the base's. Differences between models are clearer than the intervals"
      ' suggest, for all answer the same prompts: the findings compare them'
      ' prompt by prompt.'
  )
  return f"""# The paper's findings in miniature

{_smoke(results)}{wrapped(intro)}

{verdicts(found)}

![wins, tax, flaws, and the training curves](report.png)

## Numbers

{results_table(results)}

{wrapped(scale)}

## Findings

{findings_list(found)}

## Drift

{wrapped(drift(results))}

## Answers

The first test prompt of each of eight kinds; nothing is picked.

{answers(results['samples'])}

## Time

{time_table(results['seconds'])}

On {results['machine']}. Installation is not in it.
"""


def _smoke(results: Mapping) -> str:
  if not results.get('smoke'):
    return ''
  return (
      '**This was a smoke run: it shows that everything runs. Nothing was'
      ' trained\nlong enough for its numbers to mean anything.**\n\n'
  )


def drift(results: Mapping) -> str:
  """How far the policies went, and what became of length."""
  models, found = results['models'], results['contrasts']
  return ' '.join([
      'KL from SFT, nats an answer: PPO'
      f' {number(models["ppo"]["kl_from_sft"])}, PPO-ptx'
      f' {number(models["ppo_ptx"]["kl_from_sft"])}.',
      f'Length of answers: SFT {number(models["sft"]["length"], 1)} tokens;'
      f' against that, PPO {number(found["length/ppo"], 1)} and PPO-ptx'
      f' {number(found["length/ppo_ptx"], 1)}.',
      'The reward model scores SFT at'
      f' {number(models["sft"]["rm_score"])}, PPO at'
      f' {number(models["ppo"]["rm_score"])}, PPO-ptx at'
      f' {number(models["ppo_ptx"]["rm_score"])}.',
  ])


def answers(samples: Sequence[Mapping]) -> str:
  """Prompts and what each model said, in markdown."""
  parts = []
  for sample in samples:
    rows = [
        [NAMES[m], sample['answers'][m].replace('|', '\\|') or '*(nothing)*']
        for m in MODELS
    ]
    table = markdown_table(['', 'answer'], rows).replace('--:', ':--')
    parts.append(f'**{sample["prompt"]}** ({sample["kind"]})\n\n{table}')
  return '\n\n'.join(parts)


def print_demo(results: Mapping, console: Console | None = None) -> None:
  """The table, the verdicts and the split of time, in the terminal."""
  console = console or Console()
  table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
  table.add_column('held-out users', no_wrap=True)
  for model in MODELS:
    table.add_column(NAMES[model], justify='right', no_wrap=True)
  for row in cells(results['models'], _plus_minus):
    table.add_row(*row)
  console.print(table)
  console.print()
  listed = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
  for finding in findings(results):
    color = {CAME_OUT: 'green', DID_NOT: 'red'}.get(finding.status, 'yellow')
    listed.add_row(finding.claim, f'[{color}]{finding.verdict}[/]')
  console.print(listed)
  rm = results['reward_model']
  console.print(
      f'\nreward model: accuracy {percent(rm["accuracy"])}, labelers agree on'
      f' {percent(rm["agreement"])}, ceiling {percent(rm["ceiling"])}'
  )
  shown = ', '.join(f'{k} {v:.0f} s' for k, v in results['seconds'].items())
  console.print(f'time: {shown}', highlight=False)
