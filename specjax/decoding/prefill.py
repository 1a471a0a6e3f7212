"""Prompts that are read in pieces.

The attention scores of a whole prompt grow with the square of its length, those
of a piece with the piece times the length. So a prompt wider than a chunk is
read chunk by chunk behind what is in the cache already, as any other block.
"""

from collections.abc import Callable
import functools
from typing import Any

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
def chunked(lm: base.CachedLM, chunk: int = CHUNK) -> base.CachedLM:
  """The model, with prompts read in pieces; the same one for equal arguments.

  An encoder sees its source from both sides and is left as it is.

  Args:
    lm: the model.
    chunk: widest piece, in tokens.
  """
  if lm.is_encoder_decoder:
    return lm

  def prefill(params, prompt, *, capacity):
    width = prompt.tokens.shape[1]
    if width <= chunk:
      return lm.prefill(params, prompt, capacity=capacity)
    first = base.Prompt(
      prompt.tokens[:, :chunk], jnp.minimum(prompt.length, chunk)
    )
    begun = lm.prefill(params, first, capacity=capacity)
    return behind(lm, params, begun, prompt, begin=chunk, chunk=chunk)

  return lm._replace(prefill=prefill)


def behind(
  lm: base.CachedLM,
  params: base.PyTree,
  begun: base.Prefilled,
  prompt: base.Prompt,
  *,
  begin: int,
  chunk: int,
) -> base.Prefilled:
  """Reads the rest of prompts whose first columns are in a cache.

  Args:
    lm: a decoder-only model.
    params: its parameters.
    begun: what it made of the first `begin` columns.
    prompt: the whole prompts, tokens int32 [B, S] and lengths [B].
    begin: columns that were read; static.
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
  carry = begun.cache, jnp.minimum(length, begin) - 1, hidden
  if begin < width:
    carry = in_pieces(read, carry, (begin, width), chunk, jnp.max(length))
  cache, held, hidden = carry
  cache = lm.commit(cache, length - 1 - held)
  token = jnp.take_along_axis(
    prompt.tokens, length[:, None] - 1, axis=1, mode='clip'
  )
  return base.Prefilled(cache, token[:, 0], hidden)
