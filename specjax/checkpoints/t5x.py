"""T5X checkpoints: a folder of zarr arrays, read with tensorstore.

Kernels are `[in, out]`. With scanned layers one array holds a parameter of all
layers, the layers being axis 1, and a stack's name stands twice in the path
(`encoder/encoder/mlp/wo/kernel`).
"""

from collections.abc import Sequence
import math
import os
from typing import Any

import numpy as np
import tensorstore

from specjax import files
from specjax.checkpoints import tensor_names
from specjax.models import registry
from specjax.models.family import T5XArray
from specjax.models.family import T5XFormat


def is_checkpoint(folder: str) -> bool:
  """Whether a folder looks like a T5X checkpoint."""
  return os.path.isdir(folder) and any(
    name.startswith('target.') for name in os.listdir(folder)
  )


def _format(folder: str, config) -> T5XFormat:
  """Returns the `T5XFormat` of a config's family, or raises ValueError."""
  found = registry.family_of(config).t5x
  if found is None:
    raise ValueError(
      f'{folder} is a T5X checkpoint, which holds a T5, but config.json is of '
      f'a {config.model_type} model.'
    )
  return found


def settle(folder: str, config: Any) -> Any:
  """The config with what a checkpoint's arrays decide.

  Raises:
    ValueError: T5X has no models of this config's family.
  """
  return _format(folder, config).settle(config, _present(folder))


def find(config: Any, abstract: dict, folder: str) -> dict:
  """Maps each parameter's path to the `T5XArray` that holds it.

  Args:
    config: config of the model.
    abstract: its parameter tree, arrays or shapes.
    folder: the checkpoint.

  Raises:
    ValueError: an array lacks its metadata, or the folder lacks an array, or
      one has another shape than config.json makes it.
  """
  spelling = _format(folder, config)
  present = _present(folder)
  shapes = {}
  for name in sorted(present):
    path = os.path.join(_path(folder, name), '.zarray')
    if not os.path.isfile(path):
      raise ValueError(
        f'the T5X checkpoint lacks {path}, the metadata of the array {name}: '
        'copy the whole folder, files whose names begin with a dot included.'
      )
    # Before any array is opened: tensorstore would take what is missing for
    # zeros.
    shapes[name] = _check_chunks(_path(folder, name), name)
  made = {}
  for path, leaf in tensor_names.flat(abstract):
    array = made[path] = spelling.array(config, path, present)
    if array.name not in present:
      raise ValueError(f'{folder} lacks the array {array.name}.')
    _check_shape(config, folder, array, shapes[array.name], leaf.shape)
  # An array too many is another model, such as one with more layers.
  needed = {array.name for array in made.values()}
  if extra := sorted(present - needed):
    raise ValueError(
      f'{folder} holds the array {extra[0]}, which the model of config.json '
      'does not have.'
    )
  return made


def _present(folder) -> frozenset:
  """Names of the arrays of a checkpoint."""
  return frozenset(
    name.removeprefix('target.').replace('.', '/')
    for name in os.listdir(folder)
    if name.startswith('target.')
  )


def _check_shape(config, folder, array, found, shape):
  """Raises ValueError unless an array has the shape that config.json gives."""
  stored = tuple(shape)[::-1] if array.transpose else tuple(shape)
  found = list(found)
  if array.layer is not None:
    # [in, 4 layers, out] -> [in, out] and 4
    layers = found.pop(1) if len(found) > 1 else 0
    wanted = _format(folder, config).layers(config, array.name)
    if layers != wanted:
      raise ValueError(
        f'the array {array.name} of {folder} holds {layers} layers, but '
        f'config.json gives the {array.name.split("/")[0]} {wanted}.'
      )
  # Heads may be an axis of their own: [in, heads, size], [heads, size, out].
  same_rank = len(found) == len(stored)
  if math.prod(found) != math.prod(stored) or (
    same_rank and tuple(found) != stored
  ):
    raise ValueError(
      f'the array {array.name} of {folder} has shape {found}, but '
      f'config.json makes it {list(stored)}.'
    )


def _check_chunks(where, name) -> list:
  """An array's shape; raises ValueError for a missing file of values.

  Zarr takes a missing file for one full of the fill value, so that half a copy
  would read as zeros. T5X states no fill value; then every file is there.
  """
  path = os.path.join(where, '.zarray')
  try:
    with open(path, encoding='utf-8') as file:
      made = files.parse_json(file.read())
    shape, chunks = list(made['shape']), made['chunks']
    grid = [
      -(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)
    ]
  except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
    raise ValueError(f'{path} is not readable metadata: {error!r}.') from None
  if made.get('fill_value') is not None:
    return shape
  mark = made.get('dimension_separator', '.')
  for place in np.ndindex(*grid):
    chunk = mark.join(map(str, place)) or '0'
    if not os.path.isfile(os.path.join(where, *chunk.split('/'))):
      raise ValueError(
        f'the T5X checkpoint lacks {os.path.join(where, chunk)}, a part of the '
        f'array {name}: copy the whole folder again.'
      )
  return shape


