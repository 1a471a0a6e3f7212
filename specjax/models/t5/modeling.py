"""T5, encoder-decoder, and its cached form.

One module for T5 1.0, 1.1, Flan-T5, mT5 and ByT5: RMS norms, no scaling inside
attention, and a relative position bias that layer 0 owns and all layers of a
stack add. `T5.__call__` is the teacher-forced forward; `make_lm` gives the
`CachedLM`, whose `prefill` encodes the source and projects it once to the
cross-attention keys and values of every layer.

Hidden states are the decoder's: `i` in 0..n-1 is the output of decoder layer
i, `n` or `-1` the state after the final norm (before the head's scaling).

References:
  Raffel et al. Exploring the limits of transfer learning with a unified
    text-to-text transformer. JMLR 2020. https://arxiv.org/abs/1910.10683
  Shazeer. GLU variants improve transformer. 2020.
    https://arxiv.org/abs/2002.05202
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from specjax.base import Array
from specjax.base import CachedLM
from specjax.base import Prefilled
from specjax.base import Tree
from specjax.models.common import cache as cache_lib
from specjax.models.common import cached_lm
from specjax.models.common.attention import as_kept
from specjax.models.common.cache import Cache
from specjax.models.common.layers import Embedding
from specjax.models.t5.config import T5Config
from specjax.models.t5.layers import block_bias
from specjax.models.t5.layers import by_query
from specjax.models.t5.layers import Stack


class T5(nn.Module):
  """T5 with a language-model head. Parameters: collection 'params' alone."""

  config: T5Config

  def setup(self) -> None:
    c = self.config
    parts = c.shards.vocab
    axis = c.shards.axis if parts > 1 else None
    self.embed = Embedding(c.vocab_size // parts, c.d_model, 1.0, c.dtype, axis)
    self.encoder = Stack(c, c.num_layers)
    self.decoder = Stack(c, c.num_decoder_layers, is_decoder=True)
    if not c.tie_word_embeddings:
      rows = (len(c.output_ids) or c.vocab_size) // parts
      self.head = Embedding(rows, c.d_model, c.d_model**-0.5, c.dtype, axis)

  def __call__(self, source, source_mask, target_in, **settings):
    """Next-token logits at every decoder position.

    Args:
      source: int32 [B, S].
      source_mask: bool [B, S], True at real tokens.
      target_in: int32 [B, N], decoder inputs, the start token first.
      **settings: as in `hidden`.

    Returns:
      float32 [B, N, V].
    """
    state = self.hidden(source, source_mask, target_in, **settings)
    return self.logits_from_hidden(state)

  def hidden(
    self,
    source: Array,
    source_mask: Array,
    target_in: Array,
    *,
    deterministic: bool = True,
    **settings: Any,
  ) -> Array:
    """Final states at every decoder position.

    Args:
      source: int32 [B, S].
      source_mask: bool [B, S], as in `__call__`.
      target_in: int32 [B, N], as in `__call__`.
      deterministic: no dropout; False needs an rng called 'dropout'.
      **settings: as in `decode`.

    Returns:
      [B, N, D].
    """
    encoded = self.encode(source, source_mask, deterministic=deterministic)
    settings |= {'deterministic': deterministic}
    return self.decode(encoded, source_mask, target_in, **settings)[0]

  def encode(
    self,
    source: Array,
    source_mask: Array,
    *,
    deterministic: bool = True,
    in_pieces: bool = False,
  ) -> Array:
    """Encodes int32 [B, S]; returns [B, S, D], junk where masked.

    `source_mask` is bool [B, S], or [B, S, S] (query, key) for packed rows.
    `in_pieces` bounds the attention scores of a long source, without dropout
    and packed rows.
    """
    bias = self.encoder.sequence_bias
    if in_pieces:
      bias = self.encoder.source_bias
    states, _ = self.encoder(
      self.embed(source),
      by_query(source_mask),
      bias(source.shape[1]),
      deterministic=deterministic,
    )
    return states[0]

  def decode(
    self,
    encoded: Array,
    source_mask: Array,
    target_in: Array,
    *,
    target_mask: Array | None = None,
    deterministic: bool = True,
    hidden_layers: Sequence[int] = (-1,),
  ) -> tuple[Array, ...]:
    """Runs the decoder over whole targets.

    Args:
      encoded: [B, S, D], the encoder's output.
      source_mask: bool [B, S], or [B, N, S] for packed rows.
      target_in: int32 [B, N].
      target_mask: bool [B, N], or [B, N, N] for packed rows, or None.
      deterministic: no dropout.
      hidden_layers: layers whose states are returned; see the module.

    Returns:
      A tuple of [B, N, D].
    """
    place = jnp.arange(target_in.shape[1], dtype=jnp.int32)
    mask = (place[None] <= place[:, None])[None]
    if target_mask is not None:
      mask = mask & by_query(target_mask)
    states, _ = self.decoder(
      self.embed(target_in),
      mask,
      self.decoder.sequence_bias(target_in.shape[1]),
      sources=self.decoder.project_source(encoded),
      source_mask=source_mask,
      deterministic=deterministic,
      hidden_layers=hidden_layers,
    )
    return states

  def logits_from_hidden(self, state: Array) -> Array:
    """Projects final states [..., D] to float32 logits [..., V].

    With `config.output_ids` there are only as many logits as ids.
    """
    # T5 1.0 ties the head to the table and scales states by D^-1/2; 1.1 does
    # not.
    if self.config.scale_decoder_outputs:
      state = state * jnp.asarray(self.config.d_model**-0.5, state.dtype)
    table = self.embed if self.config.tie_word_embeddings else self.head
    return table.attend(state)

  def prefill(self, source: Array, source_mask: Array, capacity: int) -> tuple:
    """Returns (encoded, (keys, values) a layer, bias table [H, 2 * L])."""
    encoded = self.encode(source, source_mask, in_pieces=True)
    sources = self.decoder.project_source(encoded)
    # Column j of the table is the bias at distance L - 1 - j, so that the bias
    # over all cache columns at one position is one slice of it.
    distance = np.minimum(np.arange(2 * capacity) - (capacity - 1), 0)
    return encoded, sources, self.decoder.bias(distance)

  def extend(
    self,
    tokens: Array,
    cache: Cache,
    tree: Tree | None = None,
    slots: Array | None = None,
    hidden_layers: Sequence[int] = (),
  ) -> tuple:
    """Runs a block against a cache; returns (logits, states, kept)."""
    size, capacity = tokens.shape[1], cache.keys[0].shape[-1]
    cache_lib.check_capacity(capacity, size, f'a block of {size} slots')
    states, kept = self.decoder(
      self.embed(tokens),
      cache_lib.block_mask(cache.length, size, capacity, tree),
      block_bias(cache.bias_table, cache.length, size, tree),
      pasts=cache_lib.pasts(cache, size),
      sources=tuple(zip(cache.cross_keys, cache.cross_values, strict=True)),
      source_mask=cache.source_mask,
      hidden_layers=(-1, *hidden_layers),
    )
    logits = self.logits_from_hidden(cache_lib.pick_slots(states[0], slots))
    return logits, states[1:], kept


@functools.cache
def make_lm(config: T5Config, **asked: Any) -> CachedLM:
  """Wraps a T5 as a `CachedLM`; `asked` are fields of `cached_lm.Request`.

  `Prefilled.hidden` is `(encoded,)`, the encoder's output [B, S, D].
  """
  return cached_lm.make(
    T5,
    config,
    cached_lm.Request(**asked),
    _prefill,
    layers=config.num_decoder_layers,
    output_ids=config.output_ids,
    is_encoder_decoder=True,
    start_id=config.decoder_start_token_id,
  )


def _prefill(module, hidden_layers, params, prompt, *, capacity):
  del hidden_layers  # Of the encoder's output alone.
  config = module.config
  cache_lib.check_capacity(capacity, 1, 'the start token')
  batch, size = prompt.tokens.shape
  mask = jnp.arange(size, dtype=jnp.int32) < prompt.length[:, None]
  encoded, sources, table = module.apply(
    {'params': params}, prompt.tokens, mask, capacity, method='prefill'
  )
  heads = config.num_heads // config.shards.heads
  blank = jnp.zeros((batch, 0, heads, config.d_kv), config.dtype)
  # Arrays of their own, so that a caller can donate the cache.
  kept = [
    cache_lib.grow(as_kept(blank, blank), capacity)
    for _ in range(config.num_decoder_layers)
  ]
  made = cache_lib.Cache(
    keys=tuple(k for k, _ in kept),
    values=tuple(v for _, v in kept),
    length=jnp.zeros((batch,), jnp.int32),
    cross_keys=tuple(k for k, _ in sources),
    cross_values=tuple(v for _, v in sources),
    source_mask=mask,
    bias_table=table,
  )
  start = jnp.full((batch,), config.decoder_start_token_id, jnp.int32)
  return Prefilled(made, start, (encoded,))
