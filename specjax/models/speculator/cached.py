"""Drafter networks with an explicit cache, for decoding."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from specjax.base import Array
from specjax.models.common import cache as cache_lib
from specjax.models.speculator.config import ParallelConfig
from specjax.models.speculator.modeling import Parallel


class DraftNet(NamedTuple):
  """A drafter network with an explicit cache, as pure functions.

  `params` are bound (see `bind`). Logits are over `output_ids` if there are
  any, else over the table's rows.

  Attributes:
    config: `ParallelConfig`.
    prefill: `(params, tokens [B, S], features [B, S, D], length [B], *,
      encoded=None, source_length=None, capacity) -> Cache`; encoded [B, S', De]
      and source_length [B] of an encoder-decoder target.
    extend: `(params, cache, tokens [B, T], features [B, T, D], depth [B, T], *,
      slots [B, n], positions=None, mask=None) -> (logits [B, n, V'], states
      [B, n, D], cache)`. Writes T slots at `cache.length`; a chain unless
      positions [B, T] and mask [B, T, L] are given.
    heads: `(params, feature [B, D]) -> logits [B, K, V']`, of Medusa's heads.
  """

  config: ParallelConfig
  prefill: Callable[..., cache_lib.Cache]
  extend: Callable[..., tuple]
  heads: Callable[..., Array]


@functools.cache
def make_net(config: ParallelConfig) -> DraftNet:
  """`DraftNet` of a config; the same one every time."""
  config.validate()
  module = Parallel(config)
  return DraftNet(
    config,
    functools.partial(_prefill, module),
    functools.partial(_extend, module),
    functools.partial(_heads, module),
  )


def _apply(module, params, method, *args: Any, **rest: Any):
  return module.apply({'params': params}, *args, method=method, **rest)


def _prefill(
  module,
  params,
  tokens,
  features,
  length,
  *,
  encoded=None,
  source_length=None,
  capacity,
):
  size = tokens.shape[1]
  cache_lib.check_capacity(capacity, size, 'the prompt')
  # Padding after `length` is written too; the next block is written over it.
  place = jnp.arange(size, dtype=jnp.int32)[None]
  sources, seen = (), None
  if module.config.encoder_width:
    sources = _apply(module, params, 'project_source', encoded)
    seen = jnp.arange(encoded.shape[1]) < source_length[:, None]
  x = _apply(module, params, 'inputs', tokens, jnp.zeros_like(place), features)
  # Real tokens alone, so no depth. The mask need not know where a prompt ends:
  # padding stands behind it, and no token reads forward.
  _, kept = _apply(
    module,
    params,
    'run',
    x,
    place,
    place[:, None] <= place[:, :, None],
    sources=sources or None,
    source_mask=None if seen is None else seen[:, None],
  )
  kept = [cache_lib.grow(pair, capacity) for pair in kept]
  return cache_lib.Cache(
    keys=tuple(k for k, _ in kept),
    values=tuple(v for _, v in kept),
    length=length,
    cross_keys=tuple(k for k, _ in sources),
    cross_values=tuple(v for _, v in sources),
    source_mask=seen,
  )


def _extend(
  module,
  params,
  cache,
  tokens,
  features,
  depth,
  *,
  slots,
  positions=None,
  mask=None,
):
  size, capacity = tokens.shape[1], cache.keys[0].shape[-1]
  cache_lib.check_capacity(capacity, size, f'a block of {size} slots')
  # Columns alone are those of a chain. In a tree two children of one slot have
  # two columns and one position, so the caller gives both.
  if positions is None:
    positions = cache.length[:, None] + jnp.arange(size, dtype=jnp.int32)
    mask = cache_lib.block_mask(cache.length, size, capacity)
  seen = cache.source_mask
  x = _apply(module, params, 'inputs', tokens, depth, features)
  state, kept = _apply(
    module,
    params,
    'run',
    x,
    positions,
    mask,
    pasts=cache_lib.pasts(cache, size),
    sources=tuple(zip(cache.cross_keys, cache.cross_values, strict=True))
    or None,
    source_mask=None if seen is None else seen[:, None],
  )
  state = cache_lib.pick_slots(state, slots)
  # `length` stays: how much of the block counts is decided later, and a block
  # that is refused is simply written over.
  cache = cache.replace(
    keys=tuple(k for k, _ in kept), values=tuple(v for _, v in kept)
  )
  logits = _apply(module, params, 'logits_from_hidden', state)
  return logits, state, cache


def _heads(module, params, feature):
  state = _apply(module, params, 'head_states', feature)
  return _apply(module, params, 'logits_from_hidden', state)
