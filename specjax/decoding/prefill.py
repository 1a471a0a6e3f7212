"""Prompts that are read in pieces, and what they share read once.

The attention scores of a whole prompt grow with the square of its length, those
of a piece with the piece times the length. So a prompt wider than a chunk is
read chunk by chunk behind what is in the cache already, as any other block.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base

# Width of a piece unless somebody asks for another.
CHUNK = 512


def in_pieces(
  read: Callable[[Any, base.Array, int], Any],
  carry: base.PyTree,
  span: tuple[int, int],
  chunk: int,
  longest: base.Array,
) -> base.PyTree:
  """Reads the columns of a prompt piece by piece.

  Args:
    read: (carry, start int32 [], size) -> carry, for `size` columns from
      `start` on. A column may be read twice.
    carry: first argument of the first `read`.
    span: (first column, end), static.
    chunk: widest piece, static.
    longest: int32 [], pieces that begin here or later are left out.

  Returns:
    The last carry.
  """
  # Columns 4 to 14, chunk 4: pieces [4, 8) [8, 12) [10, 14). The last one is
  # moved back to fit, and makes the same keys and values once more.
  begin, end = span
  size = min(chunk, end - begin)

  def piece(index, carry):
    start = jnp.minimum(begin + index * size, end - size)
    return read(carry, start.astype(jnp.int32), size)

  count = -(-jnp.clip(longest - begin, 0, end - begin) // size)
  return lax.fori_loop(0, count, piece, carry)


@functools.cache
def of_lm(lm: base.CachedLM, chunk: int = CHUNK) -> base.CachedLM:
  """The model, with long prompts in pieces and what rows share read once.

  An encoder sees its source from both sides and is not read in pieces.

  Args:
    lm: the model.
    chunk: widest piece, in tokens.

  Returns:
    The same one for equal arguments.
  """

  def prefill(params, prompt, *, capacity):
    each, shared = each_once(prompt), prompt.shared
    if lm.select is None:
      each, shared = base.Prompt(prompt.tokens, prompt.length), None
    begun = shared and shared.begun
    if begun is not None:
      begun = _rows(lm, begun, jnp.zeros_like(each.length))
      held = jnp.full_like(each.length, shared.columns - 1)
      how = dict(begin=shared.columns, chunk=chunk, held=held)
      made = behind(lm, params, begun, each, **how)
    else:
      made = _read(lm, params, each, capacity, chunk)
    if shared is None or shared.copy_of is None:
      return made
    return _rows(lm, made, shared.copy_of)

  return lm._replace(prefill=prefill)


def each_once(prompt: base.Prompt) -> base.Prompt:
  """The prompts that differ, [U] rows; all rows where none is known to be."""
  if prompt.shared is None or prompt.shared.first is None:
    return base.Prompt(prompt.tokens, prompt.length)
  rows = prompt.shared.first
  return base.Prompt(prompt.tokens[rows], prompt.length[rows])


def copied(tree: base.PyTree, prompt: base.Prompt) -> base.PyTree:
  """Rows [B] of what was made of `each_once(prompt)`.

  Args:
    tree: arrays that begin with the rows, [U, ...] or [U * H, ...].
    prompt: the prompts of all rows.
  """
  if prompt.shared is None or prompt.shared.copy_of is None:
    return tree
  count, rows = prompt.shared.first.shape[0], prompt.shared.copy_of

  # Two rows of two heads [a a b b], copy_of [0 1 0]: [a a b b a a]
  def gather(x):
    heads = x.shape[0] // count
    index = rows[:, None] * heads + jnp.arange(heads, dtype=rows.dtype)
    return jnp.take(x, index.reshape(-1), axis=0, mode='clip')

  return jax.tree.map(gather, tree)


def for_drafter(drafter: base.Drafter, prompt: base.Prompt) -> base.Prompt:
  """The prompts as the drafter reads them, behind its own network's cache."""
  shared = prompt.shared
  if shared is None or shared.begun is None:
    return prompt
  if drafter.network_cache is not None:
    begun = base.Prefilled(shared.drafter, shared.begun.last_token)
    return prompt.replace(shared=shared.replace(begun=begun, drafter=None))
  # Where nothing is left, a state that holds the prompt has one structure
  # whether or not its prompts begin alike.
  left = None
  if shared.first is not None:
    left = base.Shared(shared.first, shared.copy_of)
  return prompt.replace(shared=left)


def _read(lm, params, prompt, capacity, chunk: int) -> base.Prefilled:
  """Reads whole prompts."""
  if prompt.tokens.shape[1] <= chunk or lm.is_encoder_decoder:
    return lm.prefill(params, prompt, capacity=capacity)
  first = base.Prompt(
    prompt.tokens[:, :chunk], jnp.minimum(prompt.length, chunk)
  )
  begun = lm.prefill(params, first, capacity=capacity)
  how = dict(begin=chunk, chunk=chunk, held=first.length - 1)
  return behind(lm, params, begun, prompt, **how)


def _rows(lm, made: base.Prefilled, rows) -> base.Prefilled:
  """Gathers rows of what a model made of prompts."""
  return base.Prefilled(
    lm.select(made.cache, rows),
    made.last_token[rows],
    tuple(states[rows] for states in made.hidden),
  )


def behind(
  lm: base.CachedLM,
  params: base.PyTree,
  begun: base.Prefilled,
  prompt: base.Prompt,
  *,
  begin: int,
  chunk: int,
  held: base.Array,
) -> base.Prefilled:
  """Reads the rest of prompts whose first columns are in a cache.

  Args:
    lm: a decoder-only model.
    params: its parameters.
    begun: result of the model for the first `begin` columns.
    prompt: the whole prompts, tokens int32 [B, S] and lengths [B].
    begin: columns that were read; static.
    held: int32 [B], columns that the cache counts.
    chunk: widest piece, in tokens.

  Returns:
    What `lm.prefill` returns for the whole prompts.
  """
  batch, width = prompt.tokens.shape
  nowhere = jnp.zeros((batch, 1), jnp.int32)
  length = prompt.length.astype(jnp.int32)

  def read(carry, start, size):
    cache, held, hidden = carry
    cache = lm.commit(cache, start - held)
    tokens = lax.dynamic_slice_in_dim(prompt.tokens, start, size, axis=1)
    # A slot has to be scored, but nobody reads the score.
    scored, cache = lm.extend(params, cache, tokens, slots=nowhere)
    states = tuple(
      lax.dynamic_update_slice_in_dim(all_, new.astype(all_.dtype), start, 1)
      for all_, new in zip(hidden, scored.hidden, strict=True)
    )
    return cache, jnp.full_like(held, start), states

  missing = ((0, 0), (0, width - begin), (0, 0))
  hidden = tuple(jnp.pad(states, missing) for states in begun.hidden)
  # Prompt [p q r]: the cache counts p and q, and r is the first block's slot 0.
  carry = begun.cache, held, hidden
  if begin < width:
    carry = in_pieces(read, carry, (begin, width), chunk, jnp.max(length))
  cache, held, hidden = carry
  cache = lm.commit(cache, length - 1 - held)
  token = jnp.take_along_axis(
    prompt.tokens, length[:, None] - 1, axis=1, mode='clip'
  )
  return base.Prefilled(cache, token[:, 0], hidden)
