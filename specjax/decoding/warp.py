"""The one function that turns logits into the distribution asked for.

The baseline, the drafter, the verifier and the bonus token all call `warp`, so
that p and q always mean the same adjusted distributions; half of the biased
implementations known differ in exactly this. The order and the arithmetic are
those of the `transformers` logits processors: repetition penalty, no-repeat
n-gram, temperature, top-k, top-p, min-p. What depends on the history is
evaluated at every slot of a block with the draft tokens on its own path.
"""

import dataclasses

from jax import lax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Tree
from specjax.decoding import sampling


@dataclasses.dataclass(frozen=True)
class WarpSpec:
  """Static switches; the values are data (`Controls`) and vary by row.

  Attributes:
    sampled: some row may have a temperature above 0. Without it only the
      penalties are applied and the result is meant for an argmax, unless
      `one_hot_unsampled`.
    top_k: some row may have top_k > 0.
    top_p: some row may have top_p < 1.
    min_p: some row may have min_p > 0.
    repetition_penalty: some row may have a penalty other than 1.
    no_repeat_ngram_size: no n-gram of this size occurs twice; 0 is off.
    one_hot: whether rows of temperature 0 become one-hot, as every exact rule
      wants. Without it they keep their logits as the penalties left them, for a
      rule that decides on their gaps (`lenient`).
    one_hot_unsampled: rows become one-hot without `sampled` too: for a rule of
      the user's own, which may draw from them.
  """

  sampled: bool = False
  top_k: bool = False
  top_p: bool = False
  min_p: bool = False
  repetition_penalty: bool = False
  no_repeat_ngram_size: int = 0
  one_hot: bool = True
  one_hot_unsampled: bool = False


def chain_paths(draft_tokens: Array) -> tuple[Array, Array]:
  """Each block slot's path in a chain.

  Args:
    draft_tokens: int32 [B, K], `EMPTY` (-1) at the end where none is drafted.

  Returns:
    path int32 [B, K + 1, K] and path_length int32 [B, K + 1]; slot t follows
    the first t draft tokens. Empty ones do not count.
  """
  # draft [a b EMPTY]: every path [a b EMPTY], path_length [0 1 2 2]
  batch, num_draft = draft_tokens.shape
  path = jnp.broadcast_to(
    draft_tokens[:, None, :], (batch, num_draft + 1, num_draft)
  )
  filled = jnp.cumprod(draft_tokens >= 0, axis=1).sum(axis=1)
  slots = jnp.arange(num_draft + 1)
  return path, jnp.minimum(slots[None, :], filled[:, None]).astype(jnp.int32)


def tree_paths(
  draft_tokens: Array, tree: Tree, max_path: int
) -> tuple[Array, Array]:
  """Each block slot's path in a tree.

  Args:
    draft_tokens: int32 [B, K].
    tree: `Tree` of T = K + 1 slots.
    max_path: P, at least the largest depth.

  Returns:
    path int32 [B, T, P], the tokens from the root's child down to the slot
    itself, and path_length int32 [B, T], the slot's depth.
  """
  # draft [a b c], parent [0 0 0 1], P = 2:
  #   path [[. .] [a .] [b .] [a c]], path_length [0 1 1 2]
  batch, num_slots = tree.parent.shape
  tokens = jnp.pad(draft_tokens, ((0, 0), (1, 0)), constant_values=-1)
  column = jnp.arange(max_path)
  path = jnp.full((batch, num_slots, max_path), -1, jnp.int32)
  slot = jnp.broadcast_to(jnp.arange(num_slots), (batch, num_slots))
  for _ in range(max_path):
    depth = jnp.take_along_axis(tree.depth, slot, axis=1)
    token = jnp.take_along_axis(tokens, slot, axis=1)
    here = column == (depth - 1)[..., None]  # slot 0 has depth 0: nowhere
    path = jnp.where(here, token[..., None], path)
    slot = jnp.take_along_axis(tree.parent, slot, axis=1)
  return path, jnp.minimum(tree.depth, max_path).astype(jnp.int32)


