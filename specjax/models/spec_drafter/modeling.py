"""The Spec-Drafter: a whole block of tokens in one bidirectional pass.

An encoder-decoder of its own, with a deep encoder, which runs once, and a
shallow decoder, which runs every round over the latest verified tokens and K
masked slots. Nothing is causal: all slots see all tokens and each other, so no
self-attention keys can be kept from round to round, and the decoder's few
layers and short window bound what a round costs. Every slot is a query of its
own, in every layer. Position vectors are added before each layer; a masked
slot begins as a mixture of the source's embeddings that its position asks for.

Differences from the paper: the layers are T5's (RMS norm before, relative bias
in the encoder), so that a T5 target's encoder can be the beginning; masked
slots have an id outside the vocabulary; position tables begin as sinusoids; the
last decoder layer computes queries at the slots alone; the decoder may see a
window of the prefix, with which it is also trained.

References:
  Xia et al. Speculative decoding: exploiting speculative execution for
    accelerating seq2seq generation. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax.base import Array
from specjax.models.common.attention import MASKED
from specjax.models.common.layers import Embedding
from specjax.models.common.layers import Linear
from specjax.models.common.layers import Norm
from specjax.models.common.output_ids import spread
from specjax.models.spec_drafter.config import never_drafted
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.spec_drafter.layers import Positions
from specjax.models.spec_drafter.layers import SlotLayer
from specjax.models.t5.layers import Stack


class SpecDrafter(nn.Module):
  """The network. Parameters: collection 'params' alone."""

  config: SpecDrafterConfig

  def setup(self) -> None:
    c = self.config
    self.embed = Embedding(c.vocab_size, c.d_model, 1.0, c.dtype)
    self.encoder = Stack(c.layers(), c.num_layers)
    self.positions = Positions(c.max_positions, c.d_model, c.dtype)
    if c.source_copy:
      self.source_positions = Positions(
        c.max_source_positions, c.d_model, c.dtype
      )
      self.copy = Linear(c.d_model, std=1.0 / c.d_model, dtype=c.dtype)
    else:
      self.mask = Embedding(1, c.d_model, 1.0, c.dtype)
    self.layers = [SlotLayer(c) for _ in range(c.num_decoder_layers)]
    self.norm = Norm(c.layer_norm_epsilon, dtype=c.dtype)
    self.drop = nn.Dropout(c.dropout_rate)
    if not c.tie_word_embeddings:
      rows = len(c.output_ids) or c.vocab_size
      self.head = Embedding(rows, c.d_model, c.d_model**-0.5, c.dtype)

  def __call__(self, source, source_mask, tokens, positions, valid, num_slots):
    """Logits of the last `num_slots` entries of each row, all at once.

    Args:
      source: int32 [B, S].
      source_mask: bool [B, S], True at real tokens.
      tokens: int32 [B, N], verified tokens and `config.mask_id` in any order.
      positions: int32 [B, N], 0 for a target's first token.
      valid: bool [B, N]; other entries have no influence.
      num_slots: static.

    Returns:
      float32 [B, num_slots, V], or of the ids of `config.output_ids`.
    """
    place = jnp.broadcast_to(jnp.arange(source.shape[1]), source.shape)
    encoded = self.encode(source, source_mask)
    content = self.masked_content(
      source, place, positions, source_mask[:, None]
    )
    states = self.decode(
      tokens,
      positions,
      valid,
      content,
      (self.project_source(encoded), source_mask[:, None]),
      num_slots,
    )
    return self.logits_from_hidden(states)

  def encode(
    self,
    source: Array,
    source_mask: Array,
    *,
    deterministic: bool = True,
    in_pieces: bool = False,
  ) -> Array:
    """[B, S, D] of int32 [B, S]; see `T5.encode`."""
    stack = self.encoder
    bias = stack.source_bias if in_pieces else stack.sequence_bias
    mask = source_mask if source_mask.ndim == 3 else source_mask[:, None]
    given = self.embed(source), mask, bias(source.shape[1])
    return stack(*given, deterministic=deterministic)[0][0]

  def project_source(self, encoded: Array) -> tuple:
    """Cross-attention (keys, values) of [B, S, D], for every layer."""
    return tuple(layer.project_source(encoded) for layer in self.layers)

  def masked_content(
    self, source: Array, place: Array, positions: Array, mask: Array
  ) -> Array:
    """Returns the initial embeddings of masked slots.

    Args:
      source: int32 [B, S].
      place: int32 [B, S], the source's own positions.
      positions: int32 [B, M] of the slots.
      mask: bool [B, 1 or M, S], source tokens that a slot may copy.

    Returns:
      [B, M, D].
    """
    shape = (*positions.shape, self.config.d_model)
    if not self.config.source_copy:
      return jnp.broadcast_to(self.mask(jnp.zeros((), jnp.int32)), shape)
    tokens = self.embed(source)
    keys = tokens + self.source_positions(place)
    scores = jnp.einsum(
      'bmd,bsd->bms',
      self.copy(self.positions(positions)),
      keys,
      preferred_element_type=jnp.float32,
    )
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
    out = jnp.einsum(
      'bms,bsd->bmd',
      weights.astype(tokens.dtype),
      tokens,
      preferred_element_type=jnp.float32,
    )
    return out.astype(tokens.dtype)

  def decode(
    self,
    tokens: Array,
    positions: Array,
    valid: Array,
    content: Array,
    source: tuple,
    num_slots: int,
    *,
    deterministic: bool = True,
  ) -> Array:
    """Final states of the last `num_slots` entries, [R, num_slots, D].

    Args:
      tokens: int32 [R, N], as in `__call__`.
      positions: int32 [R, N], as in `__call__`.
      valid: bool [R, N], as in `__call__`.
      content: [R, N, D] or [R, num_slots, D] (the last ones alone), read where
        a token is the mask id.
      source: (`project_source` of B rows, mask bool [B, 1 or R / B, S]).
      num_slots: static.
      deterministic: no dropout.
    """
    # Content of the K slots alone: W real entries in front need none.
    missing = tokens.shape[1] - content.shape[1]
    content = jnp.pad(content, ((0, 0), (missing, 0), (0, 0)))
    masked = (tokens == self.config.mask_id)[..., None]
    x = jnp.where(masked, content, self.embed(tokens))
    place = self.positions(positions)
    pairs, mask = source
    for i, layer in enumerate(self.layers):
      is_last = i == len(self.layers) - 1
      # Positions are added before each layer: without a causal mask they alone
      # distinguish slots, and one addition fades through the layers.
      x = self.drop(x + place, deterministic=deterministic)
      x = layer(
        x,
        valid,
        (pairs[i], mask),
        num_slots if is_last else x.shape[1],
        deterministic,
      )
    return self.drop(self.norm(x), deterministic=deterministic)

  def logits_from_hidden(self, state: Array) -> Array:
    """float32 logits [..., V] (of `output_ids` where there are any)."""
    if self.config.tie_word_embeddings:
      scale = jnp.asarray(self.config.d_model**-0.5, state.dtype)
      return self.embed.attend(state * scale)
    return self.head.attend(state)


@struct.dataclass
class Memory:
  """The encoded prompt of a Spec-Drafter; constant over rounds.

  Attributes:
    sources: (keys [B * H, Dh, S], values [B * H, S, Dh]) of each decoder layer.
    source_mask: bool [B, 1, S].
    content: [B, P, D], embedding of a masked slot at each position.
  """

  sources: Any
  source_mask: Array
  content: Array


class SlotNetwork(NamedTuple):
  """A Spec-Drafter as pure functions.

  Attributes:
    prefill: `(params, prompt: base.Prompt, *, capacity: int) -> Memory`.
    logits: `(params, memory, tokens [B, L], length [B], num_slots) ->
      (float32 [B, K, V'], bool [B, K])`: logits of the head (see `draftable`)
      for the tokens that follow the committed ones, and which slots have a
      position of their own. `tokens` begins with the decoder's start token,
      which the network does not read.
  """

  prefill: Callable[..., Memory]
  logits: Callable[..., tuple[Array, Array]]


@functools.cache
def make_network(config: SpecDrafterConfig) -> SlotNetwork:
  """Wraps a Spec-Drafter for decoding."""
  config.validate()
  module = SpecDrafter(config)

  def prefill(params, prompt, *, capacity):
    size = prompt.tokens.shape[1]
    mask = jnp.arange(size) < prompt.length[:, None]

    def run(net):
      place = jnp.broadcast_to(jnp.arange(size), prompt.tokens.shape)
      count = min(config.max_positions, capacity)
      slots = jnp.broadcast_to(jnp.arange(count), (mask.shape[0], count))
      return Memory(
        net.project_source(net.encode(prompt.tokens, mask, in_pieces=True)),
        mask[:, None],
        net.masked_content(prompt.tokens, place, slots, mask[:, None]),
      )

    return module.apply({'params': params}, method=run)

  def logits(params, memory, tokens, length, num_slots):
    given, positions, valid = layout(config, tokens, length, num_slots)
    at = jnp.minimum(positions[:, -num_slots:], memory.content.shape[1] - 1)

    def run(net):
      content = jnp.take_along_axis(memory.content, at[..., None], axis=1)
      states = net.decode(
        given,
        positions,
        valid,
        content,
        (memory.sources, memory.source_mask),
        num_slots,
      )
      return net.logits_from_hidden(states)

    out = module.apply({'params': params}, method=run)
    return out, valid[:, -num_slots:]

  return SlotNetwork(prefill, logits)


def draftable(config: Any, logits: Array, vocab_size: int) -> Array:
  """Returns logits over the vocabulary, -inf for ids that are never drafted.

  Args:
    config: `SpecDrafterConfig` or `BlockwiseConfig`.
    logits: float32 [..., V'], of the whole vocabulary or of `output_ids`.
    vocab_size: V; ids at or above it are dropped.

  Returns:
    float32 [..., V].
  """
  # In:  logits [w x y z], output_ids (0, 2, 3, 5), start and padding 0, V = 5
  # Out: [-inf -inf x y -inf]; id 5 is outside of V
  banned = [i for i in never_drafted(config) if i < vocab_size]
  return _without(spread(logits, config.output_ids, vocab_size), banned)


def at_head(config: Any, logits: Array, vocab_size: int) -> tuple[Array, Array]:
  """Returns the same over the head's ids alone, not over the vocabulary.

  Returns:
    (float32 [..., V'], -inf for ids that are never drafted; int32 [V'], ids).
  """
  ids = np.arange(logits.shape[-1], dtype=np.int32)
  if config.output_ids:
    ids = np.asarray(config.output_ids, np.int32)
  banned = (ids >= vocab_size) | np.isin(ids, never_drafted(config))
  return _without(logits, banned.nonzero()[0]), jnp.asarray(ids)


def _without(logits, places):
  banned = np.zeros(logits.shape[-1], bool)
  banned[list(places)] = True
  return jnp.where(banned, -jnp.inf, logits)


def layout(
  config: SpecDrafterConfig, tokens: Array, length: Array, num_slots: int
) -> tuple[Array, Array, Array]:
  """The decoder's input: a window of committed tokens, then masked slots.

  Args:
    config: config of the network.
    tokens: int32 [B, L], committed ones from the decoder's start token on.
    length: int32 [B], how many, the start token included.
    num_slots: K.

  Returns:
    tokens, positions and valid, each [B, W + K].
  """
  # Window 2, K = 2, `s` the start token, `M` masks; row 1 is shorter:
  # In:  tokens [[s a b c .] [s . . . .]], length [4 1]
  # Out: tokens [[b c M M] [0 s M M]], positions [[1 2 3 4] [0 0 0 1]],
  #      valid  [[1 1 1 1] [0 0 1 1]]; the start token has no position
  window = min(config.window, tokens.shape[1])
  before = jnp.pad(tokens, ((0, 0), (window, 0)))
  before = jax.vmap(lambda row, at: lax.dynamic_slice(row, (at,), (window,)))(
    before, length
  )
  slots = jnp.full((tokens.shape[0], num_slots), config.mask_id, jnp.int32)
  positions = (length - 1)[:, None] + jnp.arange(-window, num_slots)
  valid = (positions >= 0) & (positions < config.max_positions)
  return (
    jnp.concatenate([before, slots], axis=1),
    jnp.maximum(positions, 0),
    valid,
  )
