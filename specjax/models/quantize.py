"""Weights in eight bits, one scale for each output channel.

On accelerators only what is stored shrinks: products are computed in the
compute dtype, on weights that are converted on the way into them. On a CPU the
products are of integers, see `layers.dense`. A row `w` of a matrix becomes
`round(w / s)` with `s = max |w| / 127`, and `s` multiplies the product.

References:
  Dettmers et al. LLM.int8(). 2022. https://arxiv.org/abs/2208.07339
"""

import jax
import jax.numpy as jnp

_LARGEST = 127
# Small tables whose rows are not channels of a product.
_KEPT = ('relative_bias', 'positions')


def applies(path, array) -> bool:
  """Whether a parameter is quantised: the matrices, not norms and biases."""
  return (
    path[-1] == 'weight'
    and array.ndim == 2
    and not any(name in _KEPT for name in path)
  )


@jax.jit
def split(weight):
  """Returns (int8 [out, in], float32 scale [out]) of a matrix [out, in]."""
  weight = weight.astype(jnp.float32)
  scale = jnp.max(jnp.abs(weight), axis=1) / _LARGEST
  safe = jnp.where(scale > 0, scale, 1.0)
  whole = jnp.round(weight / safe[:, None])
  return whole.astype(jnp.int8), safe


def restored(weight, scale):
  """float32 [out, in]: what a quantised matrix stands for."""
  return weight.astype(jnp.float32) * scale[:, None]
