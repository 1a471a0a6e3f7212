"""Parameters onto devices, each device fetching its own part and no more."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import models
from specjax.checkpoints import tensor_names
from specjax.distributed import mesh as mesh_lib
from specjax.models import registry
from specjax.models import sharded
from specjax.models.common import quantize


class Leaf(NamedTuple):
  """A parameter of ours that can be read in parts.

  Attributes:
    shape: shape of the whole parameter.
    fetch: takes a slice of step 1 for each axis; returns that part, a numpy
      array.
    origin: its place in a folder, to be read by people; '' if in memory.
    dtype: dtype in the folder, as safetensors spells it; '' if in memory.
  """

  shape: tuple
  fetch: Callable[[tuple], np.ndarray]
  origin: str = ''
  dtype: str = ''

  def read(self) -> np.ndarray:
    """All of it."""
    return self.fetch(tuple(slice(0, n) for n in self.shape))


def place(
  config: Any,
  layout: mesh_lib.Layout | None,
  leaves: dict,
  *,
  dtype: str | None,
  scale: str = '',
) -> dict:
  """Builds a parameter tree.

  Args:
    config: config of any family; None for a model of the user's own.
    layout: layout of `sharded.fit`, or None for the default device.
    leaves: {path: `Leaf`}.
    dtype: dtype of the parameters; None leaves each as it is fetched.
    scale: matrices become int8, with a scale of this name (see `quantize`)
      for each row; '' keeps them.

  Returns:
    The tree under 'params', arrays on their devices.
  """
  made = {}
  for path, leaf in leaves.items():
    if layout is None:
      array = jnp.asarray(leaf.read(), dtype)
    else:
      array = _spread(config, layout, path, leaf, dtype)
    if scale and quantize.applies(path, array):
      made[path], made[(*path[:-1], scale)] = quantize.split(array)
    else:
      made[path] = array
  return tensor_names.unflat(made)


def _spread(config, layout, path, leaf, dtype):
  """One parameter on a mesh; parts that several devices hold are read once."""
  copies = sharded.head_copies(config, layout, path)
  shape = (leaf.shape[0] * copies, *leaf.shape[1:])
  head_dim = registry.facts(config).head_dim if copies > 1 else 1
  parts = {}

  # Two key heads of size 2 for four devices, so two copies of each:
  # In:  rows [a0 a1 b0 b1]
  # Out: rows [a0 a1 | a0 a1 | b0 b1 | b0 b1]
  def read(index):
    rows, *rest = (s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    wanted = np.arange(*rows)
    if copies > 1:
      head, inside = np.divmod(wanted, head_dim)
      wanted = head // copies * head_dim + inside
    first, end = int(wanted[0]), int(wanted[-1]) + 1
    bounds = ((first, end), *rest)
    # Devices that hold the same part ask one after another; the file is read
    # for the first of them.
    if bounds not in parts:
      part = leaf.fetch(tuple(slice(*b) for b in bounds))
      parts[bounds] = part.astype(dtype or part.dtype)
    return parts[bounds] if copies == 1 else parts[bounds][wanted - first]

  axes = mesh_lib.parameter_axes('/'.join(path), len(shape))
  spec = mesh_lib.spec(axes, shape, layout)
  return jax.make_array_from_callback(shape, layout.sharding(spec), read)


def move(config: Any, layout: mesh_lib.Layout, params: dict) -> dict:
  """Places a parameter tree that is on this host (on all hosts alike).

  Args:
    config: config of any family; None for a model of the user's own.
    layout: layout of `sharded.fit`.
    params: the tree under 'params'; each parameter keeps its dtype, so that
      matrices in eight bits move as they are, with their scales.
  """
  leaves = {path: _in_memory(leaf) for path, leaf in tensor_names.flat(params)}
  return place(config, layout, leaves, dtype=None)


def _in_memory(leaf) -> Leaf:
  array = np.asarray(leaf)
  return Leaf(array.shape, lambda index: array[index])


def draw(
  config: Any,
  layout: mesh_lib.Layout | None,
  key: jax.Array,
  *,
  dtype: str,
  scale: str = '',
) -> dict:
  """Random parameters, each made where it lies and passing through no host.

  They have the distributions of `models.init_params`. Where the family states
  them (`ModelFamily.initial`), one parameter comes after another, so that the
  devices need room for the model, and for the largest of its parameters in
  float32 beside it.

  Args:
    config: as `models.init_params` takes it.
    layout: layout of `sharded.fit`, or None for the default device. The values
      do not depend on it.
    key: a typed PRNG key.
    dtype: dtype of the parameters.
    scale: name of the scales, as in `place`.

  Returns:
    The tree under 'params'.
  """
  config.validate()
  initial = registry.family_of(config).initial
  if initial is None:
    params = jax.jit(functools.partial(models.init_params, config))(key)
    leaves = {
      path: _in_memory(leaf) for path, leaf in tensor_names.flat(params)
    }
    return place(config, layout, leaves, dtype=dtype, scale=scale)
  made = {}
  abstract = tensor_names.flat(models.abstract_params(config))
  for number, (path, leaf) in enumerate(abstract):
    mean, std = initial(config, path, leaf.shape)
    copies, sharding = 1, None
    if layout is not None:
      copies = sharded.head_copies(config, layout, path)
      shape = (leaf.shape[0] * copies, *leaf.shape[1:])
      axes = mesh_lib.parameter_axes('/'.join(path), len(shape))
      sharding = layout.sharding(mesh_lib.spec(axes, shape, layout))
    head_dim = registry.facts(config).head_dim if copies > 1 else 1
    # Cached by shape: layers have equal shapes, so a model of 80 layers
    # compiles some ten programs instead of some hundred.
    make = _maker(leaf.shape, head_dim, copies, dtype, bool(std), sharding)
    # A key for each parameter, by its number: values do not depend on the mesh.
    array = make(jax.random.fold_in(key, number), mean, std)
    if scale and quantize.applies(path, array):
      made[path], made[(*path[:-1], scale)] = quantize.split(array)
    else:
      made[path] = array
  return tensor_names.unflat(made)


@functools.cache
def _maker(shape, head_dim, copies, dtype, is_random, sharding) -> Any:
  """Compiled: (key, mean, deviation) to one parameter on its devices."""

  def make(key, mean, std):
    array = jnp.broadcast_to(jnp.float32(mean), shape)
    if is_random:
      array += std * jax.random.normal(key, shape)
    if copies > 1:
      array = array.reshape(-1, head_dim, *shape[1:])
      array = jnp.repeat(array, copies, axis=0)
      array = array.reshape(-1, *shape[1:])
    return array.astype(dtype)

  return jax.jit(make, out_shardings=sharding)
