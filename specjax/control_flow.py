"""Work that is done once or not at all, inside a compiled program."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base


def run_if(
  wanted: base.Array, run: Callable[[Any], Any], carry: base.PyTree
) -> base.PyTree:
  """`run(carry)` if `wanted`, else `carry` as it is.

  A loop that runs once or not at all works in place; a `lax.cond` would copy
  what it is given, and on a GPU wait for the host.

  Args:
    wanted: bool [].
    run: gives back shapes and dtypes as it is given them.
    carry: any pytree.
  """
  return lax.while_loop(
    lambda both: both[0],
    lambda both: (jnp.asarray(False), run(both[1])),
    (wanted, carry),
  )[1]


def blank(function: Callable[..., Any], *args: Any) -> base.PyTree:
  """Zeros in the shapes and dtypes of `function(*args)`, which is not run."""
  shapes = jax.eval_shape(function, *args)
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
