"""Matches: earlier places that end like the context.

Everything here has static shapes and no pointers. At most W matches of a
searched text are kept, the longest, then the latest. A match is its length and
the K tokens that follow it. Counting over matches reproduces the count tree of
SuffixDecoding, which would hold the same matches as paths.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025. https://arxiv.org/abs/2411.04975
"""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import corpus as corpus_lib

NOTHING = corpus_lib.SEPARATOR  # equal to no token, nor to an empty slot
_NEVER = NOTHING - 1  # in a pattern: matches nothing


class Matches(NamedTuple):
  """Up to W earlier places that end like the context.

  Attributes:
    length: int32 [B, W], tokens that agree; 0 for no match.
    tokens: int32 [B, W, K], what follows, `NOTHING` from the text's end on.
  """

  length: base.Array
  tokens: base.Array


def pattern(context: base.Context, max_depth: int) -> base.Array:
  """The tokens to match, newest first: int32 [B, max_depth - 1].

  At least one of the last `max_depth` tokens is left out, as in a tree of that
  depth, where something has to follow.
  """
  # max_depth 4: [a b c d] gives [d c b], [a b] gives [b _NEVER _NEVER].
  back = jnp.arange(max_depth - 1)
  at = jnp.maximum(context.length[:, None] - 1 - back, 0)
  tokens = jnp.take_along_axis(context.tokens, at, axis=1)
  return jnp.where(back < context.length[:, None] - 1, tokens, _NEVER)


