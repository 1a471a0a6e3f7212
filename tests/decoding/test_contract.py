"""Breaches of a contract are refused, by the loop alone where they must be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from tests.helpers import fakes
from tests.helpers import own
from tests.helpers import recipes

VOCAB, BATCH, SLOTS = 11, 2, 3
LM = fakes.markov_lm(VOCAB)
PARAMS = fakes.markov_params(0, VOCAB)


def trace(drafter, verify='auto', temperature=0.0, params=None, new=6):
  """Shapes of a generation: the loop is traced and nothing is compiled."""
  settings = Sampling(temperature=temperature)
  made = recipes.assembled(
    LM, drafter, num_draft=SLOTS, verify=verify, warp=settings.warp_spec()
  )
  controls = settings.controls(row_keys(0, range(BATCH)), new)
  run = functools.partial(
    generate_lib.generate,
    made.recipe,
    generate_lib.Params(PARAMS, params),
    max_new_tokens=new,
  )
  prompt = fakes.prompts(BATCH, VOCAB)
  return jax.eval_shape(lambda: run(prompt, controls))


def refused(*args, **kwargs) -> str:
  with pytest.raises(ValueError) as error:
    trace(*args, **kwargs)
  assert '\n' not in str(error.value)
  return str(error.value)


def tokens(*shape, dtype=jnp.int32):
  return jnp.zeros(shape or (BATCH, SLOTS), dtype)


def drafting(draft, **changes):
  """A drafter whose every draft is this one."""
  made = own.drafting(lambda params, view: draft, SLOTS)
  return made._replace(**changes)


def law(*shape, dtype=jnp.float32):
  return jnp.full(shape or (BATCH, SLOTS, VOCAB), -np.log(VOCAB), dtype)


def test_a_draft_that_keeps_the_contract_passes():
  assert trace(drafting(base.Draft(tokens()))).faults.shape == (BATCH,)


@pytest.mark.parametrize(
  'draft, words',
  [
    (
      base.Draft(tokens(BATCH, SLOTS + 1)),
      'Draft.tokens of Drafter.propose must be int32[2, 3] (batch, num_draft), '
      'with EMPTY where nothing is proposed, not int32[2, 4].',
    ),
    (base.Draft(tokens(BATCH, SLOTS - 1)), 'not int32[2, 2].'),
    (base.Draft(tokens(SLOTS)), 'not int32[3].'),
    (base.Draft(tokens(BATCH, SLOTS, 1)), 'not int32[2, 3, 1].'),
    (base.Draft(tokens(dtype=jnp.float32)), 'not float32[2, 3].'),
    (base.Draft(tokens(dtype=jnp.int16)), 'not int16[2, 3].'),
    (base.Draft(tokens(dtype=bool)), 'not bool[2, 3].'),
    (base.Draft(np.zeros((BATCH, SLOTS), np.int64)), 'not int64[2, 3].'),
    (base.Draft(None), 'not NoneType None.'),
    (base.Draft('five'), "not str 'five'."),
    (tokens(), 'What Drafter.propose returns first must be a Draft, not '),
    (
      base.Draft(tokens(), law()),
      'Draft.log_probs of a drafter without probabilities must be None (give '
      'specjax.drafters.custom a function and has_log_probs=True), not ',
    ),
    (
      base.Draft(tokens(), tree=base.Tree(tokens(2, 4), tokens(2, 4))),
      'Draft.tree of Drafter.propose must be None, as its plan states, not a',
    ),
  ],
)
def test_drafts_that_break_it(draft, words):
  assert words in refused(drafting(draft))


@pytest.mark.parametrize(
  'proposal, words',
  [
    (base.Draft(tokens()), 'must be a Draft and the state, not Draft.'),
    ((base.Draft(tokens()),), 'must be a Draft and the state, not 1 values.'),
    ([base.Draft(tokens()), ()], 'must be a Draft and the state, not list.'),
    ((base.Draft(tokens()), (), 1), 'not 3 values.'),
    (None, 'not NoneType.'),
  ],
)
def test_proposals_that_are_no_pair(proposal, words):
  made = drafting(None, propose=lambda params, state, view: proposal)
  assert refused(made).startswith('What Drafter.propose returns')
  assert words in refused(made)


@pytest.mark.parametrize('verify', ['match', 'sampling'])
def test_a_ready_drafter_has_no_probabilities_under_any_rule(verify):
  made = drafting(base.Draft(tokens(), law()))
  assert 'without probabilities' in refused(made, verify, temperature=1.0)


@pytest.mark.parametrize(
  'log_probs',
  [
    law(BATCH, SLOTS),
    law(BATCH, SLOTS, VOCAB - 1),
    law(BATCH, SLOTS + 1, VOCAB),
    law(dtype=jnp.float16),
    law(dtype=jnp.bfloat16),
    tokens(BATCH, SLOTS, VOCAB),
  ],
)
def test_laws_of_another_form(log_probs):
  made = specjax.drafters.custom(
    lambda num_draft, style: drafting(base.Draft(tokens(), log_probs)),
    has_log_probs=True,
  )
  found = refused(made, 'sampling', temperature=1.0)
  assert 'Draft.log_probs of Drafter.propose must be float32[2, 3, 11]' in found
  assert f'not {log_probs.dtype}{list(log_probs.shape)}.' in found


TREE = own.favourites_tree()


@pytest.mark.parametrize(
  'tree, words',
  [
    (
      None,
      'Draft.tree of Drafter.propose must be a Tree, as its plan states, n',
    ),
    (
      base.Tree(tokens(2, 4), tokens(2, 5)),
      'Tree.parent of Drafter.propose m',
    ),
    (
      base.Tree(tokens(2, 5), tokens(5)),
      'Tree.depth of Drafter.propose mu',
    ),
    (base.Tree(tokens(2, 5), law(2, 5)), 'not float32[2, 5].'),
  ],
)
def test_trees_that_break_it(tree, words):
  draft = base.Draft(tokens(BATCH, 4), tree=tree)
  made = own.drafting(lambda params, view: draft, 4, max_path=2)
  assert words in refused(made)


def _stateful(after=None, observed=None):
  """A drafter whose state becomes another in one of its functions."""
  state = {'count': jnp.zeros((BATCH,), jnp.int32), 'of': (jnp.zeros(()),)}

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return state

  def propose(params, given, view):
    del params, view
    return base.Draft(tokens()), given if after is None else after

  def observe(params, given, observation):
    del params, observation
    return given if observed is None else observed

  return base.Drafter(init, propose, observe, SLOTS, SLOTS)


COUNT = jnp.zeros((BATCH,), jnp.int32)


@pytest.mark.parametrize(
  'state, words',
  [
    ({'count': COUNT}, "{'count': *, 'of': (*,)}"),
    ((), 'must be a pytree like that of Drafter.init'),
    (
      {'count': COUNT[:1], 'of': (jnp.zeros(()),)},
      "at ['count'], must be int32[2] as Drafter.init made it, not int32[1].",
    ),
    (
      {'count': COUNT, 'of': (jnp.zeros((), bool),)},
      "at ['of'][0], must be float32[] as Drafter.init made it, not bool[].",
    ),
    ({'count': COUNT, 'of': ('text',)}, "not str 'text'."),
  ],
)
@pytest.mark.parametrize('where', ['propose', 'observe'])
def test_states_that_change_their_form(state, words, where):
  given = {'after' if where == 'propose' else 'observed': state}
  found = refused(_stateful(**given))
  assert found.startswith(f'The state that Drafter.{where} returns')
  assert words in found


def test_numbers_of_python_are_fine_in_a_state():
  """They become arrays with the first round."""
  made = _stateful()
  made = made._replace(
    init=lambda params, prompt, prefilled, *, capacity: {'rounds': 0},
    observe=lambda params, state, observation: {'rounds': state['rounds'] + 1},
  )
  assert trace(made)


@pytest.mark.parametrize('leaf', ['text', np.array(['text']), object])
def test_states_without_arrays(leaf):
  made = _stateful()._replace(
    init=lambda params, prompt, prefilled, *, capacity: {'name': leaf}
  )
  assert refused(made).startswith(
    "The state that Drafter.init returns, at ['name'], must be a pytree of "
    'arrays and numbers, not '
  )


def test_idleness_is_a_row_of_bools():
  made = specjax.drafters.custom(
    drafting(base.Draft(tokens()), is_idle=lambda state: jnp.array(True)),
    widths=(0,),
  )
  assert refused(made) == (
    'What Drafter.is_idle returns must be bool[2] (batch), not bool[].'
  )


def judging(verdict):
  return base.Verifier(lambda context, draft, logits: verdict)


ROW = jnp.zeros((BATCH,), jnp.int32)


@pytest.mark.parametrize(
  'verdict, words',
  [
    ((ROW, ROW), 'What Verifier.verify returns must be a Verdict, not tuple.'),
    (None, 'not NoneType.'),
    (
      base.Verdict(ROW[:, None], ROW),
      'Verdict.num_accepted of Verifier.verify must be int32[2] (batch), not '
      'int32[2, 1].',
    ),
    (base.Verdict(ROW.astype(float), ROW), 'not float32[2].'),
    (base.Verdict(ROW, ROW[0]), 'Verdict.next_token of Verifier.verify must'),
    (base.Verdict(ROW, ROW.astype(jnp.uint8)), 'not uint8[2].'),
    (base.Verdict(ROW, 7), 'not int32[].'),
    (
      base.Verdict(ROW, ROW, tokens()),
      'Verdict.path of Verifier.verify must be None for a chain, not int32[2,',
    ),
  ],
)
def test_verdicts_that_break_it(verdict, words):
  made = drafting(base.Draft(tokens()))
  assert words in refused(made, judging(verdict))
  # Of our own drafters, too.
  assert words in refused('prompt_lookup', judging(verdict))


@pytest.mark.parametrize('path', [None, tokens(BATCH, 4), law(BATCH, 2)])
def test_verdicts_on_trees(path):
  draft = base.Draft(
    tokens(BATCH, 4),
    tree=base.Tree(tokens(2, 5), tokens(2, 5)),
  )
  made = own.drafting(lambda params, view: draft, 4, max_path=2)
  found = refused(made, judging(base.Verdict(ROW, ROW, path)))
  wanted = 'Verdict.path of Verifier.verify must be int32[2, 2] (batch, max_'
  assert wanted in found
