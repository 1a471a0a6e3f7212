"""Log probabilities of emitted tokens under the target as it is.

They come from the target's logits before the warp, at the slot that predicted
a token, so they depend on neither settings nor drafts.
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import emit
from specjax.decoding.state import DecodeState


@struct.dataclass
class LogProbs:
  """Log probabilities of new tokens, by their place in the answer.

  Attributes:
    chosen: float32 [B, W], of the tokens themselves.
    best: float32 [B, W, N], of the N likeliest tokens, the likeliest first.
    best_ids: int32 [B, W, N], these tokens.
  """

  chosen: base.Array
  best: base.Array
  best_ids: base.Array


def empty(number: int | None, batch: int, width: int) -> LogProbs | None:
  """Log probabilities of no tokens yet.

  Args:
    number: N; None for none at all.
    batch: B.
    width: W, most tokens of an answer.
  """
  if number is None:
    return None
  best = (batch, width, number)
  return LogProbs(
    jnp.zeros((batch, width), jnp.float32),
    jnp.zeros(best, jnp.float32),
    jnp.zeros(best, jnp.int32),
  )


def of(logits: base.Array, tokens: base.Array, number: int) -> LogProbs:
  """Log probabilities of tokens, and of the likeliest in their places.

  Args:
    logits: [B, n, V], the target's own.
    tokens: int32 [B, n].
    number: N.

  Returns:
    `LogProbs` of n columns.
  """
  found = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  chosen = jnp.take_along_axis(found, tokens[..., None], axis=-1)[..., 0]
  return LogProbs(chosen, *lax.top_k(found, number))


def record(
  state: DecodeState,
  logits: base.Array,
  verdict: base.Verdict,
  emission: emit.Emission,
) -> DecodeState:
  """Writes those of a round's tokens.

  Args:
    state: state before the round.
    logits: [B, T, V], the target's own.
    verdict: decision on the draft.
    emission: tokens that the round emits.

  Returns:
    The state with them; itself where none are wanted.
  """
  kept, tokens = state.log_probs, emission.tokens
  if kept is None:
    return state
  width, begin = tokens.shape[1], state.context.length
  begin -= state.context.prompt_length
  # Block [x a b c] as a tree, path [1 3]: tokens [a c y] were predicted by the
  # slots 0, 1 and 3. In a chain slot i predicted token i.
  (rows,) = emit.along_path((logits,), verdict, width - 1)
  new = of(rows, tokens, kept.best.shape[-1])
  # Answer [p q . . .], emitted [a b 0], count 2: columns [2 3 5], and what
  # would stand in column 5, behind the end, is dropped.
  step = jnp.arange(width)
  column = jnp.where(
    step < emission.count[:, None],
    begin[:, None] + step,
    kept.chosen.shape[1],
  )
  row = jnp.arange(len(tokens))[:, None]

  def written(buffer, new):
    return buffer.at[row, column].set(new.astype(buffer.dtype), mode='drop')

  return state.replace(log_probs=jax.tree.map(written, kept, new))
