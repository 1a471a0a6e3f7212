"""Meshes, logical axes and shardings, as plain data.

Every axis of a parameter, a batch or a cache has a logical name; a table of
rules sends logical names to mesh axes. Models know nothing of it: the names of
parameters are found by their path.

  embed     model width            heads     query heads x head size
  mlp       feed-forward width     kv_heads  key heads x head size
  vocab     rows of a table        batch     rows of a batch
  None      never sharded
"""

import re

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

# Logical axis -> mesh axis (None: replicated). Weights stay where they are and
# a layer ends in one reduction; a batch is split over 'data'.
RULES = {
  'batch': 'data',
  'vocab': 'model',
  'heads': 'model',
  'kv_heads': 'model',
  'mlp': 'model',
  'embed': None,
}

# Pattern of a parameter's path, joined by '/', -> names of its axes. The first
# pattern that matches the path's end wins; what nothing matches is replicated.
PARAMETER_AXES = (
  (r'(embed|head)/weight', ('vocab', 'embed')),
  (r'positions/weight', (None, 'embed')),
  (r'relative_bias/weight', (None, None)),
  (r'attn/q/weight', ('heads', 'embed')),
  (r'attn/[kv]/weight', ('kv_heads', 'embed')),
  (r'attn/o/weight', ('embed', 'heads')),
  (r'attn/q/bias', ('heads',)),
  (r'attn/[kv]/bias', ('kv_heads',)),
  (r'mlp/(gate|up)/weight', ('mlp', 'embed')),
  (r'mlp/down/weight', ('embed', 'mlp')),
  (r'mlp/(gate|up)/bias', ('mlp',)),
)


def parameter_axes(path: str, rank: int) -> tuple:
  """Returns the logical names of a parameter's axes.

  Args:
    path: keys joined by '/', such as 'layers_0/attn/q/weight'.
    rank: number of axes.
  """
  for pattern, axes in PARAMETER_AXES:
    if len(axes) == rank and re.search(f'(^|[/_]){pattern}$', path):
      return axes
  return (None,) * rank


def spec(axes, shape, mesh: Mesh, rules=None) -> PartitionSpec:
  """Turns logical names into a `PartitionSpec` that `shape` can bear.

  An axis that the mesh does not divide evenly is replicated.
  """
  rules = RULES if rules is None else rules
  sizes = dict(zip(mesh.axis_names, mesh.devices.shape, strict=True))
  entries = []
  for name, size in zip(axes, shape, strict=True):
    axis = rules.get(name)
    fits = axis in sizes and size % sizes[axis] == 0
    entries.append(axis if fits else None)
  return PartitionSpec(*entries)


def parameter_shardings(params, mesh: Mesh, rules=None):
  """Returns a tree of `NamedSharding` for a parameter tree (or its shapes)."""

  def one(path, leaf):
    name = '/'.join(str(getattr(k, 'key', k)) for k in path)
    axes = parameter_axes(name, len(leaf.shape))
    return NamedSharding(mesh, spec(axes, leaf.shape, mesh, rules))

  return jax.tree_util.tree_map_with_path(one, params)


def batch_sharding(mesh: Mesh, rules=None) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  axis = (RULES if rules is None else rules).get('batch')
  return NamedSharding(
    mesh, PartitionSpec(axis if axis in mesh.axis_names else None)
  )


def make_mesh(data: int = 1, model: int = 1, devices=None) -> Mesh:
  """Returns a mesh with axes 'data' and 'model'.

  Args:
    data: ways to split a batch.
    model: ways to split the weights.
    devices: devices to use, all if None; the first data * model are taken.

  Raises:
    ValueError: there are fewer devices than data * model.
  """
  devices = jax.devices() if devices is None else list(devices)
  if min(data, model) < 1 or data * model > len(devices):
    raise ValueError(
      f'a mesh of {data} x {model} needs {data * model} devices, but there '
      f'are {len(devices)}.'
    )
  # `Mesh` has automatic axes; `jax.make_mesh` would make explicit ones, which
  # ask for a sharding at every gather.
  grid = np.asarray(devices[: data * model]).reshape(data, model)
  return Mesh(grid, ('data', 'model'))
