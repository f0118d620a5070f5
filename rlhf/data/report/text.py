# SPDX-License-Identifier: Apache-2.0
"""A report on data for the terminal. What is learnt stands in ⟦ ⟧."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

WIDTH = 100
_RUN = 320  # Characters shown of a run of text, half from each end.
_GROUPS = 12  # Sources and use cases that have a line.
_LEARNT = 'underline green'


def console(**options) -> Console:
  """As wide as the report is."""
  return Console(width=WIDTH, highlight=False, **options)


def text(report: Mapping[str, Any]) -> str:
  """The report on one data set as plain text."""
  out = io.StringIO()
  console(file=out, color_system=None).print(screen(report))
  return out.getvalue()


def screen(report: Mapping[str, Any]) -> Group:
  """The report on one data set, as `report.describe` gives it.

  Args:
    report: with `name`, `kind` and `source` besides; where `absent` says why
      there is nothing, that is all that is printed.
  """
  title = Text(report['name'], style='bold')
  source = f'  {report["kind"]}'
  if report['source']:
    source += f' from {_plain(report["source"])}'
  title.append(source, 'not bold')
  if report.get('absent'):
    title.append('\n  ' + _plain(report['absent']), 'yellow')
    return Group(title, '')
  parts = [
      title,
      *_rows(report),
      _splits(report),
      *_shared(report),
      *_about(report),
      *_use_cases(report),
      *_lengths(report),
      *_examples(report),
      '',
  ]
  return Group(*parts)


def _rows(report: Mapping[str, Any]) -> Iterator[Any]:
  read, kept = report['rows_read'], report['rows_kept']
  yield Text(f'  {read:,} rows read = {kept:,} kept + {read - kept:,} dropped')
  for reason, count in report['dropped'].items():
    yield Text(f'  {count:>9,} {reason}', style='yellow')
    for example in report['dropped_examples'][reason][:3]:
      line = f'            {example["where"]}'
      # Errors begin with where.
      what = example['what'].removeprefix(example['where']).lstrip(', :')
      yield Text(_plain(f'{line}: {what}'), no_wrap=True, overflow='ellipsis')
  for what, count in report['notes'].items():
    if count:
      yield Text(f'  {count:>9,} {what}')


def _splits(report: Mapping[str, Any]) -> Table:
  distinct = f'distinct {_unit(report)}'
  table = _table('split', 'rows', 'users', 'no user', distinct, 'tokens',
                 'learnt', 'packed rows', 'full')  # fmt: skip
  for name, split in report['splits'].items():
    batches = split.get('batches', {})
    full = f'{batches["fill"]:.1%}' if batches else ''
    table.add_row(
        name,
        *(
            f'{split[key]:,}'
            for key in ('rows', 'users', 'rows_without_user',
                        'distinct_prompts', 'tokens')
        ),
        *(_count(batches.get(key)) for key in ('loss_tokens', 'rows')),
        full,
    )  # fmt: skip
  return table


def _shared(report: Mapping[str, Any]) -> Iterator[Text]:
  for name, split in report['splits'].items():
    if 'problem' in split:
      yield Text(f'  {name}: {_plain(split["problem"])}', style='bold red')
  for pair in report['shared']:
    for key, what in (('prompts', _unit(report)), ('users', 'users')):
      if pair[key]:
        splits = ' and '.join(pair['splits'])
        yield Text(
            f'  {pair[key]:,} {what} are in both {splits}', style='bold red'
        )
  if report['shared'] and not any(
      pair['prompts'] or pair['users'] for pair in report['shared']
  ):
    yield Text(f'  no {_unit(report)} or users are in two splits')


def _about(report: Mapping[str, Any]) -> Iterator[Text]:
  told = report['languages']
  shares = list(told['shares'].items())[:5]
  if shares:
    listed = ', '.join(f'{name} {share:.1%}' for name, share in shares)
    yield Text(f'  languages of {told["n"]:,}: {listed}')
  if 'responses' in report:
    found = report['responses']
    yield Text(
        f'  {found["count"]:,} responses: {found["share_cut"]:.1%} cut, hence'
        f' without EOS; {found["empty"]:,} empty'
    )
  if 'rankings' in report:
    found = report['rankings']
    ks = ', '.join(
        f'{k}: {n:,}' for k, n in found['responses_a_prompt'].items()
    )
    yield Text(f'  responses a prompt (K: prompts)  {ks}')
    yield Text(
        f'  {found["pairs"]:,} pairs, {found["tied_pairs"]:,} tied'
        f' ({found["tie_rate"]:.1%}), {found["pairs_without_ties"]:,} to learn'
        f' from; {found["rows_with_ties"]:,} prompts with ties'
    )
    labelers = ', '.join(
        f'{_plain(name)} {n:,}'
        for name, n in list(found['labelers'].items())[:_GROUPS]
    )
    yield Text(f'  labelers ({len(found["labelers"])}): {labelers}')


def _use_cases(report: Mapping[str, Any]) -> Iterator[Any]:
  if report['use_cases']:
    table = _table('use case', 'rows', 'share')
    for found in report['use_cases'][:_GROUPS]:
      table.add_row(
          Text(_plain(found['use_case'])),
          f'{found["rows"]:,}',
          f'{found["share"]:.1%}',
      )
    yield table


def _lengths(report: Mapping[str, Any]) -> Iterator[Any]:
  columns = ('mean', 'std', 'min', 'p25', 'p50', 'p75', 'p95', 'max')
  heads = [f'{name[1:]}%' if name[0] == 'p' else name for name in columns]
  table = _table('tokens of', 'by', '', 'count', *heads)
  shown: dict[tuple[str, str], int] = {}
  left_out = 0
  for found in report['lengths']:
    key = found['by'], found['what']
    shown[key] = shown.get(key, 0) + 1
    if shown[key] > _GROUPS:
      left_out += 1
      continue
    table.add_row(
        found['what'],
        found['by'],
        Text(_plain(found['group'])[-32:]),
        f'{found["count"]:,}',
        *(f'{found[name]:,.0f}' for name in columns),
    )
  yield table
  if left_out:
    yield Text(f'  and {left_out} smaller groups, in the JSON')


def _examples(report: Mapping[str, Any]) -> Iterator[Text]:
  if not report['examples']:
    return
  what = {
      'prompts': 'nothing here is learnt',
      'rankings': 'responses in ⟦ ⟧, scored at their last token',
  }.get(report['kind'], 'what is learnt in ⟦ ⟧')
  yield Text(f'\n  as the model reads them; {what}; ↵ ends a line', 'bold')
  for number, row in enumerate(report['examples'], start=1):
    for k, part in enumerate(row.get('segments', row.get('responses')), 1):
      line = Text(f'{number}.{k}  ', style='cyan')
      if 'rank' in part:
        line.append(
            f'rank {part["rank"]}, {part["tokens"]} tokens, scored at'
            f' {part["scored"]!r}, row {part["row"]} position'
            f' {part["position"]}\n'
        )
      else:
        line.append(f'{part["tokens"]} tokens, {part["loss_tokens"]} learnt\n')
      line.append(_marked(part['runs']))
      yield line
    if row.get('pad'):
      yield Text(f'     and {row["pad"]} of padding', style='cyan')


def _marked(runs: Sequence[Mapping[str, Any]]) -> Text:
  line = Text()
  for run in runs:
    shown = _plain(_shortened(run['text']), ends=True)
    if run['loss']:
      line.append(f'⟦{shown}⟧', _LEARNT)
    else:
      line.append(shown)
  return line


def _shortened(words: str) -> str:
  if len(words) <= _RUN:
    return words
  half = _RUN // 2
  left_out = len(words) - 2 * half
  return f'{words[:half]} ... {left_out:,} characters ... {words[-half:]}'


def _plain(words: str, ends: bool = False) -> str:
  """Without what a terminal would obey; line ends are kept and marked, or
  written out like all else."""
  if ends:
    return '↵\n'.join(_plain(line) for line in words.split('\n'))
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def _unit(report: Mapping[str, Any]) -> str:
  return 'texts' if report['kind'] == 'text' else 'prompts'


def _count(value: int | None) -> str:
  return '' if value is None else f'{value:,}'


def _table(*columns: str) -> Table:
  table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
  for i, name in enumerate(columns):
    left = not i or name in ('by', '')
    table.add_column(
        name,
        justify='left' if left else 'right',
        overflow='fold' if name == '' else 'ellipsis',
        no_wrap=name != '',
    )
  return table
