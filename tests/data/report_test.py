# SPDX-License-Identifier: Apache-2.0
"""The report's numbers, against counting by hand on small rows."""

import collections
import itertools
import random
import re
import statistics

import numpy as np
import pytest

from rlhf.data import prompting, report, vocabularies
from rlhf.data import rows as rows_lib
from rlhf.data.account import Account
from rlhf.data.examples import Tokeniser
from rlhf.data.report import layout as layout_lib
from rlhf.data.report import numbers
from rlhf.data.report import text as text_lib
from rlhf.data.report.numbers import Kept

BYTES = vocabularies.vocabulary('bytes')
EOS = BYTES.eos_id


def _kept(kind, rows, response_tokens=None, file='set/a.jsonl'):
  """Rows as what is left of a split."""
  tokeniser = Tokeniser(BYTES, prompting.DIALOGUE, None, response_tokens)
  checked = [
      (where, rows_lib.check(row, kind, where, allow_empty=True))
      for n, row in enumerate(rows, start=1)
      for where in [f'{file}, row {n}']
  ]
  found = list(tokeniser.examples(checked, kind, Account(), 'train'))
  return [Kept(*row, one) for row, one in zip(checked, found, strict=True)]


def _account(splits, read=None, **dropped):
  account = Account(dropped=dropped)
  account.examples = {
      reason: [{'where': 'a.jsonl, row 9', 'what': 'it'}] for reason in dropped
  }
  for split, kept in splits.items():
    account.keep(split, len(kept))
  account.rows_read = account.rows_kept + sum(dropped.values())
  account.rows_read = account.rows_read if read is None else read
  return account


def _demonstration(i, **more):
  return {'prompt': f'Say {i}', 'response': 'b' * (i + 1)} | more


def test_spread_is_numpys_and_statistics():
  rng = random.Random(0)
  values = [rng.randrange(1000) for _ in range(57)]
  found = numbers.spread(values)
  assert found['mean'] == pytest.approx(statistics.mean(values))
  assert found['std'] == pytest.approx(statistics.stdev(values))
  assert (found['min'], found['max']) == (min(values), max(values))
  quarters = statistics.quantiles(values, n=4, method='inclusive')
  assert [found[f'p{q}'] for q in (25, 50, 75)] == pytest.approx(quarters)
  last = statistics.quantiles(values, n=20, method='inclusive')[-1]
  assert found['p95'] == pytest.approx(last)
  assert numbers.spread([7])['std'] == 0
  assert numbers.spread([]) == {'count': 0}


def test_users_and_prompts_of_each_split_and_those_in_two():
  rows = [_demonstration(i, user=f'u{i % 3}') for i in range(6)]
  rows += [_demonstration(0), _demonstration(1)]
  splits = {
      'train': _kept('demonstrations', rows),
      # The prompt of the first, in other white space and case; its user too.
      'validation': _kept(
          'demonstrations',
          [{'prompt': ' SAY  0', 'response': 'x', 'user': 'u0'}],
      ),
      'test': _kept('demonstrations', [_demonstration(77, user='other')]),
  }
  train = numbers.sizes(splits)['train']
  assert train['rows'] == 8 and train['users'] == 3
  assert train['rows_without_user'] == 2 and train['rows_a_user'] == 2
  assert train['distinct_prompts'] == 6
  assert numbers.shared(splits) == [
      {'splits': ['train', 'validation'], 'prompts': 1, 'users': 1},
      {'splits': ['train', 'test'], 'prompts': 0, 'users': 0},
      {'splits': ['validation', 'test'], 'prompts': 0, 'users': 0},
  ]


