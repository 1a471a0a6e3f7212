"""Meshes, logical axes and shardings, as plain data.

Every axis of a parameter, a batch or a cache has a logical name; a table of
rules sends logical names to mesh axes. Models contain no sharding: the axes of
a parameter are found by its path.

  embed     model width            heads     query heads x head size
  mlp       feed-forward width     kv_heads  key heads x head size
  vocab     rows of a table        batch     rows of a batch
  None      never sharded

A mesh has the axes 'data' (rows of a batch), 'fsdp' (rows too; in training the
parameters' width as well) and 'model' (heads, feed-forward, vocabulary).
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from specjax import validation

AXES = ('data', 'fsdp', 'model')
DRAFTERS = ('replicated', 'sharded')
LOGICAL = ('batch', 'vocab', 'heads', 'kv_heads', 'mlp', 'embed')

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
# In training, parameters and optimiser states are also cut along their width.
TRAINING_RULES = RULES | {'batch': ('data', 'fsdp'), 'embed': 'fsdp'}
# A model small enough that splitting it would only add messages.
REPLICATED = dict.fromkeys(LOGICAL) | {'batch': 'data'}

# Pattern of a parameter's path, joined by '/', -> names of its axes. The first
# pattern that matches the path's end wins; what nothing matches is replicated.
PARAMETER_AXES = (
  (r'(embed|head)/weight', ('vocab', 'embed')),
  (r'(embed|head)/(w8a8_)?scale', ('vocab',)),
  (r'positions/weight', (None, 'embed')),
  (r'relative_bias/weight', (None, 'heads')),
  (r'attn/q/weight', ('heads', 'embed')),
  (r'attn/[kv]/weight', ('kv_heads', 'embed')),
  (r'attn/o/weight', ('embed', 'heads')),
  (r'attn/q/(bias|(w8a8_)?scale)', ('heads',)),
  (r'attn/[kv]/(bias|(w8a8_)?scale)', ('kv_heads',)),
  (r'attn/sub_norm/weight', ('heads',)),
  (r'mlp/(gate|up)/weight', ('mlp', 'embed')),
  (r'mlp/down/weight', ('embed', 'mlp')),
  (r'mlp/(gate|up)/(bias|(w8a8_)?scale)', ('mlp',)),
  (r'mlp/sub_norm/weight', ('mlp',)),
)


class MeshError(ValueError):
  """Bad usage: devices, a model or a batch cannot have the mesh asked for."""


@dataclasses.dataclass(frozen=True)
class Shards:
  """Numbers of parts into which a network is cut over devices.

  Inside a `jax.shard_map` a network sees its own part of every weight; where a
  part gives a partial sum, it adds the others' along the mesh axis `axis`.

  Attributes:
    heads: number of parts of the query heads (and key heads).
    mlp: number of parts of the feed-forward width.
    vocab: number of parts of the rows of embedding tables.
    axis: name of the mesh axis.
  """

  heads: int = 1
  mlp: int = 1
  vocab: int = 1
  axis: str = 'model'


@dataclasses.dataclass
class MeshConfig:
  """The devices of a run: what `--config.mesh.field=value` can change.

  Attributes:
    shape: numbers of devices (data, model), or (data, fsdp, model) in training;
      -1 stands for what is left of the devices. () is one device; with several
      processes, all of them on the data axis.
    rules: changes of the table of rules, which sends logical axes to mesh axes,
      such as vocab=none,mlp=model.
    drafter: placement of the drafter on the model axis; sharded splits it as
      the target.
  """

  shape: tuple = ()
  rules: str = ''
  drafter: str = validation.choice('replicated', DRAFTERS)

  def validate(self, *, decoding: bool = False) -> None:
    """Checks the values alone, without looking at any device.

    Args:
      decoding: whether a mesh for decoding is asked for, which has no axis
        'fsdp'.

    Raises:
      ValueError: one sentence about the first bad value.
    """
    if len(self.shape) not in (0, 2, 3):
      raise ValueError(
        'mesh.shape must be (data, model) or (data, fsdp, model), not '
        f'{tuple(self.shape)!r}.'
      )
    for size in self.shape:
      whole = isinstance(size, int) and not isinstance(size, bool)
      if not whole or (size < 1 and size != -1):
        raise ValueError(
          f'mesh.shape must hold numbers of devices or -1, not {size!r}.'
        )
    if list(self.shape).count(-1) > 1:
      raise ValueError('mesh.shape can hold -1 once only.')
    if decoding and len(self.shape) == 3:
      raise ValueError(
        f'mesh.shape={tuple(self.shape)} has an fsdp axis, which is for '
        'training alone; decode with (data, model).'
      )
    validation.check_choices(self, 'mesh.', str)
    parse_rules(self.rules)


@contextlib.contextmanager
def about_drafter(config: MeshConfig) -> Iterator[None]:
  """Adds the option `mesh.drafter` to errors about a sharded drafter."""
  try:
    yield
  except ValueError as error:
    if not config.shape or config.drafter != 'sharded':
      raise
    kind = MeshError if isinstance(error, MeshError) else ValueError
    raise kind(f'With mesh.drafter=sharded, {error}') from None


class Layout(NamedTuple):
  """A mesh and the rules by which arrays lie on it; hashable.

  Attributes:
    mesh: mesh with automatic axes.
    rules: pairs (logical axis, mesh axis, tuple of them, or None).
  """

  mesh: Mesh
  rules: tuple

  def table(self) -> dict:
    """The rules as a dict, without axes that the mesh lacks."""
    return {name: self.axes(name) or None for name, _ in self.rules}

  def axes(self, name: str) -> tuple:
    """Mesh axes of a logical axis, as a tuple."""
    given = dict(self.rules).get(name) or ()
    given = given if isinstance(given, tuple) else (given,)
    return tuple(axis for axis in given if axis in self.mesh.axis_names)

  def size(self, name: str) -> int:
    """Number of parts into which a logical axis is cut."""
    return math.prod(self.mesh.shape[axis] for axis in self.axes(name))

  def rows(self, batch: int) -> PartitionSpec:
    """Spec of arrays whose first axis has `batch` rows."""
    whole = batch % self.size('batch')
    return PartitionSpec(None if whole else self.axes('batch') or None)

  def sharding(self, spec: PartitionSpec = PartitionSpec()) -> NamedSharding:
    """`spec` on this mesh; replicated by default."""
    return NamedSharding(self.mesh, spec)


def parse_rules(text: str) -> dict:
  """Reads 'vocab=none,embed=fsdp' into {logical axis: mesh axis or None}.

  Raises:
    ValueError: an axis is unknown.
  """
  found = {}
  for part in filter(None, (p.strip() for p in text.split(','))):
    name, _, axis = part.partition('=')
    axis = None if axis in ('none', 'None') else axis
    if name not in LOGICAL or (axis is not None and axis not in AXES):
      raise ValueError(
        f'{part!r} is no rule: mesh.rules pairs {", ".join(LOGICAL)} with '
        f'{", ".join(AXES)} or none, as in vocab=none.'
      )
    found[name] = axis
  return found


def make_layout(
  config: MeshConfig,
  rules: dict | None = None,
  devices: Sequence | None = None,
  fits: Callable[[tuple], bool] = lambda shape: True,
) -> Layout | None:
  """Returns the layout that settings ask for, or None for one device.

  Args:
    config: settings.
    rules: the table they change; `RULES` by default.
    devices: devices to use; all by default.
    fits: whether a shape is worth proposing in the place of a wrong one.

  Raises:
    MeshError: the shape does not multiply to the number of devices.
  """
  config.validate()
  devices = jax.devices() if devices is None else list(devices)
  shape = tuple(config.shape)
  if not shape:
    if jax.process_count() == 1:
      return None
    shape = (-1, 1)
  shape = _filled(shape, len(devices), fits)
  names = AXES if len(shape) == 3 else ('data', 'model')
  # `Mesh` has automatic axes; `jax.make_mesh` would make explicit ones, which
  # ask for a sharding at every gather.
  mesh = Mesh(np.asarray(devices).reshape(shape), names)
  table = (RULES if rules is None else rules) | parse_rules(config.rules)
  layout = Layout(mesh, tuple(sorted(table.items())))
  for _, axes in PARAMETER_AXES:
    check_apart(layout, [name for name in axes if name])
  return layout


def check_apart(layout: Layout, logical: Sequence[str]) -> None:
  """Raises MeshError for rules that cut two axes along the same mesh axis.

  Args:
    layout: mesh and rules.
    logical: names of the array's axes.

  Raises:
    MeshError: names both.
  """
  taken = {}
  for name in logical:
    for axis in layout.axes(name):
      if axis in taken:
        raise MeshError(
          f'mesh.rules put {taken[axis]} and {name}, two axes of one array, '
          f'both on {axis}; one of them must go elsewhere, as in {name}=none.'
        )
      taken[axis] = name


def _filled(shape: tuple, count: int, fits) -> tuple:
  # In:  shape (-1, 2), count 8; Out: (4, 2)
  given = math.prod(size for size in shape if size != -1)
  if -1 in shape and count % given == 0:
    return tuple(count // given if size == -1 else size for size in shape)
  if -1 in shape or given != count:
    wanted = [
      (count // n, *[1] * (len(shape) - 2), n)
      for n in range(1, count + 1)
      if count % n == 0
    ]
    fitting = [shape for shape in wanted if fits(shape)]
    raise MeshError(
      f'mesh.shape={shape} does not multiply to the number of devices, '
      f'{count}; shapes that do: {", ".join(map(str, fitting)) or "none"}.'
    )
  return shape


def with_rules(layout: Layout, rules: dict) -> Layout:
  """The same mesh under other rules."""
  return Layout(layout.mesh, tuple(sorted(rules.items())))


def parameter_axes(path: str, rank: int) -> tuple:
  """Returns the logical names of a parameter's axes.

  Args:
    path: keys joined by '/', such as 'layers_0/attn/q/weight'.
    rank: number of axes.
  """
  # In:  'layers_0/attn/q/weight', rank 2
  # Out: ('heads', 'embed')
  for pattern, axes in PARAMETER_AXES:
    if len(axes) == rank and re.search(f'(^|[/_]){pattern}$', path):
      return axes
  return (None,) * rank


def spec(
  axes: Sequence[str | None], shape: Sequence[int], layout: Layout
) -> PartitionSpec:
  """Turns logical names into a `PartitionSpec` that `shape` can bear.

  An axis that the mesh does not divide evenly is replicated.
  """
  # RULES on a mesh of 2 x 4 (data, model):
  # In:  ('heads', 'embed') of [64, 32]; ('vocab', 'embed') of [99, 32]
  # Out: P('model', None); P(None, None), since 4 does not divide 99
  entries = []
  for name, size in zip(axes, shape, strict=True):
    fits = name is not None and size % layout.size(name) == 0
    found = layout.axes(name) if fits else ()
    # One axis by its name and several as a tuple, as equal specs compare equal.
    entries.append(found[0] if len(found) == 1 else found or None)
  return PartitionSpec(*entries)


def parameter_specs(params: Any, layout: Layout) -> Any:
  """Returns a tree of `PartitionSpec` for a parameter tree (or its shapes).

  Also takes pytrees that hold such trees, such as an optimiser's state.
  """

  def one(path, leaf):
    name = '/'.join(str(getattr(k, 'key', getattr(k, 'name', k))) for k in path)
    axes = parameter_axes(name, len(leaf.shape))
    return spec(axes, leaf.shape, layout)

  return jax.tree_util.tree_map_with_path(one, params)
