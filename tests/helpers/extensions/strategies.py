"""A drafter without parameters, and a rule with a dial."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import sampling
from specjax.decoding.drafters import entry as drafter_entry
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers import entry as verifier_entry
from specjax.decoding.verifiers import registry as verifier_registry


@dataclasses.dataclass
class EchoOptions:
  """Options of `echo`.

  Attributes:
    back: number of tokens between a copied one and its copy.
  """

  back: int = 2

  def validate(self) -> None:
    if self.back < 1:
      raise ValueError(f'drafters.echo.back must be 1 or more: {self.back}.')


def _plan(target, source, options, num_draft, rows):
  del target, source, rows
  return drafter_entry.DraftPlan(num_draft, num_draft, static=options.back)


def _bind(lm, config, plan, style):
  del lm, config, style

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    del params
    at = view.context.length[:, None] - plan.static
    at = at + jnp.arange(plan.num_draft) % plan.static
    tokens = jnp.take_along_axis(
      view.context.tokens, jnp.maximum(at, 0), axis=1
    )
    return base.Draft(jnp.where(at >= 0, tokens, base.EMPTY)), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(init, propose, observe, plan.num_draft, plan.max_path)


ECHO = drafter_entry.DrafterEntry(
  'echo', 'repeats earlier tokens', _plan, _bind, options=EchoOptions
)


@dataclasses.dataclass
class GapOptions:
  """Options of `gap`.

  Attributes:
    gap: a token is kept if its logit is within this of the best; 0 is exact.
  """

  gap: float = 0.0

  def validate(self) -> None:
    if not np.all(np.asarray(self.gap) >= 0):
      raise ValueError(f'verifiers.gap.gap must be at least 0, not {self.gap}.')


def _verify(context, draft, logits):
  best = jnp.max(logits, axis=-1)[:, :-1]
  mine = common.at_tokens(logits[:, :-1], draft.tokens)
  kept = mine >= best - context.controls.rule['gap'][:, None]
  count = common.count_leading(kept & common.filled(draft))
  token = common.take_slot(sampling.argmax(logits), count)
  return base.Verdict(count, token)


@functools.cache
def _make(sampler, max_path, static):
  del sampler, max_path, static
  return base.Verifier(_verify)


GAP = verifier_entry.VerifierEntry(
  'gap',
  'lossy: what is nearly the best',
  _make,
  GapOptions,
  requires_zero_temperature=True,
  greedy_at_zero=False,
  wants_one_hot=False,
  exact_for='argmax',
  exact_when=lambda options: options.gap == 0,
)


def register() -> None:
  """Makes both known."""
  drafter_registry.register(ECHO)
  verifier_registry.register(GAP)
