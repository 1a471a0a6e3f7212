"""Filters of the warp, which remove tokens before one is drawn.

They rank tokens by their logits before the temperature: division by a positive
number keeps the order, and a large one would round different logits to one. At
a temperature of 3e38, top_k=1 still keeps the likeliest token alone.

Exact ties at the edge of a filter all stay. `transformers` does the same but
for top-p, where it cuts among tied tokens in the order of an unstable sort.
"""

from jax import lax
import jax.numpy as jnp

from specjax.base import Array


def top_k(x: Array, k: Array) -> Array:
  """The k largest, ties with the last of them included.

  Args:
    x: float32 [B, n, V].
    k: int32 [B, 1]; 0 keeps every token.

  Returns:
    bool [B, n, V], the tokens that stay.
  """
  # k 2 of [3 2 2 1]: [1 1 1 0]
  amount = jnp.where(k <= 0, 1, jnp.minimum(k, x.shape[-1]))
  ones = jnp.ones((1, 1, 1), jnp.int32)
  threshold = _threshold(x, ones, jnp.broadcast_to(amount, x.shape[:-1]))
  return (x >= threshold[..., None]) | (k <= 0)[..., None]


def top_p(x: Array, weights: Array, p: Array) -> Array:
  """The tokens below which less than p of the mass is strictly likelier.

  Args:
    x: float32 [B, n, V], in the order of the tokens' probabilities.
    weights: float32 [B, n, V], probabilities times any number.
    p: float32 [B, 1]; 1 keeps every token.

  Returns:
    bool [B, n, V], the tokens that stay.
  """
  # probabilities [.5 .3 .2], p .6: [1 1 0]; [.4 .3 .3], p .6: all three
  amount = p * weights.sum(axis=-1)
  threshold = _threshold(x, weights, amount)
  # At least the likeliest token stays, were p ever to round to nothing.
  threshold = jnp.minimum(threshold, jnp.max(x, axis=-1))
  return (x >= threshold[..., None]) | (p >= 1)[..., None]


def min_p(x: Array, weights: Array, p: Array) -> Array:
  """The tokens at least p times as likely as the likeliest.

  Args:
    x: float32 [B, n, V], in the order of the tokens' probabilities.
    weights: float32 [B, n, V], probabilities over the likeliest token's.
    p: float32 [B, 1]; 0 keeps every token.

  Returns:
    bool [B, n, V], the tokens that stay.
  """
  # probabilities [.5 .46 .04], p .1: .04 / .5 is less, so [1 1 0]
  p = p[..., None]
  # Ratios that round to 1 are less than 1 all the same.
  best = x >= jnp.max(x, axis=-1, keepdims=True)
  return jnp.where(p < 1, weights >= p, best)


def _threshold(x: Array, weights: Array, amount: Array) -> Array:
  """The largest t with sum(weights[x >= t]) >= amount, exactly, by bisection.

  Floats are bisected in the order of their bits (at most 32 steps to the very
  last one), so k and p can differ by row and no sort of V entries is needed.

  Args:
    x: float32 [..., V], without NaN.
    weights: broadcasts against x, not negative.
    amount: [...]; where even the whole mass is less, t is -inf.

  Returns:
    float32 [...].
  """
  # x [3 1 2], weights 1, amount 2: t = 2
  low = jnp.full(amount.shape, _ordered(-jnp.inf))
  high = jnp.full(amount.shape, _ordered(jnp.inf))

  def halve(_, bounds):
    low, high = bounds
    middle = high - (high - low) // 2
    above = x >= _from_ordered(middle)[..., None]
    enough = jnp.where(above, weights, 0).sum(axis=-1) >= amount
    return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

  low, _ = lax.fori_loop(0, 32, halve, (low, high))
  return _from_ordered(low)


_SIGN = 0x80000000


def _ordered(value: float) -> Array:
  """A float's rank as uint32: larger floats have larger ranks."""
  # value  -1        0         1
  # bits   bf800000  00000000  3f800000
  # rank   407fffff  80000000  bf800000
  bits = lax.bitcast_convert_type(jnp.float32(value), jnp.uint32)
  sign = jnp.uint32(_SIGN)
  return jnp.where(bits >= sign, ~bits, bits | sign)


def _from_ordered(rank: Array) -> Array:
  sign = jnp.uint32(_SIGN)
  bits = jnp.where(rank >= sign, rank & ~sign, ~rank)
  return lax.bitcast_convert_type(bits, jnp.float32)
