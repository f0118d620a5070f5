# SPDX-License-Identifier: Apache-2.0
"""Rules drop the rows that they name, in the paper's order, and count them."""

import pytest

from rlhf.data import cleaning, hygiene
from rlhf.data import rows as rows_lib
from rlhf.data.account import Account
from rlhf.data.cleaning import Hygiene, Reading


def _rows(*rows, kind='prompts'):
  """Checked rows with where they stand, from row 1."""
  return [
      (f'a, row {n}', rows_lib.check(row, kind, f'a, row {n}'))
      for n, row in enumerate(rows, start=1)
  ]


OFF = Hygiene()


def _clean(
    rows, rules=OFF, kind='prompts', split=None, limit=None, **options
):
  account = Account(strict=False)
  reading = Reading(hygiene=rules, **options)
  counted = cleaning.counted(rows, account)
  found = list(
      cleaning.clean(counted, kind, reading, account, split=split, limit=limit)
  )
  splits = {
      home: [(where, row) for its, where, row in found if its == home]
      for home in account.kept
  }
  assert account.rows_read == account.rows_kept + sum(account.dropped.values())
  assert {s: len(kept) for s, kept in splits.items()} == account.kept
  return splits, account


def _wheres(rows):
  return [int(where.split()[-1]) for where, _ in rows]


def _bad(n, reason='empty_prompt'):
  where = f'a, row {n}'
  return where, rows_lib.RowError(reason, where, 'empty: fill it in')


def test_without_rules_every_row_stays_in_order():
  rows = _rows(*[{'prompt': f'{n} a@b.org', 'user': 'u'} for n in range(30)])
  splits, account = _clean(rows, split='train')
  assert splits == {'train': rows}
  splits, account = _clean(rows + rows, validation_share=0)
  assert splits['train'] == rows + rows and not account.dropped


def test_bad_rows_are_counted_by_reason():
  rows = _rows({'prompt': 'a'}, {'prompt': 'b'})
  found = [_bad(7), *rows, _bad(8), _bad(9, 'not_json')]
  splits, account = _clean(found, split='train')
  assert splits['train'] == rows and account.rows_read == 5
  assert account.dropped == {'empty_prompt': 2, 'not_json': 1}


def test_strictly_the_first_bad_row_is_an_error():
  account = Account(strict=True)
  rows = iter([*_rows({'prompt': 'a'}), _bad(2), _bad(3)])
  with pytest.raises(rows_lib.RowError, match='a, row 2: empty') as caught:
    list(cleaning.counted(rows, account))
  assert caught.value.reason == 'empty_prompt'
  assert next(rows)[0] == 'a, row 3', 'nothing is read beyond it'


def test_an_id_is_given_once():
  ids = ('x', '', 'y', 'x', '', 'x')
  rows = _rows(*[{'prompt': 'p', 'id': i} for i in ids])
  splits, account = _clean(rows, split='train')
  assert _wheres(splits['train']) == [1, 2, 3, 5]
  assert account.dropped == {'duplicate_id': 2}
  with pytest.raises(rows_lib.RowError) as caught:
    list(cleaning.counted(rows, Account()))
  line = str(caught.value)
  assert line.startswith("a, row 4, field 'id': 'x' is also that of a, row 1")
  assert caught.value.reason == 'duplicate_id'


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(prefix_characters=-1), 'prefix_characters is -1'),
        (dict(per_user=-2), 'per_user -2'),
        (dict(prefix_share=0), 'prefix_share is 0'),
        (dict(pii=('emails',)), 'pii names emails: use some of email, phone'),
    ],
)
def test_rules_out_of_range_are_refused(wrong, said):
  with pytest.raises(rows_lib.DataError, match=said):
    Hygiene(**wrong)


def test_shares_that_leave_nothing_to_train_are_refused():
  with pytest.raises(rows_lib.DataError, match='leave nothing to train'):
    Reading(validation_share=0.6, test_share=0.4)


def test_repeated_prompts_go_and_name_the_first():
  prompts = ['Tell me a joke', 'tell  me a JOKE', 'other', 'Tell me a joke']
  rules = Hygiene(prefix_characters=256)
  splits, account = _clean(
      _rows(*[{'prompt': p} for p in prompts]), rules, split='train'
  )
  assert _wheres(splits['train']) == [1, 3]
  assert account.dropped == {'repeated_prompt': 2}
  what = account.examples['repeated_prompt'][1]
  assert what == {'where': 'a, row 4', 'what': 'as a, row 1: Tell me a joke'}


def test_a_user_gives_so_many_and_no_more():
  users = ['u', 'v', 'u', '', 'u', '', '', 'v', 'u']
  rows = _rows(*[{'prompt': f'p {n}', 'user': u} for n, u in enumerate(users)])
  splits, account = _clean(rows, Hygiene(per_user=2), split='train')
  assert _wheres(splits['train']) == [1, 2, 3, 4, 6, 7, 8]
  assert account.dropped == {'over_user_limit': 2}


