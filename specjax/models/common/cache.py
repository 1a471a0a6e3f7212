"""The explicit key-value cache, and the functions on it.

Keys of a layer are `[B * Hkv, Dh, L]` and values `[B * Hkv, L, Dh]`, the
operands of the two products of attention: anything between the in-place write
and the product, even a reshape, makes XLA copy the whole cache every step.
Rows are ragged, so every write starts at its own row's length. Nothing is ever
shifted; a rollback is a smaller `length`, and what stands at or after `length`
is masked and later written over.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Tree
from specjax.models.common import rows as rows_lib


@struct.dataclass
class Cache:
  """Keys and values that a model keeps of the committed tokens.

  Attributes:
    keys, values: a tuple with one array [B * Hkv, Dh, L], or [B * Hkv, L, Dh],
      for each layer.
    length: int32 [B], rows that count.
    cross_keys, cross_values: encoder-decoder only, likewise of the source, with
      S columns.
    source_mask: bool [B, S], encoder-decoder only.
    bias_table: float32 [H, 2 * L], encoder-decoder only: the decoder's
      relative bias by distance, nearest last (see `T5.prefill`).
  """

  keys: tuple
  values: tuple
  length: Array
  cross_keys: tuple = ()
  cross_values: tuple = ()
  source_mask: Array | None = None
  bias_table: Array | None = None


# The axis along which the columns of (keys, values) lie.
_COLUMNS = (2, 1)


class Past(NamedTuple):
  """A layer's part of a cache, and where a block goes.

  Attributes:
    keys, values: [B * Hkv, Dh, L], [B * Hkv, L, Dh].
    start: int32 [B], column of each row where the block is written.
    live: int32 [], no row reads a column from here on; None to read them all,
      as what is differentiated has to.
  """

  keys: Array
  values: Array
  start: Array
  live: Array | None = None


def pasts(cache: Cache, size: int) -> tuple[Past, ...]:
  """Returns each layer's `Past`, to write and read a block of `size` slots."""
  live = jnp.max(cache.length) + size
  return tuple(
    Past(keys, values, cache.length, live)
    for keys, values in zip(cache.keys, cache.values, strict=True)
  )


def check_capacity(capacity: int, needed: int, what: str) -> None:
  """Raises ValueError if `capacity` columns cannot hold `needed` rows."""
  if capacity < needed:
    raise ValueError(
      f'the cache has {capacity} columns but {what} needs {needed}: '
      'give a larger capacity.'
    )


def grow(kept: tuple[Array, Array], capacity: int) -> tuple[Array, Array]:
  """Pads the columns of a layer with zeros.

  Args:
    kept: (keys [B * H, Dh, S], values [B * H, S, Dh]).
    capacity: L, at least S.

  Returns:
    (keys [B * H, Dh, L], values [B * H, L, Dh]).
  """

  def pad(x, axis):
    more = [(0, 0)] * x.ndim
    more[axis] = (0, capacity - x.shape[axis])
    return jnp.pad(x, more)

  return tuple(map(pad, kept, _COLUMNS))


@jax.named_scope('write_cache')
def write(past: Past, new: tuple[Array, Array]) -> tuple[Array, Array]:
  """Writes a block's columns at each row's `past.start`.

  `dynamic_update_slice` moves a write that does not fit to the left, over
  committed columns; the caller makes sure that start + T <= L.

  Args:
    past: `Past` of a layer, with L columns.
    new: (keys [B * H, Dh, T], values [B * H, T, Dh]) of the block.

  Returns:
    (keys, values), shaped as those of `past`.
  """
  # Two rows of one head, L = 5, T = 2, start [2 0]:
  # In:  past [[a0 a1 .  .  . ]    new [[x0 x1]
  #            [.  .  .  .  . ]]        [y0 y1]]
  # Out:      [[a0 a1 x0 x1 . ]
  #            [y0 y1 .  .  . ]]
  old = (past.keys, past.values)
  return tuple(
    _write(x, y, past.start, axis)
    for x, y, axis in zip(old, new, _COLUMNS, strict=True)
  )


