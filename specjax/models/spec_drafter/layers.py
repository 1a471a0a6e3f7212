"""The layers of the Spec-Drafter's decoder; see `modeling`."""

import functools

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from specjax.base import Array
from specjax.models.common.layers import Norm
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.t5.layers import Attention
from specjax.models.t5.layers import T5FeedForward


def sinusoids(rows: int, width: int) -> np.ndarray:
  """Initial position tables, float32 [rows, width].

  Neighbouring rows are similar from the start; random rows would have to learn
  that one by one.
  """
  # width 4: rates [1 .01], row 2: [sin 2, sin .02, cos 2, cos .02]
  rate = 1e4 ** (-np.arange(width // 2) / max(width // 2, 1))
  angle = np.arange(rows)[:, None] * rate
  table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
  return np.pad(table, ((0, 0), (0, width % 2))).astype(np.float32)


class Positions(nn.Module):
  """A learned table `weight` [rows, width]; rows beyond it read the last."""

  rows: int
  width: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, place):
    weight = self.param(
      'weight', lambda key: jnp.asarray(sinusoids(self.rows, self.width))
    )
    return jnp.take(weight, place, axis=0, mode='clip').astype(self.dtype)


class SlotLayer(nn.Module):
  """A decoder layer without a causal mask."""

  config: SpecDrafterConfig

  def setup(self) -> None:
    c = self.config.layers()
    self.attn, self.cross_attn = Attention(c), Attention(c)
    self.mlp = T5FeedForward(c)
    norm = functools.partial(Norm, c.layer_norm_epsilon, dtype=c.dtype)
    self.attn_norm, self.cross_norm, self.mlp_norm = norm(), norm(), norm()
    self.drop = nn.Dropout(c.dropout_rate)

  def project_source(self, encoded: Array) -> tuple[Array, Array]:
    """Cross-attention keys and values of [B, S, D]."""
    return self.cross_attn.project(encoded)

  def __call__(self, x, valid, source, num_slots, deterministic):
    """Runs the layer.

    Args:
      x: [R, N, D]; R is a multiple of the B rows of the source.
      valid: bool [R, N], entries that may be read.
      source: ((keys, values) of B rows, mask bool [B, 1 or R / B, S]).
      num_slots: number of last entries to compute; N for all.
      deterministic: no dropout.

    Returns:
      [R, num_slots, D].
    """
    drop = functools.partial(self.drop, deterministic=deterministic)
    y = self.attn_norm(x)
    kept = self.attn.project(y)
    # Keys of all entries, queries of the last `num_slots`: the last layer's
    # other outputs are read by nobody.
    x, y = x[:, -num_slots:], y[:, -num_slots:]
    x = x + drop(self.attn(y, kept, valid[:, None], None, deterministic))
    pair, mask = source
    # R = B * C cuts share their row's source: [B * C, T, D] -> [B, C * T, D],
    # so one product reads each source once.
    y = self.cross_norm(x).reshape(mask.shape[0], -1, x.shape[-1])
    if mask.shape[1] > 1:
      mask = jnp.repeat(mask, y.shape[1] // mask.shape[1], axis=1)
    y = self.cross_attn(y, pair, mask, None, deterministic)
    x = x + drop(y.reshape(x.shape))
    return x + drop(self.mlp(self.mlp_norm(x), deterministic))
