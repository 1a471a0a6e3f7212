"""Rows of a batch, replaced where they stand."""

import jax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import PyTree


def insert(state: PyTree, fresh: PyTree, rows: Array) -> PyTree:
  """Replaces some rows of a state by those of another one.

  Both are pytrees of one structure, and every array begins with the rows: B of
  them in `state` and n in `fresh`, or with rows and heads merged, `[B * H,
  ...]` and `[n * H, ...]`. Other axes of `fresh` may be shorter; zeros are put
  behind them.

  Args:
    state: arrays of B rows; typed keys too.
    fresh: arrays of n rows.
    rows: int32 [n], the place of each fresh row; one below 0, or B and more, is
      left out.

  Returns:
    The state, updated in place where it is donated.
  """
  count = rows.shape[0]

  # Rows [2 0], two heads each, state [a a b b c c], fresh [x x y y]:
  # In:  index [4 5 0 1]
  # Out: [y y b b x x]
  def put(old, new):
    heads = new.shape[0] // count
    index = rows[:, None] * heads + jnp.arange(heads, dtype=rows.dtype)
    # A negative index would count from the end.
    index = jnp.where(rows[:, None] < 0, old.shape[0], index).reshape(-1)
    return old.at[index].set(_widened(new, old.shape), mode='drop')

  return jax.tree.map(put, state, fresh)


def _widened(array: Array, shape: tuple[int, ...]) -> Array:
  """Zeros behind every axis but the first, up to `shape`."""
  more = [(0, 0)]
  more += [
    (0, wide - size)
    for wide, size in zip(shape[1:], array.shape[1:], strict=True)
  ]
  return jnp.pad(array, more) if any(high for _, high in more) else array
