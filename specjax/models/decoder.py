"""One configurable decoder-only transformer, and its cached form.

The module has two uses. `Decoder.__call__` is the teacher-forced forward over
whole sequences, for training and scoring. `make_lm` wraps the same layers as a
`CachedLM` for decoding. Layers are unrolled and the cache is an argument and a
result, one array a layer.

Hidden states are asked for by layer: `i` in 0..n-1 is the output of layer i
(the residual stream after it), `n` or `-1` the state after the final norm, the
one that the head projects.

References:
  Touvron et al. LLaMA. 2023. https://arxiv.org/abs/2302.13971
  Jiang et al. Mistral 7B. 2023. https://arxiv.org/abs/2310.06825
  Gemma Team. Gemma 2. 2024. https://arxiv.org/abs/2408.00118
"""

import dataclasses
import functools
from typing import Optional

from flax import linen as nn
import jax.numpy as jnp

from specjax.base import CachedLM
from specjax.base import Prefilled
from specjax.base import Scored
from specjax.models import cache as cache_lib
from specjax.models.decoder_config import DecoderConfig
from specjax.models.layers import ACTIVATIONS
from specjax.models.layers import Embedding
from specjax.models.layers import Linear
from specjax.models.layers import Norm
from specjax.models.layers import attend
from specjax.models.layers import rope_angles
from specjax.models.layers import rotate
from specjax.models.layers import to_columns


def _linear(config, features, use_bias):
  return Linear(features, use_bias=use_bias, dtype=config.dtype)


def _norm(config):
  return Norm(
    config.norm_eps,
    centered=config.layer_norm,
    offset=config.norm_offset,
    dtype=config.dtype,
  )


class SelfAttention(nn.Module):
  """Grouped-query attention over its own block or over a cache."""

  config: DecoderConfig

  def setup(self):
    c = self.config
    self.q = _linear(c, c.num_attention_heads * c.head_dim, c.qkv_bias)
    self.k = _linear(c, c.num_key_value_heads * c.head_dim, c.qkv_bias)
    self.v = _linear(c, c.num_key_value_heads * c.head_dim, c.qkv_bias)
    self.o = _linear(c, c.hidden_size, c.out_bias)
    if c.qk_norm:
      self.q_norm = _norm(c)
      self.k_norm = _norm(c)
    if c.sub_norm:
      self.sub_norm = _norm(c)
    self.drop = nn.Dropout(c.dropout_rate)

  def __call__(self, x, angles, mask, past, start, deterministic):
    c = self.config
    heads = (*x.shape[:2], -1, c.head_dim)
    q, k, v = (part(x).reshape(heads) for part in (self.q, self.k, self.v))
    if c.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    if angles is not None:
      q, k = rotate(q, angles), rotate(k, angles)
    keys, values = to_columns(k), to_columns(v)
    if past is not None:
      keys = cache_lib.write(past[0], keys, start)
      values = cache_lib.write(past[1], values, start)
    scale = (c.query_pre_attn_scalar or c.head_dim) ** -0.5
    out = attend(
      q,
      keys,
      values,
      mask,
      scale=scale,
      softcap=c.attn_logit_softcapping,
      drop=lambda p: self.drop(p, deterministic=deterministic),
    )
    if c.sub_norm:
      out = self.sub_norm(out)
    return self.o(out), (keys, values)


class FeedForward(nn.Module):
  """A feed-forward network, gated or not."""

  config: DecoderConfig

  def setup(self):
    c = self.config
    if c.gated:
      self.gate = _linear(c, c.intermediate_size, c.mlp_bias)
    self.up = _linear(c, c.intermediate_size, c.mlp_bias)
    self.down = _linear(c, c.hidden_size, c.mlp_bias)
    if c.sub_norm:
      self.sub_norm = _norm(c)

  def __call__(self, x):
    act = ACTIVATIONS[self.config.hidden_act]
    up = self.up(x)
    hidden = act(self.gate(x)) * up if self.config.gated else act(up)
    if self.config.sub_norm:
      hidden = self.sub_norm(hidden)
    return self.down(hidden)


