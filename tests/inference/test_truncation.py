"""Prompts that do not fit are cut on the side that is asked for."""

import warnings

import pytest

import specjax
from specjax.inference import summary
from specjax.inference import truncation
from tests.helpers import tiny

# 128 positions and 8 new tokens leave 120.
ROOM = 120
LONG = [1, *[4 + i % 60 for i in range(150)]]
SHORT = [1, 5, 6]


@pytest.fixture(scope='module', name='target')
def target_fixture(tmp_path_factory):
  return specjax.load(tiny.save(tmp_path_factory.mktemp('target')))


def decode(target, prompts=(LONG, SHORT), **settings):
  how = dict(max_new_tokens=8, num_draft=4, batch_size=1)
  return specjax.generate(target, list(prompts), **how | settings)


def test_a_cut_keeps_the_first_token():
  tokens = [1, 5, 6, 7, 8]
  assert truncation.cut(tokens, 3, 'left', {1}) == [1, 7, 8]
  assert truncation.cut(tokens, 3, 'left', {2, None}) == [6, 7, 8]
  assert truncation.cut(tokens, 1, 'left', {1}) == [8]
  assert truncation.cut(tokens, 3, 'right', {1}) == [1, 5, 6]


@pytest.mark.parametrize(
  'side, kept',
  [('left', [1, *LONG[-ROOM + 1 :]]), ('right', LONG[:ROOM])],
)
def test_the_answer_is_that_of_what_is_left(target, side, kept):
  with pytest.warns(
    UserWarning, match='1 of 2 prompts did not fit the 128'
  ) as (told):
    cut = decode(target, truncate=side)
  assert f'lost tokens on the {side}, 31 in all' in str(told[0].message)
  whole = decode(target, (kept, SHORT))
  assert [a.tokens for a in cut] == [a.tokens for a in whole]
  assert [a.num_truncated for a in cut] == [31, 0]
  assert summary.summarize(cut)['truncated_prompts'] == 1
  assert summary.summarize(whole)['truncated_prompts'] == 0


def test_every_drafter_meets_the_same_prompt(target):
  with pytest.warns(UserWarning, match='did not fit'):
    plain = decode(target, truncate='left')
    drafted = decode(target, truncate='left', drafter='prompt_lookup')
  assert [a.tokens for a in plain] == [a.tokens for a in drafted]


def test_without_it_or_without_room_the_prompt_is_refused(target):
  with pytest.raises(ValueError, match='Prompt 1 has 151 tokens'):
    decode(target)
  with pytest.raises(ValueError, match='Prompt 2 has 3 tokens; with 200 new'):
    decode(target, (LONG[:20], SHORT), truncate='left', max_new_tokens=[8, 200])
  with pytest.raises(ValueError, match='truncate must be one of none, left'):
    decode(target, truncate='middle')


def test_what_fits_is_left_alone(target, tmp_path):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    (answer,) = decode(target, (LONG[:ROOM],), truncate='right')
  assert answer.num_truncated == 0
  t5 = specjax.load(tiny.save(tmp_path, tiny.T5))
  with pytest.warns(UserWarning, match='truncate=left changes nothing'):
    decode(t5, ([5, 6, 2],), truncate='left')