def _write(x, new, start, axis):
  """Writes `new` into `x` at column `start` [B] of each row."""
  batch = start.shape[0]
  new = new.astype(x.dtype)
  if batch == 1:
    return lax.dynamic_update_slice_in_dim(x, new, start[0], axis)
  # start [2 0], rows of two heads each: [2 2 0 0]
  starts = jnp.repeat(
    start, x.shape[0] // batch, total_repeat_length=x.shape[0]
  )
  return jax.vmap(
    lambda x, new, i: lax.dynamic_update_slice_in_dim(x, new, i, axis - 1)
  )(x, new, starts)


def ancestors(tree: Tree) -> Array:
  """Returns bool [B, T, T], True where slot j is slot i or above it."""
  # In:  parent [0 0 0 1], slots 1 and 2 behind slot 0, slot 3 behind slot 1
  # Out: [[1 0 0 0]
  #       [1 1 0 0]
  #       [1 0 1 0]
  #       [1 1 0 1]]
  size = tree.parent.shape[-1]
  seen = jnp.eye(size, dtype=bool) | jax.nn.one_hot(
    tree.parent, size, dtype=bool
  )
  span = 1
  while span < size:
    # Paths of length n make paths of length 2n.
    wide = seen.astype(jnp.float32)
    seen = jnp.einsum('bij,bjk->bik', wide, wide) > 0.5
    span *= 2
  return seen


def block_depth(tree: Tree | None, size: int) -> Array:
  """Returns int32 [1 or B, T], each slot's depth; a chain without a tree."""
  if tree is None:
    return jnp.arange(size, dtype=jnp.int32)[None]
  return tree.depth.astype(jnp.int32)


@jax.named_scope('block_mask')
def block_mask(
  length: Array,
  size: int,
  capacity: int,
  tree: Tree | None = None,
  window: int | None = None,
) -> Array:
  """Returns the cache columns that each slot of a block may read.

  Args:
    length: int32 [B], committed columns.
    size: T, slots of the block; slot i stands at column length + i.
    capacity: L.
    tree: `Tree` or None for a chain.
    window: keep keys less than this many positions back, or None for all.

  Returns:
    bool [B, T, L].
  """
  # In:  length [1], size 3, capacity 5
  # Out: chain         window 2      tree, parent [0 0 0]
  #      [[1 1 0 0 0]  [[1 1 0 0 0]  [[1 1 0 0 0]
  #       [1 1 1 0 0]   [0 1 1 0 0]   [1 1 1 0 0]
  #       [1 1 1 1 0]]  [0 0 1 1 0]]  [1 1 0 1 0]]
  column = jnp.arange(capacity, dtype=jnp.int32)
  start = length[:, None, None]
  slot = jnp.arange(size, dtype=jnp.int32)[:, None]
  if tree is None:
    mask = column <= start + slot
    if window is not None:
      mask &= column > start + slot - window
    return mask
  depth = block_depth(tree, size)
  inside = column - start[:, 0]  # [B, L], the slot standing in a column
  in_block = (inside >= 0) & (inside < size)
  inside = jnp.clip(inside, 0, size - 1)
  above = jnp.take_along_axis(ancestors(tree), inside[:, None, :], axis=2)
  mask = (column < start) | (in_block[:, None] & above)
  if window is not None:
    key_depth = jnp.take_along_axis(depth, inside, axis=1)
    key = jnp.where(in_block, length[:, None] + key_depth, column)
    mask &= key[:, None, :] > start + depth[:, :, None] - window
  return mask


def commit(cache: Cache, num_tokens: Array, path: Array | None = None) -> Cache:
  """Moves `length` by `num_tokens` [B]; see `CachedLM.commit`.

  With `path` int32 [B, P] the columns of the accepted slots are first moved to
  follow slot 0; entries after the accepted ones may hold anything.
  """
  # Two committed columns a b, a block of five slots, slots 0, 2, 4 accepted:
  # In:  length [2], columns [a b s0 s1 s2 s3 s4], num_tokens [3], path [[2 4]]
  # Out: length [5], columns [a b s0 s2 s4 s3 s4], of which five count
  if path is not None:
    moved = [
      tuple(_compact(x, cache.length, path, axis) for x in kept)
      for kept, axis in zip((cache.keys, cache.values), _COLUMNS, strict=True)
    ]
    cache = cache.replace(keys=moved[0], values=moved[1])
  return cache.replace(length=cache.length + num_tokens)


