"""The layers of T5: attention, feed-forward, stacks, and the position bias.

RMS norms, no scaling inside attention, and a relative position bias that layer
0 owns and all layers of a stack add.

References:
  Raffel et al. Exploring the limits of transfer learning with a unified
    text-to-text transformer. JMLR 2020. https://arxiv.org/abs/1910.10683
  Shazeer. GLU variants improve transformer. 2020.
    https://arxiv.org/abs/2002.05202
"""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax.base import Tree
from specjax.models.common import cache as cache_lib
from specjax.models.common.attention import as_kept
from specjax.models.common.attention import attend
from specjax.models.common.attention import relative_buckets
from specjax.models.common.layers import ACTIVATIONS
from specjax.models.common.layers import Embedding
from specjax.models.common.layers import Linear
from specjax.models.common.layers import Norm
from specjax.models.t5.config import T5Config

# Queries of a long source that attend at a time.
PIECE = 512


def _norm(config):
  return Norm(config.layer_norm_epsilon, dtype=config.dtype)


def _output(config, parts):
  """A projection to the model's width, of an input in `parts`."""
  axis = config.shards.axis if parts > 1 else None
  return Linear(config.d_model, dtype=config.dtype, reduce=axis)


def by_query(mask: jax.Array) -> jax.Array:
  """Turns a mask of keys [B, S] into [B, 1, S]; [B, T, S] stays as it is."""
  return mask if mask.ndim == 3 else mask[:, None]


class Attention(nn.Module):
  """Multi-head attention without scaling: small initial queries replace it."""

  config: T5Config

  def setup(self) -> None:
    c = self.config
    width = c.num_heads * c.d_kv // c.shards.heads
    self.q = Linear(width, std=(c.d_model * c.d_kv) ** -0.5, dtype=c.dtype)
    self.k = Linear(width, dtype=c.dtype)
    self.v = Linear(width, dtype=c.dtype)
    self.o = _output(c, c.shards.heads)
    self.drop = nn.Dropout(c.dropout_rate)

  def _heads(self, x):
    return x.reshape(*x.shape[:2], -1, self.config.d_kv)

  def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of [B, S, D], in the cache's layout."""
    return as_kept(self._heads(self.k(x)), self._heads(self.v(x)))

  def __call__(self, x, kept, mask, bias, deterministic, live=None):
    """Reads (keys, values) `kept` with queries made of `x` [B, T, D]."""
    if bias is not None and bias.ndim == 2:
      return self.o(_attend_in_pieces(self._heads(self.q(x)), kept, mask, bias))
    out = attend(
      self._heads(self.q(x)),
      *kept,
      mask,
      bias,
      drop=lambda p: self.drop(p, deterministic=deterministic),
      live=live,
    )
    return self.o(out)


