"""Earlier places that end like the context, and what they vote for.

Everything here has static shapes and no pointers: of a text that is searched,
at most W matches are kept, the longest, then the latest. A match is told by its
length and by the K tokens that follow it. Counting over them reproduces the
count tree of SuffixDecoding, which would hold the same matches as paths.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025. https://arxiv.org/abs/2411.04975
"""

import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

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


class Votes(NamedTuple):
  """How often matches of at least m tokens are followed alike.

  Attributes:
    active: bool [B, M, W], matches of at least m = 1..M tokens.
    total: float32 [B, M], occurrences of the context's last m tokens.
    count: float32 [B, M, W, K], how many of the active matches share the first
      k + 1 following tokens of match w; 0 where w is not active or has none.
    same: bool [B, W, W, K], whether two matches share them.
  """

  active: base.Array
  total: base.Array
  count: base.Array
  same: base.Array


def pattern(context: base.Context, max_depth: int) -> base.Array:
  """The tokens to match, newest first: int32 [B, max_depth - 1].

  At least one of the last `max_depth` tokens is left out, as in a tree of that
  depth, where something has to follow.
  """
  back = jnp.arange(max_depth - 1)
  at = jnp.maximum(context.length[:, None] - 1 - back, 0)
  tokens = jnp.take_along_axis(context.tokens, at, axis=1)
  return jnp.where(back < context.length[:, None] - 1, tokens, _NEVER)


