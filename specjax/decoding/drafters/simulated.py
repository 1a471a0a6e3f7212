"""A drafter of a chosen acceptance rate, for timing the loop.

It is told the target's own greedy continuation and spoils each token with a
chosen probability. Nothing is learned from its output, which is the target's;
its use is to measure what a drafter of that quality and no cost would bring.
"""

import functools

from flax import struct
import jax.numpy as jnp

from specjax import base
from specjax.decoding import sampling
from specjax.decoding.drafters import drawing


@struct.dataclass
class Script:
  """Parameters of `simulated`.

  Attributes:
    continuation: int32 [B, N], the target's greedy new tokens.
    acceptance: float32 [], probability that a slot is left as it is.
  """

  continuation: base.Array
  acceptance: base.Array


@functools.lru_cache(maxsize=None)
def simulated(*, num_draft: int, vocab_size: int) -> base.Drafter:
  """Proposes the script, each slot spoiled independently.

  Args:
    num_draft: K, at least 1.
    vocab_size: V; a spoiled token t becomes (t + 1) mod V.

  Returns:
    A drafter of point masses whose params are a `Script`.
  """

  def init(script, prompt, prefilled, *, capacity):
    del script, prompt, prefilled, capacity
    return ()

  def propose(script, state, view):
    context = view.context
    produced = context.length - context.prompt_length
    padded = jnp.pad(script.continuation, ((0, 0), (0, num_draft)))
    tokens = drawing.window(padded, produced, num_draft)
    keys = drawing.slot_keys('round', context, jnp.arange(num_draft))
    kept = sampling.uniform(keys) < script.acceptance
    spoiled = (tokens + 1) % vocab_size
    return base.Draft(jnp.where(kept, tokens, spoiled)), state

  def observe(script, state, observation):
    del script, observation
    return state

  return base.Drafter(init, propose, observe, num_draft, num_draft)
