"""Votes of matches: the most frequent continuations, as a chain or a tree."""

import math
from typing import NamedTuple

from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding.drafters import matching


class Votes(NamedTuple):
  """Counts of equal continuations of matches of at least m tokens.

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


def count(matches: matching.Matches, depth: int, is_local: bool) -> Votes:
  """Counts continuations for every m = 1..depth at once.

  Args:
    matches: the matches.
    depth: M.
    is_local: whether the end of the context is itself one more occurrence,
      one that nothing follows.
  """
  # Matches of lengths 3 2 2, followed by [a b] [a c] [d b], local:
  #   m = 2: count [[2 1] [2 1] [1 1]], total 4
  #   m = 3: count [[1 1] [0 0] [0 0]], total 2
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


def lengths(
  depth: int, num_draft: int, factor: float, offset: float
) -> np.ndarray:
  """int32 [M]: most tokens drafted after a match of m = 1..M."""
  # factor 1, offset 0, num_draft 3: [1 2 3 3 ...]
  m = np.arange(1, depth + 1)
  # The nudge keeps a product such as 0.3 * 10 from falling below 3.
  k = np.floor(m * factor + offset + 1e-6)
  return np.clip(k, 0, num_draft).astype(np.int32)


def path(
  matches: matching.Matches,
  votes: Votes,
  most: base.Array,
  min_token_prob: float,
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
  # dependent steps the counts are packed into a few words and compared: counts
  # [2 1] of W = 3 matches are the word 2 * 4 + 1.
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
  matches: matching.Matches,
  votes: Votes,
  most: base.Array,
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
  node, kept, score, best = _top_nodes(votes, most, min_token_prob, num_nodes)
  batch, num_draft = node.shape[0], votes.count.shape[3]
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


def _top_nodes(votes: Votes, most, min_token_prob: float, num_nodes: int):
  """The most probable nodes for the best m.

  Returns:
    node int32 [B, num_nodes] (match * K + level), kept bool likewise, score
    float32 [B], and best int32 [B, 1], the place of m.
  """
  batch, depth, width, num_draft = votes.count.shape
  # Matches that share a path name the same node; the first of them stands for
  # it.
  earlier = np.tril(np.ones((width, width), bool), -1)[..., None]
  repeats = jnp.any(
    votes.active[:, :, None, :, None] & (votes.same & earlier)[:, None], axis=3
  )
  prob = votes.count / jnp.maximum(votes.total, 1)[..., None, None]
  good = ~repeats & (votes.count > 0) & (prob >= min_token_prob)
  # Counts first, then the shallower: K = 3, counts [2 2 1] -> keys [6 5 1]
  key = votes.count * num_draft - jnp.arange(num_draft)
  key = jnp.where(good, key, -jnp.inf)
  num_top = min(num_nodes, width * num_draft)
  key, node = lax.top_k(key.reshape(batch, depth, -1), num_top)
  # The draft has the same number of slots in every round, whatever was found.
  missing = ((0, 0), (0, 0), (0, num_nodes - num_top))
  key = jnp.pad(key, missing, constant_values=-jnp.inf)
  node = jnp.pad(node, missing)
  kept = jnp.isfinite(key)
  kept &= jnp.arange(num_nodes) < jnp.asarray(most)[:, None]
  value = jnp.take_along_axis(prob.reshape(batch, depth, -1), node, axis=2)
  score, best = _longest_best(jnp.sum(jnp.where(kept, value, 0), axis=2))
  node = jnp.take_along_axis(node, best[..., None], axis=1)[:, 0]
  kept = jnp.take_along_axis(kept, best[..., None], axis=1)[:, 0]
  return node, kept, score, best


def _longest_best(score):
  """Largest of scores [B, M] and where it is, [B, 1]; the last on ties.

  Sums of equal fractions differ by rounding, so near ties count as ties.
  """
  top = jnp.max(score, axis=1)
  # score [.5 1.2 1.2]: the longest match with the largest score, place 2
  tied = score >= top[:, None] - 1e-5
  best = score.shape[1] - 1 - jnp.argmax(tied[:, ::-1], axis=1)
  return top, best[:, None]
