"""Parameter trees and the tensors of a safetensors file, part by part."""

from typing import Any

import jax
import numpy as np

from specjax.models import registry
from specjax.models.family import TensorName


def of_parameters(config: Any, abstract: Any) -> dict:
  """Maps each parameter's path to its `TensorName`.

  Args:
    config: of any family.
    abstract: the parameter tree, arrays or shapes.

  Returns:
    A dict from path (tuple of str) to `TensorName`.
  """
  name = registry.family_of(config).files.tensor_name
  return {path: name(config, path) for path, _ in flat(abstract)}


def flat(tree):
  """Returns [(path as a tuple of str, leaf)] of nested dicts."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(tuple(str(k.key) for k in path), leaf) for path, leaf in leaves]


def unflat(leaves: dict):
  """Builds nested dicts from {path: leaf}."""
  tree = {}
  for path, leaf in leaves.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = leaf
  return tree


def stored_shape(source: TensorName, shape) -> tuple:
  """Returns the shape of the tensor in the file for a parameter's shape."""
  shape = (shape[0] * source.parts, *shape[1:])
  return shape[::-1] if source.transpose else shape


def take(source: TensorName, tensor: np.ndarray) -> np.ndarray:
  """Cuts a parameter out of the file's tensor."""
  if source.transpose:
    tensor = tensor.T
  if source.parts == 1:
    return tensor
  return np.split(tensor, source.parts, axis=0)[source.part]


def stored_slice(source: TensorName, index, shape) -> tuple:
  """Where a part of a parameter stands in the file's tensor.

  Args:
    source: the tensor.
    index: a slice of step 1 for each axis of the parameter.
    shape: the parameter's.

  Returns:
    A slice for each axis of the tensor; what stands there is turned over if
    `source.transpose`.
  """
  first, end, _ = index[0].indices(shape[0])
  before = source.part * shape[0]
  index = (slice(before + first, before + end), *index[1:])
  return index[::-1] if source.transpose else index


def give(parts: list) -> np.ndarray:
  """Builds the file's tensor from [(source, parameter)] that share it."""
  parts = sorted(parts, key=lambda item: item[0].part)
  tensor = parts[0][1]
  if len(parts) > 1:
    tensor = np.concatenate([array for _, array in parts], axis=0)
  if parts[0][0].transpose:
    tensor = tensor.T
  return np.ascontiguousarray(tensor)
