"""Rounds in which a drafter is not asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.hybrid_loop import HybridParams
from specjax.decoding.drafters.suffix import SuffixOptions
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import recipes

VOCAB = 11


@pytest.mark.parametrize('pieces', [False, True])
def test_a_resting_drafter_is_not_asked(pieces):
  """One that rests for three rounds is asked in every fourth, if all rest."""
  target = fakes.markov_lm(VOCAB)
  params = generate_lib.Params(fakes.markov_params(0, VOCAB))
  controls = Sampling().controls(row_keys(0, range(2)), 10, (-1,))
  controls = controls.replace(max_new_tokens=jnp.array([10, 2]))

  def init(params, prompt, prefilled, *, capacity):
    del params, prefilled, capacity
    return {'left': jnp.zeros((2,), jnp.int32), 'asked': jnp.zeros((), int)}

  def propose(params, state, view):
    del params, view
    # The second row never rests, but is done after its two tokens.
    empty = jnp.full((2, 1), base.EMPTY, jnp.int32)
    return base.Draft(empty), {
      'left': jnp.array([4, 0]),
      'asked': state['asked'] + 1,
    }

  def observe(params, state, observation):
    del params, observation
    return {**state, 'left': state['left'] - 1}

  drafter = base.Drafter(
    init, propose, observe, 1, 1, lambda state: state['left'] > 0
  )
  recipe = recipes.recipe(target, 'prompt_lookup', num_draft=1)
  recipe = recipe._replace(drafter=drafter, widths=(0, 1))
  state = generate_lib.start(
    recipe, params, fakes.prompts(2, VOCAB), controls, max_new_tokens=10
  )
  if pieces:
    for _ in range(10):
      state = generate_lib.run(recipe, params, state, max_rounds=1)
    asked = 10  # each piece begins by asking
  else:
    state = generate_lib.run(recipe, params, state)
    asked = 4  # in rounds 0 and 1, for the second row, and in 5 and 9
  done = generate_lib.finish(state)
  assert done.num_rounds == 10
  assert done.num_tokens.tolist() == [10, 2]
  assert state.drafter['asked'] == asked


@pytest.mark.parametrize('name', ['suffix', 'hybrid'])
def test_resting_leaves_out_the_search_and_changes_nothing(name):
  """Rounds that follow at once are those that would have drafted nothing."""
  target = fakes.markov_lm(VOCAB)
  params = fakes.markov_params(0, VOCAB)
  settings, batch, new = Sampling(temperature=1.0), 3, 60
  prompt = fakes.prompts(batch, VOCAB)
  controls = settings.controls(row_keys(0, range(batch)), new)
  drafter, given = 'suffix', recipes.suffix_params(None, 0.5)
  if name == 'hybrid':
    drafter = recipes.hybrid(target)
    given = HybridParams(
      fakes.markov_params(3, VOCAB), given, jnp.float32(0.5), jnp.float32(0.25)
    )
  recipe = recipes.recipe(
    target,
    drafter,
    num_draft=6,
    verify='coupled',
    warp=settings.warp_spec(),
    drafters={
      'suffix': {'max_wait': 8},
      'hybrid': {'suffix': SuffixOptions(max_wait=8), 'model_draft': 2},
    },
  )
  assert recipe.drafter.is_idle is not None and recipe.widths[0] == 0
  asked = []

  def counting(rests):
    def propose(params, state, view):
      jax.debug.callback(lambda: asked.append(rests), ordered=True)
      return recipe.drafter.propose(params, state, view)

    changes = {} if rests else {'is_idle': None}
    made = recipe.drafter._replace(propose=propose, **changes)
    call = assemble.compiled(recipe._replace(drafter=made), new)
    got = jax.device_get(
      call(generate_lib.Params(params, given), prompt, controls)
    )
    jax.effects_barrier()
    return got

  with_rest, without = counting(True), counting(False)
  jax.tree.map(np.testing.assert_array_equal, with_rest, without)
  assert sum(not rests for rests in asked) == without.num_rounds
  assert 0 < sum(asked) < without.num_rounds
