"""Rows that take the places of finished ones while others go on."""

from specjax import base
from specjax.decoding import contract
from specjax.decoding.recipe import Recipe
from specjax.decoding.state import DecodeState
from specjax.models.common import rows as rows_lib


def can_insert(recipe: Recipe) -> bool:
  """Whether target and drafter let rows be replaced."""
  return None not in (recipe.target.insert, recipe.drafter.insert)


def insert(
  recipe: Recipe, state: DecodeState, fresh: DecodeState, rows: base.Array
) -> DecodeState:
  """Replaces rows of a state by fresh ones, whatever rounds the others are in.

  Nothing of an old row is left: a fresh one decodes as in a batch of its own.

  Args:
    recipe: target and drafter, for which `can_insert`; static.
    state: state of B rows, between two runs; zeros where none has run yet.
    fresh: result of `start` for n rows, of the same recipe, capacity and
      `max_new_tokens`; its prompts may be narrower.
    rows: int32 [n], the place of each fresh row; below 0, or B and more, for
      rows that are left out.

  Returns:
    The state, in which `num_rounds` counts on.
  """
  # Two rows, the second has ended; a fresh row of prompt [p q], place 1:
  #   status     [RUNNING EOS]  becomes [RUNNING RUNNING]
  #   row_rounds [7 5]          becomes [7 0]
  #   length     [20 18]        becomes [20 2]
  drafter = recipe.drafter.insert(state.drafter, fresh.drafter, rows)
  if recipe.checked:
    contract.check_state('Drafter.insert', state.drafter, drafter)
  cache = recipe.target.insert(state.cache, fresh.cache, rows)
  made = rows_lib.insert(_own(state), _own(fresh), rows)
  controls = made.context.controls.with_shared(fresh.context.controls)
  return made.replace(
    context=made.context.replace(controls=controls),
    cache=cache,
    drafter=drafter,
    num_rounds=state.num_rounds,
  )


def _own(state: DecodeState) -> DecodeState:
  """The part of a state whose arrays all begin with the rows."""
  controls = state.context.controls.by_row()
  return state.replace(
    context=state.context.replace(controls=controls),
    cache=None,
    drafter=None,
    num_rounds=None,
  )
