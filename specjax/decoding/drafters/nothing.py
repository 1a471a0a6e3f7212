"""The drafter that proposes nothing: plain decoding, on the same loop."""

import functools

import jax.numpy as jnp

from specjax import base
from specjax.decoding.drafters import entry
from specjax.models.common import rows as rows_lib


@functools.cache
def nothing() -> base.Drafter:
  """Returns a drafter with no slots, so that each round is a plain step."""

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    del params
    batch = view.last_token.shape[0]
    return base.Draft(jnp.zeros((batch, 0), jnp.int32)), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(
    init, propose, observe, num_draft=0, max_path=0, insert=rows_lib.insert
  )


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del target, source, options, num_draft, rows
  return entry.DraftPlan(0, 0)


def _bind(lm, config, plan, style) -> base.Drafter:
  del lm, config, plan, style
  return nothing()


ENTRY = entry.DrafterEntry(
  'none', 'no draft: plain decoding', _plan, _bind, drafts=False
)
