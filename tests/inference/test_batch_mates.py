"""The tokens of a row depend on no other row, whatever rule is asked for."""

import functools
import warnings

import numpy as np
import pytest

import specjax
from specjax.decoding.drafters.suffix import SuffixOptions
from specjax.inference import planning
from tests.helpers import own

RULES = ('sampling', 'block', 'traversal', 'coupled', 'match')
# Rules that weigh probabilities run as this one.
INSTEAD = {
  'suffix': 'match',
  'token_recycling': 'match',
  'prompt_lookup': 'match',
  'hybrid': 'coupled',
}
# Searches that are not asked whether they pay draft in some rows alone.
EAGER = SuffixOptions(min_expected_accepted=0.5)


@functools.cache
def target():
  return own.target()


def prompts():
  """24 prompts that repeat themselves, of different length."""
  rng = np.random.default_rng(0)
  rows = [rng.integers(4, 12, rng.integers(2, 5)) for _ in range(24)]
  return [np.resize(row, 6 + 2 * n % 9).tolist() for n, row in enumerate(rows)]


def drafter(name):
  if name != 'hybrid':
    return name
  return specjax.drafters.hybrid(own.target(1))


def answers(name, verifier, **settings):
  given = dict(
    drafter=drafter(name),
    verifier=verifier,
    drafters={
      'suffix': EAGER,
      'hybrid': {'suffix': EAGER, 'prior': 0.9},
    },
    num_draft=2,
    max_new_tokens=24,
    temperature=1.0,
    ignore_eos=True,
    seed=1,
    costs='rule',
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return specjax.generate(target(), prompts(), **given | settings)


@pytest.mark.parametrize('name', INSTEAD)
@pytest.mark.parametrize('verifier', RULES)
def test_batches_change_no_token(name, verifier):
  """Programs are shared: only `match` and `coupled` are ever compiled."""
  alone = answers(name, verifier, batch_size=1)
  assert own.accepted(alone) > 10
  # Rows of the former two do depend on each other under the rules asked for.
  for size in (4, 8) if name in ('suffix', 'token_recycling') else (8,):
    found = answers(name, verifier, batch_size=size)
    assert own.tokens(found) == own.tokens(alone), size


def assembled(source, verifier, temperature=1.0, **settings):
  """Plans of drafter and rule, and the warnings they give."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    job = planning.plan(
      target(),
      prompts()[:2],
      drafter=source,
      verifier=verifier,
      temperature=temperature,
      **settings,
    )
  return job.assembled, [str(warning.message) for warning in caught]


@pytest.mark.parametrize('name', INSTEAD)
def test_the_rule_that_runs_is_named(name):
  for asked in RULES[:3]:
    made, told = assembled(drafter(name), asked)
    assert made.rule.name == INSTEAD[name] and made.instead_of == asked
    assert told == [
      f'The drafter {name} runs the verifier {INSTEAD[name]} in place of '
      f'{asked}, so that no token depends on other rows; the law is the same.'
    ]
    made, told = assembled(drafter(name), asked, temperature=0.0)
    assert (made.rule.name, told) == ('greedy', [])
    made, told = assembled(drafter(name), asked, temperature=[0.0, 1.0])
    assert made.rule.name == INSTEAD[name] and len(told) == 1
  for asked in ('match', 'coupled', 'auto'):
    made, told = assembled(drafter(name), asked)
    assert not made.instead_of and not told
  made, told = assembled(drafter(name), 'lenient')
  assert made.rule.name == 'lenient' and not made.instead_of
  alone = name == 'prompt_lookup'
  assert len(told) == 1 - alone
  assert alone or 'tokens of a row may depend on the rows' in told[0]


def test_trees_run_so_too():
  for name in ('suffix', 'token_recycling'):
    made, _ = assembled(name, 'block', drafters={name: {'tree': 2}})
    assert made.rule.name == 'match' and made.recipe.is_tree


def test_drafters_of_ones_own_may_say_so():
  def make(num_draft, style):
    return own.successors(num_draft)

  made, told = assembled(make_custom(make), 'sampling')
  assert made.rule.name == 'sampling'
  assert len(told) == 1 and 'may depend on the rows' in told[0]
  made, told = assembled(make_custom(make, row_independent=True), 'sampling')
  assert made.rule.name == 'sampling' and not told
  pairs = [['sampling', 'match']]
  made, told = assembled(make_custom(make, rerouted=pairs), 'sampling')
  assert made.rule.name == 'match' and 'in place of sampling' in told[0]
  made, told = assembled(make_custom(make, rerouted=pairs), 'coupled')
  assert made.rule.name == 'coupled' and not told
  for bad in [['sampling', 'mach']], [['sampling']]:
    with pytest.raises(ValueError, match='custom has .* in rerouted, which'):
      assembled(make_custom(make, rerouted=bad), 'sampling')
  for bad in ('sampling', 'match'), 5:
    with pytest.raises(ValueError, match='rerouted must be a tuple of .*, not'):
      make_custom(make, rerouted=bad)
  # A chain of exchanges is none, and greedy decoding has another law.
  with pytest.raises(ValueError, match='greedy is for temperature 0'):
    assembled(make_custom(make, rerouted=[['block', 'greedy']]), 'block')


def make_custom(make, **stated):
  return specjax.drafters.custom(make, has_log_probs=True, **stated)
