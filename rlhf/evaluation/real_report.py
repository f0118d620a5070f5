# SPDX-License-Identifier: Apache-2.0
"""The document on the run on real text, from the numbers of its exam.

As in report.py, no number and no verdict is written here.
"""

from collections.abc import Mapping, Sequence

from rlhf.evaluation.findings import NAMES, number
from rlhf.evaluation.real_findings import findings
from rlhf.evaluation.report import (
    findings_list,
    markdown_table,
    verdicts,
    wrapped,
)

_STAGES = {
    'pretrain': 'pretraining',
    'sft': 'SFT',
    'rm': 'reward model',
    'ppo': 'PPO',
    'ppo_ptx': 'PPO-ptx',
}
_MODELS = ('base', 'sft', 'ppo', 'ppo_ptx')
# Of a model's answers: name, label, factor, digits.
_ANSWERS = (
    ('rm_score', 'reward model score', 1, 2),
    ('kl_from_sft', 'KL from SFT, nats an answer', 1, 2),
    ('length', 'length, tokens', 1, 1),
    ('finished', 'comes to an end, %', 100, 1),
)
_SHOWN = 300  # Characters of a prompt or an answer.


def write_real(
    results: Mapping, commands: Sequence[str], stem: str, remark: str = ''
) -> str:
  """The document's text.

  Args:
    results: of `real.examine`, with 'times', 'versions', 'machine'.
    commands: that made them, in order.
    stem: of the figure's name, beside the document.
    remark: a sentence on the circumstances, printed with the times.
  """
  found = findings(results)
  parts = [
      '# The whole method on real text',
      '\n'.join(f'    {command}' for command in commands),
      wrapped(_intro(results)),
      _missing(results),
      '## What came out',
      verdicts(found),
      findings_list(found),
      wrapped(_caution(results)),
      '## Curves',
      f'![losses of every stage, and PPO against PPO-ptx]({stem}.png)',
      wrapped(
          'Grey is training (in SFT with its rows of pretraining text), blue is'
          ' held out; curves of PPO are smoothed, over what they are smoothed'
          ' from. Only PPO-ptx has a pretraining term.'
      ),
      '## Loss on held-out text',
      loss_table(results),
      wrapped(_about_losses(results)),
      '## The reward model on held-out rankings',
      *_rankings(results),
      '## Answers to held-out prompts',
      *_answers(results),
      '## What each model said',
      *samples(results),
      '## Data',
      data_table(results),
      wrapped(_about_data(results)),
      '## Settings',
      settings_table(results),
      '## Time',
      time_table(results),
      wrapped(_about_time(results, remark)),
  ]
  return '\n\n'.join(part for part in parts if part) + '\n'


def _intro(results) -> str:
  m = results['model']
  return (
      f'A GPT of {m["parameters"]:,} parameters ({m["layers"]} layers of width'
      f' {m["width"]}, {m["heads"]} heads, context {m["context"]}), of which'
      f' {100 * m["table"] / m["parameters"]:.0f} % are the table of GPT-2\'s'
      f' {m["vocab_size"]:,} tokens. The last command writes this page from'
      ' measurements; edit rlhf/evaluation/real_report.py instead. Intervals'
      ' are 95 %, by resampling prompts, or rows of text; they are of one'
      ' training run and say nothing of other seeds.'
  )


def _missing(results) -> str:
  missing = [
      name for stage, name in _STAGES.items()
      if stage not in results['finished']
  ]
  if not missing:
    return ''
  return wrapped(
      f'**Not finished when this was written: {", ".join(missing)}.** What'
      ' needs them is left out.'
  )


def _caution(results) -> str:
  tokens = results['finished']['pretrain'].get('tokens')
  read = f', pretrained on {tokens:,} tokens,' if tokens else ''
  return (
      f'A model of {results["model"]["parameters"]:,} parameters{read} is no'
      ' assistant, and nothing on this page measures whether its answers help'
      ' anyone: a score is the opinion of a reward model as small as itself.'
  )


