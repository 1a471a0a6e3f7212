"""Where a run's arrays lie: parameters, optimiser states and batches."""

import bisect
from typing import Any, NamedTuple, Optional

import jax
from jax.sharding import PartitionSpec

from specjax import base
from specjax.distributed import mesh as mesh_lib
from specjax.models import sharded
from specjax.training import config as config_lib


class Placement(NamedTuple):
  """The devices of a run.

  Attributes:
    layout: mesh and rules of what is trained.
    rows: spec of batches.
    count: rows of a batch, over all hosts.
  """

  layout: mesh_lib.Layout
  rows: PartitionSpec
  count: int

  @property
  def own(self) -> tuple[int, ...]:
    """Rows of a batch that devices of this host hold, in order."""
    sharding = self.layout.sharding(self.rows)
    held = sharding.addressable_devices_indices_map((self.count,)).values()
    every = range(self.count)
    return tuple(sorted({row for (part,) in held for row in every[part]}))

  def shardings(self, tree: base.PyTree) -> base.PyTree:
    """Shardings of a parameter tree, or of what holds some (or shapes)."""
    specs = mesh_lib.parameter_specs(tree, self.layout)
    return jax.tree.map(self.layout.sharding, specs)

  def put(self, batch: dict) -> dict:
    """A batch on the devices, of which each host gives the rows `own`."""
    sharding, own = self.layout.sharding(self.rows), self.own

    def one(array):
      def part(index):
        first, end, _ = index[0].indices(self.count)
        # What a device holds is contiguous, and all of it is here.
        at = bisect.bisect_left(own, first)
        return array[(slice(at, at + end - first), *index[1:])]

      shape = (self.count, *array.shape[1:])
      return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(one, batch)

  def in_use(self, params: base.PyTree) -> base.PyTree:
    """Shardings of parameters while they are computed with.

    Cut along their width they only lie; a product would otherwise cut the
    activations along theirs, whose rows are spread over the same devices.
    """
    rules = dict(self.layout.rules) | {'embed': None}
    whole = mesh_lib.with_rules(self.layout, rules)
    specs = mesh_lib.parameter_specs(params, whole)
    return jax.tree.map(whole.sharding, specs)


def decoding_layout(
  config: config_lib.TrainConfig,
) -> Optional[mesh_lib.Layout]:
  """The run's mesh under the rules by which a teacher decodes, or None."""
  rules = mesh_lib.RULES | {'batch': ('data', 'fsdp')}
  return mesh_lib.make_layout(config.mesh, rules)


def placement(
  config: config_lib.TrainConfig, model_config: Any = None
) -> Placement:
  """Makes the mesh of a run.

  Args:
    config: its settings; without `mesh.shape` a single process trains on one
      device.
    model_config: of the trained model, to be checked against the mesh.

  Raises:
    ValueError: the mesh is not of the devices there are, or an axis does not
      divide a batch (or one of its accumulated parts) or the model.
  """
  rules = mesh_lib.TRAINING_RULES
  layout = mesh_lib.make_layout(config.mesh, rules)
  if layout is None:
    alone = mesh_lib.MeshConfig((1, 1))
    layout = mesh_lib.make_layout(alone, rules, jax.devices()[:1])
  elif model_config is not None:
    sharded.check(model_config, layout)
  count = layout.size('batch')
  rows, parts = config.data.batch_rows, config.optimizer.accumulation
  if rows % (count * parts):
    parted = f' times {parts} accumulated parts' if parts > 1 else ''
    raise ValueError(
      f'data.batch_rows={rows} cannot be divided by {count} '
      f'device{"s" if count > 1 else ""}{parted}; take a multiple of '
      f'{count * parts}.'
    )
  return Placement(layout, layout.rows(rows), rows)