def warp(
  spec: WarpSpec,
  logits: Array,
  context: Context,
  path: Array | None = None,
  path_length: Array | None = None,
) -> Array:
  """Applies a batch's controls to logits.

  Args:
    spec: static switches.
    logits: [B, n, V], the model's.
    context: committed tokens and controls.
    path: int32 [B, n, P], draft tokens that follow the committed ones in each
      slot's history; -1 entries are ignored. None: no draft tokens.
    path_length: int32 [B, n], number of entries of `path` that count.

  Returns:
    float32 [B, n, V]. With `spec.sampled`, rows of temperature 0 are 0 at the
    argmax (after the penalties) and -inf elsewhere, other rows are logits over
    the temperature with removed tokens at -inf, not normalised.
  """
  controls = context.controls
  x = logits.astype(jnp.float32)
  if spec.repetition_penalty:
    seen = _seen(x.shape, context, path, path_length)
    penalty = controls.repetition_penalty[:, None, None]
    x = jnp.where(seen, jnp.where(x < 0, x * penalty, x / penalty), x)
  if spec.no_repeat_ngram_size:
    banned = _banned(
      spec.no_repeat_ngram_size, x.shape, context, path, path_length
    )
    x = jnp.where(banned, -jnp.inf, x)
  if not spec.sampled:
    return _one_hot(x) if spec.one_hot_unsampled else x
  temperature = controls.temperature[:, None, None]
  greedy = temperature == 0
  cold = _one_hot(x) if spec.one_hot else x
  x = x / jnp.where(greedy, 1.0, temperature)
  if spec.top_k:
    x = _top_k(x, controls.top_k[:, None])
  if spec.top_p:
    x = _top_p(x, controls.top_p[:, None])
  if spec.min_p:
    x = _min_p(x, controls.min_p[:, None])
  return jnp.where(greedy, cold, x)


def _one_hot(x):
  """0 at the argmax of each row and -inf elsewhere."""
  # [1 3 2]: [-inf 0 -inf]
  top = sampling.argmax(x)[..., None] == jnp.arange(x.shape[-1])
  return jnp.where(top, 0.0, -jnp.inf)


def _top_k(x: Array, k: Array) -> Array:
  """Keeps the k largest of [B, n, V]; ties with the last kept stay; 0: all."""
  # k 2 of [3 2 2 1]: [3 2 2 -inf]
  amount = jnp.where(k <= 0, 1, jnp.minimum(k, x.shape[-1]))
  ones = jnp.ones((1, 1, 1), jnp.int32)
  threshold = _threshold(x, ones, jnp.broadcast_to(amount, x.shape[:-1]))
  keep = (x >= threshold[..., None]) | (k <= 0)[..., None]
  return jnp.where(keep, x, -jnp.inf)


def _top_p(x: Array, p: Array) -> Array:
  """Keeps tokens below which less than p of the mass is strictly likelier."""
  # probabilities [.5 .3 .2], p .6: the first two stay.
  weights = jnp.exp(x - _finite_max(x))
  amount = p * weights.sum(axis=-1)
  threshold = _threshold(x, weights, amount)
  # At least the likeliest token stays, were p ever to round to nothing.
  threshold = jnp.minimum(threshold, jnp.max(x, axis=-1))
  keep = (x >= threshold[..., None]) | (p >= 1)[..., None]
  return jnp.where(keep, x, -jnp.inf)


def _min_p(x: Array, p: Array) -> Array:
  """Keeps tokens at least p times as likely as the likeliest."""
  # probabilities [.5 .46 .04], p .1: .04 / .5 is less, so two stay.
  keep = jnp.exp(x - _finite_max(x)) >= p[..., None]
  return jnp.where(keep, x, -jnp.inf)


def _finite_max(x: Array) -> Array:
  top = jnp.max(x, axis=-1, keepdims=True)
  return jnp.where(jnp.isfinite(top), top, 0.0)


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


def _mark(shape: tuple[int, ...], tokens: Array, valid: Array) -> Array:
  """bool [..., V], True at the valid entries of `tokens` [..., m]."""
  # tokens [2 0 -1], valid [1 1 1], V 4: [1 0 1 0]. Other entries get the index
  # V, which is dropped.
  vocab_size = shape[-1]
  rows = 1
  for size in shape[:-1]:
    rows *= size
  index = jnp.where(valid & (tokens >= 0), tokens, vocab_size)
  index = index.reshape(rows, -1)
  marked = jnp.zeros((rows, vocab_size), bool)
  marked = marked.at[jnp.arange(rows)[:, None], index].set(True, mode='drop')
  return marked.reshape(shape)


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


def _banned(size, shape, context, path, path_length) -> Array:
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
