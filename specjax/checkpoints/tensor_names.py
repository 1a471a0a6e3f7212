"""Parameter trees and the tensors of a safetensors file, part by part."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from specjax.models import registry
from specjax.models.family import TensorName


def of_parameters(config: Any, abstract: Any) -> dict:
  """Maps each parameter's path to its `TensorName`.

  Args:
    config: config of any family.
    abstract: the parameter tree, arrays or shapes.

  Returns:
    A dict from path (tuple of str) to `TensorName`.
  """
  name = registry.family_of(config).files.tensor_name
  return {path: name(config, path) for path, _ in flat(abstract)}


def flat(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
  """Returns [(path as a tuple of str, leaf)] of nested dicts."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(tuple(str(k.key) for k in path), leaf) for path, leaf in leaves]


def unflat(leaves: dict) -> dict:
  """Builds nested dicts from {path: leaf}."""
  tree = {}
  for path, leaf in leaves.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = leaf
  return tree


def stored_shape(source: TensorName, shape: Sequence[int]) -> tuple:
  """Returns the shape of the tensor in the file for a parameter's shape."""
  # In:  [2, 4], one of 3 parts; Out: [6, 4], or [4, 6] if transposed
  shape = (shape[0] * source.parts, *shape[1:])
  return shape[::-1] if source.transpose else shape


def take(source: TensorName, tensor: np.ndarray) -> np.ndarray:
  """Cuts a parameter out of the file's tensor."""
  # GPT-2's c_attn is [in, 3 * out], with query, key and value side by side.
  # In:  tensor [[q0 q1 k0 k1 v0 v1]], transpose, part 1 of 3
  # Out: [[k0] [k1]]
  if source.transpose:
    tensor = tensor.T
  if source.parts == 1:
    return tensor
  return np.split(tensor, source.parts, axis=0)[source.part]


def stored_slice(
  source: TensorName, index: tuple, shape: Sequence[int]
) -> tuple:
  """Returns the place of a part of a parameter in the file's tensor.

  Args:
    source: the tensor.
    index: a slice of step 1 for each axis of the parameter.
    shape: shape of the parameter.

  Returns:
    A slice for each axis of the tensor; the values there are transposed if
    `source.transpose`.
  """
  # Rows 0:1 of a key [2, 4], part 1 of 3 of a transposed tensor [4, 6]:
  # In:  (0:1, 0:4)
  # Out: (0:4, 2:3)
  first, end, _ = index[0].indices(shape[0])
  before = source.part * shape[0]
  index = (slice(before + first, before + end), *index[1:])
  return index[::-1] if source.transpose else index


def give(parts: list) -> np.ndarray:
  """Builds the file's tensor from [(source, parameter)] that share it."""
  # In:  query [[q0] [q1]], key [[k0] [k1]], value [[v0] [v1]], transpose
  # Out: [[q0 q1 k0 k1 v0 v1]]
  parts = sorted(parts, key=lambda item: item[0].part)
  tensor = parts[0][1]
  if len(parts) > 1:
    tensor = np.concatenate([array for _, array in parts], axis=0)
  if parts[0][0].transpose:
    tensor = tensor.T
  return np.ascontiguousarray(tensor)
