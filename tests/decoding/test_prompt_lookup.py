"""Prompt lookup against a search by hand, and its knobs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding.drafters.prompt_lookup import prompt_lookup


def _propose(rows, source=None, capacity=40, **knobs):
  tokens = np.full((len(rows), capacity), 3, np.int32)
  for tokens_row, row in zip(tokens, rows, strict=True):
    tokens_row[: len(row)] = row
  length = jnp.asarray([len(row) for row in rows], jnp.int32)
  context = base.Context(jnp.asarray(tokens), length, length, None)
  drafter = prompt_lookup(search_source=source is not None, **knobs)
  state = drafter.init(None, source, None, capacity=capacity)
  view = base.View(context, context.tokens[:, 0], None, None)
  draft, _ = jax.jit(drafter.propose)(None, state, view)
  assert draft.log_probs is None
  return [[int(t) for t in row if t >= 0] for row in draft.tokens]


def _oracle(row, num_draft, max_ngram, min_ngram, match, periodic):
  for n in range(max_ngram, min_ngram - 1, -1):
    ends = [end for end in range(n, len(row)) if row[end - n : end] == row[-n:]]
    if n <= len(row) and ends:
      end = ends[-1] if match == 'latest' else ends[0]
      follow = row[end:]
      if periodic:
        follow = (follow * num_draft)[:num_draft]
      return follow[:num_draft]
  return []


@pytest.mark.parametrize('match', ['latest', 'earliest'])
@pytest.mark.parametrize('periodic', [True, False])
@pytest.mark.parametrize(('max_ngram', 'min_ngram'), [(3, 1), (2, 2), (5, 3)])
def test_equals_a_search_by_hand(match, periodic, max_ngram, min_ngram):
  rng = np.random.default_rng(max_ngram)
  rows = [
    rng.integers(0, int(rng.integers(2, 7)), int(rng.integers(1, 41))).tolist()
    for _ in range(200)
  ]
  knobs = dict(
    num_draft=6,
    max_ngram=max_ngram,
    min_ngram=min_ngram,
    match=match,
    periodic=periodic,
  )
  got = _propose(rows, **knobs)
  assert got == [_oracle(row, **knobs) for row in rows]


def test_a_source_is_copied_up_to_its_end():
  source = base.Prompt(jnp.asarray([[5, 6, 7, 8, 6, 7]]), jnp.asarray([4]))
  assert _propose([[0, 6]], source, num_draft=4) == [[7, 8]]
  # The longer match wins, the context's own on a tie.
  assert _propose([[0, 6, 9, 6]], source, num_draft=2) == [[9, 6]]
  assert _propose([[6, 9, 5, 6]], source, num_draft=1) == [[7]]


@pytest.mark.parametrize(
  ('knobs', 'message'),
  [
    (dict(num_draft=0), 'num_draft'),
    (dict(num_draft=2, min_ngram=0), 'min_ngram'),
    (dict(num_draft=2, min_ngram=4), 'min_ngram'),
    (dict(num_draft=2, match='first'), "'first'"),
  ],
)
def test_bad_settings_are_named(knobs, message):
  with pytest.raises(ValueError, match=message):
    prompt_lookup(**knobs)
