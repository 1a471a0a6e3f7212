"""Building blocks shared by every network: dense, embeddings, norms.

Weights are stored `[out, in]`, as Hugging Face stores them, so that loading is
pure renaming; every matrix product runs in the compute dtype and accumulates
in float32. Models that decode on a CPU hold them transposed, see `cpu_layout`.
"""

from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from specjax.models.common import cpu_layout
from specjax.models.common import quantize

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'relu2': lambda x: jnp.square(jax.nn.relu(x)),
  'silu': jax.nn.silu,
  'swish': jax.nn.silu,
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_new': lambda x: jax.nn.gelu(x, approximate=True),
  'gelu_pytorch_tanh': lambda x: jax.nn.gelu(x, approximate=True),
}


# Contracted axes of x [rows, in] and a matrix [in, out].
_TURNED = (((1,), (0,)), ((), ()))


def dense(
  x: jax.Array,
  weight: jax.Array,
  bias: jax.Array | None = None,
  *,
  dtype: Any,
  out_dtype: Any = None,
  integer: bool = False,
  turned: bool = False,
  reduce: str | None = None,
) -> jax.Array:
  """Multiplies by a `[out, in]` matrix, accumulating in float32.

  Args:
    x: [..., in].
    weight: [out, in], any float dtype or int8; cast to `dtype`.
    bias: [out] or None; added in float32.
    dtype: compute dtype of the product's operands.
    out_dtype: dtype of the result; `dtype` by default.
    integer: `weight` is int8 and multiplies x rounded to eight bits ("w8a8").
    turned: `weight` is [in, out], float32; see `cpu_layout`.
    reduce: mesh axis along which the parts of x lie, whose products the caller
      adds up; None where x is whole.

  Returns:
    [..., out].
  """
  shape = x.shape[:-1]
  # Two-dimensional operands keep the backend on its plain matrix kernel.
  x = x.reshape(-1, x.shape[-1])
  if weight.dtype == jnp.int8 and not integer:
    weight = _after(x, weight)
  if integer:
    y = _integer_product(x, weight, reduce)
  elif turned:
    y = lax.dot_general(x.astype(dtype), weight.astype(dtype), _TURNED)
  else:
    y = _product(x.astype(dtype), weight.astype(dtype))
  if bias is not None:
    y = y + bias.astype(jnp.float32)
  return y.astype(out_dtype or dtype).reshape(*shape, y.shape[-1])


def _after(x, weight):
  """int8 `weight` as it is, but on a CPU not before x is known.

  A CPU converts it then, matrix after matrix; else all of them would be kept in
  the compute dtype too while a loop decodes.
  """

  def late(x, weight):
    bits = lax.bitcast_convert_type(x[0, 0].astype(jnp.float32), jnp.uint32)
    zero = (bits >> 31) >> 1
    return weight ^ zero.astype(jnp.int8)

  return lax.platform_dependent(
    x, weight, cpu=late, default=lambda x, weight: weight
  )


def _product(x, weight):
  """float32 [rows, out]: x [rows, in] times weight [out, in], transposed."""
  rows = x.shape[0]
  if x.dtype == jnp.float32 and 1 < rows <= 64:
    return lax.platform_dependent(x, weight, cpu=_in_columns, default=_in_rows)
  if x.dtype == jnp.bfloat16 and rows < 3:
    return lax.platform_dependent(x, weight, cpu=_padded, default=_in_rows)
  return _in_rows(x, weight)


def _in_rows(x, weight):
  """`_product` as it stands."""
  return lax.dot_general(
    x,
    weight,
    (((1,), (1,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def _in_columns(x, weight):
  """`_product` for a CPU and few rows of float32.

  Its matrix kernel is up to twice as fast the other way round, in fours or
  eights of columns; one row it reads best as it stands. The barriers keep the
  compiler from folding the transposes back in.
  """
  rows = x.shape[0]
  many = 4 if rows <= 4 else -(-rows // 8) * 8
  x = jnp.pad(x, ((0, many - rows), (0, 0)))
  x = lax.optimization_barrier(x.T)
  y = lax.dot_general(weight, x, (((1,), (0,)), ((), ())))
  y = lax.optimization_barrier(y)
  return y.T[:rows]


def _padded(x, weight):
  """`_product` for a CPU and one or two rows of bfloat16.

  With fewer than three rows a CPU keeps the matrix in float32 too, and rounds a
  row differently than in a block.
  """
  rows = x.shape[0]
  x = jnp.pad(x, ((0, 3 - rows), (0, 0)))
  return _in_rows(x, weight)[:rows]


def _integer_product(x, weight, reduce=None):
  """float32 [rows, out]: rows of x rounded to 255 steps, then exact.

  A row's result depends on no other row. x itself does, by float32 rounding,
  which may move an entry to the next of the 255 steps: blocks of other widths
  give other logits, and may give other tokens.
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
  product; its name decides whether activations are rounded to integers too.

  Attributes:
    features: size of the output axis.
    use_bias: whether there is a bias.
    std: standard deviation of the initial weights; in ** -0.5 if None.
    dtype: compute dtype; parameters are created in float32.
    reduce: mesh axis along which the parts of the input axis lie, so that
      products are partial sums; None where the input is whole.
  """

  # The parameter that maps one space to another; see `models.maps`.
  MAP = 'weight'

  features: int
  use_bias: bool = False
  std: float | None = None
  dtype: str = 'float32'
  reduce: str | None = None

  @nn.compact
  def __call__(self, x):
    fan_in = x.shape[-1]
    turned = self.has_variable('params', cpu_layout.KERNEL)
    if turned:
      weight = self.get_variable('params', cpu_layout.KERNEL)
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
    rows, width: sizes of the table, or of this device's part of it.
    std: standard deviation of the initial weights.
    dtype: compute dtype.
    axis: mesh axis along which parts of the rows lie, or None.
  """

  rows: int
  width: int
  std: float = 1.0
  dtype: str = 'float32'
  axis: str | None = None

  def setup(self) -> None:
    self.kernel = None
    if self.has_variable('params', cpu_layout.KERNEL):
      self.kernel = self.get_variable('params', cpu_layout.KERNEL)
      if not self.has_variable('params', 'weight'):
        return  # of a head, which is never looked up
    self.weight = self.param(
      'weight', nn.initializers.normal(self.std), (self.rows, self.width)
    )

  def __call__(self, ids):
    # Ids of empty draft slots are -1; they read row 0 and are masked later.
    if self.axis is not None:
      # Two devices of 4 rows, id 6: local ids 6 and 2; the second one has the
      # row.
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

  def attend(self, x: jax.Array) -> jax.Array:
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
  axis: str | None = None

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