def local(
  context: base.Context,
  source,
  wanted: base.Array,
  max_matches: int,
  num_draft: int,
) -> Matches:
  """Matches inside the context, its own end excluded, and inside a source.

  Args:
    context: what is committed.
    source: `base.Prompt` of an encoder, searched too; or None.
    wanted: int32 [B, M], see `pattern`.
    max_matches: W.
    num_draft: K.

  Returns:
    `Matches`, longest first, then latest; the source counts as earlier.
  """
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
  padded = jnp.pad(text, ((0, 0), (depth, num_draft)), constant_values=NOTHING)
  length = jnp.zeros(text.shape, jnp.int32)
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

  Returns:
    `Matches`.
  """
  batch, depth = wanted.shape
  size = index.text.shape[0]
  back = jnp.arange(depth)

  def backwards(rank):
    """int32 [B, n, M]: text read backwards from sorted places [B, n]."""
    at = index.order[jnp.clip(rank, 0, size - 1)][..., None] - back
    text = jnp.where(at >= 0, index.text[jnp.maximum(at, 0)], NOTHING)
    return _stop(text)

  def before(rank):
    """bool [B]: whether a sorted place comes before the pattern."""
    text = backwards(rank[:, None])[:, 0]
    first = jnp.argmax(text != wanted, axis=1)[:, None]
    left = jnp.take_along_axis(text, first, axis=1)
    return (left < jnp.take_along_axis(wanted, first, axis=1))[:, 0]

  def halve(bounds):
    low, high = bounds
    middle = (low + high) // 2
    after = before(middle) & (low < high)
    return jnp.where(after, middle + 1, low), jnp.where(after, high, middle)

  zero = jnp.zeros((batch,), jnp.int32)
  rank, _ = lax.while_loop(
    lambda bounds: jnp.any(bounds[0] < bounds[1]),
    halve,
    (zero, jnp.broadcast_to(index.size, (batch,))),
  )
  rank = rank[:, None] + jnp.arange(-max_matches, max_matches)
  agree = backwards(rank) == wanted[:, None]
  length = jnp.sum(jnp.cumprod(agree.astype(jnp.int32), axis=2), axis=2)
  length = jnp.where((rank >= 0) & (rank < index.size), length, 0)
  at = index.order[jnp.clip(rank, 0, size - 1)]
  best = _largest(length * size + at, max_matches)
  at = best % size
  follow = at[..., None] + 1 + jnp.arange(num_draft)
  tokens = index.text[jnp.minimum(follow, size - 1)]
  tokens = jnp.where(follow < size, tokens, NOTHING)
  return Matches(best // size, _stop(tokens))


def count(matches: Matches, depth: int, is_local: bool) -> Votes:
  """Counts continuations for every m = 1..depth at once.

  Args:
    matches: the matches.
    depth: M.
    is_local: whether the end of the context is itself one more occurrence,
      one that nothing follows.
  """
  tokens = matches.tokens
  m = jnp.arange(1, depth + 1)
  active = matches.length[:, None] >= m[:, None]
  alike = tokens[:, :, None] == tokens[:, None]
  alike &= tokens[:, :, None] >= 0
  same = jnp.cumprod(alike.astype(jnp.int32), axis=3)
  # Written as a sum so that it fuses: W is small and nothing is stored.
  counts = jnp.sum(active[:, :, None, :, None] * same[:, None], axis=3).astype(
    jnp.float32
  )
  total = jnp.sum(active, axis=2, dtype=jnp.float32) + is_local
  return Votes(active, total, jnp.where(active[..., None], counts, 0), same > 0)


def lengths(depth: int, num_draft: int, factor: float, offset: float):
  """int32 [M]: most tokens drafted after a match of m = 1..M."""
  m = np.arange(1, depth + 1)
  # The nudge keeps a product such as 0.3 * 10 from falling below 3.
  k = np.floor(m * factor + offset + 1e-6)
  return np.clip(k, 0, num_draft).astype(np.int32)


def path(
  matches: Matches, votes: Votes, most, min_token_prob: float
) -> tuple[base.Array, base.Array]:
  """The most frequent continuation, for the best m.

  A token's probability is the fraction of the occurrences that are followed by
  it and by the tokens before it; the score is their sum. Among equally frequent
  tokens the one whose own continuation is more frequent is taken, then that of
  the first match; among equal scores the longer match.

  Args:
    matches: the matches.
    votes: their counts.
    most: int32 [M], see `lengths`.
    min_token_prob: a draft ends before a token below it.

  Returns:
    tokens int32 [B, K] (`EMPTY` at the end) and score float32 [B].
  """
  width, num_draft = matches.tokens.shape[1:]
  # Greedy descent by count is the largest string of counts, so instead of K
  # dependent steps the counts are packed into a few words and compared.
  digits = max(1, int(31 / math.log2(width + 1)))
  left = votes.active
  for start in range(0, num_draft, digits):
    word = jnp.zeros(left.shape, jnp.int32)
    for k in range(start, min(start + digits, num_draft)):
      word = word * (width + 1) + votes.count[..., k].astype(jnp.int32)
    word = jnp.where(left, word, -1)
    left &= word == jnp.max(word, axis=2, keepdims=True)
  chosen = jnp.argmax(left, axis=2)
  counts = jnp.take_along_axis(votes.count, chosen[..., None, None], axis=2)[
    :, :, 0
  ]
  prob = counts / jnp.maximum(votes.total, 1)[..., None]
  good = (counts > 0) & (prob >= min_token_prob)
  good &= jnp.arange(num_draft) < jnp.asarray(most)[:, None]
  good = jnp.cumprod(good.astype(jnp.int32), axis=2)
  score, best = _longest_best(jnp.sum(prob * good, axis=2))
  match = jnp.take_along_axis(chosen, best, axis=1)
  tokens = jnp.take_along_axis(matches.tokens, match[..., None], axis=1)[:, 0]
  good = jnp.take_along_axis(good, best[..., None], axis=1)[:, 0]
  return jnp.where(good > 0, tokens, base.EMPTY), score


def tree(
  matches: Matches,
  votes: Votes,
  most,
  min_token_prob: float,
  num_nodes: int,
) -> tuple[base.Array, base.Array, base.Tree]:
  """The most probable continuations as a tree, for the best m.

  A node's probability never exceeds its parent's, so a best-first expansion is
  the same as taking the most probable nodes, shallower ones first on ties.

  Args:
    matches: the matches, with K tokens each, which bounds the depth.
    votes: their counts.
    most: int32 [M], most nodes after a match of m tokens.
    min_token_prob: no node below it is proposed.
    num_nodes: slots of the draft.

  Returns:
    tokens int32 [B, num_nodes], score float32 [B], and the `Tree`.
  """
  batch, depth, width, num_draft = votes.count.shape
  earlier = np.tril(np.ones((width, width), bool), -1)[..., None]
  repeats = jnp.any(
    votes.active[:, :, None, :, None] & (votes.same & earlier)[:, None], axis=3
  )
  prob = votes.count / jnp.maximum(votes.total, 1)[..., None, None]
  good = ~repeats & (votes.count > 0) & (prob >= min_token_prob)
  key = votes.count * num_draft - jnp.arange(num_draft)
  key = jnp.where(good, key, -jnp.inf)
  num_top = min(num_nodes, width * num_draft)
  key, node = lax.top_k(key.reshape(batch, depth, -1), num_top)
  missing = ((0, 0), (0, 0), (0, num_nodes - num_top))
  key = jnp.pad(key, missing, constant_values=-jnp.inf)
  node = jnp.pad(node, missing)
  kept = jnp.isfinite(key)
  kept &= jnp.arange(num_nodes) < jnp.asarray(most)[:, None]
  value = jnp.take_along_axis(prob.reshape(batch, depth, -1), node, axis=2)
  score, best = _longest_best(jnp.sum(jnp.where(kept, value, 0), axis=2))

  node = jnp.take_along_axis(node, best[..., None], axis=1)[:, 0]
  kept = jnp.take_along_axis(kept, best[..., None], axis=1)[:, 0]
  active = jnp.take_along_axis(votes.active, best[..., None], axis=1)[:, 0]
  # The first match that shares a path names its nodes.
  first = jnp.argmax(votes.same & active[:, None, :, None], axis=2)
  match, level = node // num_draft, node % num_draft
  above = jnp.maximum(level - 1, 0)
  named = jnp.take_along_axis(
    first.reshape(batch, -1), match * num_draft + above, axis=1
  )
  hit = node[:, None] == (named * num_draft + above)[..., None]
  hit &= kept[:, None]
  parent = jnp.where((level > 0) & kept, jnp.argmax(hit, axis=2) + 1, 0).astype(
    jnp.int32
  )
  tokens = jnp.take_along_axis(matches.tokens.reshape(batch, -1), node, axis=1)
  depths = jnp.where(kept, level + 1, 1).astype(jnp.int32)
  root = ((0, 0), (1, 0))
  return (
    jnp.where(kept, tokens, base.EMPTY),
    score,
    base.Tree(jnp.pad(parent, root), jnp.pad(depths, root)),
  )


def _longest_best(score):
  """Largest of scores [B, M] and where it is, [B, 1]; the last on ties.

  Sums of equal fractions differ by rounding, so near ties count as ties.
  """
  top = jnp.max(score, axis=1)
  tied = score >= top[:, None] - 1e-5
  best = score.shape[1] - 1 - jnp.argmax(tied[:, ::-1], axis=1)
  return top, best[:, None]


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
