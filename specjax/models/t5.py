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

import dataclasses
import functools
from typing import Optional

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax.base import CachedLM
from specjax.base import Prefilled
from specjax.base import Scored
from specjax.models import cache as cache_lib
from specjax.models.layers import ACTIVATIONS
from specjax.models.layers import Embedding
from specjax.models.layers import Linear
from specjax.models.layers import Norm
from specjax.models.layers import attend
from specjax.models.layers import relative_buckets
from specjax.models.layers import to_columns
from specjax.models.t5_config import T5Config


def _norm(config):
  return Norm(config.layer_norm_epsilon, dtype=config.dtype)


def _by_query(mask):
  """Turns a mask of keys [B, S] into [B, 1, S]; [B, T, S] stays as it is."""
  return mask if mask.ndim == 3 else mask[:, None]


class Attention(nn.Module):
  """Multi-head attention without scaling: the weights' size does that."""

  config: T5Config

  def setup(self):
    c = self.config
    width = c.num_heads * c.d_kv
    self.q = Linear(width, std=(c.d_model * c.d_kv) ** -0.5, dtype=c.dtype)
    self.k = Linear(width, dtype=c.dtype)
    self.v = Linear(width, dtype=c.dtype)
    self.o = Linear(c.d_model, dtype=c.dtype)
    self.drop = nn.Dropout(c.dropout_rate)

  def _heads(self, x):
    return x.reshape(*x.shape[:2], self.config.num_heads, self.config.d_kv)

  def project(self, x):
    """Keys and values of [B, S, D], in the cache's layout."""
    keys, values = self._heads(self.k(x)), self._heads(self.v(x))
    return to_columns(keys), to_columns(values)

  def __call__(self, x, kept, mask, bias, deterministic):
    """Reads (keys, values) `kept` with queries made of `x` [B, T, D]."""
    out = attend(
      self._heads(self.q(x)),
      *kept,
      mask,
      bias,
      drop=lambda p: self.drop(p, deterministic=deterministic),
    )
    return self.o(out)


class FeedForward(nn.Module):
  """ReLU (1.0) or gated (1.1) feed-forward."""

  config: T5Config

  def setup(self):
    c = self.config
    if c.gated:
      self.gate = Linear(c.d_ff, dtype=c.dtype)
    self.up = Linear(c.d_ff, dtype=c.dtype)
    self.down = Linear(c.d_model, dtype=c.dtype)
    self.drop = nn.Dropout(c.dropout_rate)

  def __call__(self, x, deterministic):
    act = ACTIVATIONS[self.config.hidden_act]
    up = self.up(x)
    hidden = act(self.gate(x)) * up if self.config.gated else act(up)
    return self.down(self.drop(hidden, deterministic=deterministic))


class T5Layer(nn.Module):
  """An encoder layer, or a decoder layer where `cross` is set."""

  config: T5Config
  cross: bool = False

  def setup(self):
    c = self.config
    self.attn = Attention(c)
    self.attn_norm = _norm(c)
    if self.cross:
      self.cross_attn = Attention(c)
      self.cross_norm = _norm(c)
    self.mlp = FeedForward(c)
    self.mlp_norm = _norm(c)
    self.drop = nn.Dropout(c.dropout_rate)

  def project_source(self, encoded):
    """Cross-attention keys and values of [B, S, D]."""
    return self.cross_attn.project(encoded)

  def __call__(self, x, mask, bias, past, start, source, deterministic):
    """Runs the layer on a block.

    Args:
      x: [B, T, D].
      mask: bool [B or 1, T or 1, L or T].
      bias: float32 [B or 1, H, T, L or T].
      past: the cache's (keys, values), or None to attend inside the block.
      start: int32 [B], where in the cache the block is written, or None.
      source: ((keys, values) of the source, mask [B, 1, S]); None in encoders.
      deterministic: no dropout.

    Returns:
      ([B, T, D], (keys, values)), the latter with the block written.
    """
    drop = functools.partial(self.drop, deterministic=deterministic)
    y = self.attn_norm(x)
    kept = self.attn.project(y)
    if past is not None:
      kept = tuple(
        cache_lib.write(old, new, start)
        for old, new in zip(past, kept, strict=True)
      )
    x = x + drop(self.attn(y, kept, mask, bias, deterministic))
    if self.cross:
      pair, seen = source
      y = self.cross_attn(self.cross_norm(x), pair, seen, None, deterministic)
      x = x + drop(y)
    return x + drop(self.mlp(self.mlp_norm(x), deterministic)), kept