def test_repeats_do_not_use_up_a_users_share():
  rows = _rows(*[{'prompt': p, 'user': 'u'} for p in ('one', 'one', 'two')])
  rules = Hygiene(prefix_characters=256, per_user=2)
  splits, _ = _clean(rows, rules, split='train')
  assert _wheres(splits['train']) == [1, 3]


@pytest.mark.parametrize('kind', ['prompts', 'text'])
def test_what_names_a_person_leaves_the_training_split_alone(kind):
  field = rows_lib.FIELDS[kind][0]
  rows = _rows(
      *[{field: f'{n} a{n}@b.org', 'user': f'u{n}'} for n in range(60)],
      {field: 'nobody', 'user': 'w'},
      kind=kind,
  )
  rules = Hygiene(pii=('email',))
  splits, account = _clean(rows, rules, kind, validation_share=0.3)
  assert [row[field] for _, row in splits['train']] in (['nobody'], [])
  held_out = [row for _, row in splits['validation'] if row['user'] != 'w']
  assert account.dropped['personal_data'] + len(held_out) == 60
  assert 8 < len(held_out) < 30
  # The kind of data, and never the data: accounts are shown.
  assert {e['what'] for e in account.examples['personal_data']} == {'email'}
  # Where the source has said which split it is, that counts.
  for split, count in (('validation', 61), ('train', 1)):
    splits, _ = _clean(rows, rules, kind, split=split)
    assert len(splits[split]) == count


def test_text_is_not_compared_by_its_beginning():
  rows = _rows({'text': 'same'}, {'text': 'same'}, kind='text')
  rules = Hygiene(prefix_characters=1, per_user=1)
  assert len(_clean(rows, rules, 'text', split='train')[0]['train']) == 2


def test_splits_are_by_user_and_hold_everything():
  users = [f'u{n % 90}' for n in range(400)]
  rows = _rows(*[{'prompt': f'p {n}', 'user': u} for n, u in enumerate(users)])
  splits, _ = _clean(rows, validation_share=0.2, test_share=0.1)
  assert list(splits) == ['train', 'validation', 'test']
  for name, kept in splits.items():
    for _, row in kept:
      key = hygiene.split_key(row, 'prompts')
      assert hygiene.split_of(key, validation=0.2, test=0.1) == name
    assert _wheres(kept) == sorted(_wheres(kept)) and kept
  users = [{row['user'] for _, row in kept} for kept in splits.values()]
  assert not users[0] & users[1] and not users[0] & users[2]
  assert sum(map(len, splits.values())) == 400


def test_a_limit_takes_the_first_of_each_split():
  rows = _rows(*[{'prompt': f'p {n}', 'user': f'u{n}'} for n in range(100)])
  whole, _ = _clean(rows, validation_share=0.3)
  splits, account = _clean(rows, validation_share=0.3, limit=9)
  for name in ('train', 'validation'):
    assert splits[name] == whole[name][:9]
  assert account.dropped == {'over_limit': 82} and account.rows_read == 100


def test_rules_of_every_kind_together_add_up():
  rows = []
  for n in range(300):
    prompt = f'{n // 2} tell me about {n // 2}' + ' x@y.org' * (n % 5 == 0)
    rows += _rows({'prompt': prompt, 'user': f'u{n % 9}', 'id': str(n % 250)})
    rows[-1] = (f'a, row {n + 1}', rows[-1][1])
    if n % 17 == 0:
      rows.append(_bad(1000 + n))
  rules = Hygiene(prefix_characters=64, per_user=10, pii=('email', 'phone'))
  _, account = _clean(rows, rules, validation_share=0.1, test_share=0.1)
  assert set(account.dropped) == {
      'empty_prompt', 'duplicate_id', 'repeated_prompt', 'over_user_limit',
      'personal_data',
  }  # fmt: skip
  assert account.dropped['duplicate_id'] == 50 and account.rows_read == 318


def test_options_that_mean_nothing_are_refused():
  with pytest.raises(rows_lib.DataError, match='pii names fax: use some of'):
    Hygiene(pii=('email', 'fax'))
  for share in (1, -0.1):
    with pytest.raises(rows_lib.DataError, match=f'test_share is {share}: use'):
      Reading(test_share=share)
  with pytest.raises(rows_lib.DataError, match='validation_share is 1: use'):
    Reading(validation_share=1)


def test_a_config_says_how_each_kind_is_read():
  data = {
      'strict': False,
      'chat_template': 'dialogue',
      'fields': {'prompts': {'prompt': 'instruction'}},
      'hygiene': {'prompts': {'per_user': 3, 'pii': ['email']}},
      'validation_share': 0.2,
      'test_share': 0.1,
      'tfds_dir': '',
  }
  assert cleaning.reading(data, 'prompts') == Reading(
      strict=False,
      template='dialogue',
      fields={'prompt': 'instruction'},
      validation_share=0.2,
      test_share=0.1,
      hygiene=Hygiene(per_user=3, pii=('email',)),
  )
  # A ranked response was sampled, and a model may say nothing.
  assert cleaning.reading({}, 'rankings').allow_empty_responses
  assert not cleaning.reading({}, 'demonstrations').allow_empty_responses
