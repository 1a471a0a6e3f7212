"""One number of a whole state, by which a damaged checkpoint is known.

The files of a checkpoint are compressed without checksums of their own, so a
flipped bit would be read as another number.
"""

import jax
import jax.numpy as jnp

from specjax import base


@jax.jit
def _checksum(leaves):
  """One number of all bits of some arrays, the same on any mesh."""
  total = jnp.zeros((), jnp.uint32)
  for leaf in leaves:
    bits = _bits(leaf)
    # Odd factors, so that a change of any one word is seen, and most swaps:
    # words [7 9] give 7 * 1 + 9 * 3 = 34, and [9 7] give 30. A number and its
    # negative, whose words are 2**31 apart, may change places.
    factor = jnp.arange(bits.size, dtype=jnp.uint32) * 2 + 1
    here = jnp.sum(bits.reshape(-1) * factor, dtype=jnp.uint32)
    total = total * jnp.uint32(31) + here
  return total


def _bits(leaf):
  """Any array as uint32 words."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  if leaf.dtype == jnp.bool_:
    return leaf.astype(jnp.uint32)
  size = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
  return jax.lax.bitcast_convert_type(leaf, size).astype(jnp.uint32)


def of(state: base.PyTree) -> int:
  """One number of all bits of a pytree of arrays."""
  return int(_checksum(jax.tree.leaves(state)))