def test_tokens_and_lengths_by_split_source_and_use_case():
  rows = [
      _demonstration(i, source=source, use_case=case)
      for i, (source, case) in enumerate(
          itertools.product(('', 'api'), ('chat', 'chat', 'rewrite', ''))
      )
  ]
  splits = {'train': _kept('demonstrations', rows)}
  # A token a byte: BOS and the dialogue's marks, and the space and EOS.
  around = 1 + len('\n\nHuman: ') + len('\n\nAssistant:')
  want = collections.defaultdict(list)
  for row in rows:
    groups = [('split', 'train'), ('source', row['source'] or 'set/a.jsonl')]
    groups += [('use case', row['use_case'])] * bool(row['use_case'])
    for by, group in groups:
      want[by, group, 'prompt'].append(len(row['prompt']) + around)
      want[by, group, 'response'].append(len(row['response']) + 2)
  found = {
      (one['by'], one['group'], one['what']): one
      for one in numbers.lengths(splits)
  }
  assert set(found) == set(want)
  for key, values in want.items():
    assert found[key]['count'] == len(values), key
    assert found[key]['mean'] == pytest.approx(np.mean(values)), key
    assert found[key]['max'] == max(values), key
  total = sum(want['split', 'train', 'prompt'])
  total += sum(want['split', 'train', 'response'])
  assert numbers.sizes(splits)['train']['tokens'] == total
  assert numbers.use_cases(splits) == [
      {'use_case': 'chat', 'rows': 4, 'share': 0.5},
      {'use_case': 'not labelled', 'rows': 2, 'share': 0.25},
      {'use_case': 'rewrite', 'rows': 2, 'share': 0.25},
  ]
  bare = {'train': _kept('demonstrations', [_demonstration(1)])}
  assert numbers.use_cases(bare) == []


@pytest.mark.parametrize(
    ('where', 'want'),
    [
        ('data/oasst/rankings.jsonl.gz, row 3', 'oasst/rankings.jsonl.gz'),
        ('a.csv, row 3 (line 5)', 'a.csv'),
        ('miniature_text, split train, row 12', 'miniature_text'),
        ('gs://b/odd, row 1/x.jsonl, row 2', 'odd, row 1/x.jsonl'),
    ],
)
def test_a_row_without_a_source_has_its_files(where, want):
  (kept,) = _kept('prompts', [{'prompt': 'a'}])
  assert Kept(where, kept.row, kept.example).source == want


def _random_rankings(n):
  rng = random.Random(1)
  rows = []
  for i in range(n):
    k = rng.randrange(2, 7)
    ranks = [rng.randrange(1, 4) for _ in range(k)]
    ranks[:2] = 1, 2  # Not all tied.
    rows.append({
        'prompt': f'p{i}',
        'responses': ['r' * rng.randrange(20) for _ in range(k)],
        'ranks': ranks,
        'labeler': rng.choice(['ann', 'bob', '']),
    })
  return rows


def test_ties_pairs_and_labelers_of_rankings():
  rows = _random_rankings(40)
  found = numbers.rankings({
      'train': _kept('rankings', rows[:25]),
      'validation': _kept('rankings', rows[25:]),
  })
  pairs = tied = with_ties = 0
  for row in rows:
    mine = 0
    for i in range(len(row['ranks'])):
      for j in range(i):
        pairs += 1
        mine += row['ranks'][i] == row['ranks'][j]
    tied += mine
    with_ties += mine > 0
  assert (found['pairs'], found['tied_pairs']) == (pairs, tied)
  assert found['pairs_without_ties'] == pairs - tied
  assert found['tie_rate'] == tied / pairs and 0 < tied < pairs
  assert found['rows_with_ties'] == with_ties
  assert found['share_of_rows_with_ties'] == with_ties / 40
  counts = collections.Counter(str(len(row['ranks'])) for row in rows)
  assert found['responses_a_prompt'] == counts
  labelers = collections.Counter(row['labeler'] or 'not named' for row in rows)
  assert found['labelers'] == labelers


def test_cut_and_empty_responses():
  rows = _random_rankings(40)
  cut_at = 9
  found = numbers.responses(
      {'train': _kept('rankings', rows, response_tokens=cut_at)}, EOS
  )
  texts = [text for row in rows for text in row['responses']]
  cut = sum(len(text) + 2 > cut_at for text in texts)  # Space and EOS.
  assert found['count'] == len(texts)
  assert found['cut_without_eos'] == cut > 0
  assert found['share_cut'] == cut / len(texts)
  assert found['empty'] == texts.count('') > 0