def _there(results) -> list[str]:
  return [m for m in _MODELS if m in results['text']]


def loss_table(results: Mapping) -> str:
  """Loss on text and on demonstrations, by model, in markdown."""
  models = _there(results)
  rows = [
      ['plain text', *(number(results['text'][m], 3) for m in models)],
  ]
  if 'demonstrations' in results:
    said = results['demonstrations']
    rows.append(['demonstrations', *(number(said[m], 3) for m in models)])
  return markdown_table(
      ['nats a token', *(NAMES[m] for m in models)], rows
  )


def _about_losses(results) -> str:
  rows = results['text']['base']['n']
  about = (
      f'On {rows} rows of {results["data"]["text"]["row_tokens"]} tokens of'
      ' text that no stage trained on, evenly spread over all of it.'
  )
  if 'demonstrations' in results:
    about += (
        f' Demonstrations are {results["demonstrations"]["base"]["n"]} held-out'
        ' ones, the loss is on the response; PPO is not trained on them.'
    )
  return about + (
      ' Text is held out by rows of the files: of a book that is cut into'
      ' several, some may have been trained on.'
  )


def _rankings(results) -> list[str]:
  if 'reward_model' not in results:
    return ['Not measured.']
  rows = [
      [
          row['group'],
          str(row['prompts']),
          str(row['pairs']),
          *(_percents(row[name]) for name in ('rm', 'longer', 'shorter')),
          _percents(row['gain']),
      ]
      for row in results['reward_model']
  ]
  header = [
      'rankings', 'prompts', 'pairs', 'reward model, %', 'longer wins, %',
      'shorter wins, %', 'reward model - better rule, points',
  ]  # fmt: skip
  about = (
      'Chance is 50 %. Pairs that the labeler ties are left out; equal scores'
      ' or lengths count one half. Intervals are over prompts, since pairs of a'
      ' prompt go together. The rule that a row compares with is the one that'
      ' turns out better there, which favours it. Lengths are in characters of'
      ' the whole response. Rare K are taken together.'
  )
  return [markdown_table(header, rows), wrapped(about)]


def _percents(interval) -> str:
  return number({k: 100 * interval[k] for k in ('mean', 'low', 'high')}, 1)


def _answers(results) -> list[str]:
  answers = results.get('answers')
  if not answers:
    return ['Not measured.']
  models = [m for m in _MODELS if m in answers]
  rows = [
      [
          label,
          *(
              number(
                  {
                      k: factor * answers[m][name][k]
                      for k in ('mean', 'low', 'high')
                  },
                  digits,
              )
              for m in models
          ),
      ]
      for name, label, factor, digits in _ANSWERS
      if name in answers[models[0]]
  ]
  about = (
      f'n = {answers["prompts"]} prompts, {answers["draws"]} draws each at'
      f' temperature {answers["temperature"]:g}, of at most {answers["tokens"]}'
      ' tokens; intervals over prompts. KL is estimated from these draws. All'
      ' draw with the same random numbers, so that two models that are alike'
      ' say the same. Demonstrations score 0 on average.'
  )
  return [
      markdown_table(['', *(NAMES[m] for m in models)], rows), wrapped(about)
  ]


def samples(results: Mapping) -> list[str]:
  """A table a prompt, in markdown; texts are cut."""
  rows = results.get('samples')
  if not rows:
    return ['There are none to show.']
  about = (
      f'{len(rows)} held-out prompts, evenly spread over those of'
      f' {_listed(results["quotable"])}; the first draw of each model, cut to'
      f' {_SHOWN} characters. Nothing is picked or screened: the data and the'
      ' models may offend. ⏎ is a line break.'
  )
  tables = []
  for sample in rows:
    said = [
        [NAMES[m], shown(said) or '*(nothing)*']
        for m, said in sample['answers'].items()
    ]
    table = markdown_table(['', shown(sample['prompt'])], said)
    head, rule, *rest = table.split('\n')
    tables.append('\n'.join([head, rule.replace('--:', ':--'), *rest]))
  return [wrapped(about), *tables]


