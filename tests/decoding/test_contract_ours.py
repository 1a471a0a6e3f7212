"""Drafters and rules of ours keep the contract that is not checked."""

import functools

import jax
import pytest

from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.hybrid_loop import HybridParams
from tests.helpers import fakes
from tests.helpers import recipes

VOCAB, BATCH, SLOTS = 11, 2, 3
LM = fakes.markov_lm(VOCAB)
PARAMS = fakes.markov_params(0, VOCAB)


NAMED = ('prompt_lookup', 'suffix', 'token_recycling')


def _everything():
  """(drafter, rule, options) of ours; drafters made of arrays alone."""
  for name in NAMED:
    for rule in ('match', 'lenient'):
      yield name, rule, {}
    if name != 'prompt_lookup':
      yield name, 'match', {name: {'tree': 2}}
  for rule in ('coupled', 'sampling', 'block'):
    yield LM, rule, {}
  for rule in ('coupled', 'lenient'):
    yield recipes.hybrid(LM), rule, {}


def _ours(drafter, rule, options, **changes):
  settings = Sampling(temperature=1.0)
  made = recipes.assembled(
    LM,
    drafter,
    num_draft=SLOTS,
    verify=rule,
    warp=settings.warp_spec(),
    drafters=options,
  )
  return made._replace(recipe=made.recipe._replace(**changes)), settings


@pytest.mark.parametrize('drafter, rule, options', list(_everything()))
def test_ours_keep_the_contract_they_are_not_checked_for(
  drafter, rule, options, monkeypatch
):
  """Checked, they break nothing; unchecked, nothing of it is traced."""
  made, settings = _ours(drafter, rule, options)
  assert not made.recipe.checked and made.rule.name == rule
  given = {
    'draft_model': PARAMS,
    'suffix': recipes.suffix_params(),
    'hybrid': HybridParams(PARAMS, recipes.suffix_params()),
  }
  name = made.source.entry.name
  params = generate_lib.Params(PARAMS, given.get(name))
  controls = settings.controls(row_keys(0, range(BATCH)), 6, rule=made.dials())
  run = functools.partial(
    generate_lib.generate,
    params=params,
    prompt=fakes.prompts(BATCH, VOCAB),
    controls=controls,
    max_new_tokens=6,
  )
  checked = jax.jit(lambda: run(made.recipe._replace(checked=True)))()
  assert checked.faults.tolist() == [0, 0]
  for part in ('check_proposal', 'check_state', 'check_verdict', 'faults'):
    monkeypatch.setattr(contract, part, None)
  plain = jax.eval_shape(lambda: run(made.recipe))
  assert plain.faults is None
