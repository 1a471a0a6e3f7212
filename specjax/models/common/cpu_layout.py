"""Parameters in the order in which this machine multiplies by them fastest.

A matrix `weight` [out, in] becomes `kernel` [in, out]. A CPU's float32 product
of a few rows, such as a block under verification, is 1.1 to 2 times as fast
that way, and that of a single row no slower. Where a table is both looked up
and multiplied by, both orders are kept.

Only what decodes is prepared; training, converting and meshes work on weights
as they are stored.
"""

from typing import Any

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


def applies(config: Any) -> bool:
  """Whether a model on one device of this backend is prepared.

  Args:
    config: of the model; its dtype is the compute dtype.
  """
  # Blockwise heads read their matrices themselves.
  return (
    jax.default_backend() == 'cpu'
    and getattr(config, 'trunk', config).dtype == 'float32'
    and getattr(config, 'model_type', '') != 'specjax_blockwise'
  )


def is_copied(config: Any, path: tuple) -> bool:
  """Whether the weight at `path` is kept in both orders."""
  trunk = getattr(config, 'trunk', config)
  return path == ('embed', 'weight') and trunk.tie_word_embeddings


def prepare(config: Any, params: dict) -> dict:
  """Turns a model's matrices, where that `applies`.

  Args:
    config: of the model.
    params: its parameter tree on one device, as it is stored.
  """
  return tree(config, params) if applies(config) else params


def tree(config: Any, params: dict, path: tuple = ()) -> dict:
  """A parameter tree with its matrices in the other order.

  Args:
    config: for which `applies` is true.
    params: nested dicts of arrays, as they are stored. Matrices in eight bits
      stay as they are.
    path: where `params` stands in its tree.
  """
  made = {}
  for name, value in params.items():
    here = (*path, name)
    if isinstance(value, dict):
      made[name] = tree(config, value, here)
      continue
    is_matrix = quantize.applies(here, value) and value.dtype == jnp.float32
    copied = is_copied(config, here)
    if is_matrix and (copied or here[-2] not in _LOOKED_UP):
      made[KERNEL] = _turned(value)
    if not is_matrix or here[-2] in _LOOKED_UP:
      made[name] = value
  return made


def stored(params: dict) -> dict:
  """The inverse of `tree`."""
  made = {
    name: stored(value) if isinstance(value, dict) else value
    for name, value in params.items()
  }
  kernel = made.pop(KERNEL, None)
  if kernel is not None and 'weight' not in made:
    made['weight'] = _turned(kernel)
  return made


@jax.jit
def _turned(matrix):
  return matrix.T
