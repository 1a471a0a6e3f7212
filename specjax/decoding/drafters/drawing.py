"""Drawing by drafters: keys, tokens, and the honest q of what was drawn.

A drafter makes logits. The token of a slot is chosen here alone, so that every
drafter draws as its verifier requires. There are three ways: one slot, a
sequence whose slots see the tokens before them, and independent slots. Trees
are in `candidates`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import sampling
from specjax.decoding import warp as warp_lib

# How a rule may want tokens drawn; see `base.Verifier`.
NOISES = ('argmax', 'round', 'position', 'private')


class Style(NamedTuple):
  """Manner in which tokens are drawn; see `style_for`.

  Attributes:
    noise: discipline of `base.Verifier`; 'argmax' where nothing is sampled.
    needs_log_probs: whether to keep the distributions drawn from.
    warp: the same switches as the target's, so that p and q are warped alike.
    sampler: sampler of position-keyed noise, as in plain sampling.
    allowed_tokens: ids that may be drafted; () for all.
  """

  noise: str
  needs_log_probs: bool
  warp: warp_lib.WarpSpec
  sampler: str = 'gumbel'
  allowed_tokens: tuple[int, ...] = ()


def style_for(
  verifier: base.Verifier, warp: warp_lib.WarpSpec, sampler: str = 'gumbel'
) -> Style:
  """The style of drafts that a verifier is to judge."""
  return Style(
    verifier.noise if warp.sampled else 'argmax',
    verifier.needs_log_probs,
    warp,
    sampler,
  )


def slot_keys(
  noise: str, context: base.Context, slots: base.Array
) -> base.Array | None:
  """Keys of the draws of some slots.

  Args:
    noise: discipline of `base.Verifier`.
    context: committed tokens and controls; its length keys the round.
    slots: int32 [n]; 'round' noise is keyed by them as nodes, the others by
      the position `context.length + slots`.

  Returns:
    Typed keys [B, n], or None to take the argmax.
  """
  # length 7, slots [0 1]: 'round' keys nodes 0 and 1 of the round that starts
  # at 7, the others key positions 7 and 8.
  row_key = context.controls.row_key
  if noise == 'argmax':
    return None
  if noise == 'round':
    roles = jnp.full_like(slots, sampling.DRAFT)
    return sampling.round_keys(row_key, context.length, slots, roles)
  role = {'position': sampling.TARGET, 'private': sampling.PRIVATE}[noise]
  return sampling.position_keys(row_key, context.length[:, None] + slots, role)


def warped(
  logits: base.Array, context: base.Context, style: Style, *history: Any
) -> base.Array:
  """The logits of the law that tokens are drawn from, float32 [B, n, V].

  Args:
    logits: float32 [B, n, V], of the network.
    context: committed tokens and controls.
    style: way of drawing tokens.
    *history: drafted tokens before each slot, as `warp.warp` takes them.
  """
  if style.allowed_tokens:
    allowed = np.isin(np.arange(logits.shape[-1]), style.allowed_tokens)
    logits = jnp.where(allowed, logits, -jnp.inf)
  return warp_lib.warp(style.warp, logits, context, *history)


def unseen(logits: base.Array) -> tuple[None, base.Array]:
  """History of slots that do not see the draft tokens in front of them.

  Args:
    logits: [B, n, V], of slots at depths 0, 1, ...

  Returns:
    (None, int32 [B, n]): the tokens are unknown, but not how many they are.
  """
  depth = jnp.arange(logits.shape[1], dtype=jnp.int32)
  return None, jnp.broadcast_to(depth, logits.shape[:2])


def _tokens(logits, context, slots, style: Style):
  """int32 [B, n], drawn from warped logits [B, n, V] of slots [n]."""
  keys = slot_keys(style.noise, context, slots)
  if keys is None:
    return sampling.argmax(logits)
  # Round noise is shared with nobody, so the faster sampler serves; noise by
  # position has to be that of plain sampling.
  sampler = 'inverse_cdf' if style.noise == 'round' else style.sampler
  return sampling.categorical(logits, keys, sampler)


def one(
  logits: base.Array,
  context: base.Context,
  path: base.Array,
  index: Any,
  style: Style,
) -> tuple[base.Array, base.Array | None]:
  """Draws one slot, whose history are the slots before it.

  Args:
    logits: float32 [B, V].
    context: committed tokens and controls.
    path: int32 [B, K]; the first `index` tokens count.
    index: the slot, an int or int32 [].
    style: way of drawing tokens.

  Returns:
    int32 [B], and log q float32 [B, V], or None if the style needs none.
  """
  # Slot 2 of [a b . .]: its history is [a b], as the penalties need it.
  count = jnp.full((logits.shape[0], 1), index, jnp.int32)
  logits = warped(logits[:, None], context, style, path[:, None], count)
  slots = jnp.full((1,), index, jnp.int32)
  tokens = _tokens(logits, context, slots, style)[:, 0]
  if not style.needs_log_probs:
    return tokens, None
  return tokens, jax.nn.log_softmax(logits[:, 0])


def sequence(
  logits: base.Array,
  step: Callable[..., Any],
  state: base.PyTree,
  context: base.Context,
  num_draft: int,
  style: Style,
) -> tuple[base.Draft, base.PyTree]:
  """Draws token by token, each known to what draws the next.

  Args:
    logits: float32 [B, V], of the first slot.
    step: `(state, tokens int32 [B, 1]) -> (logits float32 [B, V], state)`: of
      the slot after the token just drawn.
    state: first argument of the first `step`.
    context: committed tokens and controls.
    num_draft: K, static.
    style: way of drawing tokens.

  Returns:
    `Draft` of a chain, and the last state. The last token is not fed.
  """
  batch = logits.shape[0]
  tokens = jnp.full((batch, num_draft), base.EMPTY, jnp.int32)
  log_probs = None
  if style.needs_log_probs:
    log_probs = jnp.zeros((batch, num_draft, logits.shape[-1]), jnp.float32)

  def put(logits, tokens, log_probs, index):
    drawn, row = one(logits, context, tokens, index, style)
    tokens = lax.dynamic_update_slice_in_dim(
      tokens, drawn[:, None], index, axis=1
    )
    if style.needs_log_probs:
      log_probs = lax.dynamic_update_slice_in_dim(
        log_probs, row[:, None], index, axis=1
      )
    return tokens, log_probs

  def advance(index, carry):
    state, tokens, log_probs = carry
    # Slot i needs the token of slot i - 1; that of the last slot is never fed.
    fed = lax.dynamic_slice_in_dim(tokens, index - 1, 1, axis=1)
    logits, state = step(state, fed)
    return state, *put(logits, tokens, log_probs, index)

  state, tokens, log_probs = lax.fori_loop(
    1, num_draft, advance, (state, *put(logits, tokens, log_probs, 0))
  )
  return base.Draft(tokens, log_probs), state


def chain(
  logits: base.Array, context: base.Context, style: Style
) -> base.Draft:
  """Draws every slot on its own.

  Args:
    logits: float32 [B, K, V], of independent slots.
    context: committed tokens and controls. Penalties see this history alone, so
      q differs from the target's p behind the first slot; it is honest all the
      same.
    style: way of drawing tokens.
  """
  logits = warped(logits, context, style, *unseen(logits))
  tokens = _tokens(logits, context, jnp.arange(logits.shape[1]), style)
  log_probs = jax.nn.log_softmax(logits) if style.needs_log_probs else None
  return base.Draft(tokens, log_probs)


def window(tokens: base.Array, start: base.Array, width: int) -> base.Array:
  """tokens[b, start[b] : start[b] + width] of int32 [B, L]: [B, width].

  A window that would reach over the end is moved back until it fits.
  """
  # [a b c d], start 3, width 2: [c d]
  return jax.vmap(lambda row, at: lax.dynamic_slice(row, (at,), (width,)))(
    tokens, start
  )