class Stack(nn.Module):
  """The layers of an encoder or a decoder, their shared bias, final norm."""

  config: T5Config
  depth: int
  is_decoder: bool = False

  def setup(self):
    c = self.config
    layer = T5Layer
    if c.remat:
      layer = nn.remat(T5Layer, static_argnums=(7,))
    self.layers = [layer(c, self.is_decoder) for _ in range(self.depth)]
    self.relative_bias = Embedding(
      c.relative_attention_num_buckets, c.num_heads, 0.1
    )
    self.norm = _norm(c)
    self.drop = nn.Dropout(c.dropout_rate)

  def bias(self, distance):
    """Bias float32 [H, n] at key minus query positions, a numpy array [n]."""
    c = self.config
    buckets = relative_buckets(
      distance,
      bidirectional=not self.is_decoder,
      num_buckets=c.relative_attention_num_buckets,
      max_distance=c.relative_attention_max_distance,
    )
    return self.relative_bias(buckets).T

  def sequence_bias(self, size: int):
    """Bias float32 [1, H, size, size] of a whole sequence."""
    table = self.bias(np.arange(1 - size, size))
    place = jnp.arange(size, dtype=jnp.int32)
    apart = place[None] - place[:, None] + size - 1
    return jnp.take(table, apart, axis=1)[None]

  def project_source(self, encoded):
    """(keys, values) of the source, for every layer."""
    return tuple(layer.project_source(encoded) for layer in self.layers)

  def __call__(
    self,
    x,
    mask,
    bias,
    *,
    pasts=None,
    start=None,
    sources=None,
    source_mask=None,
    deterministic=True,
    hidden_layers=(-1,),
  ):
    """Returns (states asked for, (keys, values) of every layer)."""
    x = self.drop(x, deterministic=deterministic)
    outputs, kept = [], []
    for i, layer in enumerate(self.layers):
      source = sources and (sources[i], _by_query(source_mask))
      past = pasts and pasts[i]
      x, pair = layer(x, mask, bias, past, start, source, deterministic)
      outputs.append(x)
      kept.append(pair)
    final = self.drop(self.norm(x), deterministic=deterministic)
    cache_lib.check_hidden_layers(hidden_layers, self.depth)
    return cache_lib.collect(outputs, final, hidden_layers), kept