class DecoderLayer(nn.Module):
  """Pre-norm attention and feed-forward, with Gemma's post-norms if asked."""

  config: DecoderConfig

  def setup(self):
    c = self.config
    self.attn = SelfAttention(c)
    self.mlp = FeedForward(c)
    self.attn_norm = _norm(c)
    self.mlp_norm = _norm(c)
    if c.post_norm:
      self.post_attn_norm = _norm(c)
      self.post_mlp_norm = _norm(c)
    self.drop = nn.Dropout(c.dropout_rate)

  def __call__(self, x, angles, mask, past, start, deterministic):
    """Runs the layer on a block.

    Args:
      x: [B, T, D].
      angles: (cos, sin) of `rope_angles`, or None.
      mask: bool [B or 1, T, L or T].
      past: (keys, values) of the cache, each [B * Hkv, Dh, L], or None to
        attend inside the block alone.
      start: int32 [B], where in the cache the block is written, or None.
      deterministic: no dropout.

    Returns:
      ([B, T, D], (keys, values)), the latter with the block written.
    """
    y, kept = self.attn(
      self.attn_norm(x), angles, mask, past, start, deterministic
    )
    if self.config.post_norm:
      y = self.post_attn_norm(y)
    x = x + self.drop(y, deterministic=deterministic)
    y = self.mlp(self.mlp_norm(x))
    if self.config.post_norm:
      y = self.post_mlp_norm(y)
    return x + self.drop(y, deterministic=deterministic), kept


class Decoder(nn.Module):
  """A decoder-only language model. Parameters: collection 'params' alone."""

  config: DecoderConfig

  def setup(self):
    c = self.config
    self.embed = Embedding(c.vocab_size, c.hidden_size, 0.02, c.dtype)
    if c.rope is None:
      self.positions = Embedding(
        c.max_position_embeddings, c.hidden_size, 0.02, c.dtype
      )
    layer = DecoderLayer
    if c.remat:
      layer = nn.remat(DecoderLayer, static_argnums=(6,))
    self.layers = [layer(c) for _ in range(c.num_hidden_layers)]
    self.norm = _norm(c)
    if not c.tie_word_embeddings:
      self.head = Embedding(
        c.vocab_size, c.hidden_size, c.hidden_size**-0.5, c.dtype
      )
    self.drop = nn.Dropout(c.dropout_rate)

  def __call__(
    self, tokens, *, positions=None, segment_ids=None, deterministic=True
  ):
    """Next-token logits at every position of whole sequences.

    Args:
      tokens: int32 [B, N], right-padded.
      positions: int32 [B, N]; 0, 1, ... if None. With `segment_ids` and no
        positions every segment counts from 0.
      segment_ids: int32 [B, N]; tokens see their own segment alone (packed
        examples, each contiguous). None: one segment a row.
      deterministic: no dropout; False needs an rng called 'dropout'.

    Returns:
      float32 [B, N, V].
    """
    state = self.hidden(
      tokens,
      positions=positions,
      segment_ids=segment_ids,
      deterministic=deterministic,
    )
    return self.logits_from_hidden(state)

  def hidden(
    self, tokens, *, positions=None, segment_ids=None, deterministic=True
  ):
    """Like `__call__`, but returns the final states [B, N, D], no logits."""
    return self.states(
      tokens,
      positions=positions,
      segment_ids=segment_ids,
      deterministic=deterministic,
    )[0]

  def states(
    self,
    tokens,
    *,
    positions=None,
    segment_ids=None,
    deterministic=True,
    hidden_layers=(-1,),
  ):
    """Like `__call__`, but returns the states asked for, each [B, N, D]."""
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    same = None
    if segment_ids is not None:
      same = segment_ids[:, :, None] == segment_ids[:, None, :]
      if positions is None:
        first = jnp.argmax(same, axis=-1).astype(jnp.int32)
        positions = index - first
    if positions is None:
      positions = jnp.broadcast_to(index, tokens.shape)
    states, _ = self._run(
      tokens,
      positions,
      functools.partial(_sequence_mask, index[0], same),
      deterministic=deterministic,
      hidden_layers=hidden_layers,
    )
    return states

  def logits_from_hidden(self, state):
    """Projects final states [..., D] to float32 logits [..., V]."""
    table = self.embed if self.config.tie_word_embeddings else self.head
    logits = table.attend(state)
    cap = self.config.final_logit_softcapping
    return logits if cap is None else cap * jnp.tanh(logits / cap)

  def prefill(self, tokens, hidden_layers=()):
    """Runs prompts [B, S]; returns (states, ((keys, values) a layer))."""
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return self._run(
      tokens,
      index,
      functools.partial(_sequence_mask, index[0], None),
      hidden_layers=hidden_layers,
    )

  def extend(self, tokens, cache, tree=None, slots=None, hidden_layers=()):
    """Runs a block against a cache; returns (logits, states, kept)."""
    size, capacity = tokens.shape[1], cache.keys[0].shape[-1]
    cache_lib.check_capacity(capacity, size, f'a block of {size} slots')
    depth = cache_lib.block_depth(tree, size)
    states, kept = self._run(
      tokens,
      cache.length[:, None] + depth,
      lambda window: cache_lib.block_mask(
        cache.length, size, capacity, tree, window
      ),
      cache=cache,
      hidden_layers=(-1, *hidden_layers),
    )
    logits = self.logits_from_hidden(cache_lib.pick_slots(states[0], slots))
    return logits, states[1:], kept

  def _run(
    self,
    tokens,
    positions,
    make_mask,
    *,
    cache=None,
    deterministic=True,
    hidden_layers=(),
  ):
    c = self.config
    x = self.embed(tokens) * jnp.asarray(c.embed_scale, c.dtype)
    if c.rope is None:
      x = x + self.positions(positions)
    x = self.drop(x, deterministic=deterministic)
    # One mask and one set of angles for each of the two kinds of layer.
    mask, angles = {}, {}
    outputs, kept = [], []
    for i, layer in enumerate(self.layers):
      sliding = c.is_sliding(i)
      if sliding not in mask:
        mask[sliding] = make_mask(c.sliding_window if sliding else None)
        rope = (c.local_rope if sliding else None) or c.rope
        angles[sliding] = rope and rope_angles(rope, positions, c.head_dim)
      past = cache and (cache.keys[i], cache.values[i])
      start = None if cache is None else cache.length
      x, pair = layer(
        x, angles[sliding], mask[sliding], past, start, deterministic
      )
      outputs.append(x)
      kept.append(pair)
    cache_lib.check_hidden_layers(hidden_layers, len(outputs))
    return cache_lib.collect(outputs, self.norm(x), hidden_layers), kept


