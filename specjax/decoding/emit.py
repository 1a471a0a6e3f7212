"""Emission: the tokens of a verdict that reach the buffer.

End tokens, budgets and finished rows are handled here alone.
"""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import processors
from specjax.decoding.state import DecodeState
from specjax.decoding.state import EOS
from specjax.decoding.state import LENGTH
from specjax.decoding.state import NAN
from specjax.decoding.state import Rounds
from specjax.decoding.state import RUNNING


class Emission(NamedTuple):
  """Tokens that survive end tokens, budgets and finished rows."""

  tokens: base.Array  # [B, P + 1]
  count: base.Array  # [B]
  status: base.Array  # [B]


def emit(
  state: DecodeState,
  draft: base.Draft,
  verdict: base.Verdict,
  finite: base.Array,
) -> Emission:
  """Cuts a verdict at end tokens and budgets; finished rows emit nothing.

  Args:
    state: state before the round.
    draft: the proposal.
    verdict: the verifier's decision on it.
    finite: bool [B, T], whether a slot's logits can be trusted.

  Returns:
    `Emission` of at most P + 1 tokens a row.
  """
  # draft [a b c], 2 accepted, next token x: tokens [a b x 0], count 3
  # where b is an end token:                 count 2, status EOS
  # where 2 tokens are left of the budget:   count 2, status LENGTH
  drafted = draft.tokens
  if verdict.path is not None:
    # A path holds slots of the block: path [1 3] of [a b c] is [a c].
    drafted = jnp.take_along_axis(
      drafted, jnp.maximum(verdict.path - 1, 0), axis=1
    )
  num_accepted = verdict.num_accepted[:, None]
  slot = jnp.arange(drafted.shape[1] + 1)[None]
  tokens = jnp.where(
    slot < num_accepted,
    jnp.pad(drafted, ((0, 0), (0, 1))),
    jnp.where(slot == num_accepted, verdict.next_token[:, None], 0),
  )
  controls = state.context.controls
  is_end = processors.is_end(tokens, controls.eos_ids) & (slot <= num_accepted)
  first_end = jnp.argmax(is_end, axis=1)
  has_end = jnp.any(is_end, axis=1)
  # tokens [a E x], E an end token: is_end [0 1 0], first_end 1, count 2
  produced = state.context.length - state.context.prompt_length
  count = jnp.where(has_end, first_end + 1, verdict.num_accepted + 1)
  count = jnp.minimum(count, controls.max_new_tokens - produced)
  has_end &= first_end < count

  bad = ~jnp.all(finite | ~_judged(verdict, finite.shape[1]), axis=1)
  live = state.status == RUNNING
  count = jnp.where(live & ~bad, count, 0)
  # An end token that is the last of the budget ends the row as EOS, so the
  # later assignment below wins; NaN wins over both.
  spent = produced + count >= controls.max_new_tokens
  status = jnp.where(spent, LENGTH, RUNNING)
  status = jnp.where(has_end, EOS, status)
  status = jnp.where(bad, NAN, status)
  status = jnp.where(live, status, state.status)
  return Emission(tokens, count, status)


def _judged(verdict: base.Verdict, width: int) -> base.Array:
  """bool [B, T]: slots whose logits decided an emitted token."""
  # chain of 4 slots, 2 accepted:            [1 1 1 0]
  # tree of 5 slots, path [1 3], 2 accepted: [1 1 0 1 0]
  slot = jnp.arange(width)[None]
  if verdict.path is None:
    return slot <= verdict.num_accepted[:, None]
  step = jnp.arange(verdict.path.shape[1])[None]
  path = jnp.where(step < verdict.num_accepted[:, None], verdict.path, 0)
  return jnp.any(slot[..., None] == path[:, None], axis=-1) | (slot == 0)


def finite(logits: base.Array) -> base.Array:
  """bool [B, T]: no NaN among a slot's logits, and a finite largest one."""
  return jnp.isfinite(jnp.max(logits, axis=-1))


def advance(
  state: DecodeState, emission: Emission, **trace: base.Array
) -> DecodeState:
  """Writes a round's tokens, status and trace into the state.

  Args:
    state: state before the round.
    emission: result of `emit`.
    **trace: int32 [B] of the round, `drafted` and `accepted` of `Rounds`.

  Returns:
    The state after it, with the cache and the drafter of before.
  """
  context, count = state.context, emission.count
  return state.replace(
    context=context.replace(
      tokens=write(context.tokens, emission.tokens, context.length, count),
      length=context.length + count,
    ),
    last_token=jnp.where(
      count > 0,
      take(emission.tokens, jnp.maximum(count - 1, 0)),
      state.last_token,
    ),
    status=emission.status,
    num_rounds=state.num_rounds + 1,
    row_rounds=state.row_rounds + (state.status == RUNNING),
    rounds=record(state.rounds, state.row_rounds, emitted=count, **trace),
  )


def record(rounds: Rounds, index: base.Array, **columns: Any) -> Rounds:
  """Writes one column of the trace, at `index` int32 [B] of each row."""

  # A row that is done has no column left where it used up all of them.
  @jax.vmap
  def put(row, place, value):
    return row.at[place].set(value.astype(row.dtype), mode='drop')

  return Rounds(
    **{
      name: put(getattr(rounds, name), index, column)
      for name, column in columns.items()
    }
  )


def leading(draft: base.Draft, width: int) -> base.Draft:
  """The first `width` slots of a draft."""
  return base.Draft(
    draft.tokens[:, :width],
    None if draft.log_probs is None else draft.log_probs[:, :width],
    jax.tree.map(lambda x: x[:, : width + 1], draft.tree),
  )


def pad(rows: base.Array, width: int) -> base.Array:
  """Zeros behind rows [B, n, ...] up to `width`."""
  # [[a b]] to width 4: [[a b 0 0]]
  missing = width - rows.shape[1]
  return jnp.pad(rows, [(0, 0), (0, missing)] + [(0, 0)] * (rows.ndim - 2))


def along_path(hidden: tuple, verdict: base.Verdict, longest: int) -> tuple:
  """States at slot 0 and along the accepted path: tuple of [B, P + 1, D].

  Args:
    hidden: states [B, T, D] of the block's slots.
    verdict: decision on the draft.
    longest: P.
  """
  if verdict.path is None:
    return tuple(pad(states, longest + 1) for states in hidden)
  # path [1 3]: the states of slots 0, 1 and 3
  slots = jnp.pad(verdict.path, ((0, 0), (1, 0)))
  return tuple(
    jnp.take_along_axis(states, slots[..., None], axis=1) for states in hidden
  )


def take(rows: base.Array, index: base.Array) -> base.Array:
  """rows[b, index[b]]."""
  return jnp.take_along_axis(rows, index[:, None], axis=1)[:, 0]


def write(
  buffer: base.Array, rows: base.Array, start: base.Array, count: base.Array
) -> base.Array:
  """Writes the first count[b] entries of rows[b] at start[b], in place."""

  # buffer [a b 0 0 0], rows [x y z], start 2, count 2: [a b x y 0]
  # A slice has a static width, so its tail writes the old entries again.
  def write_row(buffer, row, start, count):
    old = lax.dynamic_slice(buffer, (start,), row.shape)
    new = jnp.where(jnp.arange(row.shape[0]) < count, row, old)
    return lax.dynamic_update_slice(buffer, new, (start,))

  return jax.vmap(write_row)(buffer, rows, start, count)
