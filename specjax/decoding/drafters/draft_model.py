"""A smaller language model that drafts token by token.

References:
  Leviathan et al. 2023, algorithm 1 (the approximation model M_q).
"""

import functools

import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import vocabulary


@functools.cache
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
    style: way of drawing tokens.

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
    # Committed [p q a b], and a fully accepted draft ended with a: the cache
    # has no row of a, which was drawn and never fed.
    # In:  context.length 4, cache.length as the last draft left it
    # Out: first 2; [a b] are fed, cache.length 4, and slot 0 is drawn from b's
    #      logits. One token alone: [b .] are fed, and the second row is junk.
    first = jnp.maximum(context.length - 2, 0)
    # A negative number of rows: rollback is the same function as commit.
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

  rest = dict(insert=lm.insert, network_cache=_cache_of)
  return base.Drafter(init, propose, _observe, num_draft, num_draft, **rest)


def _observe(params, cache, observation):
  """Nothing is learnt.

  The next proposal finds the committed tokens in the context and rolls the
  cache back to them.
  """
  del params, observation
  return cache


def _cache_of(cache):
  """The state is the cache itself."""
  return cache


def check_fit(target: base.CachedLM, drafter: base.CachedLM) -> None:
  """Raises ValueError for a draft model that cannot follow the target."""
  kinds = {True: 'an encoder-decoder', False: 'decoder-only'}
  if target.is_encoder_decoder != drafter.is_encoder_decoder:
    raise ValueError(
      f'The drafter is {kinds[drafter.is_encoder_decoder]} but the target '
      f'is {kinds[target.is_encoder_decoder]}; both must be of one kind.'
    )


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del options, rows
  check_fit(target.lm, source.model.lm)
  known = vocabulary.of(target, source.model)
  return entry.DraftPlan(
    num_draft,
    num_draft,
    has_log_probs=True,
    max_positions=source.model.lm.max_positions,
    notes=known.notes(source.name),
    static=known,
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del config
  return autoregressive(
    vocabulary.fitted(lm, plan.static), plan.num_draft, style
  )


def _params(plan, target, source, data) -> base.PyTree:
  del plan, target, data
  return source.model.params


ENTRY = entry.DrafterEntry(
  'draft_model',
  "a smaller language model with the target's tokenizer, one pass a token",
  _plan,
  _bind,
  _params,
  families=('target',),
  needs_training=True,
)
