"""Building blocks shared by every network: dense, norms, RoPE, attention.

Weights are stored `[out, in]`, as Hugging Face stores them, so that loading is
pure renaming; every matrix product runs in the compute dtype and accumulates
in float32. Attention takes keys and values in the cache's own layout
`[B * Hkv, Dh, L]` with an explicit mask, so the same function serves training,
prefill, cached decoding, and drafter networks with masks of their own.

References:
  Su et al. RoFormer: enhanced transformer with rotary position embedding.
    2021. https://arxiv.org/abs/2104.09864
  Raffel et al. Exploring the limits of transfer learning with a unified
    text-to-text transformer. JMLR 2020. https://arxiv.org/abs/1910.10683
  Ainslie et al. GQA. EMNLP 2023. https://arxiv.org/abs/2305.13245
"""

import dataclasses
import math
from typing import Callable, Optional

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax.models import prepared
from specjax.models import quantize

# A finite stand-in for minus infinity: a fully masked row stays finite.
MASKED = -1e30

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
  'swish': jax.nn.silu,
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_new': lambda x: jax.nn.gelu(x, approximate=True),
  'gelu_pytorch_tanh': lambda x: jax.nn.gelu(x, approximate=True),
}


# Contracted axes of x [rows, in] and a matrix [in, out].
_TURNED = (((1,), (0,)), ((), ()))


def dense(
  x,
  weight,
  bias=None,
  *,
  dtype,
  out_dtype=None,
  integer=False,
  turned=False,
  reduce=None,
):
  """Multiplies by a `[out, in]` matrix, accumulating in float32.

  Args:
    x: [..., in].
    weight: [out, in], any float dtype or int8; cast to `dtype`.
    bias: [out] or None; added in float32.
    dtype: compute dtype of the product's operands.
    out_dtype: dtype of the result; `dtype` by default.
    integer: `weight` is int8 and multiplies x rounded to eight bits ("w8a8").
    turned: `weight` is [in, out], float32; see `prepared`.
    reduce: mesh axis along which the parts of x lie, whose products the caller
      adds up; None where x is whole.

  Returns:
    [..., out].
  """
  shape = x.shape[:-1]
  # Two-dimensional operands keep the backend on its plain matrix kernel.
  x = x.reshape(-1, x.shape[-1])
  if integer:
    y = _integer_product(x, weight, reduce)
  elif turned:
    y = lax.dot_general(x.astype(dtype), weight.astype(dtype), _TURNED)
  else:
    y = _product(x.astype(dtype), weight.astype(dtype))
  if bias is not None:
    y = y + bias.astype(jnp.float32)
  return y.astype(out_dtype or dtype).reshape(*shape, y.shape[-1])


