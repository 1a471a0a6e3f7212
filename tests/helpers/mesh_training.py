"""Some steps of training on a mesh."""

import jax

from specjax.training import build
from specjax.training import checkpoints
from specjax.training import placement
from specjax.training import step as step_lib
from tests.helpers import toy


def losses(files, optimizer, shape, steps):
  """Losses of some steps on a mesh, and shardings before and after them."""
  config = toy.config(files, mesh__shape=shape)
  parts = build.build(config)
  place = placement.placement(config, parts.model_config)
  state, _ = checkpoints.fresh_state(parts, optimizer, place)
  before = jax.tree.map(lambda x: x.sharding, state)
  step = step_lib.make_train_step(
    parts.objective,
    optimizer,
    seed=0,
    shardings=before,
    in_use=place.in_use(state.params),
  )
  found = []
  for number in range(steps):
    batch = place.put(parts.batches.get(number))
    state, values = step(state, {}, batch)
    found.append(float(values['loss']))
  return found, before, jax.tree.map(lambda x: x.sharding, state), state
