"""Helpers that the rules share. Shapes: draft [B, K], logits [B, K + 1, V]."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.decoding import sampling


def check(draft: Draft, logits: Array, name: str) -> None:
  """Raises ValueError unless the draft is a chain that fits the logits."""
  if draft.tree is not None:
    raise ValueError(
      f'The rule {name!r} verifies chains, but the draft is a tree.'
    )
  slots = draft.tokens.shape[1] + 1
  if logits.shape[1] != slots:
    raise ValueError(
      f'A draft of {slots - 1} tokens needs logits of {slots} slots, '
      f'not of {logits.shape[1]}.'
    )


def check_tree(draft: Draft, name: str) -> None:
  """Raises ValueError unless the draft is a tree."""
  if draft.tree is None:
    raise ValueError(
      f'This form of the rule {name!r} verifies trees, but the draft is a '
      'chain.'
    )


def filled(draft: Draft) -> Array:
  """bool [B, K]: slots before the first empty one."""
  # tokens [a b EMPTY EMPTY]: [1 1 0 0]
  return jnp.cumprod(draft.tokens >= 0, axis=1).astype(bool)


def count_leading(ok: Array) -> Array:
  """int32 [B]: how many leading entries of bool [B, K] are True."""
  # [1 1 0 1]: 2
  return jnp.cumprod(ok, axis=1, dtype=jnp.int32).sum(axis=1)


def agrees(draft: Draft, logits: Array, target: Array) -> Array:
  """bool [B, K]: slots whose draft token equals `target` int32 [B, T].

  An empty slot equals no token, and a target chosen by a NaN agrees with none.
  """
  # draft [a b c], target [a b x y]: [1 1 0]
  sound = ~jnp.isnan(at_tokens(logits, target))
  return (target[:, :-1] == draft.tokens) & sound[:, :-1]


def take_slot(x: Array, slot: Array) -> Array:
  """x[b, slot[b]] for x [B, n, ...] and slot int32 [B]."""
  # x [[p q r] [s t u]], slot [2 0]: [r s]
  index = slot.reshape(-1, *([1] * (x.ndim - 1)))
  return jnp.take_along_axis(x, index, axis=1)[:, 0]


def put(rows: Array, place: Array, value: Array, when: Array) -> Array:
  """rows[b, place[b]] = value[b] where `when`.

  Args:
    rows: [B, n, ...].
    place: int32 [B].
    value: [B, ...].
    when: bool [B].
  """
  # rows [r0 r1 r2], place 1, value v: [r0 v r2]
  here = (jnp.arange(rows.shape[1]) == place[:, None]) & when[:, None]
  here = here.reshape(*here.shape, *([1] * (rows.ndim - 2)))
  return jnp.where(here, value[:, None], rows)


def at_tokens(x: Array, tokens: Array) -> Array:
  """x[b, k, tokens[b, k]] for x [B, K, V]; meaningless at empty slots.

  The id is clamped, as -1 would read the last entry of the vocabulary; whoever
  calls this masks empty slots.
  """
  index = jnp.maximum(tokens, 0)[..., None]
  return jnp.take_along_axis(x, index, axis=-1)[..., 0]


def target_samples(
  context: Context, logits: Array, depth: Array, sampler: str
) -> Array:
  """The target's own tokens, int32 [B, n], by position-keyed noise.

  This *is* plain sampling: the token after a slot of depth d will stand at
  position length + d, and its noise depends on the row and on that position
  alone.

  Args:
    context: committed tokens and controls.
    logits: float32 [B, n, V].
    depth: int32 [n] or [B, n], of the slots.
    sampler: sampler of plain sampling.
  """
  # length 5, a chain of depths [0 1 2]: positions [5 6 7]. The same position
  # has the same key in a later round, so a token that was not reached is drawn
  # alike when it is.
  keys = sampling.position_keys(
    context.controls.row_key, context.length[:, None] + depth, sampling.TARGET
  )
  return sampling.categorical(logits, keys, sampler)


def round_noise(context: Context, num_draft: int) -> tuple[Array, Array]:
  """This round's randomness for a ratio rule.

  Returns:
    Uniforms [B, K] of the acceptance tests, and the keys [B] of the token that
    follows. One such token a round, so node 0 serves whatever its slot.
  """
  # K = 3: nodes [0 1 2 0], roles [ACCEPT ACCEPT ACCEPT RESIDUAL]. The round is
  # named by the committed length and not by a counter, so that a row's noise
  # depends on its own text alone.
  keys = sampling.round_keys(
    context.controls.row_key,
    context.length,
    jnp.asarray([*range(num_draft), 0]),
    jnp.asarray([sampling.ACCEPT] * num_draft + [sampling.RESIDUAL]),
  )
  return sampling.uniform(keys[:, :num_draft]), keys[:, num_draft]


def probabilities_at(draft: Draft, logits: Array) -> tuple[Array, Array, Array]:
  """p and q of the drafted tokens, and the target's log normalisers.

  Returns:
    p float32 [B, K], q float32 [B, K] (ones for a point mass), both meaningless
    at empty slots, and log_normaliser float32 [B, T]. A one-hot row gives
    exactly 0 or 1.
  """
  # Two numbers a slot. A softmax over [B, T, V] would be written and read once
  # more, and only entries of drafted tokens are needed.
  log_normaliser = jax.nn.logsumexp(logits, axis=-1)
  num_draft = draft.tokens.shape[1]
  p = jnp.exp(
    at_tokens(logits[:, :num_draft], draft.tokens)
    - log_normaliser[:, :num_draft]
  )
  if draft.log_probs is None:
    return p, jnp.ones_like(p), log_normaliser
  return p, jnp.exp(at_tokens(draft.log_probs, draft.tokens)), log_normaliser


def draft_row(draft: Draft, slot: Array, vocab_size: int) -> Array:
  """q of one slot a row, float32 [B, V]; 0 where the slot proposes nothing."""
  batch, num_draft = draft.tokens.shape
  if num_draft == 0:
    return jnp.zeros((batch, vocab_size), jnp.float32)
  # slot K, behind a fully accepted draft, has no q; it reads K - 1 and is
  # masked.
  inside = jnp.minimum(slot, num_draft - 1)
  token = take_slot(draft.tokens, inside)
  if draft.log_probs is None:
    q = (token[:, None] == jnp.arange(vocab_size)).astype(jnp.float32)
  else:
    q = jnp.exp(take_slot(draft.log_probs, inside))
  proposed = (slot < num_draft) & (token >= 0)
  return jnp.where(proposed[:, None], q, 0.0)


def next_from_residual(
  keys: Array,
  draft: Draft,
  logits: Array,
  log_normaliser: Array,
  slot: Array,
  *,
  p_scale: Array,
  q_scale: Array,
) -> Array:
  """Draws the token after the accepted ones, int32 [B].

  From (p_scale * p - q_scale * q)+ at a slot where the draft was refused, and
  from p itself at a slot where nothing was proposed (the bonus). Weights stay
  unnormalised; should rounding leave no mass at all, p is drawn from.

  Args:
    keys: typed keys [B].
    draft: the draft.
    logits: float32 [B, T, V].
    log_normaliser: float32 [B, T].
    slot: int32 [B], the number of accepted tokens.
    p_scale: float32 [B].
    q_scale: float32 [B].
  """
  p = jnp.exp(
    take_slot(logits, slot) - take_slot(log_normaliser, slot)[:, None]
  )
  q = draft_row(draft, slot, logits.shape[-1])
  # p [.5 .5], q [.8 .2], scales 1: weights [0 .3], so token 1 is drawn.
  weights = jnp.maximum(p_scale[:, None] * p - q_scale[:, None] * q, 0.0)
  weights = jnp.where((weights.sum(axis=-1) > 0)[:, None], weights, p)
  return sampling.draw(weights, keys)


def for_paths(
  chain: Callable[..., Any], tree: Callable[..., Any], max_path: int
) -> Callable[..., Any]:
  """A rule's function for chains, or that for trees of depth `max_path` > 0."""
  return functools.partial(tree, max_path=max_path) if max_path else chain
