"""Prompts decoded through few places, each taken anew once its row is done."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from specjax.decoding import generate as generate_lib


def refilled(recipe, params_of, prompt, controls, *, new, places, rounds=2):
  """Each row's new tokens, status and trace, and the rounds of each place.

  Args:
    recipe: recipe whose target and drafter can insert.
    params_of: row numbers -> parameters.
    prompt: `base.Prompt` of all rows.
    controls: their controls.
    new: most new tokens of a row.
    places: rows decoded together.
    rounds: rounds between two looks.
  """
  start = functools.partial(generate_lib.start, recipe, max_new_tokens=new)
  every = prompt.tokens.shape[0]

  def given(rows):
    return params_of(rows), *rows_of(prompt, controls, rows)

  @jax.jit
  def fill(state, place, params, prompt, controls):
    fresh = start(params, prompt, controls)
    return generate_lib.insert(recipe, state, fresh, place)

  @jax.jit
  def run(state, params):
    state = generate_lib.run(recipe, params, state, max_rounds=rounds)
    return state, generate_lib.finish(state), generate_lib.runs(state)

  rows = list(range(places))
  blank = jax.eval_shape(start, *given(rows))
  state = jax.tree.map(zeros, blank)
  free, holds, waiting, found = rows, {}, list(range(every)), {}
  while holds or waiting:
    for place in free[: len(waiting)]:
      holds[place] = waiting.pop(0)
      # A second row, which is left out.
      two = [holds[place], 0]
      state = fill(state, jnp.asarray([place, places]), *given(two))
    state, seen, live = run(state, params_of(rows))
    seen = jax.device_get(seen)
    free = [place for place in holds if not live[place]]
    for place in free:
      found[holds.pop(place)] = row(seen, place)
  return [found[index] for index in range(every)]


def zeros(leaf):
  """Zeros of a shape; keys of them too."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(jnp.zeros((*leaf.shape, 2), jnp.uint32))
  return jnp.zeros(leaf.shape, leaf.dtype)


def rows_of(prompt, controls, rows):
  """The prompts and the controls of some rows."""
  own = controls.replace(eos_ids=None)
  prompt, own = jax.tree.map(lambda x: x[jnp.asarray(rows)], (prompt, own))
  return prompt, own.replace(eos_ids=controls.eos_ids)


def row(generation, place):
  """(new tokens, status, drafted, accepted, emitted) of a `Generation`."""
  begin = int(generation.prompt_length[place])
  end = begin + int(generation.num_tokens[place])
  trace = generation.rounds
  return (
    generation.tokens[place, begin:end].tolist(),
    int(generation.status[place]),
    *(
      np.asarray(column)[place].tolist()
      for column in (trace.drafted, trace.accepted, trace.emitted)
    ),
  )
