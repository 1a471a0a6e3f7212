"""The layers of the decoder-only family, every variation being a switch."""

from flax import linen as nn

from specjax.base import Array
from specjax.models.common import cache as cache_lib
from specjax.models.common.attention import as_kept
from specjax.models.common.attention import attend
from specjax.models.common.layers import ACTIVATIONS
from specjax.models.common.layers import Linear
from specjax.models.common.layers import Norm
from specjax.models.common.rope import rotate
from specjax.models.decoder.config import DecoderConfig


def _linear(config, features, use_bias, parts=1):
  """A dense layer; of the input axis there are `parts` on other devices."""
  return Linear(
    features,
    use_bias=use_bias,
    dtype=config.dtype,
    # Of a cut input axis a device has a partial sum, and all add theirs up. An
    # axis that is whole must not be summed: each device would add its copy.
    reduce=config.shards.axis if parts > 1 else None,
  )


def norm(config: DecoderConfig, parts: int = 1) -> Norm:
  """The family's norm, of a width in `parts` on other devices."""
  return Norm(
    config.norm_eps,
    centered=config.layer_norm,
    offset=config.norm_offset,
    dtype=config.dtype,
    axis=config.shards.axis if parts > 1 else None,
  )


class SelfAttention(nn.Module):
  """Grouped-query attention over its own block or over a cache."""

  config: DecoderConfig

  def setup(self) -> None:
    c = self.config
    parts = c.shards.heads
    width = c.num_attention_heads * c.head_dim // parts
    # A mesh with more parts than key heads gets copies of them beforehand
    # (`Sharding.with_key_heads`), so this division leaves nothing over.
    kv_width = c.num_key_value_heads * c.head_dim // parts
    self.q = _linear(c, width, c.qkv_bias)
    self.k = _linear(c, kv_width, c.qkv_bias)
    self.v = _linear(c, kv_width, c.qkv_bias)
    self.o = _linear(c, c.hidden_size, c.out_bias, parts)
    # Over the channels of one head, which no mesh cuts; `sub_norm` spans all
    # heads, of which a device may hold a part.
    if c.qk_norm:
      self.q_norm = norm(c)
      self.k_norm = norm(c)
    if c.sub_norm:
      self.sub_norm = norm(c, parts)
    self.drop = nn.Dropout(c.dropout_rate)

  def __call__(self, x, angles, mask, past, deterministic):
    c = self.config
    heads = (*x.shape[:2], -1, c.head_dim)
    q, k, v = (part(x).reshape(heads) for part in (self.q, self.k, self.v))
    # Before the rotation: a norm has a factor for each channel, and a rotation
    # mixes channels, so the two do not commute.
    if c.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    if angles is not None:
      q, k = rotate(q, angles), rotate(k, angles)
    # Keys are cached after the rotation, so a step rotates its own block alone.
    kept, live = as_kept(k, v), None
    if past is not None:
      kept, live = cache_lib.write(past, kept), past.live
    # Some models divide by the root of another width than that of a head.
    scale = (c.query_pre_attn_scalar or c.head_dim) ** -0.5
    out = attend(
      q,
      *kept,
      mask,
      scale=scale,
      softcap=c.attn_logit_softcapping,
      drop=lambda p: self.drop(p, deterministic=deterministic),
      live=live,
    )
    if c.sub_norm:
      out = self.sub_norm(out)
    return self.o(out), kept


class CrossAttention(nn.Module):
  """Reads an encoded source; of drafters for encoder-decoder targets."""

  config: DecoderConfig

  def setup(self) -> None:
    c = self.config
    width = c.num_attention_heads * c.head_dim
    self.q, self.k, self.v = (_linear(c, width, False) for _ in range(3))
    self.o = _linear(c, c.hidden_size, False)

  def project(self, encoded: Array) -> tuple[Array, Array]:
    """Keys and values of [B, S, De], in the cache's layout."""
    # Once a prompt: the source stays the same while its answer is decoded.
    heads = (*encoded.shape[:2], -1, self.config.head_dim)
    keys, values = self.k(encoded), self.v(encoded)
    return as_kept(keys.reshape(heads), values.reshape(heads))

  def __call__(self, x, kept, mask):
    d = self.config.head_dim
    query = self.q(x).reshape(*x.shape[:2], -1, d)
    return self.o(attend(query, *kept, mask, scale=d**-0.5))


class DecoderFeedForward(nn.Module):
  """A feed-forward network, gated or not."""

  config: DecoderConfig

  def setup(self) -> None:
    c = self.config
    parts = c.shards.mlp
    width = c.intermediate_size // parts
    if c.gated:
      self.gate = _linear(c, width, c.mlp_bias)
    self.up = _linear(c, width, c.mlp_bias)
    self.down = _linear(c, c.hidden_size, c.mlp_bias, parts)
    if c.sub_norm:
      self.sub_norm = norm(c, parts)

  def __call__(self, x):
    act = ACTIVATIONS[self.config.hidden_act]
    up = self.up(x)
    hidden = act(self.gate(x)) * up if self.config.gated else act(up)
    if self.config.sub_norm:
      hidden = self.sub_norm(hidden)
    return self.down(hidden)


class DecoderLayer(nn.Module):
  """Pre-norm attention and feed-forward, with Gemma's post-norms if asked.

  Attributes:
    config: settings of the family.
    cross: whether the layer reads an encoded source too.
  """

  config: DecoderConfig
  cross: bool = False

  def setup(self) -> None:
    c = self.config
    self.attn = SelfAttention(c)
    self.mlp = DecoderFeedForward(c)
    self.attn_norm = norm(c)
    self.mlp_norm = norm(c)
    if c.post_norm:
      self.post_attn_norm = norm(c)
      self.post_mlp_norm = norm(c)
    if self.cross:
      self.cross_attn = CrossAttention(c)
      self.cross_norm = norm(c)
    self.drop = nn.Dropout(c.dropout_rate)

  def __call__(self, x, angles, mask, past, deterministic, source=None):
    """Runs the layer on a block.

    Args:
      x: [B, T, D].
      angles: (cos, sin) of `rope_angles`, or None.
      mask: bool [B or 1, T, L or T].
      past: `cache.Past`, or None to attend inside the block alone.
      deterministic: no dropout.
      source: with `cross`: ((keys, values) of `CrossAttention.project`, bool
        mask [B, 1 or T, S]).

    Returns:
      ([B, T, D], (keys, values)), the latter with the block written.
    """
    y, kept = self.attn(self.attn_norm(x), angles, mask, past, deterministic)
    # Before the sum, so that the residual stream itself is never normalised.
    if self.config.post_norm:
      y = self.post_attn_norm(y)
    x = x + self.drop(y, deterministic=deterministic)
    if self.cross:
      y = self.cross_attn(self.cross_norm(x), *source)
      x = x + self.drop(y, deterministic=deterministic)
    y = self.mlp(self.mlp_norm(x))
    if self.config.post_norm:
      y = self.post_mlp_norm(y)
    return x + self.drop(y, deterministic=deterministic), kept
