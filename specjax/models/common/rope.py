"""Rotary position embedding, also of extended contexts (llama3, YaRN).

References:
  Su et al. RoFormer: enhanced transformer with rotary position embedding.
    2021. https://arxiv.org/abs/2104.09864
  Peng et al. YaRN: efficient context window extension of large language
    models. 2023. https://arxiv.org/abs/2309.00071
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from specjax.base import Array


@dataclasses.dataclass(frozen=True)
class Rope:
  """Rotary embedding settings, named as in Hugging Face's rope_parameters.

  Attributes:
    theta: base of the frequencies.
    kind: 'default', 'linear', 'llama3' or 'yarn'.
    factor: new context length over the old one.
    low_freq_factor, high_freq_factor: ends of llama3's interpolated band.
    original_max_position_embeddings: context before stretching (llama3, yarn).
    beta_fast, beta_slow: turns within that context from which on yarn keeps a
      frequency, and up to which it stretches it.
    truncate: whether yarn rounds the ends of its band outwards.
    attention_factor: queries and keys are multiplied by it (yarn).
  """

  theta: float = 10000.0
  kind: str = 'default'
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_position_embeddings: int = 8192
  truncate: bool = True
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  attention_factor: float = 1.0


def rope_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
  """Returns float32 [head_dim / 2] angular frequencies."""
  exponent = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
  frequency = (1.0 / np.float32(rope.theta) ** exponent).astype(np.float32)
  if rope.kind == 'linear':
    return frequency / np.float32(rope.factor)
  if rope.kind == 'llama3':
    # Long wavelengths are stretched, short ones kept, a band between mixed.
    wavelength = 2 * math.pi / frequency
    turns = rope.original_max_position_embeddings / wavelength
    low, high = rope.low_freq_factor, rope.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    mixed = (1.0 - kept) * frequency / rope.factor + kept * frequency
    return mixed.astype(np.float32)
  if rope.kind == 'yarn':
    first, last = _yarn_band(rope, head_dim)
    place = np.arange(head_dim // 2, dtype=np.float32)
    ramp = np.clip((place - first) / max(last - first, 1e-3), 0.0, 1.0)
    mixed = ramp * frequency / rope.factor + (1.0 - ramp) * frequency
    return mixed.astype(np.float32)
  return frequency


def _yarn_band(rope: Rope, head_dim: int) -> tuple[float, float]:
  """First and last frequency, from the fastest, between which yarn mixes."""

  def place(turns):
    wavelength = rope.original_max_position_embeddings / turns
    logarithm = math.log(wavelength / (2 * math.pi)) / math.log(rope.theta)
    return head_dim / 2 * logarithm

  first, last = place(rope.beta_fast), place(rope.beta_slow)
  if rope.truncate:
    first, last = math.floor(first), math.ceil(last)
  return max(first, 0), min(last, head_dim - 1)


@jax.named_scope('rope_angles')
def rope_angles(
  rope: Rope, positions: Array, head_dim: int
) -> tuple[Array, Array]:
  """Returns (cos, sin), float32 [B, N, 1, head_dim / 2], at `positions`."""
  # theta 100 and head_dim 4 have the frequencies [1.0 0.1]:
  # In:  positions [[0 1 2]]
  # Out: cosines and sines of the angles [[0 0] [1 0.1] [2 0.2]]
  frequency = jnp.asarray(rope_frequencies(rope, head_dim))
  angle = positions.astype(jnp.float32)[..., None] * frequency
  cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
  if rope.attention_factor != 1:
    cos, sin = cos * rope.attention_factor, sin * rope.attention_factor
  return cos, sin


@jax.named_scope('rotate')
def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
  """Rotates the halves of each head of `x` [B, N, H, Dh]."""
  # Pairs are (i, i + Dh / 2), as in Hugging Face's weights, not neighbours.
  # In:  x [1 2 3 4], angles [pi / 2, 0], so that 1 and 3 are turned
  # Out: [-3 2 1 4]
  cos, sin = angles
  # In float32: angles of far positions are large, and bfloat16 has 8 bits.
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return y.astype(x.dtype)
