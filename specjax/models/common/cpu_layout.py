"""Weight matrices as [in, out] on a CPU, where small products are faster.

A matrix `weight` [out, in] becomes `kernel` [in, out]. A CPU's float32 product
of a few rows, such as a block under verification, is then 1.1 to 2 times as
fast. The product of a single row is no slower. A table that is both looked up
and multiplied by is kept in both orders.

Only models that decode on one device are prepared. Training, conversion and
meshes work on weights as they are stored.
"""

import jax
import jax.numpy as jnp

from specjax.models.common import quantize

KERNEL = 'kernel'
# Modules whose table is looked up; `head` is one that never is.
_LOOKED_UP = (
  'embed',
  'positions',
  'source_positions',
  'mask',
  'mask_embed',
  'mask_feature',
)


def is_copied(path: tuple, is_tied: bool) -> bool:
  """Whether the weight at `path` is kept in both orders.

  Args:
    path: keys of the parameter.
    is_tied: whether the head is the embedding table.
  """
  return is_tied and path == ('embed', 'weight')


def tree(params: dict, is_tied: bool, path: tuple = ()) -> dict:
  """A parameter tree with its matrices in the other order.

  Args:
    params: nested dicts of arrays, as they are stored. Matrices in eight bits
      stay as they are.
    is_tied: whether the head is the embedding table.
    path: names that lead to `params` in its tree.
  """
  # In:  {'q': {'weight': [out, in]}, 'embed': {'weight': [V, D]}}
  # Out: {'q': {'kernel': [in, out]}, 'embed': {'weight': [V, D]}}, and also
  #      'kernel': [D, V] in 'embed' where the head is tied to it
  made = {}
  for name, value in params.items():
    here = (*path, name)
    if isinstance(value, dict):
      made[name] = tree(value, is_tied, here)
      continue
    is_matrix = quantize.applies(here, value) and value.dtype == jnp.float32
    # A tied table is looked up by row and multiplied by column: it is kept
    # twice, which costs memory and saves a strided read of the whole table a
    # step.
    copied = is_copied(here, is_tied)
    if is_matrix and (copied or here[-2] not in _LOOKED_UP):
      made[KERNEL] = _turned(value)
    if not is_matrix or here[-2] in _LOOKED_UP:
      made[name] = value
  return made


def stored(params: dict) -> dict:
  """The inverse of `tree`."""

  def turn_back(layer):
    kernel = layer.pop(KERNEL, None)
    # Where both are there `weight` is the original and needs no turning.
    if kernel is not None and 'weight' not in layer:
      layer['weight'] = _turned(kernel)
    return layer

  return quantize.each_layer(params, turn_back)


@jax.jit
def _turned(matrix):
  return matrix.T
