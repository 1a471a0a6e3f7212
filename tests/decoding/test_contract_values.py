"""Breaches that only values show: an error after the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from tests.helpers import fakes
from tests.helpers import own
from tests.helpers import recipes

VOCAB, BATCH, SLOTS = 11, 2, 3
LM = fakes.markov_lm(VOCAB)
PARAMS = fakes.markov_params(0, VOCAB)


ROW = jnp.zeros((BATCH,), jnp.int32)


def drafting(draft):
  """A drafter whose every draft is this one."""
  return own.drafting(lambda params, view: draft, SLOTS)


def judging(verdict):
  return base.Verifier(lambda context, draft, logits: verdict)


def faults(drafter, verify='auto', temperature=0.0, **controls):
  """int32 [B] of a generation that is run."""
  settings = Sampling(temperature=temperature)
  made = recipes.assembled(
    LM, drafter, num_draft=SLOTS, verify=verify, warp=settings.warp_spec()
  )
  given = settings.controls(row_keys(0, range(BATCH)), 6)
  return np.asarray(
    generate_lib.generate(
      made.recipe,
      generate_lib.Params(PARAMS),
      fakes.prompts(BATCH, VOCAB),
      given.replace(**controls),
      max_new_tokens=6,
    ).faults
  )


def _lawful(scale, empty=None):
  """A drafter with a law whose mass is `scale` (of the second row)."""
  made = np.full((BATCH, SLOTS, VOCAB), -np.log(VOCAB), np.float32)
  made[1] += np.log(scale, dtype=np.float32)
  ids = np.zeros((BATCH, SLOTS), np.int32)
  if empty is not None:
    ids[1, empty:] = base.EMPTY
  draft = base.Draft(jnp.asarray(ids), jnp.asarray(made))
  return specjax.drafters.custom(
    lambda num_draft, style: drafting(draft), has_log_probs=True
  )


@pytest.mark.parametrize(
  'scale, empty, wanted',
  [
    (1.0, None, 0),
    (1.0009, None, 0),
    (1.0011, None, contract.LOG_PROBS),
    (0.9989, None, contract.LOG_PROBS),
    (np.nan, None, contract.LOG_PROBS),
    (np.inf, None, contract.LOG_PROBS),
    (1e-30, None, contract.LOG_PROBS),
    # What stands in an empty slot is nobody's law.
    (2.0, 0, 0),
    (2.0, 1, contract.LOG_PROBS),
  ],
)
def test_laws_that_do_not_sum_to_one(scale, empty, wanted):
  found = faults(_lawful(scale, empty), 'sampling', temperature=1.0)
  assert found.tolist() == [0, wanted]


def test_rows_that_have_ended_break_nothing():
  budgets = jnp.array([6, 0])
  found = faults(
    _lawful(2.0), 'sampling', temperature=1.0, max_new_tokens=budgets
  )
  assert found.tolist() == [0, 0]


def _accepting(count):
  row = jnp.asarray(count, jnp.int32)
  return judging(base.Verdict(row, ROW))


@pytest.mark.parametrize(
  'filled, count, wrong',
  [
    ([3, 3], [3, 3], [0, 0]),
    ([3, 2], [3, 3], [0, 1]),
    ([0, 1], [1, 1], [1, 0]),
    ([3, 3], [4, -1], [1, 1]),
  ],
)
def test_more_accepted_than_was_drafted(filled, count, wrong):
  place = np.arange(SLOTS)
  ids = np.where(place < np.array(filled)[:, None], 5, base.EMPTY)
  draft = base.Draft(jnp.asarray(ids, jnp.int32))
  found = faults(drafting(draft), _accepting(count))
  assert found.tolist() == [contract.ACCEPTED * bit for bit in wrong]


def test_more_accepted_than_stands_on_a_path_of_a_tree():
  """The first row's path is filled, of the second row's the first node."""
  ids = jnp.array([[5, 6, 7, 8], [5, 6, base.EMPTY, 8]], jnp.int32)
  parent = jnp.array([[0, 0, 0, 1, 2]] * 2, jnp.int32)
  depth = jnp.array([[0, 1, 1, 2, 2]] * 2, jnp.int32)
  draft = base.Draft(ids, tree=base.Tree(parent, depth))
  made = own.drafting(lambda params, view: draft, 4, max_path=2)
  path = jnp.array([[1, 3]] * 2, jnp.int32)
  for count, wrong in (([2, 1], [0, 0]), ([2, 2], [0, 1]), ([3, 1], [1, 0])):
    rule = judging(base.Verdict(jnp.asarray(count, jnp.int32), ROW, path))
    found = faults(made, rule)
    assert found.tolist() == [contract.ACCEPTED * bit for bit in wrong], count


@pytest.mark.parametrize(
  'token, count, wrong',
  [(7, 3, 0), (own.VOCAB, 0, 1), (-1, 0, 1), (7, 3, 1)],
)
def test_tokens_outside_of_the_vocabulary(token, count, wrong):
  """Emitted by the rule, or drafted and accepted by it."""
  drafted = own.VOCAB + 5 if count and wrong else 5
  draft = base.Draft(jnp.full((2, SLOTS), drafted, jnp.int32))
  rule = judging(
    base.Verdict(
      jnp.full((2,), count, jnp.int32), jnp.full((2,), token, jnp.int32)
    )
  )
  found = faults(drafting(draft), rule)
  assert found.tolist() == [contract.TOKENS * wrong] * 2


def test_generate_raises_after_the_batch():
  target = own.target()
  settings = dict(max_new_tokens=6, num_draft=SLOTS, drafter=own.successors())
  # As many rows as a program has, or it would be filled up.
  prompts = [[5], [6], [7], [8]]
  empty = jnp.full((4, SLOTS), base.EMPTY, jnp.int32)
  rule = base.Verifier(
    lambda context, draft, logits: base.Verdict(
      jnp.array([0, 1, 0, 0], jnp.int32), jnp.full((4,), 7, jnp.int32)
    )
  )
  settings['drafter'] = drafting(base.Draft(empty))
  with pytest.raises(ValueError) as error:
    specjax.generate(target, prompts, verifier=rule, **settings)
  assert str(error.value) == (
    'Prompt 2: a verification rule accepted more tokens than there were filled '
    'slots, or fewer than none; Verdict.num_accepted must count drafted tokens '
    'alone (drafter custom, verifier custom).'
  )
  # At trace time, the same door.
  settings['drafter'] = drafting(
    base.Draft(jnp.zeros((4, SLOTS + 1), jnp.int32))
  )
  with pytest.raises(ValueError, match='Draft.tokens of Drafter.propose must'):
    specjax.generate(target, prompts, **settings)


def test_logits_that_are_not_finite_are_the_cause():
  """A rule of the user's own may accept anything then."""
  target = own.target()
  bad = jax.tree.map(lambda x: x * jnp.nan, target.params)
  rule = base.Verifier(
    lambda context, draft, logits: base.Verdict(
      jnp.full(logits.shape[:1], 9, jnp.int32), jnp.zeros(1, jnp.int32)
    )
  )
  with pytest.raises(FloatingPointError, match='Prompt 1: .*not finite after'):
    specjax.generate(
      target._replace(params=bad),
      [[5]],
      drafter=own.successors(),
      verifier=rule,
      max_new_tokens=4,
    )