# -- Batches ------------------------------------------------------------------


def _words(runs):
  return ''.join(run['text'] for run in runs)


def _learnt(runs):
  return [run['text'] for run in runs if run['loss']]


def test_a_demonstration_shows_its_response_as_learnt():
  rows = [{'prompt': f'Is it {i}?', 'response': 'Sí ♥ 語'} for i in range(7)]
  kept = _kept('demonstrations', rows)
  facts, shown = layout_lib.batches(
      'demonstrations',
      [k.example for k in kept],
      BYTES,
      layout_lib.Layout(row_tokens=150),
      show=2,
  )
  size = len(kept[0].example.prompt_ids) + len(kept[0].example.response_ids)
  assert facts['rows'] == -(-7 // (150 // size)) < 7
  assert facts['fill'] == pytest.approx(7 * size / (facts['rows'] * 150))
  assert facts['loss_tokens'] == 7 * (len(' Sí ♥ 語'.encode()) + 1)
  assert len(shown) == 2
  for row in shown:
    used = sum(segment['tokens'] for segment in row['segments'])
    assert used + row['pad'] == 150
    for segment in row['segments']:
      words = _words(segment['runs'])
      assert re.fullmatch(
          r'⟨BOS⟩\n\nHuman: Is it \d\?\n\nAssistant: Sí ♥ 語⟨EOS⟩', words
      )
      assert _learnt(segment['runs']) == [' Sí ♥ 語⟨EOS⟩']
      assert segment['loss_tokens'] == len(' Sí ♥ 語'.encode()) + 1


def test_a_ranking_shows_ranks_and_the_token_that_is_scored():
  rows = [
      {
          'prompt': 'Go',
          'responses': ['left', 'right', 'a' * 90],
          'ranks': [2, 1, 2],
      }
  ]
  kept = _kept('rankings', rows, response_tokens=20)
  facts, (shown,) = layout_lib.batches(
      'rankings', [k.example for k in kept], BYTES,
      layout_lib.Layout(row_tokens=64), show=5,
  )  # fmt: skip
  assert [r['rank'] for r in shown['responses']] == [2, 1, 2]
  for response, text in zip(
      shown['responses'],
      (' left⟨EOS⟩', ' right⟨EOS⟩', ' ' + 'a' * 19),  # Cut: no EOS.
      strict=True,
  ):
    assert _learnt(response['runs']) == [text]
    assert _words(response['runs']).startswith('⟨BOS⟩\n\nHuman: Go\n\nAssis')
    assert response['scored'] == ('a' if 'a' * 9 in text else '⟨EOS⟩')
  assert facts['loss_tokens'] == 3 and facts['batches'] == 1
  assert facts['fill'] == pytest.approx(
      sum(r['tokens'] for r in shown['responses']) / (facts['rows'] * 64)
  )


@pytest.mark.parametrize('separate', [False, True])
def test_text_learns_all_but_the_first_token(separate):
  documents = [{'text': letter * 30} for letter in 'abcdef']
  kept = _kept('text', documents)
  layout = layout_lib.Layout(row_tokens=50, separate_documents=separate)
  facts, shown = layout_lib.batches(
      'text', [k.example for k in kept], BYTES, layout, show=9
  )
  # BOS is the EOS here. One of them before each document, or one at both ends.
  total = 6 * (30 + 1 + separate)
  assert facts['tokens'] == total
  assert facts['rows'] == len(shown) == total // 50
  assert facts['tokens_left_over'] == total % 50
  firsts = 0
  for row in shown:
    firsts += len(row['segments'])
    assert row['pad'] == 0
    for segment in row['segments']:
      assert not segment['runs'][0]['loss']
      assert segment['loss_tokens'] == segment['tokens'] - 1
      letters = set(_words(segment['runs'])) & set('abcdef')
      assert len(letters) == 1 or not separate
  assert facts['loss_tokens'] == 50 * facts['rows'] - firsts


def test_words_keep_the_space_between_prompt_and_response():
  words = vocabularies.vocabulary('miniature')
  prompt, response = 'good or bad : the lamp was dull . answer :', 'bad .'
  ids = [words.eos_id, *words.encode(prompt), *words.encode(response)]
  ids += [words.eos_id, *words.encode('the owl')]
  marks = np.arange(len(ids)) > len(words.encode(prompt))
  assert layout_lib.runs(np.array(ids), marks, words) == [
      {'text': f'⟨BOS⟩{prompt}', 'loss': False},
      {'text': f' {response}⟨EOS⟩the owl', 'loss': True},
  ]


def test_a_character_in_two_runs_does_not_stop_the_report():
  ids = np.array(BYTES.encode('♥ é'))
  marks = np.arange(len(ids)) > 0
  found = layout_lib.runs(ids, marks, BYTES)
  assert [run['loss'] for run in found] == [False, True]
  assert found[1]['text'].endswith(' é')


def test_prompts_stand_behind_their_padding():
  kept = _kept('prompts', [{'prompt': 'a' * n} for n in (1, 2, 3, 60, 70)])
  sizes = [len(k.example.ids) for k in kept]
  layout = layout_lib.Layout(max_prompts=2, prompt_lengths=(32, 128))
  facts, shown = layout_lib.batches(
      'prompts', [k.example for k in kept], BYTES, layout, show=2
  )
  assert facts['prompts_by_length'] == {'32': 3, '128': 2}
  assert facts['fill'] == pytest.approx(sum(sizes) / (3 * 32 + 2 * 128))
  assert len(shown) == 2 and facts['loss_tokens'] == 0
  for row in shown:
    (segment,) = row['segments']
    assert segment['tokens'] + row['pad'] in (32, 128)
    assert _learnt(segment['runs']) == []


# -- The whole ----------------------------------------------------------------


def _described(kind='demonstrations', **layout):
  rows = [
      _demonstration(i, user=f'u{i}', source='the [red]api[/red]')
      for i in range(5)
  ]
  rows[1]['response'] = 'one\ntwo \x1b[31m' + 'x' * 1000
  splits = {'train': _kept(kind, rows), 'validation': [], 'test': []}
  return report.describe(
      kind,
      splits,
      _account(splits, prompt_too_long=2),
      BYTES,
      layout_lib.Layout(**layout),
  ) | {'name': 'demonstrations', 'kind': kind, 'source': 'a.jsonl'}


def test_the_text_says_what_the_numbers_are():
  found = _described()
  assert found['rows_read'] == 7 and found['rows_kept'] == 5
  assert found['dropped'] == {'prompt_too_long': 2}
  text = text_lib.text(found)
  assert '7 rows read = 5 kept + 2 dropped' in text
  assert '2 prompt_too_long' in text and 'a.jsonl, row 9: it' in text
  assert '[red]' in text and '⟨EOS⟩⟧' in text
  # A terminal obeys nothing that the data hold.
  assert '\x1b' not in text and r'\x1b[31m' in text
  assert re.search(r'one↵\s', text) and ' characters ... ' in text
  assert max(map(len, text.splitlines())) <= text_lib.WIDTH


def test_what_does_not_fit_the_layout_is_said_and_not_fatal():
  found = _described(row_tokens=100)
  problem = found['splits']['train']['problem']
  assert 'a row has 100: lower max_prompt_tokens' in problem
  assert 'but a row' in text_lib.text(found)
  assert found['examples'] == []


def test_an_absent_data_set_is_one_line():
  text = text_lib.text({
      'name': 'prompts', 'kind': 'prompts', 'source': '', 'absent': 'not set: x'
  })  # fmt: skip
  assert text.split() == 'prompts prompts not set: x'.split()


def test_rows_that_are_lost_are_an_error():
  splits = {'train': _kept('prompts', [{'prompt': 'a'}])}
  report.check(splits, _account(splits, empty_prompt=1))
  with pytest.raises(report.AccountError, match='3 rows were read, but 1 kept'):
    report.check(splits, _account(splits, read=3, empty_prompt=1))
  account = _account(splits)
  with pytest.raises(report.AccountError, match='split train has 0 rows, but'):
    report.check({'train': []}, account)
