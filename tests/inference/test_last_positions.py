"""Models are decoded up to their last position, whatever drafts for them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax import models
from specjax.checkpoints import model as model_lib
from specjax.decoding import reach
from specjax.inference import sources
from tests.helpers import networks
from tests.helpers import shared_prompts

KNOWN, GIVEN = 20, 9
# A table of positions, and no rotary ones.
LEARNED = dataclasses.replace(
  networks.CONFIGS['decoder'], max_position_embeddings=KNOWN, rope=None
)
PROMPT = [7, 8, 9, 7, 8, 9, 7, 8, 9]
TREE = {'tree': 2}


@pytest.fixture(scope='module', name='target')
def target_fixture():
  return shared_prompts.model('decoder', config=LEARNED)


def answer(target, drafter='none', budget=KNOWN - GIVEN, **settings):
  source = sources.resolve(
    shared_prompts.drafter(drafter, target),
    target,
    sources.Loading(num_draft=4),
  )
  settings = {'num_draft': 4, 'costs': 'rule'} | settings
  (made,) = specjax.generate(
    target, [PROMPT], drafter=source, max_new_tokens=budget, **settings
  )
  return made


@pytest.mark.parametrize(
  'drafter, settings',
  [
    pytest.param('draft', {}, marks=pytest.mark.slow),
    ('draft', {'temperature': 0.8, 'verifier': 'coupled'}),
    ('hybrid', {}),
    ('suffix', {'drafters': {'suffix': TREE | {'min_expected_accepted': 0.0}}}),
    ('network:eagle', {'drafters': {'speculator': {'tree': '0 1 00 01'}}}),
  ],
)
def test_the_last_positions_are_decoded(target, drafter, settings):
  chances = {k: v for k, v in settings.items() if k == 'temperature'}
  plain = answer(target, **chances)
  assert len(plain.tokens) == KNOWN - GIVEN
  made = answer(target, drafter, **settings)
  assert made.tokens == plain.tokens
  assert made.counts.num_drafted > 0
  with pytest.raises(ValueError, match=f'12 new ones that is {KNOWN + 1}, but'):
    answer(target, drafter, budget=12, **settings)


@pytest.mark.parametrize('is_tree', [False, True])
def test_slots_without_a_position_are_empty(is_tree):
  lm = models.make_lm(LEARNED)
  rows, slots = 3, 4
  tree = None
  if is_tree:
    parent = jnp.asarray([[0, 0, 0, 1, 3]] * rows)
    depth = jnp.asarray([[0, 1, 1, 2, 3]] * rows)
    tree = base.Tree(parent, depth)
  draft = base.Draft(
    jnp.asarray([[5, 6, 7, 8]] * rows), jnp.zeros((rows, slots, 2)), tree
  )
  context = base.Context(
    jnp.zeros((rows, KNOWN + 6), jnp.int32),
    jnp.asarray([KNOWN - 1, KNOWN - 2, KNOWN - 4]),
    None,
    None,
  )
  made = reach.within(lm, draft, context)
  kept = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
  if is_tree:
    kept = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
  kept = np.asarray(kept, bool)
  want = np.where(kept, np.asarray(draft.tokens), base.EMPTY)
  assert np.array_equal(made.tokens, want)
  assert np.array_equal(np.isfinite(made.log_probs).all(-1), kept)
  short = context.replace(tokens=context.tokens[:, :KNOWN])
  assert reach.within(lm, draft, short) is draft


def test_a_model_of_functions_has_a_last_position_too(target):
  lm = target.lm._replace(max_positions=KNOWN)
  own = model_lib.Model.from_lm(lm, target.params)
  plain = specjax.generate(own, [PROMPT], max_new_tokens=KNOWN - GIVEN)
  made = specjax.generate(
    own, [PROMPT], drafter='prompt_lookup', max_new_tokens=KNOWN - GIVEN
  )
  assert made[0].tokens == plain[0].tokens
