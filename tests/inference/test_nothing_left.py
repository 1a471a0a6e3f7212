"""Settings that together forbid every token in the middle of an answer."""

import numpy as np
import pytest

import specjax
from tests.helpers.benchmarks import markov

PROMPTS = [[1, 2], [3, 5, 1]]
# Of 7 tokens two are never wanted; the others may come once each.
NEVER = dict(suppress_tokens=[0], bad_words=[[4]])
ONCE = dict(NEVER, no_repeat_ngram_size=1)


def tokens(drafter=None, prompts=PROMPTS, **settings):
  given = dict(max_new_tokens=12, batch_size=4, num_draft=3) | settings
  if drafter == 'draft':
    drafter = markov('draft', 0, 0.3)
  model = markov('target', 0)
  found = specjax.generate(model, prompts, drafter=drafter, **given)
  return [answer.tokens for answer in found]


def test_an_n_gram_is_repeated_rather_than_a_bad_word():
  """Once each token was there, the likeliest that is allowed."""
  plain = tokens(**ONCE)
  for prompt, row in zip(PROMPTS, plain, strict=True):
    assert len(row) == 12 and not {0, 4} & set(row)
    left = 5 - len({1, 2, 3, 5, 6} & set(prompt))
    # While some are left, they come once.
    assert len({*prompt, *row[:left]}) == len(prompt) + left
    (rest,) = tokens(
      prompts=[prompt + list(row[:left])], **NEVER, max_new_tokens=12 - left
    )
    assert row[left:] == rest


@pytest.mark.parametrize(
  'drafter, temperature', [('draft', 0.0), ('suffix', 0.0), ('draft', 1.0)]
)
def test_speculative_answers_are_those_of_plain_decoding(drafter, temperature):
  rule = 'match' if temperature else 'greedy'
  settings = dict(ONCE, temperature=temperature, verifier=rule)
  assert tokens(drafter, **settings) == tokens(**settings)


@pytest.mark.parametrize('rule', ['sampling', 'block'])
def test_rules_draw_what_is_left(rule):
  found = tokens('draft', **ONCE, temperature=1.0, verifier=rule)
  for row in found:
    assert len(row) == 12 and not {0, 4} & set(row)


def test_the_answer_may_end_where_only_its_end_is_left():
  """`min_new_tokens` gives way before what is forbidden."""
  lists = dict(suppress_tokens=[0, 1, 2, 3, 4], bad_words=[[6, 6]])
  found = tokens(**lists, stop_token_ids=[5], min_new_tokens=9)
  for row in found:
    assert row in ((6, 5), (5,)), row
  assert np.all([row[-1] == 5 for row in found])
