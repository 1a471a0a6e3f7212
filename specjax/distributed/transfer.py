"""Arrays from a host onto a mesh and back, whatever the number of processes.

Every process calls these with the same values, in the same order.
"""

import jax
from jax.sharding import PartitionSpec
import numpy as np

from specjax import base
from specjax.distributed import mesh as mesh_lib


def put(
  tree: base.PyTree,
  layout: mesh_lib.Layout | None,
  spec: PartitionSpec = PartitionSpec(),
) -> base.PyTree:
  """Places arrays that every process holds.

  Args:
    tree: pytree of arrays, typed keys included.
    layout: the mesh; None leaves the tree as it is.
    spec: spec of all arrays.
  """
  if layout is None:
    return tree
  sharding = layout.sharding(spec)

  def one(x):
    # Typed keys have no numpy form; their words travel and are wrapped again.
    if jax.dtypes.issubdtype(getattr(x, 'dtype', None), jax.dtypes.prng_key):
      return jax.random.wrap_key_data(one(jax.random.key_data(x)))
    # A callback for each device of this process: `device_put` would compare the
    # whole array among all hosts first.
    array = np.asarray(x)
    return jax.make_array_from_callback(
      array.shape, sharding, lambda index: array[index]
    )

  return jax.tree.map(one, tree)


def put_controls(
  controls: base.Controls, layout: mesh_lib.Layout | None
) -> base.Controls:
  """Places `Controls`: rows by row, lists that all rows share everywhere."""
  if layout is None:
    return controls
  spec = layout.rows(controls.temperature.shape[0])
  rows = put(controls.by_row(), layout, spec)
  eos_ids, lists = put((controls.eos_ids, controls.lists), layout)
  return rows.with_shared(controls.replace(eos_ids=eos_ids, lists=lists))


def to_host(tree: base.PyTree) -> base.PyTree:
  """Numpy copies of whole arrays, on every process."""
  leaves, structure = jax.tree.flatten(tree)
  away = [
    i
    for i, x in enumerate(leaves)
    if isinstance(x, jax.Array)
    # Only what lies partly on other hosts has to be gathered.
    and not (x.is_fully_addressable or x.is_fully_replicated)
  ]
  if away:
    shardings = [
      jax.sharding.NamedSharding(leaves[i].sharding.mesh, PartitionSpec())
      for i in away
    ]
    # One program for all arrays, as each call is a meeting of all processes.
    gathered = jax.jit(lambda *x: x, out_shardings=tuple(shardings))(
      *[leaves[i] for i in away]
    )
    for i, x in zip(away, gathered, strict=True):
      leaves[i] = x
  return jax.device_get(jax.tree.unflatten(structure, leaves))
