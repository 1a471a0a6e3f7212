"""A smaller language model that drafts token by token.

References:
  Leviathan et al. 2023, algorithm 1 (the approximation model M_q).
"""

import functools

import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding.drafters import drawing


@functools.lru_cache(maxsize=None)
def autoregressive(
  lm: base.CachedLM, num_draft: int, style: drawing.Style
) -> base.Drafter:
  """Drafts with any `CachedLM` over the target's tokens.

  The cache is rolled back at the start of a round, to all but the last two
  committed tokens, and these two are fed again. This closes the hole that a
  fully accepted draft leaves (its last token was never fed), and writing a
  row twice changes nothing.

  Args:
    lm: the draft model.
    num_draft: K, at least 1.
    style: how to draw.

  Returns:
    `base.Drafter` whose state is the draft model's cache.

  Raises:
    ValueError: if `num_draft` is less than 1.
  """
  validation.at_least('num_draft', num_draft, 1)

  def init(params, prompt, prefilled, *, capacity):
    del prefilled
    return lm.prefill(params, prompt, capacity=capacity).cache

  def propose(params, cache, view):
    context = view.context
    first = jnp.maximum(context.length - 2, 0)
    cache = lm.commit(cache, first - cache.length)
    pair = drawing.window(context.tokens, first, 2)
    last = (context.length - 1 - first)[:, None]
    scored, cache = lm.extend(params, cache, pair, slots=last)
    cache = lm.commit(cache, context.length - first)

    def step(cache, fed):
      scored, cache = lm.extend(params, cache, fed)
      one = jnp.ones((fed.shape[0],), jnp.int32)
      return scored.logits[:, 0], lm.commit(cache, one)

    return drawing.sequence(
      scored.logits[:, 0], step, cache, context, num_draft, style
    )

  def observe(params, cache, observation):
    del params, observation
    return cache

  return base.Drafter(init, propose, observe, num_draft, num_draft)