def _attend_in_pieces(query, kept, mask, table):
  """Attention of a whole sequence, its queries `PIECE` at a time.

  Args:
    query: [B, S, H, Dh], S at least `PIECE`.
    kept: keys and values of the sequence.
    mask: bool [B, 1, S].
    table: bias float32 [H, 2 * S - 1] by distance, the nearest in the middle.

  Returns:
    [B, S, H * Dh].
  """
  # S = 5, pieces of 2 queries: [0 1] [2 3] [3 4]; the last is moved back to
  # fit.
  batch, size, heads, width = query.shape
  column = jnp.arange(size, dtype=jnp.int32)

  def piece(index, out):
    start = jnp.minimum(index * PIECE, size - PIECE)
    row = start + jnp.arange(PIECE, dtype=jnp.int32)
    bias = jnp.take(table, column[None] - row[:, None] + size - 1, axis=1)
    some = lax.dynamic_slice_in_dim(query, start, PIECE, axis=1)
    made = attend(some, *kept, mask, bias[None])
    return lax.dynamic_update_slice_in_dim(out, made, start, axis=1)

  out = jnp.zeros((batch, size, heads * width), query.dtype)
  return lax.fori_loop(0, -(-size // PIECE), piece, out)


class T5FeedForward(nn.Module):
  """ReLU (1.0) or gated (1.1) feed-forward."""

  config: T5Config

  def setup(self) -> None:
    c = self.config
    width = c.d_ff // c.shards.mlp
    if c.gated:
      self.gate = Linear(width, dtype=c.dtype)
    self.up = Linear(width, dtype=c.dtype)
    self.down = _output(c, c.shards.mlp)
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

  def setup(self) -> None:
    c = self.config
    self.attn = Attention(c)
    self.attn_norm = _norm(c)
    if self.cross:
      self.cross_attn = Attention(c)
      self.cross_norm = _norm(c)
    self.mlp = T5FeedForward(c)
    self.mlp_norm = _norm(c)
    self.drop = nn.Dropout(c.dropout_rate)

  def project_source(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-attention keys and values of [B, S, D]."""
    return self.cross_attn.project(encoded)

  def __call__(self, x, mask, bias, past, source, deterministic):
    """Runs the layer on a block.

    Args:
      x: [B, T, D].
      mask: bool [B or 1, T or 1, L or T].
      bias: float32 [B or 1, H, T, L or T]; or [H, 2 * T - 1] by distance, which
        runs the queries of a whole sequence in pieces, without dropout.
      past: `cache.Past`, or None to attend inside the block alone.
      source: ((keys, values) of the source, mask [B, 1, S]); None in encoders.
      deterministic: no dropout.

    Returns:
      ([B, T, D], (keys, values)), the latter with the block written.
    """
    drop = functools.partial(self.drop, deterministic=deterministic)
    y = self.attn_norm(x)
    # Keys and values are made first: a cached block reads its own slots too.
    kept, live = self.attn.project(y), None
    if past is not None:
      kept, live = cache_lib.write(past, kept), past.live
    x = x + drop(self.attn(y, kept, mask, bias, deterministic, live))
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

  def setup(self) -> None:
    c = self.config
    layer = T5Layer
    if c.remat:
      layer = nn.remat(T5Layer, static_argnums=(6,))
    self.layers = [layer(c, self.is_decoder) for _ in range(self.depth)]
    self.relative_bias = Embedding(
      c.relative_attention_num_buckets, c.num_heads // c.shards.heads, 0.1
    )
    self.norm = _norm(c)
    self.drop = nn.Dropout(c.dropout_rate)

  def bias(self, distance: np.ndarray) -> jax.Array:
    """Bias float32 [H, n] at key minus query positions, a numpy array [n]."""
    c = self.config
    buckets = relative_buckets(
      distance,
      bidirectional=not self.is_decoder,
      num_buckets=c.relative_attention_num_buckets,
      max_distance=c.relative_attention_max_distance,
    )
    return self.relative_bias(buckets).T

  def sequence_bias(self, size: int) -> jax.Array:
    """Bias float32 [1, H, size, size] of a whole sequence."""
    # Size 3: the table has the distances [-2 -1 0 1 2], and `apart` picks
    #   [[2 3 4]        [[ 0  1 2]
    #    [1 2 3]   for   [-1  0 1]
    #    [0 1 2]]        [-2 -1 0]]
    table = self.bias(np.arange(1 - size, size))
    place = jnp.arange(size, dtype=jnp.int32)
    apart = place[None] - place[:, None] + size - 1
    return jnp.take(table, apart, axis=1)[None]

  def source_bias(self, size: int) -> jax.Array:
    """Bias of a source that is decoded from: by distance where it is long.

    A long source attends in pieces, which bounds its attention scores.
    """
    if size <= PIECE:
      return self.sequence_bias(size)
    return self.bias(np.arange(1 - size, size))

  def project_source(self, encoded: jax.Array) -> tuple:
    """(keys, values) of the source, for every layer."""
    return tuple(layer.project_source(encoded) for layer in self.layers)

  def __call__(
    self,
    x,
    mask,
    bias,
    *,
    pasts=None,
    sources=None,
    source_mask=None,
    deterministic=True,
    hidden_layers=(-1,),
  ):
    """Returns (states asked for, (keys, values) of every layer)."""
    x = self.drop(x, deterministic=deterministic)
    outputs, kept = [], []
    for i, layer in enumerate(self.layers):
      source = sources and (sources[i], by_query(source_mask))
      past = pasts and pasts[i]
      x, pair = layer(x, mask, bias, past, source, deterministic)
      outputs.append(x)
      kept.append(pair)
    final = self.drop(self.norm(x), deterministic=deterministic)
    cache_lib.check_hidden_layers(hidden_layers, self.depth)
    return cache_lib.collect(outputs, final, hidden_layers), kept


@jax.named_scope('block_bias')
def block_bias(
  table: jax.Array, length: jax.Array, size: int, tree: Tree | None = None
) -> jax.Array:
  """Relative bias of a block's slots over all cache columns.

  Args:
    table: float32 [H, 2 * L] of `T5.prefill`.
    length: int32 [B], committed columns.
    size: T.
    tree: `Tree` or None for a chain.

  Returns:
    float32 [B, H, T, L]; anything where a slot may not read.
  """
  # L = 4: the table has the distances [-3 -2 -1 0 0 0 0 0] (key - query). The
  # slot at position p reads L of them, from L - 1 - p on. Length 1, two slots:
  #   p = 1: [-1  0 0 0]
  #   p = 2: [-2 -1 0 0], where zeros behind p are masked
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
