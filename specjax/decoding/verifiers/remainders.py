"""Residuals of two distributions after candidates were refused."""

import jax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Draft
from specjax.base import Verdict
from specjax.decoding import sampling
from specjax.decoding.verifiers import common


def target_row(logits: Array, slot: Array) -> Array:
  """The target's distribution after a slot: float32 [B, V]."""
  return jax.nn.softmax(common.take_slot(logits, slot))


def child_row(draft: Draft, slot: Array, vocab_size: int) -> Array:
  """q at the parent of a drafted slot (1..N) [B]: float32 [B, V]."""
  # A point mass on token 1 of 3: [0 1 0]
  node = jnp.maximum(slot - 1, 0)
  if draft.log_probs is not None:
    return jnp.exp(common.take_slot(draft.log_probs, node))
  token = common.take_slot(draft.tokens, node)
  return (token[:, None] == jnp.arange(vocab_size)).astype(jnp.float32)


def normalised(weights: Array, fallback: Array) -> Array:
  """Rows [B, V] divided by their sums; `fallback` where there is no mass."""
  # weights [.2 0 .2]: [.5 0 .5]
  total = weights.sum(axis=-1, keepdims=True)
  return jnp.where(
    total > 0, weights / jnp.where(total > 0, total, 1.0), fallback
  )


def without(q: Array, token: Array) -> Array:
  """q without a token, normalised; all zero where nothing is left."""
  # q [.5 .3 .2] without token 0: [0 .6 .4]
  left = jnp.where(jnp.arange(q.shape[-1]) == token[:, None], 0.0, q)
  return normalised(left, jnp.zeros_like(q))


def without_draft(logits: Array, keys: Array, max_path: int) -> Verdict:
  """The verdict of a round in which no tree was drafted: a plain step.

  Args:
    logits: float32 [B, 1, V].
    keys: typed keys [B] of the token.
    max_path: P.
  """
  root = jnp.zeros((logits.shape[0],), jnp.int32)
  token = sampling.draw(target_row(logits, root), keys)
  path = jnp.zeros((logits.shape[0], max_path), jnp.int32)
  return Verdict(root, token, path)
