"""Processors of the warp: what changes logits before the temperature.

What depends on the history is evaluated at every slot of a block, with the
draft tokens on the slot's own path. In all functions `x` is float32 [B, n, V],
`path` int32 [B, n, P] are the draft tokens in front of each slot (None: they
are unknown or there are none), and `path_length` int32 [B, n] is how many of
them count (None: none).
"""

import math

from jax import lax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context


def add_bias(x: Array, ids: Array, bias: Array) -> Array:
  """Adds `bias` [S] or [B, S] to the logits of `ids`, whose padding is -1."""
  # ids [2 -1], bias [.5 0], V 4: [0 0 .5 0]
  ids, bias = by_row(ids, 1), by_row(bias, 1)
  shape = len(ids), x.shape[-1]
  rows, index = _places(shape, ids, jnp.ones(ids.shape, bool))
  dense = jnp.zeros(shape, jnp.float32).at[rows, index].add(bias, mode='drop')
  return x + dense[:, None]


def by_row(ids: Array, own: int) -> Array:
  """A list with a row in front: [1, ...] for one that all rows share.

  Args:
    ids: a list of `base.TokenLists`, or `eos_ids`.
    own: number of axes of a list that all rows share.
  """
  # [5 6], own 1: [[5 6]]; [[5 6] [7 -1]], own 1: itself
  return ids[None] if ids.ndim == own else ids


def is_end(tokens: Array, eos_ids: Array) -> Array:
  """bool [B, n]: end tokens among int32 [B, n]; see `Controls.eos_ids`."""
  return jnp.any(tokens[..., None] == by_row(eos_ids, 1)[:, None], axis=-1)


def forbid(x: Array, banned: Array) -> Array:
  """-inf at the tokens of bool `banned`; `x` itself where that leaves none."""
  # x [3 -inf 1], banned [1 0 0]: [-inf -inf 1]; banned [1 0 1]: x
  left = jnp.where(banned, -jnp.inf, x)
  some = jnp.max(left, axis=-1, keepdims=True) > -jnp.inf
  return jnp.where(some, left, x)


def penalise_repetition(
  x: Array, context: Context, path: Array | None, path_length: Array | None
) -> Array:
  """Divides positive and multiplies negative logits of tokens seen before."""
  seen = _seen(x.shape, context, path, path_length)
  penalty = context.controls.repetition_penalty[:, None, None]
  return jnp.where(seen, jnp.where(x < 0, x * penalty, x / penalty), x)


def penalise_generated(
  x: Array,
  context: Context,
  path: Array | None,
  path_length: Array | None,
  *,
  frequency: bool,
  presence: bool,
) -> Array:
  """Takes the penalties of generated tokens off their logits.

  Args:
    x: float32 [B, n, V].
    context: committed tokens and controls; those of the prompt do not count.
    path: draft tokens in front of each slot.
    path_length: number of them.
    frequency: whether `frequency_penalty` is taken off for each time.
    presence: whether `presence_penalty` is taken off once.
  """
  # generated [b c b], path [c], penalties .1 and 1: b and c lose 1.2 each
  column = jnp.arange(context.tokens.shape[1])
  generated = column >= context.prompt_length[:, None]
  generated &= column < context.length[:, None]
  batch, _, vocab_size = x.shape
  shape = (batch, vocab_size)
  times = _count(shape, context.tokens, generated)[:, None]
  if path is not None and path.shape[-1]:
    on_path = jnp.arange(path.shape[-1]) < path_length[..., None]
    times = times + _count(x.shape, path, on_path)
  controls = context.controls
  if frequency:
    x = x - controls.frequency_penalty[:, None, None] * times
  if presence:
    x = x - controls.presence_penalty[:, None, None] * (times > 0)
  return x


def repeats(
  size: int,
  shape: tuple[int, ...],
  context: Context,
  path: Array | None,
  path_length: Array | None,
) -> Array:
  """bool [B, n, V]: tokens that would complete an n-gram already there."""
  # history [a b c a b], size 3: the window [a b c] begins with the last two
  # tokens, so c is banned.
  batch, slots, _ = shape
  if path is None:
    path = jnp.full((batch, slots, 0), -1, jnp.int32)
    path_length = jnp.zeros((batch, slots), jnp.int32)
  capacity = context.tokens.shape[1]
  length = context.length[:, None, None]
  # history [B, n, L + P]: a slot's path stands right behind the committed part.
  history = jnp.pad(context.tokens, ((0, 0), (0, path.shape[-1])))[:, None]
  history = jnp.broadcast_to(history, (batch, slots, history.shape[-1]))
  column = jnp.arange(capacity + path.shape[-1])
  if path.shape[-1]:
    offset = jnp.clip(column - length, 0, path.shape[-1] - 1)
    offset = jnp.broadcast_to(offset, history.shape)
    drafted = jnp.take_along_axis(path, offset, axis=-1)
    history = jnp.where(column >= length, drafted, history)
  total = (length[..., 0] + path_length)[..., None]
  windows = history.shape[-1] - size + 1
  if windows <= 0:
    return jnp.zeros(shape, bool)
  match = jnp.arange(windows) <= total - size
  for i in range(size - 1):
    last = jnp.maximum(total - (size - 1) + i, 0)
    tail = jnp.take_along_axis(history, last, axis=-1)
    match &= lax.slice_in_dim(history, i, i + windows, axis=-1) == tail
  ends = lax.slice_in_dim(history, size - 1, size - 1 + windows, axis=-1)
  return _mark(shape, ends, match)


