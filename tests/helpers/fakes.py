"""Models made of arrays, to drive the real engine in tests.

`markov_lm` is a `CachedLM` whose next-token logits depend on the last two
tokens (and, as an encoder-decoder, on the first source token), so that its law
is exactly computable and any mistake in positions, caches or rollback shows.
"""

import functools
from typing import NamedTuple

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.models.common import rows as rows_lib


@struct.dataclass
class Cache:
  """Committed and pending tokens of each row."""

  tokens: base.Array  # int32 [B, L]
  source: base.Array  # int32 [B], first source token
  length: base.Array  # int32 [B]


class _Kind(NamedTuple):
  """Settings that distinguish a tabular model."""

  vocab: int
  encoder_decoder: bool
  start_id: int
  hidden: bool


@functools.cache
def markov_lm(
  vocab: int,
  *,
  encoder_decoder: bool = False,
  start_id: int = 0,
  hidden: bool = False,
) -> base.CachedLM:
  """A tabular model.

  Its params are `{'table': [V + 1, V, V], 'source': [V, V]}`: logits are
  `table[before_last, last]` (before_last = V if there is none), plus
  `source[first source token]` for an encoder-decoder.
  """
  kind = _Kind(vocab, encoder_decoder, start_id, hidden)
  return base.CachedLM(
    functools.partial(_prefill, kind),
    functools.partial(_extend, kind),
    _commit,
    _select,
    _keys_values,
    vocab,
    None,
    encoder_decoder,
    start_id if encoder_decoder else None,
    rows_lib.insert,
  )


def _prefill(kind, params, prompt, *, capacity):
  del params
  batch, width = prompt.tokens.shape
  tokens = jnp.zeros((batch, capacity), jnp.int32)
  if kind.encoder_decoder:
    last = jnp.full((batch,), kind.start_id, jnp.int32)
    length = jnp.zeros((batch,), jnp.int32)
  else:
    tokens = tokens.at[:, :width].set(prompt.tokens)
    length = prompt.length - 1
    last = jnp.take_along_axis(prompt.tokens, length[:, None], 1)[:, 0]
  return base.Prefilled(Cache(tokens, prompt.tokens[:, 0], length), last)


def _extend(kind, params, cache, tokens, tree=None, slots=None):
  batch, width = tokens.shape
  written = jax.vmap(
    lambda row, new, at: lax.dynamic_update_slice(row, new, (at,))
  )(cache.tokens, tokens, cache.length)
  before = jnp.take_along_axis(
    cache.tokens, jnp.maximum(cache.length - 1, 0)[:, None], 1
  )
  before = jnp.where(cache.length[:, None] > 0, before, kind.vocab)
  if tree is None:
    parent = jnp.broadcast_to(
      jnp.maximum(jnp.arange(width) - 1, 0), (batch, width)
    )
  else:
    parent = tree.parent
  previous = jnp.take_along_axis(tokens, parent, 1)
  previous = previous.at[:, :1].set(before)
  logits = params['table'][previous, tokens]
  if kind.encoder_decoder:
    logits += params['source'][cache.source][:, None]
  states = (jax.nn.one_hot(tokens, kind.vocab),) if kind.hidden else ()
  if slots is not None:
    logits = jnp.take_along_axis(logits, slots[..., None], 1)
  scored = base.Scored(logits.astype(jnp.float32), states)
  return scored, cache.replace(tokens=written)


def _commit(cache, num_tokens, path=None):
  if path is not None:

    def move(row, slots, at):
      return lax.dynamic_update_slice(row, row[at + slots], (at + 1,))

    tokens = jax.vmap(move)(cache.tokens, path, cache.length)
    cache = cache.replace(tokens=tokens)
  return cache.replace(length=cache.length + num_tokens)


def _select(cache, rows, *, same_prompt=False):
  del same_prompt
  return jax.tree.map(lambda x: x[rows], cache)


def _keys_values(cache, layer):
  del layer
  return cache.tokens, cache.tokens


def prompts(batch: int, vocab: int, width: int = 9) -> base.Prompt:
  """Random ragged prompts [B, S], another set for each batch size."""
  rng = np.random.default_rng(batch)
  return base.Prompt(
    jnp.asarray(rng.integers(0, vocab, (batch, width)), jnp.int32),
    jnp.asarray(rng.integers(1, width + 1, batch), jnp.int32),
  )


def markov_params(seed: int, vocab: int, scale: float = 1.5):
  """Random tables for `markov_lm`."""
  rng = np.random.default_rng(seed)
  return {
    'table': jnp.asarray(
      rng.normal(0, scale, (vocab + 1, vocab, vocab)), jnp.float32
    ),
    'source': jnp.asarray(rng.normal(0, scale, (vocab, vocab)), jnp.float32),
  }
