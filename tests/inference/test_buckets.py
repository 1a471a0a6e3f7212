"""Other budgets and numbers of prompts reuse programs, and change no token."""

import logging

import jax
import pytest

import specjax
from specjax import text as text_lib
from specjax import waiting
from specjax.inference import assemble
from specjax.inference import planning
from tests.helpers import tiny
from tests.helpers.compilations import counted

PROMPTS = ['the cat', 'a dog ran', 'one two three', 'the', 'the red house']


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  root = tmp_path_factory.mktemp('models')
  return [
    specjax.load(tiny.save(root / str(seed), seed=seed)) for seed in (0, 1)
  ]


def tokens(answers):
  return [answer.tokens for answer in answers]


def test_the_buckets_are_the_documented_ones():
  numbers = range(1, 513)
  budgets = sorted({text_lib.budget(number) for number in numbers})
  assert budgets == [32, 64, 128, 192, 256, 384, 512]
  rows = sorted({text_lib.row_count(number) for number in numbers})
  assert rows == [1, 4, 8, 16, 32, 64, 128, 256, 512]
  for number in numbers:
    assert number <= text_lib.budget(number) < 2 * max(number, 17)
    assert number <= text_lib.row_count(number) < 2 * max(number, 3)
  assert text_lib.budget(0) == 32 and text_lib.row_count(0) == 1
  fields = specjax.DecodeConfig.__doc__
  assert ', '.join(map(str, budgets)) in ' '.join(fields.split())
  assert ', '.join(map(str, rows[:4])) in ' '.join(fields.split())


@pytest.mark.parametrize('settings', [{}, {'stop': 'zzz'}, {'num_beams': 2}])
def test_another_budget_compiles_nothing(models, settings):
  target, drafter = models
  if 'num_beams' not in settings:
    settings = settings | {'drafter': drafter}

  def generate(budget):
    return specjax.generate(
      target, PROMPTS[:2], max_new_tokens=budget, ignore_eos=True, **settings
    )

  first = tokens(generate(16))
  with counted() as compiled:
    second = tokens(generate(17))
    longest = tokens(generate(32))
  assert not compiled
  if 'num_beams' not in settings:
    assert [row[:16] for row in second] == first
    assert [row[:16] for row in longest] == first
  with counted() as compiled:
    generate(33)
  assert compiled


def test_another_number_of_prompts_compiles_nothing(models):
  target, drafter = models
  jax.clear_caches()

  def generate(count):
    return tokens(
      specjax.generate(
        target, PROMPTS[:count], drafter=drafter, max_new_tokens=12
      )
    )

  alone = [
    tokens(specjax.generate(target, prompt, max_new_tokens=12))[0]
    for prompt in PROMPTS
  ]
  generate(4)
  size = assemble._jitted._cache_size()
  with counted() as compiled:
    assert generate(2) == alone[:2]
    assert generate(3) == alone[:3]
  assert not compiled and assemble._jitted._cache_size() == size
  with counted() as compiled:
    assert generate(5) == alone
  assert compiled
  sizes = [
    planning.plan(
      target, PROMPTS[:count], batch_size=most, max_new_tokens=12
    ).batch_size
    for count, most in ((1, 8), (2, 8), (5, 8), (3, 2), (5, 6))
  ]
  assert sizes == [1, 4, 8, 2, 6]


def test_a_line_is_logged_once_while_something_compiles(
  models, monkeypatch, caplog
):
  target, _ = models
  monkeypatch.setattr(waiting, 'SECONDS', 0.0)
  monkeypatch.setattr(waiting, '_seen', set())
  jax.clear_caches()
  with caplog.at_level(logging.WARNING, 'specjax'):
    specjax.generate(target, PROMPTS, max_new_tokens=12)
  (record,) = caplog.records
  assert record.name == 'specjax'
  assert record.getMessage() == (
    'Compiling decoding for 8 rows, prompts of up to 16 tokens and up to 32 '
    'new ones; the next such call is fast.'
  )
  caplog.clear()
  specjax.generate(target, PROMPTS, max_new_tokens=20, seed=3)
  assert not caplog.records


def test_what_is_fast_logs_nothing(caplog):
  with caplog.at_level(logging.WARNING, 'specjax'):
    with waiting.compiling('nothing', 'key'):
      pass
    with waiting.compiling('nothing'):
      pass
  assert not caplog.records
