"""A drafter of a chosen acceptance rate, for timing the loop.

It is given the target's own greedy continuation and spoils each token with a
chosen probability. Nothing is learned from its output, which is the target's;
its use is to measure what a drafter of that quality and no cost would bring.
"""

import functools

from flax import struct
import jax.numpy as jnp

from specjax import base
from specjax.decoding import sampling
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry
from specjax.models.common import rows as rows_lib


@struct.dataclass
class Script:
  """Parameters of `simulated`.

  Attributes:
    continuation: int32 [B, N], the target's greedy new tokens.
    acceptance: float32 [], probability that a slot is left as it is.
  """

  continuation: base.Array
  acceptance: base.Array


@functools.cache
def simulated(*, num_draft: int, vocab_size: int) -> base.Drafter:
  """Proposes the script, each slot spoiled independently.

  Args:
    num_draft: K, at least 1.
    vocab_size: V; a spoiled token t becomes (t + 1) mod V.

  Returns:
    A drafter of point masses whose params are a `Script`.
  """

  def init(script, prompt, prefilled, *, capacity):
    del prompt, prefilled, capacity
    # In the state, where a row that takes a finished one's place has its own.
    return script.continuation

  def propose(script, state, view):
    context = view.context
    produced = context.length - context.prompt_length
    # Near its end the script has fewer than K tokens left; a slice that does
    # not fit would be moved back, onto tokens that were emitted already.
    padded = jnp.pad(state, ((0, 0), (0, num_draft)))
    tokens = drawing.window(padded, produced, num_draft)
    keys = drawing.slot_keys('round', context, jnp.arange(num_draft))
    kept = sampling.uniform(keys) < script.acceptance
    # Continuation [a b c d], two emitted, K = 2, slot 1 spoiled: draft [c d+1].
    # Spoiling by chance and not by place gives i.i.d. acceptance, which is what
    # formulas of expected speed assume.
    spoiled = (tokens + 1) % vocab_size
    return base.Draft(jnp.where(kept, tokens, spoiled)), state

  def observe(script, state, observation):
    del script, observation
    return state

  return base.Drafter(
    init, propose, observe, num_draft, num_draft, insert=rows_lib.insert
  )


def _parse(text: str, resolve) -> tuple[None, float]:
  del resolve
  try:
    rate = float(text)
  except ValueError:
    rate = -1.0
  if not 0 <= rate <= 1:
    raise ValueError(
      f"'simulated:{text}' must name an acceptance rate from 0 to 1, such as "
      'simulated:0.8.'
    )
  return None, rate


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del source, options, rows
  return entry.DraftPlan(
    num_draft,
    num_draft,
    needs_target_sample=True,
    reads_script=True,
    static=target.lm.vocab_size,
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del lm, config, style
  return simulated(num_draft=plan.num_draft, vocab_size=plan.static)


def _params(plan, target, source, data) -> Script:
  del plan, target
  if data.script is None:
    raise ValueError(
      f"{source.name} copies the target's own answers, which only "
      'decode.benchmark makes beforehand; take another drafter.'
    )
  return Script(data.script, jnp.float32(source.given))


ENTRY = entry.DrafterEntry(
  'simulated',
  "the target's own answers, each token right at this rate: a drafter "
  'without cost, for measurements',
  _plan,
  _bind,
  _params,
  takes='RATE',
  parse=_parse,
)