def _compact(x, length, path, axis):
  rows, capacity = x.shape[0], x.shape[axis]
  heads = rows // length.shape[0]
  # length [2], path [2 4]: columns [4 6] are gathered and written from 3 on.
  # The gather reads before the write, so overlapping places do no harm.
  source = jnp.clip(length[:, None] + path, 0, capacity - 1)
  source = jnp.repeat(source, heads, axis=0, total_repeat_length=rows)
  source = jnp.expand_dims(source, 3 - axis)
  moved = jnp.take_along_axis(x, source, axis=axis)
  return _write(x, moved, length + 1, axis)


def select(cache: Cache, rows: Array, *, same_prompt: bool = False) -> Cache:
  """Gathers batch rows: row i of the result is row `rows[i]` [B'].

  With `same_prompt` row i and row `rows[i]` have the same prompt, and what
  depends on the prompt of an encoder-decoder alone stays where it is.
  """
  batch = cache.length.shape[0]

  # In:  rows [1 1 0], x of two rows with two heads [r0h0 r0h1 r1h0 r1h1]
  # Out: [r1h0 r1h1 r1h0 r1h1 r0h0 r0h1]
  def gather(x):
    heads = x.shape[0] // batch
    index = rows[:, None] * heads + jnp.arange(heads, dtype=rows.dtype)
    return jnp.take(x, index.reshape(-1), axis=0, mode='clip')

  cache = cache.replace(
    keys=tuple(map(gather, cache.keys)),
    values=tuple(map(gather, cache.values)),
    length=jnp.take(cache.length, rows, mode='clip'),
  )
  if same_prompt:
    return cache
  mask = cache.source_mask
  if mask is not None:
    mask = jnp.take(mask, rows, axis=0, mode='clip')
  return cache.replace(
    cross_keys=tuple(map(gather, cache.cross_keys)),
    cross_values=tuple(map(gather, cache.cross_values)),
    source_mask=mask,
  )


def insert(cache: Cache, fresh: Cache, rows: Array) -> Cache:
  """Replaces batch rows `rows` int32 [n] by those of a cache of n rows.

  Both have one capacity. The source of an encoder may be narrower in `fresh`.
  """
  # A bias by distance belongs to no row, and is the same in both.
  table = fresh.bias_table
  made = rows_lib.insert(
    cache.replace(bias_table=None), fresh.replace(bias_table=None), rows
  )
  return made.replace(bias_table=table)


def keys_values(cache: Cache, layer: int) -> tuple[Array, Array]:
  """One layer's (keys [B * Hkv, Dh, L], values [B * Hkv, L, Dh])."""
  return cache.keys[layer], cache.values[layer]


def pick_slots(hidden: Array, slots: Array | None) -> Array:
  """Gathers [B, n, D] of `hidden` [B, T, D]; all of it if `slots` is None."""
  if slots is None:
    return hidden
  # hidden [[h0 h1 h2]], slots [[2]]: [[h2]]. The head is the dearest product of
  # a small model, so unneeded slots are not projected.
  return jnp.take_along_axis(hidden, slots[:, :, None], axis=1, mode='clip')


def check_hidden_layers(hidden_layers: Sequence[int], num_layers: int) -> None:
  """Raises ValueError unless every entry is -1 or in 0..num_layers."""
  for index in hidden_layers:
    if not -1 <= index <= num_layers:
      raise ValueError(
        f'hidden layer {index} does not exist: give 0..{num_layers - 1} for '
        f'the output of that layer, or {num_layers} or -1 for the state after '
        'the final norm.'
      )


def collect(
  outputs: Sequence[Array], final: Array, hidden_layers: Sequence[int]
) -> tuple[Array, ...]:
  """Picks the states asked for: layer outputs, or `final` for -1 and n."""
  count = len(outputs)
  return tuple(final if i in (-1, count) else outputs[i] for i in hidden_layers)