class T5(nn.Module):
  """T5 with a language-model head. Parameters: collection 'params' alone."""

  config: T5Config

  def setup(self):
    c = self.config
    self.embed = Embedding(c.vocab_size, c.d_model, 1.0, c.dtype)
    self.encoder = Stack(c, c.num_layers)
    self.decoder = Stack(c, c.num_decoder_layers, is_decoder=True)
    if not c.tie_word_embeddings:
      self.head = Embedding(c.vocab_size, c.d_model, c.d_model**-0.5, c.dtype)

  def __call__(
    self, source, source_mask, target_in, *, target_mask=None,
    deterministic=True,
  ):  # fmt: skip
    """Next-token logits at every decoder position.

    Args:
      source: int32 [B, S].
      source_mask: bool [B, S], True at real tokens.
      target_in: int32 [B, N], decoder inputs, the start token first.
      target_mask: bool [B, N], decoder inputs that may be read, or None.
      deterministic: no dropout; False needs an rng called 'dropout'.

    Returns:
      float32 [B, N, V].
    """
    state = self.hidden(
      source,
      source_mask,
      target_in,
      target_mask=target_mask,
      deterministic=deterministic,
    )
    return self.logits_from_hidden(state)

  def hidden(
    self, source, source_mask, target_in, *, target_mask=None,
    deterministic=True,
  ):  # fmt: skip
    """Like `__call__`, but returns the final states [B, N, D], no logits."""
    encoded = self.encode(source, source_mask, deterministic=deterministic)
    return self.decode(
      encoded,
      source_mask,
      target_in,
      target_mask=target_mask,
      deterministic=deterministic,
    )[0]

  def encode(self, source, source_mask, *, deterministic=True):
    """Encodes int32 [B, S]; returns [B, S, D], junk where masked.

    `source_mask` is bool [B, S], or [B, S, S] (query, key) for packed rows.
    """
    states, _ = self.encoder(
      self.embed(source),
      _by_query(source_mask),
      self.encoder.sequence_bias(source.shape[1]),
      deterministic=deterministic,
    )
    return states[0]

  def decode(
    self,
    encoded,
    source_mask,
    target_in,
    *,
    target_mask=None,
    deterministic=True,
    hidden_layers=(-1,),
  ):
    """Runs the decoder over whole targets.

    Args:
      encoded: [B, S, D], the encoder's output.
      source_mask: bool [B, S], or [B, N, S] for packed rows.
      target_in: int32 [B, N].
      target_mask: bool [B, N], or [B, N, N] for packed rows, or None.
      deterministic: no dropout.
      hidden_layers: which states; see the module's docstring.

    Returns:
      A tuple of [B, N, D].
    """
    place = jnp.arange(target_in.shape[1], dtype=jnp.int32)
    mask = (place[None] <= place[:, None])[None]
    if target_mask is not None:
      mask = mask & _by_query(target_mask)
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

  def logits_from_hidden(self, state):
    """Projects final states [..., D] to float32 logits [..., V]."""
    if self.config.scale_decoder_outputs:
      state = state * jnp.asarray(self.config.d_model**-0.5, state.dtype)
    table = self.embed if self.config.tie_word_embeddings else self.head
    return table.attend(state)

  def prefill(self, source, source_mask, capacity):
    """Returns (encoded, (keys, values) a layer, bias table [H, 2 * L])."""
    encoded = self.encode(source, source_mask)
    sources = self.decoder.project_source(encoded)
    # Column j of the table is the bias at distance L - 1 - j, so that the bias
    # over all cache columns at one position is one slice of it.
    distance = np.minimum(np.arange(2 * capacity) - (capacity - 1), 0)
    return encoded, sources, self.decoder.bias(distance)

  def extend(self, tokens, cache, tree=None, slots=None, hidden_layers=()):
    """Runs a block against a cache; returns (logits, states, kept)."""
    size, capacity = tokens.shape[1], cache.keys[0].shape[-1]
    cache_lib.check_capacity(capacity, size, f'a block of {size} slots')
    states, kept = self.decoder(
      self.embed(tokens),
      cache_lib.block_mask(cache.length, size, capacity, tree),
      block_bias(cache.bias_table, cache.length, size, tree),
      pasts=tuple(zip(cache.keys, cache.values, strict=True)),
      start=cache.length,
      sources=tuple(zip(cache.cross_keys, cache.cross_values, strict=True)),
      source_mask=cache.source_mask,
      hidden_layers=(-1, *hidden_layers),
    )
    logits = self.logits_from_hidden(cache_lib.pick_slots(states[0], slots))
    return logits, states[1:], kept


