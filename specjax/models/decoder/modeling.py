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

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import CachedLM
from specjax.base import Prefilled
from specjax.base import Tree
from specjax.models.common import cache as cache_lib
from specjax.models.common import cached_lm
from specjax.models.common.cache import Cache
from specjax.models.common.layers import Embedding
from specjax.models.common.rope import rope_angles
from specjax.models.decoder.config import DecoderConfig
from specjax.models.decoder.layers import DecoderLayer
from specjax.models.decoder.layers import norm


class Decoder(nn.Module):
  """A decoder-only language model. Parameters: collection 'params' alone."""

  config: DecoderConfig

  def setup(self) -> None:
    c = self.config
    rows = c.vocab_size // c.shards.vocab
    axis = c.shards.axis if c.shards.vocab > 1 else None
    self.embed = Embedding(rows, c.hidden_size, 0.02, c.dtype, axis)
    if c.rope is None:
      self.positions = Embedding(
        c.max_position_embeddings, c.hidden_size, 0.02, c.dtype
      )
    layer = DecoderLayer
    if c.remat:
      layer = nn.remat(DecoderLayer, static_argnums=(5,))
    self.layers = [layer(c) for _ in range(c.num_hidden_layers)]
    self.norm = norm(c)
    if not c.tie_word_embeddings:
      self.head = Embedding(
        rows, c.hidden_size, c.hidden_size**-0.5, c.dtype, axis
      )
    self.drop = nn.Dropout(c.dropout_rate)

  def __call__(self, tokens, **settings):
    """Next-token logits at every position of whole sequences.

    Args:
      tokens: int32 [B, N], right-padded.
      **settings: as in `states`.

    Returns:
      float32 [B, N, V].
    """
    return self.logits_from_hidden(self.hidden(tokens, **settings))

  def hidden(self, tokens: Array, **settings: Any) -> Array:
    """Final states [B, N, D]; arguments as in `states`."""
    return self.states(tokens, **settings)[0]

  def states(
    self,
    tokens: Array,
    *,
    positions: Array | None = None,
    segment_ids: Array | None = None,
    deterministic: bool = True,
    hidden_layers: Sequence[int] = (-1,),
  ) -> tuple[Array, ...]:
    """States at every position of whole sequences.

    Args:
      tokens: int32 [B, N], right-padded.
      positions: int32 [B, N]; 0, 1, ... if None. With `segment_ids` and no
        positions every segment counts from 0.
      segment_ids: int32 [B, N]; tokens see their own segment alone (packed
        examples, each contiguous). None: one segment a row.
      deterministic: no dropout; False needs an rng called 'dropout'.
      hidden_layers: layers whose states are returned; see `models.make_lm`.

    Returns:
      A tuple of [B, N, D].
    """
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    same = None
    if segment_ids is not None:
      # In:  segment_ids [1 1 2 2 2]
      # Out: positions   [0 1 0 1 2], each index minus its segment's first
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

  def logits_from_hidden(self, state: Array) -> Array:
    """Projects final states [..., D] to float32 logits [..., V]."""
    table = self.embed if self.config.tie_word_embeddings else self.head
    logits = table.attend(state)
    # Gemma 2 squeezes logits into (-cap, cap); their order stays.
    cap = self.config.final_logit_softcapping
    return logits if cap is None else cap * jnp.tanh(logits / cap)

  def prefill(self, tokens: Array, hidden_layers: Sequence[int] = ()) -> tuple:
    """Runs prompts [B, S]; returns (states, ((keys, values) a layer))."""
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return self._run(
      tokens,
      index,
      functools.partial(_sequence_mask, index[0], None),
      hidden_layers=hidden_layers,
    )

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
    pasts = cache and cache_lib.pasts(cache, tokens.shape[1])
    # One mask and one set of angles for each of the two kinds of layer.
    mask, angles = {}, {}
    outputs, kept = [], []
    for i, layer in enumerate(self.layers):
      # Layers of one kind share mask and angles: 26 layers build two of each.
      sliding = c.is_sliding(i)
      if sliding not in mask:
        mask[sliding] = make_mask(c.sliding_window if sliding else None)
        rope = (c.local_rope if sliding else None) or c.rope
        angles[sliding] = rope and rope_angles(rope, positions, c.head_dim)
      x, pair = layer(
        x, angles[sliding], mask[sliding], pasts and pasts[i], deterministic
      )
      outputs.append(x)
      kept.append(pair)
    cache_lib.check_hidden_layers(hidden_layers, len(outputs))
    return cache_lib.collect(outputs, self.norm(x), hidden_layers), kept


def _sequence_mask(index, same, window: int | None):
  """Causal mask [B or 1, N, N] of whole sequences, rows being queries."""
  # Four tokens; without segments, with window 2, with segments [1 1 2 2]:
  #   [[1 0 0 0]  [[1 0 0 0]  [[1 0 0 0]
  #    [1 1 0 0]   [1 1 0 0]   [1 1 0 0]
  #    [1 1 1 0]   [0 1 1 0]   [0 0 1 0]
  #    [1 1 1 1]]  [0 0 1 1]]  [0 0 1 1]]
  mask = index[None, :, None] >= index[None, None, :]
  if window is not None:
    # Packed segments are contiguous, so columns measure distance.
    mask &= index[None, None, :] > index[None, :, None] - window
  return mask if same is None else mask & same


@functools.cache
def make_lm(config: DecoderConfig, **asked: Any) -> CachedLM:
  """Wraps a decoder-only model as a `CachedLM`.

  Args:
    config: settings of the model.
    **asked: fields of `cached_lm.Request`; `hidden_layers` are numbered as in
      this module's docstring.
  """
  return cached_lm.make(
    Decoder,
    config,
    cached_lm.Request(**asked),
    _prefill,
    layers=config.num_layers,
    max_positions=config.max_position_embeddings,
  )


def _prefill(module, hidden_layers, params, prompt, *, capacity):
  needed = prompt.tokens.shape[1]
  cache_lib.check_capacity(capacity, needed, 'the prompt')
  states, kept = module.apply(
    {'params': params}, prompt.tokens, hidden_layers, method='prefill'
  )
  # Prompt [p q r]: the cache counts p and q, and r is the first block's slot 0,
  # so that its logits come from the same program as all others. Rows of padding
  # are written too; they stand behind `length` and are written over.
  last = prompt.length - 1
  kept = [cache_lib.grow(pair, capacity) for pair in kept]
  made = cache_lib.Cache(
    keys=tuple(k for k, _ in kept),
    values=tuple(v for _, v in kept),
    length=last.astype(jnp.int32),
  )
  last_token = jnp.take_along_axis(
    prompt.tokens, last[:, None], axis=1, mode='clip'
  )
  return Prefilled(made, last_token[:, 0], states)