def _path(folder, name):
  return os.path.join(folder, 'target.' + name.replace('/', '.'))


def open_array(folder: str, array: T5XArray) -> Any:
  """Opens an array lazily; a scanned one as the slice of its layer."""
  kvstore = {'driver': 'file', 'path': _path(folder, array.name)}
  try:
    store = tensorstore.open({'driver': 'zarr', 'kvstore': kvstore}).result()
  except ValueError as error:
    raise ValueError(
      f'the array {array.name} of {folder} does not open: {_reason(error)}.'
    ) from None
  # Lazily: nothing is read before the slice is asked for.
  return store if array.layer is None else store[:, array.layer]


def read(
  folder: str, array: T5XArray, shape: Sequence[int], index: tuple
) -> np.ndarray:
  """Reads a part of a parameter as [out, in].

  Args:
    folder: the checkpoint.
    array: array of `find`.
    shape: shape of the parameter.
    index: a slice of step 1 for each of its axes.

  Raises:
    ValueError: scanned layers have position biases that differ, as only umT5
      does.
  """
  # Output projection [out, in] = [8, 6] of layer 1, with two heads of size 3:
  #   stored over 4 layers with heads apart  [2, 4, 3, 8]
  #   slice of the layer                     [2, 3, 8]
  #   heads merged, then transposed          [6, 8], [8, 6]
  store = open_array(folder, array)
  stored = tuple(shape)[::-1] if array.transpose else tuple(shape)
  same_rank = len(store.shape) == len(stored)
  # Scanned stacks store a position bias a layer, although T5 has one; the
  # copies are compared, since a model with several would decode wrongly.
  shared = array.layer == 0 and array.name.endswith('rel_embedding')
  inside = tuple(index)[::-1] if array.transpose else tuple(index)
  if same_rank and not shared:
    value = _fetched(folder, array, store[inside])
  else:
    value = _fetched(folder, array, store)
    if shared:
      _check_shared(folder, array, value)
    # Heads may be an axis of their own: [in, heads, size], [heads, size, out].
    value = value.reshape(stored)[inside]
  return value.T if array.transpose else value


def _fetched(folder, array, store) -> np.ndarray:
  try:
    return np.asarray(store.read().result())
  except ValueError as error:
    raise ValueError(
      f'the array {array.name} of {folder} cannot be read ('
      f'{_reason(error)}): copy the whole folder again.'
    ) from None


def _reason(error) -> str:
  """First line of a tensorstore error, without the place in its source."""
  return str(error).split('\n')[0].split(' [')[0].rstrip('.')


def check_orbax(folder: str) -> None:
  """Checks that the index of an Orbax checkpoint can be read.

  Orbax would only log a missing file, from threads.

  Raises:
    ValueError: it is damaged.
  """
  if not os.path.isfile(os.path.join(folder, 'manifest.ocdbt')):
    return
  base = {'driver': 'file', 'path': os.path.join(folder, '')}
  try:
    database = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': base})
    database.result().list().result()
  except ValueError as error:
    raise damaged_orbax(folder, error) from None


def damaged_orbax(folder: str, error: Exception) -> ValueError:
  """Returns the error of an Orbax checkpoint that cannot be read."""
  return ValueError(
    f'{folder} is not a whole Orbax checkpoint ({_reason(error)}): copy the '
    'whole folder again.'
  )


def open_orbax(folder: str, path: tuple) -> Any:
  """Opens an array of an Orbax checkpoint, or returns None.

  Args:
    folder: folder of the checkpoint.
    path: keys of the parameter.
  """
  base = {'driver': 'file', 'path': folder}
  name = '.'.join(path) + '/'
  spec = {
    'driver': 'zarr',
    'kvstore': {'driver': 'ocdbt', 'base': base, 'path': name},
  }
  try:
    return tensorstore.open(spec, open=True).result()
  except ValueError:
    return None


def _check_shared(folder, array, first):
  whole = open_array(folder, array._replace(layer=None))
  whole = np.asarray(whole.read().result())
  if not np.array_equal(whole, np.broadcast_to(first[:, None], whole.shape)):
    raise ValueError(
      f'the array {array.name} of {folder} differs between layers; position '
      'biases of a layer, as of umT5, are not supported.'
    )
