"""Weights in eight bits, one scale for each output channel.

Only the stored weights shrink. Products are computed in the compute dtype, on
weights that are converted on the way. A row `w` of a matrix becomes
`round(w / s)` with `s = max |w| / 127`, and `s` multiplies the product.

With "w8a8" the activations are rounded to eight bits as well, each row by its
own largest value. The products are then of integers, which CPUs with VNNI or
AMX compute several times as fast. The name of the scale, `WEIGHTS` or `W8A8`,
decides between the two.

References:
  Dettmers et al. LLM.int8(). 2022. https://arxiv.org/abs/2208.07339
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Names of the scales beside a weight.
WEIGHTS, W8A8 = 'scale', 'w8a8_scale'
_LARGEST = 127
# Small tables whose rows are not channels of a product.
_KEPT = ('relative_bias', 'positions')


def applies(path: tuple, array: Any) -> bool:
  """Whether a parameter is quantised: the matrices, not norms and biases."""
  return (
    path[-1] == 'weight'
    and array.ndim == 2
    and not any(name in _KEPT for name in path)
  )


def tree(params: dict, scale: str, path: tuple = ()) -> dict:
  """A parameter tree with its matrices in eight bits.

  Args:
    params: nested dicts of arrays.
    scale: name of the scales, `WEIGHTS` or `W8A8`.
    path: names that lead to `params` in its tree.
  """
  made = {}
  for name, value in params.items():
    here = (*path, name)
    if isinstance(value, dict):
      made[name] = tree(value, scale, here)
    elif applies(here, value):
      made[name], made[scale] = split(value)
    else:
      made[name] = value
  return made


def floats(params: dict) -> dict:
  """The inverse of `tree`, but for what rounding took; no scales are left."""

  def restore(layer):
    for name in (WEIGHTS, W8A8):
      if name in layer and 'weight' in layer:
        layer['weight'] = restored(layer['weight'], layer.pop(name))
    return layer

  return each_layer(params, restore)


def each_layer(params: dict, change: Callable[[dict], dict]) -> dict:
  """The tree with every dict of it changed, the innermost ones first.

  Args:
    params: parameters.
    change: takes a new dict, which it may fill, and returns it.
  """
  return change(
    {
      name: each_layer(value, change) if isinstance(value, dict) else value
      for name, value in params.items()
    }
  )


@jax.jit
def split(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns (int8 [out, in], float32 scale [out]) of a matrix [out, in]."""
  # In:  [[1.27 -0.5] [0 0]]
  # Out: [[127 -50] [0 0]], scales [0.01 1.0]; zeros must not divide by zero
  weight = weight.astype(jnp.float32)
  scale = jnp.max(jnp.abs(weight), axis=1) / _LARGEST
  safe = jnp.where(scale > 0, scale, 1.0)
  # -128 stays unused: with steps on both sides of 0 alike, no row has an
  # offset.
  whole = jnp.round(weight / safe[:, None])
  return whole.astype(jnp.int8), safe


def restored(weight: jax.Array, scale: jax.Array) -> jax.Array:
  """Returns the float32 [out, in] values of a quantised matrix."""
  return weight.astype(jnp.float32) * scale[:, None]
