"""Whole loops with the processors of the warp have the target's law.

The test is that of `test_law`. What these processors do depends on the draft
tokens in front of a slot. In each program the dial `bug` makes one of them
forget those, from the beginning of its block: the same test must reject it.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import processors
from specjax.decoding import trees
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters.custom import custom
from tests.helpers import fakes
from tests.helpers import laws
from tests.helpers import recipes

WARPS = (
  dict(presence_penalty=1.5, min_new_tokens=2),
  dict(temperature=0.8, frequency_penalty=0.9),
  dict(temperature=0.0, min_new_tokens=3, frequency_penalty=0.4),
)
LISTS = dict(
  logit_bias={1: 0.6, 2: -0.4},
  bad_words=((2, 1), (1, 1, 1)),
  suppress_tokens=(3,),
)
SPEC = Sampling(
  temperature=1.0,
  min_new_tokens=1,
  presence_penalty=1.0,
  frequency_penalty=1.0,
  **LISTS,
).warp_spec()
TREE = trees.parse('0 1 00 01 10 000', 3)
# Processors by the number of the bug that makes them forget the draft tokens.
FORGETFUL = ('penalise_generated', 'completions', 'early_ends')


def _tree(num_draft, style):
  """Draws trees from fixed logits by depth."""
  shape = TREE.max_depth, laws.VOCAB
  rows = np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    del params
    logits = jnp.broadcast_to(rows, (view.last_token.shape[0], *rows.shape))
    return candidates.tree(logits, view.context, TREE, style), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(init, propose, observe, num_draft, TREE.max_depth)


def _recipe(verify, shape):
  target = fakes.markov_lm(laws.VOCAB)
  drafter, num_draft = target, laws.NUM_DRAFT
  if shape == 'tree':
    num_draft = TREE.num_nodes
    drafter = custom(_tree, has_log_probs=True, is_tree=True, max_path=3)
  return recipes.recipe(
    target, drafter, num_draft=num_draft, verify=verify, warp=SPEC
  )


def _forgetful(right, number):
  """The processor, forgetting draft tokens in rows whose `bug` is `number`."""

  def processor(*given, **settings):
    *others, path_length = given
    context = next(x for x in others if isinstance(x, base.Context))
    if path_length is not None:
      bug = context.controls.rule['bug'][:, None]
      path_length = jnp.where(bug == number, 0, path_length)
    return right(*others, path_length, **settings)

  return processor


@pytest.mark.parametrize(
  'verify, shape',
  [
    ('sampling', 'chain'),
    ('match', 'chain'),
    ('traversal', 'tree'),
    ('match', 'tree'),
  ],
)
def test_law_of_processors(verify, shape, monkeypatch):
  for number, name in enumerate(FORGETFUL, 1):
    wrong = _forgetful(getattr(processors, name), number)
    monkeypatch.setattr(processors, name, wrong)
  decode = laws.program(_recipe(verify, shape))
  found = [
    laws.p_value(decode, warps=WARPS, bug=bug, **LISTS) for bug in range(4)
  ]
  assert found[0] > laws.ALARM
  assert max(found[1:]) < laws.ALARM, found