def completions(
  words: Array,
  shape: tuple[int, ...],
  context: Context,
  path: Array | None,
  path_length: Array | None,
) -> Array:
  """bool [B, n, V]: tokens that would complete a bad word.

  Args:
    words: int32 [N, W] or [B, N, W], see `base.TokenLists`.
    shape: [B, n, V].
    context: committed tokens, those of the prompt included.
    path: draft tokens in front of each slot.
    path_length: number of them.
  """
  # words [. a b] and [. . c], history [x a]: b and c
  batch, slots, _ = shape
  if path is None:
    path = jnp.full((batch, slots, 0), -1, jnp.int32)
    path_length = jnp.zeros((batch, slots), jnp.int32)
  words = by_row(words, 2)
  width = words.shape[2] - 1
  length = context.length[:, None, None]
  total = length + path_length[..., None]
  place = total - width + jnp.arange(width)  # [B, n, W - 1]
  tail = jnp.take_along_axis(
    context.tokens[:, None],
    jnp.clip(place, 0, context.tokens.shape[1] - 1).reshape(batch, 1, -1),
    axis=-1,
  ).reshape(place.shape)
  if path.shape[-1]:
    offset = jnp.clip(place - length, 0, path.shape[-1] - 1)
    drafted = jnp.take_along_axis(path, offset, axis=-1)
    tail = jnp.where(place >= length, drafted, tail)
  # A history that is shorter than a word's beginning matches nothing.
  tail = jnp.where(place >= 0, tail, -1)
  begin = words[:, None, :, :-1]  # [B, 1, N, W - 1]
  match = jnp.all((begin == tail[..., None, :]) | (begin < 0), axis=-1)
  last = jnp.broadcast_to(words[:, None, :, -1], match.shape)
  return _mark(shape, last, match)


def early_ends(
  shape: tuple[int, ...], context: Context, path_length: Array | None
) -> Array:
  """bool [B, n, V]: end tokens at slots before `min_new_tokens` new tokens."""
  # 2 of 4 tokens generated, paths of [0 1 2]: ends are out at slots 0 and 1
  produced = (context.length - context.prompt_length)[:, None]
  if path_length is not None:
    produced = produced + path_length
  early = produced < context.controls.min_new_tokens[:, None]
  ends = members(shape[-1], context.controls.eos_ids)
  return early[..., None] & ends[:, None]


def members(vocab_size: int, ids: Array) -> Array:
  """bool [1 or B, V]: tokens among `ids` [S] or [B, S]; -1 is padding."""
  ids = by_row(ids, 1)
  return _mark((len(ids), vocab_size), ids, jnp.ones(ids.shape, bool))


def _mark(shape: tuple[int, ...], tokens: Array, valid: Array) -> Array:
  """bool [..., V], True at the valid entries of `tokens` [..., m]."""
  # tokens [2 0 -1], valid [1 1 1], V 4: [1 0 1 0]
  rows, index = _places(shape, tokens, valid)
  marked = jnp.zeros((len(index), shape[-1]), bool)
  return marked.at[rows, index].set(True, mode='drop').reshape(shape)


def _count(shape: tuple[int, ...], tokens: Array, valid: Array) -> Array:
  """float32 [..., V], how often valid entries of `tokens` [..., m] occur."""
  # tokens [2 0 2], valid [1 1 1], V 4: [1 0 2 0]
  rows, index = _places(shape, tokens, valid)
  counted = jnp.zeros((len(index), shape[-1]), jnp.float32)
  return counted.at[rows, index].add(1.0, mode='drop').reshape(shape)


def _places(shape, tokens, valid) -> tuple[Array, Array]:
  """Rows [R, 1] and columns [R, m] of tokens in an array of [R, V]."""
  # Entries that do not count get the column V, which is dropped.
  rows = math.prod(shape[:-1])
  index = jnp.where(valid & (tokens >= 0), tokens, shape[-1])
  return jnp.arange(rows)[:, None], index.reshape(rows, -1)


def _seen(shape, context, path, path_length) -> Array:
  """bool [B, n, V] (or [B, 1, V]): the tokens of each slot's history."""
  batch, _, vocab_size = shape
  column = jnp.arange(context.tokens.shape[1])
  committed = _mark(
    (batch, vocab_size), context.tokens, column < context.length[:, None]
  )[:, None]
  if path is None or path.shape[-1] == 0:
    return committed
  on_path = jnp.arange(path.shape[-1]) < path_length[..., None]
  return committed | _mark(shape, path, on_path)
