"""Placement of a run's arrays: parameters, optimiser states and batches."""

import bisect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from specjax import base
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import load as loading
from specjax.distributed import mesh as mesh_lib
from specjax.models import sharded
from specjax.training import config as config_lib


class Placement(NamedTuple):
  """The devices of a run.

  Attributes:
    layout: mesh and rules of the trained parameters.
    rows: spec of batches.
    count: number of rows of a batch, over all hosts.
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
        # This host's rows [4 5 6 7] of eight: a device with rows 6:8 takes
        # array[2:4]. A device's rows are contiguous, and all of them are here.
        at = bisect.bisect_left(own, first)
        return array[(slice(at, at + end - first), *index[1:])]

      shape = (self.count, *array.shape[1:])
      return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(one, batch)

  def in_use(self, params: base.PyTree) -> base.PyTree:
    """Shardings of parameters while they are computed with.

    A cut along the width (axis 'fsdp') is for storage alone. In a product it
    would cut the width of the activations too, whose rows lie on that axis.
    """
    rules = dict(self.layout.rules) | {'embed': None}
    whole = mesh_lib.with_rules(self.layout, rules)
    specs = mesh_lib.parameter_specs(params, whole)
    return jax.tree.map(whole.sharding, specs)


def decoding_layout(
  config: config_lib.TrainConfig,
) -> mesh_lib.Layout | None:
  """The run's mesh under the rules by which a teacher decodes, or None."""
  rules = mesh_lib.RULES | {'batch': ('data', 'fsdp')}
  return mesh_lib.make_layout(config.mesh, rules, fits=_fits(config))


def _fits(
  config: config_lib.TrainConfig, model_config: Any = None
) -> Callable[[tuple], bool]:
  """Whether a shape suits the batches and, as far as known, the models."""

  def fits(shape: tuple) -> bool:
    shapes = [model_config]
    for folder in filter(None, (config.teacher, config.init_from)):
      shapes.append(folder_lib.describe(loading.folder_of(folder)))
    rows = config.data.batch_rows // config.optimizer.accumulation
    if not all(sharded.fits(one, rows, shape) for one in shapes):
      return False
    # A new model is not made before its data are read; its sizes are settings.
    is_known = config.init_from or model_config is not None
    sizes = () if is_known else (config.model.heads, config.model.mlp)
    return not any(size % shape[-1] for size in sizes)

  return fits


def placement(
  config: config_lib.TrainConfig, model_config: Any = None
) -> Placement:
  """Makes the mesh of a run.

  Args:
    config: settings of the run; without `mesh.shape` a single process trains
      on one device.
    model_config: config of the trained model, checked against the mesh.

  Raises:
    MeshError: the mesh is not of the devices there are, or an axis does not
      divide a batch (or one of its accumulated parts) or the model.
  """
  rules = mesh_lib.TRAINING_RULES
  fits = _fits(config, model_config)
  layout = mesh_lib.make_layout(config.mesh, rules, fits=fits)
  if layout is None:
    alone = mesh_lib.MeshConfig((1, 1))
    layout = mesh_lib.make_layout(alone, rules, jax.devices()[:1])
  elif model_config is not None:
    sharded.check(model_config, layout, config.data.batch_rows)
  count = layout.size('batch')
  rows, parts = config.data.batch_rows, config.optimizer.accumulation
  if rows % (count * parts):
    parted = f' times {parts} accumulated parts' if parts > 1 else ''
    raise mesh_lib.MeshError(
      f'data.batch_rows={rows} cannot be divided by {count} '
      f'device{"s" if count > 1 else ""}{parted}; take a multiple of '
      f'{count * parts}.'
    )
  return Placement(layout, layout.rows(rows), rows)