# Whatever would be read as markup, a link or a path.
_ESCAPES = {ord(c): f'&#{ord(c)};' for c in '&<>|`[]$@/'} | {
    ord(c): f'\\{c}' for c in '\\*_#~'
}


def shown(text: str, limit: int = _SHOWN) -> str:
  """Text as one line of markdown that looks as it is, cut to `limit`."""
  lines = (' '.join(line.split()) for line in text.splitlines())
  text = ' ⏎ '.join(line for line in lines if line)
  if len(text) > limit:
    text = text[:limit].rstrip() + ' …'
  text = ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}'
                 for c in text)
  return text.translate(_ESCAPES)


def _listed(names: Sequence[str]) -> str:
  return ', '.join(names)


def data_table(results: Mapping) -> str:
  """Files, and rows of each split: kept, and read where that is more."""
  rows = []
  for kind, data in results['data'].items():
    for file in data['files']:
      rows.append([
          kind,
          file['name'],
          *(_kept(file[split]) for split in ('train', 'validation')),
      ])
  table = markdown_table(['kind', 'file', 'training', 'held out'], rows)
  return table.replace('| --- | --: |', '| --- | --- |', 1)


def _kept(split: Mapping) -> str:
  text = f'{split["kept"]:,}'
  if split['kept'] < split['rows']:
    text += f' of {split["rows"]:,}'
  if 'tokens' in split:
    text += f' ({split["tokens"]:,} tokens)'
  return text


def _about_data(results) -> str:
  parts = []
  for kind, data in results['data'].items():
    part = f'{kind} {100 * data["share"]:g} % held out'
    if kind != 'text':
      part += f', prompts over {data["prompt_tokens"]} tokens dropped'
    if kind in ('demonstrations', 'rankings'):
      part += f', responses cut to {data["response_tokens"]}'
    parts.append(part)
  return (
      f'Rows kept, of those there are: {"; ".join(parts)}. A row is held out by'
      " a hash of its user or its prompt's first turn (of text, of how it"
      ' begins), so that what is held out by a smaller share is so by a larger'
      ' one too.'
  )


def settings_table(results: Mapping) -> str:
  """Settings by stage, in markdown; the rest is in the config."""
  stages = [s for s in _STAGES if s in results['settings']]
  settings = results['settings']
  names = dict.fromkeys(name for s in stages for name in settings[s])
  rows = [
      [name, *(_setting(settings[s].get(name)) for s in stages)]
      for name in names
  ]
  return markdown_table(['', *(_STAGES[s] for s in stages)], rows)


def _setting(value) -> str:
  if value is None:
    return ''
  return f'{value:g}' if isinstance(value, float) else str(value)


def time_table(results: Mapping) -> str:
  """Steps and seconds of each stage, in markdown."""
  rows = []
  for stage, name in _STAGES.items():
    if stage in results['finished']:
      facts = results['finished'][stage]
      steps = facts.get('steps', facts.get('iterations', ''))
      rows.append([name, str(steps), f'{results["times"][stage]:,.0f}'])
  rows.append(['evaluation', '', f'{results["seconds"]:,.0f}'])
  total = sum(results['times'].values()) + results['seconds']
  rows.append(['together', '', f'{total:,.0f}'])
  return markdown_table(['stage', 'steps', 'seconds'], rows)


def _about_time(results, remark) -> str:
  versions = ', '.join(f'{k} {v}' for k, v in results['versions'].items())
  return (
      f'Wall time on {results["machine"]}, with {versions}: of each stage from'
      ' its first step to its last, compilation included and reading data not.'
      f' {remark}'
  )
