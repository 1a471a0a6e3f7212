"""Matrix products: blocks of few rows, and integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import machine
from specjax.models.common import layers
from specjax.models.common import quantize

DTYPE = jnp.dtype('float32')


@pytest.fixture(scope='module')
def operands():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(70, 48)).astype(np.float32)
  weight = rng.normal(size=(40, 48)).astype(np.float32)
  return x, weight


# Around the bounds of the four ways in which rows are multiplied.
@pytest.mark.parametrize('rows', [1, 2, 4, 5, 8, 9, 64, 65])
def test_a_product_is_that_of_numpy(operands, rows):
  x, weight = operands[0][:rows], operands[1]
  got = jax.jit(lambda x, w: layers.dense(x, w, dtype=DTYPE))(x, weight)
  np.testing.assert_allclose(got, x @ weight.T, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('rows', [1, 2, 5, 9])
def test_a_turned_matrix_gives_the_same_product(operands, rows):
  x, weight = operands[0][:rows], operands[1]
  bias = np.arange(40, dtype=np.float32)

  @jax.jit
  def product(x, kernel):
    return layers.dense(x, kernel, bias, dtype=DTYPE, turned=True)

  got = product(x, np.ascontiguousarray(weight.T))
  np.testing.assert_allclose(got, x @ weight.T + bias, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('rows', [2, 3, 5, 9])
def test_a_row_in_bfloat16_is_the_same_alone_and_in_a_block(operands, rows):
  x, weight = (jnp.asarray(a, jnp.bfloat16) for a in operands)
  product = jax.jit(
    lambda x, w: layers.dense(x, w, dtype=x.dtype, out_dtype=jnp.float32)
  )
  block, alone = product(x[:rows], weight), product(x[:1], weight)
  # Matrix units for bfloat16 sum in an order that depends on the rows; a row
  # that was rounded to bfloat16 on its way would be off by 1e-2.
  near = 2e-6 if 'amx_bf16' in machine.processor_flags() else 0.0
  np.testing.assert_allclose(block[:1], alone, rtol=near, atol=near)
  want = np.asarray(x[:rows], np.float32) @ np.asarray(weight, np.float32).T
  np.testing.assert_allclose(block, want, rtol=1e-3, atol=1e-3)


def test_gradients_of_a_block_are_those_of_numpy(operands):
  x, weight = operands[0][:5], operands[1]
  up = np.ones((5, 40), np.float32)
  _, back = jax.vjp(lambda x, w: layers.dense(x, w, dtype=DTYPE), x, weight)
  dx, dw = back(jnp.asarray(up))
  np.testing.assert_allclose(dx, up @ weight, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(dw, up.T @ x, rtol=1e-4, atol=1e-4)


def test_integer_products_stay_close_and_know_no_neighbours(operands):
  x, weight = operands
  x = x.copy()
  x[3] *= 1000  # a row's rounding must not see the others
  x[4] = 0
  whole, scale = quantize.split(jnp.asarray(weight))
  assert whole.dtype == jnp.int8
  near = np.abs(np.asarray(quantize.restored(whole, scale)) - weight)
  assert near.max() <= np.abs(weight).max() / 254 + 1e-6

  @jax.jit
  def product(x):
    return layers.dense(x, whole, dtype=DTYPE, integer=True) * scale

  want = x @ weight.T
  size = np.abs(x).max(1, keepdims=True) * np.abs(weight).max()
  nine = np.asarray(product(x[:9]))
  assert (np.abs(nine - want[:9]) <= 0.03 * size[:9] * 48**0.5).all()
  assert np.corrcoef(nine[:3].ravel(), want[:3].ravel())[0, 1] > 0.999
  assert not nine[4].any()
  one_by_one = np.concatenate([product(x[i : i + 1]) for i in range(9)])
  np.testing.assert_array_equal(one_by_one, nine)
