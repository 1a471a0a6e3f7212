"""State, window and start of drafters that read a target's states."""

from typing import Any

from flax import struct
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax import models
from specjax.decoding import prefill
from specjax.models.common import cache as cache_lib
from specjax.models.common import rows as rows_lib


@struct.dataclass
class State:
  """The state of such a drafter.

  Attributes:
    cache: cache of its layers, real tokens alone; None for Medusa's heads.
    features: [B, W, D], the target's states that predicted the last W
      committed tokens, the last token's at the end; None where not used.
  """

  cache: models.Cache | None
  features: base.Array | None


def window_pass(
  net: Any,
  params: base.PyTree,
  state: Any,
  context: base.Context,
  window: int,
  num_out: int,
) -> tuple:
  """Feeds the last `window` tokens and num_out - 1 masks.

  Returns (logits [B, num_out, V'], states [B, num_out, D], cache that holds
  every committed token and counts no mask).
  """
  # length 5, window 3, num_out 3: place [2 3 4 5 6], depth [0 0 0 1 2]; slots
  # [2 3 4], the last token and two masks, are projected.
  length = context.length
  first = jnp.maximum(length - window, 0)
  place = first[:, None] + jnp.arange(window + num_out - 1, dtype=jnp.int32)
  tokens = jnp.take_along_axis(
    context.tokens, jnp.minimum(place, context.tokens.shape[1] - 1), axis=1
  )
  depth = jnp.maximum(place - (length - 1)[:, None], 0)
  features = state.features
  if features is not None:
    # Window 3, length 5: places [2 3 4] read features [0 1 2], masks the last.
    index = jnp.clip(place - length[:, None] + window, 0, window - 1)
    features = jnp.take_along_axis(features, index[..., None], axis=1)
  slots = (length - 1 - first)[:, None] + jnp.arange(num_out, dtype=jnp.int32)
  logits, hidden, cache = net.extend(
    params,
    state.cache.replace(length=first),
    tokens,
    features,
    depth,
    slots=slots,
  )
  return logits, hidden, cache.replace(length=length)


def first_features(
  config: Any, prompt: base.Prompt, prefilled: base.Prefilled, window: int
) -> tuple:
  """(features of every prompt token or None, those of the last `window`)."""
  if config.encoder_width:
    shape = (prompt.tokens.shape[0], window, config.target_width)
    zeros = jnp.zeros(shape, config.dtype)
    return zeros[:, :1], zeros
  known = prefilled.hidden[0]
  # A token's feature is the state that predicted it, so states move by one:
  # In:  states [h0 h1 h2] at the tokens [a b c]
  # Out: features [0 h0 h1]; nothing predicted a
  features = jnp.pad(known, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  last = prompt.length[:, None] - window + jnp.arange(window)
  index = jnp.clip(last, 0, known.shape[1] - 1)[..., None]
  return features, jnp.take_along_axis(features, index, axis=1)


def init(
  net: Any,
  window: int,
  slack: int,
  params: base.PyTree,
  prompt: base.Prompt,
  prefilled: base.Prefilled,
  *,
  capacity: int,
) -> Any:
  """Runs the network over what is committed at the start."""
  config = net.config
  features = last = None
  if config.feature != 'none':
    features, last = first_features(config, prompt, prefilled, window)
  each, shared = prefill.each_once(prompt), prompt.shared
  tokens, length = each.tokens, each.length.astype(jnp.int32)
  encoded, first = None, shared and shared.first
  if first is not None and features is not None:
    features = features[first]
  if config.encoder_width:
    encoded, start = prefilled.hidden[0], prefilled.last_token
    if first is not None:
      encoded, start = encoded[first], start[first]
    # The decoder has only its start token; what the source holds is read
    # across.
    tokens = start[:, None]
    length = jnp.ones_like(length)
  begun = {}
  if shared is not None and shared.begun is not None:
    rows = jnp.zeros_like(length)
    cache = cache_lib.select(shared.begun.cache, rows)
    begun['begun'] = cache, shared.columns
  cache = net.prefill(
    params,
    tokens,
    features,
    length,
    encoded=encoded,
    source_length=each.length,
    capacity=max(capacity, tokens.shape[1]) + slack,
    **begun,
  )
  cache = prefill.copied(cache, prompt)
  return State(cache, last)


def insert(state: State, fresh: State, rows: base.Array) -> State:
  """Replaces rows of the state; see `base.Insert`."""
  cache = state.cache
  if cache is not None:
    cache = cache_lib.insert(cache, fresh.cache, rows)
  features = rows_lib.insert(state.features, fresh.features, rows)
  return State(cache, features)


def in_pieces(net: models.DraftNet, chunk: int) -> models.DraftNet:
  """The network, with long prompts read in pieces of at most `chunk` tokens.

  Its `prefill` takes `begun=(cache, columns)` too: a cache of the first columns
  of all rows, which are not read again.
  """

  def read(params, tokens, features, length, *, begun=None, **rest):
    width = tokens.shape[1]
    if width <= chunk and begun is None:
      return net.prefill(params, tokens, features, length, **rest)

    def cut(start, size):
      return [
        x if x is None else lax.dynamic_slice_in_dim(x, start, size, axis=1)
        for x in (tokens, features)
      ]

    def piece(cache, start, size):
      cache = cache.replace(length=jnp.full_like(length, start))
      depth = jnp.zeros((1, size), jnp.int32)
      # A slot has to be scored, but nobody reads the score.
      slots = jnp.zeros((length.shape[0], 1), jnp.int32)
      given = *cut(start, size), depth
      return net.extend(params, cache, *given, slots=slots)[2]

    if begun is None:
      cache = net.prefill(params, *cut(0, chunk), length, **rest)
      begun = cache, chunk
    cache, columns = begun
    span, longest = (columns, width), jnp.max(length)
    cache = prefill.in_pieces(piece, cache, span, chunk, longest)
    return cache.replace(length=length)

  return net._replace(prefill=read)


def cache_of(state: State) -> models.Cache | None:
  """The cache of the network's layers."""
  return state.cache


def observe(
  params: base.PyTree, state: Any, observation: base.Observation
) -> Any:
  """Keeps the states that predicted the last tokens."""
  del params
  if state.features is None:
    return state
  window = state.features.shape[1]
  (new,) = observation.hidden
  # Window 3, kept [f1 f2 f3], a round of two tokens with new states [g1 g2 .]:
  # both [f1 f2 f3 g1 g2 .], from place 2 on: [f3 g1 g2]
  both = jnp.concatenate([state.features, new.astype(state.features.dtype)], 1)
  index = observation.num_tokens[:, None] + jnp.arange(window)
  return state.replace(
    features=jnp.take_along_axis(both, index[..., None], axis=1)
  )
