"""A smaller language model that drafts token by token.

References:
  Leviathan et al. 2023, algorithm 1 (the approximation model M_q).
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import sampling
from specjax.decoding import warp as warp_lib


@functools.lru_cache(maxsize=None)
def autoregressive(
  lm: base.CachedLM,
  *,
  num_draft: int,
  noise: str,
  needs_log_probs: bool,
  warp: warp_lib.WarpSpec,
  sampler: str = 'gumbel',
) -> base.Drafter:
  """Drafts with any `CachedLM` over the target's tokens.

  The cache is rolled back at the start of a round, to all but the last two
  committed tokens, and these two are fed again. This closes the hole that a
  fully accepted draft leaves (its last token was never fed), and writing a
  row twice changes nothing.

  Args:
    lm: the draft model.
    num_draft: K, at least 1.
    noise: how to draw, see `base.Verifier`.
    needs_log_probs: whether to keep the distributions drawn from.
    warp: the same switches as the target's, so that p and q are warped alike.
    sampler: the sampler of position-keyed noise, as in plain sampling.

  Returns:
    `base.Drafter` whose state is the draft model's cache.

  Raises:
    ValueError: if `num_draft` is less than 1.
  """
  if num_draft < 1:
    raise ValueError(f'num_draft must be at least 1, not {num_draft}.')

  def init(params, prompt, prefilled, *, capacity):
    del prefilled
    return lm.prefill(params, prompt, capacity=capacity).cache

  def draw(logits, context, path, index):
    """Draws slot `index` from logits [B, V]; returns tokens and log q."""
    path_length = jnp.full((logits.shape[0], 1), index, jnp.int32)
    logits = warp_lib.warp(
      warp, logits[:, None], context, path[:, None], path_length
    )[:, 0]
    keys = draft_keys(noise, context, index, num_draft)
    if keys is None:
      tokens = sampling.argmax(logits)
    elif noise == 'round':
      tokens = sampling.categorical(logits, keys, 'inverse_cdf')
    else:
      tokens = sampling.categorical(logits, keys, sampler)
    log_probs = jax.nn.log_softmax(logits) if needs_log_probs else None
    return tokens, log_probs

  def propose(params, cache, view):
    context = view.context
    batch = view.last_token.shape[0]
    first = jnp.maximum(context.length - 2, 0)
    cache = lm.commit(cache, first - cache.length)
    pair = _window(context.tokens, first, 2)
    last = (context.length - 1 - first)[:, None]
    scored, cache = lm.extend(params, cache, pair, slots=last)
    cache = lm.commit(cache, context.length - first)
    tokens = jnp.full((batch, num_draft), base.EMPTY, jnp.int32)
    drawn, log_probs = draw(scored.logits[:, 0], context, tokens, 0)
    tokens = tokens.at[:, 0].set(drawn)
    if needs_log_probs:
      kept = jnp.zeros((batch, num_draft) + log_probs.shape[1:], jnp.float32)
      log_probs = kept.at[:, 0].set(log_probs)

    def step(index, carry):
      cache, tokens, log_probs = carry
      fed = lax.dynamic_slice_in_dim(tokens, index - 1, 1, axis=1)
      scored, cache = lm.extend(params, cache, fed)
      cache = lm.commit(cache, jnp.ones((batch,), jnp.int32))
      drawn, row = draw(scored.logits[:, 0], context, tokens, index)
      tokens = lax.dynamic_update_slice_in_dim(
        tokens, drawn[:, None], index, axis=1
      )
      if needs_log_probs:
        log_probs = lax.dynamic_update_slice_in_dim(
          log_probs, row[:, None], index, axis=1
        )
      return cache, tokens, log_probs

    cache, tokens, log_probs = lax.fori_loop(
      1, num_draft, step, (cache, tokens, log_probs)
    )
    return base.Draft(tokens, log_probs), cache

  def observe(params, cache, observation):
    del params, observation
    return cache

  return base.Drafter(init, propose, observe, num_draft, num_draft)


def draft_keys(noise, context, index, num_draft):
  """Keys [B] for the draw of slot `index`, or None to take the argmax."""
  row_key = context.controls.row_key
  if noise == 'argmax':
    return None
  if noise == 'round':
    keys = sampling.node_keys(
      row_key, context.length, num_draft, sampling.DRAFT
    )
    return lax.dynamic_index_in_dim(keys, index, axis=1, keepdims=False)
  role = {'position': sampling.TARGET, 'private': sampling.PRIVATE}[noise]
  position = (context.length + index)[:, None]
  return sampling.position_keys(row_key, position, role)[:, 0]


def _window(tokens, start, width):
  """tokens[b, start[b] : start[b] + width] -> [B, width]."""
  return jax.vmap(lambda row, at: lax.dynamic_slice(row, (at,), (width,)))(
    tokens, start
  )