def local(
  context: base.Context,
  source: Any,
  wanted: base.Array,
  max_matches: int,
  num_draft: int,
) -> Matches:
  """Matches inside the context, its own end excluded, and inside a source.

  Args:
    context: committed tokens and controls.
    source: `base.Prompt` of an encoder, searched too; or None.
    wanted: int32 [B, M], see `pattern`.
    max_matches: W.
    num_draft: K.

  Returns:
    `Matches`, longest first, then latest; the source counts as earlier.
  """
  # context [x a b y a b], wanted [b a y], K = 2:
  #   length [0 0 2 0 0 0]   of the match that ends there; the last place is
  #                          the context's own end
  #   tokens [y a]           behind the match at place 2
  depth = wanted.shape[1]
  text = _known(context.tokens, context.length)
  end = context.length - 1
  if source is not None:
    front = jnp.pad(
      _known(source.tokens, source.length),
      ((0, 0), (0, 1)),
      constant_values=NOTHING,
    )
    text = jnp.concatenate([front, text], axis=1)
    end += front.shape[1]
  size = text.shape[1]
  # Room on both sides, so that no shifted slice and no continuation is clamped
  # onto another place.
  padded = jnp.pad(text, ((0, 0), (depth, num_draft)), constant_values=NOTHING)
  length = jnp.zeros(text.shape, jnp.int32)
  # From the oldest token to the newest: a mismatch resets the count.
  for back in reversed(range(depth)):
    shifted = padded[:, depth - back : depth - back + size]
    length = (length + 1) * (shifted == wanted[:, back : back + 1])
  length = jnp.where(jnp.arange(size) < end[:, None], length, 0)
  # The position breaks ties, so that one number sorts by both.
  best = _largest(length * size + jnp.arange(size), min(max_matches, size))
  at = best % size
  follow = at[..., None] + depth + 1 + jnp.arange(num_draft)
  return Matches(best // size, _stop(_gather(padded, follow)))


def in_corpus(
  index: corpus_lib.Index,
  wanted: base.Array,
  max_matches: int,
  num_draft: int,
) -> Matches:
  """Matches inside a corpus, by binary search.

  Args:
    index: the corpus.
    wanted: int32 [B, M], see `pattern`.
    max_matches: W. Of more matches of one length, those whose older tokens
      are most alike in sorting order are kept.
    num_draft: K.
  """
  # Behind each rank found, and before it, W places of either run:
  #   ranks 3 in [0, 6) and 6 in [6, 6), W = 2
  #   places [1 2 3 4] and [4 5 6 7], of which the latter lie outside
  depth, size = wanted.shape[1], index.text.shape[0]
  start, end = _runs(index)
  rank = _ranks(index, wanted)[:, :, None]
  rank += jnp.arange(-max_matches, max_matches)
  inside = (rank >= start[:, None]) & (rank < end[:, None])
  rank, inside = (x.reshape(len(wanted), -1) for x in (rank, inside))
  differ = _backwards(index, rank, depth) != wanted[:, None]
  length = jnp.where(differ.any(axis=2), jnp.argmax(differ, axis=2), depth)
  length = jnp.where(inside, length, 0)
  at = index.order[jnp.clip(rank, 0, size - 1)]
  best = _largest(length * size + at, max_matches)
  at = best % size
  follow = at[..., None] + 1 + jnp.arange(num_draft)
  tokens = index.text[jnp.minimum(follow, size - 1)]
  tokens = jnp.where(follow < size, tokens, NOTHING)
  return Matches(best // size, _stop(tokens))


def _runs(index: corpus_lib.Index) -> tuple[base.Array, base.Array]:
  """Ranks at which the two sorted runs begin and end: int32 [2] each."""
  # size 6, newest 2: [0 6] and [6 8]
  begin = jnp.stack([jnp.zeros_like(index.size), index.size])
  return begin, begin + jnp.stack([index.size, index.newest])


def _ranks(index: corpus_lib.Index, wanted: base.Array) -> base.Array:
  """Ranks that the pattern would have in either run: int32 [B, 2].

  Both are searched in the same steps.
  """
  # text [a b c / x b c /], wanted [c b a], all of it sorted at once:
  #   order      0  1    5    2      6      4
  #   backwards  a  b a  b x  c b a  c b x  x
  # The search ends at rank 3; the W places on each side agree longest.
  batch, depth = wanted.shape

  def before(rank):
    """bool [B, 2]: whether a sorted place comes before the pattern."""
    text, pattern = _backwards(index, rank, depth), wanted[:, None]
    first = jnp.argmax(text != pattern, axis=2)[..., None]
    left = jnp.take_along_axis(text, first, axis=2)
    return (left < jnp.take_along_axis(pattern, first, axis=2))[..., 0]

  def halve(bounds):
    low, high = bounds
    middle = (low + high) // 2
    after = before(middle) & (low < high)
    return jnp.where(after, middle + 1, low), jnp.where(after, high, middle)

  return lax.while_loop(
    lambda bounds: jnp.any(bounds[0] < bounds[1]),
    halve,
    tuple(jnp.broadcast_to(bound, (batch, 2)) for bound in _runs(index)),
  )[0]


def _backwards(index, rank, depth) -> base.Array:
  """int32 [B, n, depth]: text read backwards from sorted places [B, n].

  What is behind a separator has no effect, since nothing wanted equals one.
  """
  size = index.text.shape[0]
  at = index.order[jnp.clip(rank, 0, size - 1)][..., None] - jnp.arange(depth)
  return jnp.where(at >= 0, index.text[jnp.maximum(at, 0)], NOTHING)


def _largest(key, number):
  """The largest of distinct entries of int32 [B, n], in falling order.

  A few maxima are several times cheaper on CPU than `top_k`.
  """
  if number > 16:
    return lax.top_k(key, number)[0]
  found = []
  for _ in range(number):
    found.append(jnp.max(key, axis=1, keepdims=True))
    key = jnp.where(key == found[-1], -1, key)
  return jnp.concatenate(found, axis=1)


def _known(tokens, length):
  return jnp.where(
    jnp.arange(tokens.shape[1]) < length[:, None], tokens, NOTHING
  )


def _gather(text, at):
  """text[b, at[b, ...]] for text [B, L]."""
  return jax.vmap(lambda row, at: row[at])(text, at)


def _stop(tokens):
  """`NOTHING` from the first separator of the last axis on."""
  going = jnp.cumprod((tokens >= 0).astype(jnp.int32), axis=-1)
  return jnp.where(going > 0, tokens, NOTHING)
