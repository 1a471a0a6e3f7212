"""`sampling` for trees: candidates drawn without replacement, one by one.

At each accepted node its children are tested in slot order. Child x is kept
with probability min(1, p(x) / q(x)), p being what is left of the target's
distribution and q what is left of the drafter's: a refused child leaves
(p - q)+ of the one and loses its place in the other. When no child is left,
the next token is drawn from what is left of p. On a chain this is `sampling`.

References:
  Jeon et al. Recursive speculative decoding. 2024.
    https://arxiv.org/abs/2402.14160
  Chen et al. Sequoia. 2024. https://arxiv.org/abs/2402.12374
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling
from specjax.decoding.verifiers import common


def target_row(logits: Array, slot: Array) -> Array:
  """The target's distribution after a slot: float32 [B, V]."""
  return jax.nn.softmax(common.take_slot(logits, slot))


def child_row(draft: Draft, slot: Array, vocab_size: int) -> Array:
  """q at the parent of a drafted slot (1..N) [B]: float32 [B, V]."""
  node = jnp.maximum(slot - 1, 0)
  if draft.log_probs is not None:
    return jnp.exp(common.take_slot(draft.log_probs, node))
  token = common.take_slot(draft.tokens, node)
  return (token[:, None] == jnp.arange(vocab_size)).astype(jnp.float32)


def normalised(weights: Array, fallback: Array) -> Array:
  """Rows [B, V] divided by their sums; `fallback` where there is no mass."""
  total = weights.sum(axis=-1, keepdims=True)
  return jnp.where(
    total > 0, weights / jnp.where(total > 0, total, 1.0), fallback
  )


def without(q: Array, token: Array) -> Array:
  """q without a token, normalised; all zero where nothing is left."""
  left = jnp.where(jnp.arange(q.shape[-1]) == token[:, None], 0.0, q)
  return normalised(left, jnp.zeros_like(q))


def verify(
  context: Context, draft: Draft, logits: Array, *, max_path: int
) -> Verdict:
  """Walks down from the root; see this module's docstring.

  Parents stand before children, so one pass over the slots is the walk.
  """
  common.check_tree(draft, 'sampling')
  batch, num_nodes = draft.tokens.shape
  size = logits.shape[-1]
  uniforms, keys = common.round_noise(context, num_nodes)
  root = jnp.zeros((batch,), jnp.int32)

  def test(slot, carry):
    here, p, q, fresh, count, path = carry
    at = jnp.full((batch,), slot, jnp.int32)
    token = draft.tokens[:, slot - 1]
    mine = (draft.tree.parent[:, slot] == here) & (token >= 0)
    # The first child meets the drafter's whole distribution.
    q = jnp.where(fresh[:, None], child_row(draft, at, size), q)
    if draft.log_probs is None:
      q = child_row(draft, at, size)
    index = jnp.maximum(token, 0)[:, None]
    px = jnp.take_along_axis(p, index, axis=1)[:, 0]
    qx = jnp.take_along_axis(q, index, axis=1)[:, 0]
    passed = mine & (uniforms[:, slot - 1] * qx < px) & (px > 0)
    failed = mine & ~passed
    left = normalised(jnp.maximum(p - q, 0.0), p)
    p = jnp.where(failed[:, None], left, p)
    q = jnp.where(failed[:, None], without(q, jnp.maximum(token, 0)), q)
    p = jnp.where(passed[:, None], target_row(logits, at), p)
    path = common.put(path, count, at, passed)
    fresh = jnp.where(mine, passed, fresh)
    return (
      jnp.where(passed, at, here), p, q, fresh, count + passed, path
    )  # fmt: skip

  start = (
    root,
    target_row(logits, root),
    jnp.zeros((batch, size), jnp.float32),
    jnp.ones((batch,), bool),
    root,
    jnp.zeros((batch, max_path), jnp.int32),
  )
  _, p, _, _, count, path = lax.fori_loop(1, num_nodes + 1, test, start)
  return Verdict(count, sampling.draw(p, keys), path)


@functools.lru_cache(maxsize=None)
def rejection(max_path: int) -> Verifier:
  """The rule `sampling` for trees with paths of at most `max_path` tokens."""
  rule = functools.partial(verify, max_path=max_path)
  return Verifier(rule, 'round', True, True, 'sampling')
