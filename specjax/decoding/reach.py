"""Drafts near the last position of a model."""

import jax.numpy as jnp

from specjax import base


def within(
  lm: base.CachedLM, draft: base.Draft, context: base.Context
) -> base.Draft:
  """Empties the slots of a draft that have no position in the target.

  No answer goes beyond the last position, so nothing is lost: what stood in
  these slots could not be emitted.

  Args:
    lm: the target.
    draft: a chain or a tree.
    context: committed tokens, with room for a whole draft behind any answer.
  """
  most, room = lm.max_positions, context.tokens.shape[1]
  if most is None or room <= most:
    return draft
  # 8 positions of which 6 are committed, so that x stands at 5:
  #   chain [a b c d]                   becomes [a b EMPTY EMPTY]
  #   tree  [a b c d], depth [1 1 2 3]  becomes [a b c EMPTY]
  slots = jnp.arange(1, draft.tokens.shape[1] + 1, dtype=jnp.int32)[None]
  depth = slots if draft.tree is None else draft.tree.depth[:, 1:]
  beyond = context.length[:, None] - 1 + depth >= most
  log_probs = draft.log_probs
  if log_probs is not None:
    log_probs = jnp.where(beyond[..., None], -jnp.inf, log_probs)
  tokens = jnp.where(beyond, base.EMPTY, draft.tokens)
  return draft.replace(tokens=tokens, log_probs=log_probs)