def _product(x, weight):
  """float32 [rows, out]: x [rows, in] times weight [out, in], transposed."""
  rows = x.shape[0]
  if 1 < rows <= 64 and _is_cpu(x):
    # With few rows the CPU's matrix kernel is up to twice as fast the other
    # way round, in fours or eights of columns; one row it reads best as below.
    # The barriers keep the compiler from folding the transposes back in.
    many = 4 if rows <= 4 else -(-rows // 8) * 8
    x = jnp.pad(x, ((0, many - rows), (0, 0)))
    x = lax.optimization_barrier(x.T)
    y = lax.dot_general(weight, x, (((1,), (0,)), ((), ())))
    y = lax.optimization_barrier(y)
    return y.T[:rows]
  return lax.dot_general(
    x,
    weight,
    (((1,), (1,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def _is_cpu(x):
  """Whether products of x are those of a CPU in float32."""
  return x.dtype == jnp.float32 and jax.default_backend() == 'cpu'


def _integer_product(x, weight, reduce=None):
  """float32 [rows, out]: rows of x rounded to 255 steps, then exact.

  A row's result depends on no other row, so blocks of any width give the same.
  A row in parts along the mesh axis `reduce` is rounded as if it were whole.
  """
  rows = x.shape[0]
  # Fewer than three rows miss the CPU's matrix kernel for integers.
  x = jnp.pad(x.astype(jnp.float32), ((0, max(3 - rows, 0)), (0, 0)))
  scale = jnp.max(jnp.abs(x), axis=1, keepdims=True) / 127
  scale = scale if reduce is None else lax.pmax(scale, reduce)
  safe = jnp.where(scale > 0, scale, 1.0)
  y = lax.dot_general(
    jnp.round(x / safe).astype(jnp.int8),
    weight,
    (((1,), (1,)), ((), ())),
    preferred_element_type=jnp.int32,
  )
  return (y.astype(jnp.float32) * safe)[:rows]


class Linear(nn.Module):
  """A dense layer with parameters `weight` [out, in] and `bias` [out].

  A scale [out] beside the weight, as `quantize` makes one, multiplies the
  product; its name tells whether activations are rounded to integers too.

  Attributes:
    features: size of the output axis.
    use_bias: whether there is a bias.
    std: standard deviation of the initial weights; in ** -0.5 if None.
    dtype: compute dtype; parameters are created in float32.
    reduce: mesh axis along which the parts of the input axis lie, so that
      products are partial sums; None where the input is whole.
  """

  features: int
  use_bias: bool = False
  std: Optional[float] = None
  dtype: str = 'float32'
  reduce: Optional[str] = None

  @nn.compact
  def __call__(self, x):
    fan_in = x.shape[-1]
    turned = self.has_variable('params', prepared.KERNEL)
    if turned:
      weight = self.get_variable('params', prepared.KERNEL)
    else:
      weight = self.param(
        'weight',
        nn.initializers.normal(self.std or fan_in**-0.5),
        (self.features, fan_in),
      )
    bias = None
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
    dtype, (scale, integer) = jnp.dtype(self.dtype), _scale(self)
    if self.reduce is None and scale is None:
      return dense(x, weight, bias, dtype=dtype, turned=turned)
    kind = dict(dtype=dtype, integer=integer, reduce=self.reduce)
    y = dense(x, weight, out_dtype=jnp.float32, **kind)
    y = y if scale is None else y * scale
    y = y if self.reduce is None else lax.psum(y, self.reduce)
    y = y if bias is None else y + bias.astype(jnp.float32)
    return y.astype(dtype)


def _scale(module: nn.Module):
  """Scale [out] of a quantised weight or None; are products of integers?"""
  for name in (quantize.WEIGHTS, quantize.W8A8):
    if module.has_variable('params', name):
      scale = module.get_variable('params', name).astype(jnp.float32)
      return scale, name == quantize.W8A8
  return None, False


class Embedding(nn.Module):
  """A table `weight` [rows, width]; `attend` projects back onto its rows.

  Attributes:
    rows, width: of the table, or of this device's part of it.
    std: standard deviation of the initial weights.
    dtype: compute dtype.
    axis: mesh axis along which parts of the rows lie, or None.
  """

  rows: int
  width: int
  std: float = 1.0
  dtype: str = 'float32'
  axis: Optional[str] = None

  def setup(self):
    self.kernel = None
    if self.has_variable('params', prepared.KERNEL):
      self.kernel = self.get_variable('params', prepared.KERNEL)
      if not self.has_variable('params', 'weight'):
        return  # of a head, which is never looked up
    self.weight = self.param(
      'weight', nn.initializers.normal(self.std), (self.rows, self.width)
    )

  def __call__(self, ids):
    # Ids of empty draft slots are -1; they read row 0 and are masked later.
    if self.axis is not None:
      ids = jnp.maximum(ids, 0) - lax.axis_index(self.axis) * self.rows
    rows = jnp.take(self.weight, ids, axis=0, mode='clip')
    scale, _ = _scale(self)
    if scale is not None:
      rows = rows * jnp.take(scale, ids, mode='clip')[..., None]
    if self.axis is not None:
      inside = (ids >= 0) & (ids < self.rows)
      # One term of the sum is not zero, so the type loses nothing.
      rows = jnp.where(inside[..., None], rows, 0).astype(self.dtype)
      return lax.psum(rows, self.axis)
    return rows.astype(self.dtype)

  def attend(self, x):
    """Returns float32 products [..., rows] of `x` [..., width]."""
    kind = dict(dtype=jnp.dtype(self.dtype), out_dtype=jnp.float32)
    if self.kernel is not None:
      return dense(x, self.kernel, turned=True, **kind)
    scale, integer = _scale(self)
    y = dense(x, self.weight, integer=integer, **kind)
    y = y if scale is None else y * scale
    if self.axis is not None:
      y = lax.all_gather(y, self.axis, axis=y.ndim - 1, tiled=True)
    return y


class Norm(nn.Module):
  """RMS norm, or layer norm with a bias; computed in float32.

  Attributes:
    eps: added to the mean square (variance).
    centered: subtract the mean and add a bias (layer norm).
    offset: added to the stored weight; 1 for Gemma, which stores w - 1.
    dtype: dtype of the result.
    axis: mesh axis along which equal parts of the width lie, or None; RMS
      norms only.
  """

  eps: float
  centered: bool = False
  offset: float = 0.0
  dtype: str = 'float32'
  axis: Optional[str] = None

  @nn.compact
  def __call__(self, x):
    width = (x.shape[-1],)
    weight = self.param(
      'weight', nn.initializers.constant(1.0 - self.offset), width
    )
    y = x.astype(jnp.float32)
    if self.centered:
      y = y - jnp.mean(y, axis=-1, keepdims=True)
    square = jnp.mean(y * y, axis=-1, keepdims=True)
    if self.axis is not None:
      square = lax.pmean(square, self.axis)
    y = y * lax.rsqrt(square + self.eps)
    y = y * (weight.astype(jnp.float32) + self.offset)
    if self.centered:
      bias = self.param('bias', nn.initializers.zeros, width)
      y = y + bias.astype(jnp.float32)
    return y.astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class Rope:
  """Rotary embedding settings, named as in Hugging Face's rope_parameters.

  Attributes:
    theta: base of the frequencies.
    kind: 'default', 'linear' or 'llama3'.
    factor: how much the context was stretched.
    low_freq_factor, high_freq_factor: ends of llama3's interpolated band.
    original_max_position_embeddings: context before stretching (llama3).
  """

  theta: float = 10000.0
  kind: str = 'default'
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_position_embeddings: int = 8192


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
  return frequency


def rope_angles(rope: Rope, positions, head_dim: int):
  """Returns (cos, sin), float32 [B, N, 1, head_dim / 2], at `positions`."""
  frequency = jnp.asarray(rope_frequencies(rope, head_dim))
  angle = positions.astype(jnp.float32)[..., None] * frequency
  return jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]


def rotate(x, angles):
  """Rotates the halves of each head of `x` [B, N, H, Dh]."""
  cos, sin = angles
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return y.astype(x.dtype)


def to_columns(x):
  """Turns [B, T, H, Dh] into the cache's layout [B * H, Dh, T]."""
  b, t, h, d = x.shape
  return x.transpose(0, 2, 3, 1).reshape(b * h, d, t)


def attend(
  query,
  keys,
  values,
  mask=None,
  bias=None,
  *,
  scale: float = 1.0,
  softcap: Optional[float] = None,
  drop: Optional[Callable] = None,
):
  """Attention of query heads over keys in the cache's layout.

  Args:
    query: [B, T, H, Dh].
    keys: [B * Hkv, Dh, L]; H must be a multiple of Hkv, and query head h
      reads key head h // (H / Hkv).
    values: [B * Hkv, Dh, L].
    mask: bool [B or 1, T or 1, L], True where a key may be read, or None.
    bias: float32 [B or 1, H, T, L] added to the scores, or None.
    scale: multiplies the scores.
    softcap: scores become softcap * tanh(scores / softcap), as in Gemma 2.
    drop: applied to the probabilities (attention dropout), or None.

  Returns:
    [B, T, H * Dh] in the query's dtype.
  """
  b, t, h, d = query.shape
  groups = keys.shape[0] // b
  per = h // groups
  length = keys.shape[-1]
  q = query.reshape(b, t, groups, per, d).transpose(0, 2, 3, 1, 4)
  q = q.reshape(b * groups, per * t, d)
  batch = ((0,), (0,))
  scores = lax.dot_general(
    q, keys, (((2,), (1,)), batch), preferred_element_type=jnp.float32
  )
  scores = scores.reshape(b, groups, per, t, length) * scale
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  if bias is not None:
    scores = scores + bias.reshape(bias.shape[0], groups, per, t, length)
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1)
  if drop is not None:
    weights = drop(weights)
  weights = weights.astype(query.dtype).reshape(b * groups, per * t, length)
  out = _mix(weights, values)
  out = out.astype(query.dtype).reshape(b, groups, per, t, d)
  return out.transpose(0, 3, 1, 2, 4).reshape(b, t, h * d)


def _mix(weights, values):
  """float32 [G, R, Dh]: weights [G, R, L] times values [G, Dh, L]."""
  batch = ((0,), (0,))
  if 1 < weights.shape[1] <= 8 and values.shape[1] >= 16 and _is_cpu(weights):
    # As in `_product`: a few rows go faster the other way round.
    columns = lax.optimization_barrier(weights.transpose(0, 2, 1))
    out = lax.dot_general(values, columns, (((2,), (1,)), batch))
    return lax.optimization_barrier(out).transpose(0, 2, 1)
  return lax.dot_general(
    weights, values, (((2,), (2,)), batch), preferred_element_type=jnp.float32
  )


def relative_buckets(distance, *, bidirectional, num_buckets, max_distance):
  """T5's buckets of key position minus query position.

  Runs in numpy, in float32 and in the reference's order of operations: on a
  bucket's edge another rounding of the logarithm would pick its neighbour.

  Args:
    distance: int numpy array, key position - query position.
    bidirectional: encoder (both signs) or decoder (the past alone).
    num_buckets: rows of the bias table.
    max_distance: everything at least this far shares the last bucket.

  Returns:
    int32 numpy array of the same shape, in [0, num_buckets).
  """
  offset = 0
  if bidirectional:
    num_buckets //= 2
    offset = (distance > 0).astype(np.int32) * num_buckets
    distance = np.abs(distance)
  else:
    distance = np.maximum(-distance, 0)
  exact = num_buckets // 2
  ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
  far = np.log(ratio) / np.float32(math.log(max_distance / exact))
  far = exact + (far * np.float32(num_buckets - exact)).astype(np.int32)
  far = np.minimum(far, num_buckets - 1)
  return (offset + np.where(distance < exact, distance, far)).astype(np.int32)