def block_bias(table, length, size: int, tree=None):
  """Relative bias of a block's slots over all cache columns.

  Args:
    table: float32 [H, 2 * L] of `T5.prefill`.
    length: int32 [B], committed columns.
    size: T.
    tree: `Tree` or None for a chain.

  Returns:
    float32 [B, H, T, L]; anything where a slot may not read.
  """
  heads, capacity = table.shape[0], table.shape[1] // 2

  def window(start, width):
    return lax.dynamic_slice(table, (0, start), (heads, width))

  if tree is None:
    # Consecutive slots read consecutive windows of one slice.
    width = capacity + size - 1
    start = capacity - size - length
    if length.shape[0] == 1:
      row = window(start[0], width)[None]
    else:
      row = jax.vmap(lambda i: window(i, width))(start)
    return jnp.stack(
      [row[..., size - 1 - t : size - 1 - t + capacity] for t in range(size)],
      axis=2,
    )
  depth = tree.depth
  start = capacity - 1 - length[:, None] - depth
  bias = jax.vmap(jax.vmap(lambda i: window(i, capacity)))(start)
  # Inside the block columns are slots, and distance is a matter of depth.
  apart = jnp.maximum(depth[:, :, None] - depth[:, None, :], 0)
  inside = jnp.moveaxis(jnp.take(table, capacity - 1 - apart, axis=1), 0, 1)
  return jax.vmap(
    lambda b, new, i: lax.dynamic_update_slice(b, new, (0, 0, i))
  )(bias.transpose(0, 2, 1, 3), inside, length)


@functools.lru_cache(maxsize=None)
def make_lm(
  config: T5Config,
  *,
  vocab_size: Optional[int] = None,
  hidden_layers: tuple = (),
  dtype: Optional[str] = None,
) -> CachedLM:
  """Wraps a T5 as a `CachedLM`; see `decoder.make_lm` for the arguments.

  `Prefilled.hidden` is `(encoded,)`, the encoder's output [B, S, D].
  """
  if dtype is not None:
    config = dataclasses.replace(config, dtype=jnp.dtype(dtype).name)
  config.validate()
  cache_lib.check_hidden_layers(hidden_layers, config.num_decoder_layers)
  vocab = min(vocab_size or config.vocab_size, config.vocab_size)
  module = T5(config)

  def prefill(params, prompt, *, capacity):
    cache_lib.check_capacity(capacity, 1, 'the start token')
    batch, size = prompt.tokens.shape
    mask = jnp.arange(size, dtype=jnp.int32) < prompt.length[:, None]
    encoded, sources, table = module.apply(
      {'params': params}, prompt.tokens, mask, capacity, method='prefill'
    )
    shape = (batch * config.num_heads, config.d_kv, capacity)
    # Arrays of their own, so that a caller can donate the cache.
    empty = [
      jnp.zeros(shape, config.dtype)
      for _ in range(2 * config.num_decoder_layers)
    ]
    made = cache_lib.Cache(
      keys=tuple(empty[::2]),
      values=tuple(empty[1::2]),
      length=jnp.zeros((batch,), jnp.int32),
      cross_keys=tuple(k for k, _ in sources),
      cross_values=tuple(v for _, v in sources),
      source_mask=mask,
      bias_table=table,
    )
    start = jnp.full((batch,), config.decoder_start_token_id, jnp.int32)
    return Prefilled(made, start, (encoded,))

  def extend(params, cache, tokens, tree=None, slots=None):
    logits, states, kept = module.apply(
      {'params': params},
      tokens,
      cache,
      tree,
      slots,
      hidden_layers,
      method='extend',
    )
    cache = cache.replace(
      keys=tuple(k for k, _ in kept), values=tuple(v for _, v in kept)
    )
    return Scored(logits[..., :vocab], states), cache

  return CachedLM(
    prefill=prefill,
    extend=extend,
    commit=cache_lib.commit,
    select=cache_lib.select,
    keys_values=cache_lib.keys_values,
    vocab_size=vocab,
    max_positions=None,
    is_encoder_decoder=True,
    start_id=config.decoder_start_token_id,
  )