def _sequence_mask(index, same, window: Optional[int]):
  """Causal mask [B or 1, N, N] of whole sequences, rows being queries."""
  mask = index[None, :, None] >= index[None, None, :]
  if window is not None:
    # Packed segments are contiguous, so columns measure distance.
    mask &= index[None, None, :] > index[None, :, None] - window
  return mask if same is None else mask & same


@functools.lru_cache(maxsize=None)
def make_lm(
  config: DecoderConfig,
  *,
  vocab_size: Optional[int] = None,
  hidden_layers: tuple = (),
  dtype: Optional[str] = None,
) -> CachedLM:
  """Wraps a decoder-only model as a `CachedLM`.

  Args:
    config: settings of the model.
    vocab_size: V of the logits, at most the table's rows; all if None.
    hidden_layers: layers whose states `prefill` and `extend` return, numbered
      as this module's docstring says.
    dtype: compute and cache dtype, 'float32' or 'bfloat16'; the config's if
      None.

  Returns:
    A `CachedLM` whose `params` are the tree under 'params'.
  """
  if dtype is not None:
    config = dataclasses.replace(config, dtype=jnp.dtype(dtype).name)
  config.validate()
  cache_lib.check_hidden_layers(hidden_layers, config.num_layers)
  vocab = min(vocab_size or config.vocab_size, config.vocab_size)
  module = Decoder(config)

  def prefill(params, prompt, *, capacity):
    needed = prompt.tokens.shape[1]
    cache_lib.check_capacity(capacity, needed, 'the prompt')
    states, kept = module.apply(
      {'params': params}, prompt.tokens, hidden_layers, method='prefill'
    )
    last = prompt.length - 1
    made = cache_lib.Cache(
      keys=tuple(cache_lib.grow(k, capacity) for k, _ in kept),
      values=tuple(cache_lib.grow(v, capacity) for _, v in kept),
      length=last.astype(jnp.int32),
    )
    last_token = jnp.take_along_axis(
      prompt.tokens, last[:, None], axis=1, mode='clip'
    )
    return Prefilled(made, last_token[:, 0], states)

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
    max_positions=config.max_position_embeddings,
    is_encoder_decoder=False,
    start_id=None,
  )
