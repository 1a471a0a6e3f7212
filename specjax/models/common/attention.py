"""Attention over keys in the cache's layout, and T5's relative positions.

Keys are `[B * Hkv, Dh, L]` and values `[B * Hkv, L, Dh]`, as the cache holds
them, with an explicit mask, so that one function serves training, prefill,
cached decoding, and drafter networks with masks of their own.

References:
  Raffel et al. Exploring the limits of transfer learning with a unified
    text-to-text transformer. JMLR 2020. https://arxiv.org/abs/1910.10683
  Ainslie et al. GQA. EMNLP 2023. https://arxiv.org/abs/2305.13245
  Milakov, Gimelshein. Online normalizer calculation for softmax. 2018.
    https://arxiv.org/abs/1805.02867
"""

from collections.abc import Callable
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import control_flow

# A finite stand-in for minus infinity: a fully masked row stays finite.
MASKED = -1e30

# Columns read at a time where only the live ones are.
_STRETCH = 256


def as_kept(keys: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Turns both [B, T, H, Dh] into the cache's [B * H, Dh, T], [B * H, T, Dh].

  These are what the two products of attention read fastest on a CPU.
  """
  b, t, h, d = keys.shape
  return (
    keys.transpose(0, 2, 3, 1).reshape(b * h, d, t),
    values.transpose(0, 2, 1, 3).reshape(b * h, t, d),
  )


@jax.named_scope('attend')
def attend(
  query: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  mask: jax.Array | None = None,
  bias: jax.Array | None = None,
  *,
  scale: float = 1.0,
  softcap: float | None = None,
  drop: Callable | None = None,
  live: jax.Array | None = None,
) -> jax.Array:
  """Attention of query heads over keys in the cache's layout.

  Args:
    query: [B, T, H, Dh].
    keys: [B * Hkv, Dh, L]; H must be a multiple of Hkv, and query head h
      reads key head h // (H / Hkv).
    values: [B * Hkv, L, Dh].
    mask: bool [B or 1, T or 1, L], True where a key may be read, or None.
    bias: float32 [B or 1, H, T, L] added to the scores, or None.
    scale: multiplies the scores.
    softcap: scores become softcap * tanh(scores / softcap), as in Gemma 2.
    drop: applied to the probabilities (attention dropout), or None.
    live: int32 [], no row may read a column from here on; a CPU then leaves
      out what is not live of a long cache. Not differentiable, and without
      `drop`. None: all columns are read.

  Returns:
    [B, T, H * Dh] in the query's dtype.
  """
  b, t, h, d = query.shape
  groups = keys.shape[0] // b
  per = h // groups
  # One product reads each key head once, for all query heads that share it.
  # B = 1, T = 2, H = 4, Hkv = 2: q is [2, 4, Dh], with the rows (head, slot)
  #   key head 0: (0, 0) (0, 1) (1, 0) (1, 1)
  #   key head 1: (2, 0) (2, 1) (3, 0) (3, 1)
  q = query.reshape(b, t, groups, per, d).transpose(0, 2, 3, 1, 4)
  q = q.reshape(b * groups, per * t, d)
  score = functools.partial(_scores, q, (b, groups, per, t), scale, softcap)

  def whole():
    weights = jax.nn.softmax(score(keys, mask, bias), axis=-1)
    if drop is not None:
      shape = weights.shape
      weights = drop(weights.reshape(b, groups, per, t, -1)).reshape(shape)
    return _mix(weights.astype(query.dtype), values)

  # A loop over stretches has a cost of its own, which a short cache never
  # earns.
  if live is None or keys.shape[-1] < 2 * _STRETCH:
    out = whole()
  else:
    kept = keys, values, mask, bias
    out = lax.platform_dependent(
      cpu=lambda: _read_live(score, whole, kept, q, live), default=whole
    )
  out = out.astype(query.dtype).reshape(b, groups, per, t, d)
  return out.transpose(0, 3, 1, 2, 4).reshape(b, t, h * d)


def _scores(q, sizes, scale, softcap, *columns):
  """float32 [B * Hkv, R, n] of n columns: keys, mask and bias."""
  keys, mask, bias = columns
  b, groups, per, t = sizes
  scores = lax.dot_general(
    q, keys, (((2,), (1,)), _HEADS), preferred_element_type=jnp.float32
  )
  scores = scores.reshape(b, groups, per, t, -1) * scale
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  if bias is not None:
    scores = scores + bias.reshape(bias.shape[0], groups, per, t, -1)
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, MASKED)
  return scores.reshape(b * groups, per * t, -1)


# Batched axes of a product of [G, R, n] with keys or values of G heads.
_HEADS = ((0,), (0,))


def _mix(weights, values):
  """float32 [G, R, Dh]: weights [G, R, L] times values [G, L, Dh]."""
  return lax.dot_general(
    weights,
    values,
    (((2,), (1,)), _HEADS),
    preferred_element_type=jnp.float32,
  )


def _read_live(score, whole, kept, q, live):
  """float32 [G, R, Dh]: attention over the first `live` columns.

  They are read a stretch at a time, which costs up to twice as much a column
  (four times with one row) as reading the whole cache, so a fuller one is read
  whole.
  """
  keys, values, mask, bias = kept
  length = keys.shape[-1]

  # Online softmax: `top` is the largest score so far, `total` the sum of
  # exp(score - top) and `out` the values weighted by it. Two columns a stretch,
  # scores [1 3 | 4 .]:
  #   top 3, total e^-2 + 1;  then top 4, total (e^-2 + 1) e^-1 + 1
  def stretch(carry):
    first, top, total, out = carry

    def cut(x, axis):
      if x is None:
        return None
      return lax.dynamic_slice_in_dim(x, first, _STRETCH, axis)

    scores = score(cut(keys, 2), cut(mask, 2), cut(bias, 3))
    # Exponents are taken of differences to the largest score so far, so none
    # can overflow; what was summed before is scaled down when a larger one
    # comes.
    best = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
    weights, before = jnp.exp(scores - best), jnp.exp(top - best)
    total = total * before + jnp.sum(weights, axis=-1, keepdims=True)
    mixed = _mix(weights.astype(values.dtype), cut(values, 1))
    return first + _STRETCH, best, total, out * before + mixed

  # Of two stretches or more at most half is read so: the last one fits.
  few = live <= length // (4 if q.shape[1] == 1 else 2)
  shape = (*q.shape[:2], 1)
  empty = (
    jnp.zeros((), jnp.int32),
    jnp.full(shape, MASKED, jnp.float32),
    jnp.zeros(shape, jnp.float32),
    jnp.zeros(q.shape, jnp.float32),
  )
  end = jnp.where(few, live, 0)
  _, _, total, out = lax.while_loop(lambda c: c[0] < end, stretch, empty)
  out = out / jnp.where(few, total, 1.0)
  return control_flow.run_if(~few, lambda _: whole(), out)


def relative_buckets(
  distance: np.ndarray,
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> np.ndarray:
  """T5's buckets of key position minus query position.

  Runs in numpy, in float32 and in the reference's order of operations: on a
  bucket's edge another rounding of the logarithm would pick its neighbour.

  Args:
    distance: int numpy array, key position - query position.
    bidirectional: encoder (both signs) or decoder (the past alone).
    num_buckets: rows of the bias table.
    max_distance: everything at least this far shares the last bucket.

  Returns:
    int32 numpy array of the same shape, in [0, num_buckets).
  """
  # With 8 buckets and max_distance 16, in a decoder:
  # In:  [1 0 -1 -2 -3 -4 -6 -8 -12 -99]
  # Out: [0 0  1  2  3  4  5  6   7   7]
  offset = 0
  if bidirectional:
    num_buckets //= 2
    offset = (distance > 0).astype(np.int32) * num_buckets
    distance = np.abs(distance)
  else:
    distance = np.maximum(-distance, 0)
  exact = num_buckets // 2
  ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
  # Half of the buckets hold one distance each; the others widen
  # logarithmically.
  far = np.log(ratio) / np.float32(math.log(max_distance / exact))
  far = exact + (far * np.float32(num_buckets - exact)).astype(np.int32)
  far = np.minimum(far, num_buckets - 1)
  return (offset + np.where(distance < exact, distance, far)).astype(np.int32)
