"""Attention over the cache's layout, all of it and the live columns alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax.models.common import attention


def numpy_attention(q, k, v, mask, bias, softcap=None):
  """[B, T, H, Dh] of q [B, T, H, Dh], k and v [B, Hkv, L, Dh]; float64."""
  heads, groups = q.shape[2], k.shape[1]
  group = np.arange(heads) // (heads // groups)
  scores = np.einsum('bthd,bhld->bhtl', q, k[:, group].astype(np.float64))
  if softcap:
    scores = softcap * np.tanh(scores / softcap)
  scores = np.where(mask[:, None], scores + bias, -np.inf)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum('bhtl,bhld->bthd', weights, v[:, group])


def kept(k, v):
  """Keys and values as the cache has them."""
  keys = np.swapaxes(k, 2, 3)
  return tuple(x.reshape(-1, *x.shape[2:]) for x in (keys, v))


# One query and a few; heads that share keys make several rows of each.
@pytest.mark.parametrize('queries', [1, 2, 9])
@pytest.mark.parametrize(('heads', 'groups'), [(2, 2), (4, 2)])
@pytest.mark.parametrize('size', [8, 16])
def test_attention_is_that_of_numpy(queries, heads, groups, size):
  rng = np.random.default_rng(queries)
  batch, length = 2, 11
  q = rng.normal(size=(batch, queries, heads, size)).astype(np.float32)
  k, v = (
    rng.normal(size=(batch, groups, length, size)).astype(np.float32)
    for _ in range(2)
  )
  mask = rng.random((batch, queries, length)) < 0.7
  mask[..., 0] = True
  got = jax.jit(attention.attend)(q, *kept(k, v), mask)
  want = numpy_attention(q, k, v, mask, 0.0)
  np.testing.assert_allclose(
    got, want.reshape(batch, queries, -1), rtol=2e-5, atol=2e-5
  )


@pytest.mark.parametrize('rows', ['one', 'some'])
@pytest.mark.parametrize('live', [1, 200, 256, 257, 450, 451, 900])
def test_live_columns_of_a_long_cache(rows, live):
  """Of the first row whole stretches are masked, as by a window."""
  rng = np.random.default_rng(live)
  batch, length, size = 2, 900, 8
  queries, heads, groups = (1, 2, 2) if rows == 'one' else (3, 4, 2)
  q = 3 * rng.normal(size=(batch, queries, heads, size)).astype(np.float32)
  k, v = (
    rng.normal(size=(batch, groups, length, size)).astype(np.float32)
    for _ in range(2)
  )
  bias = rng.normal(size=(batch, heads, queries, length)).astype(np.float32)
  mask = np.broadcast_to(np.arange(length) < live, (batch, queries, length))
  mask = mask & (rng.random(mask.shape) < 0.8)
  mask[0] &= np.arange(length) >= live - 300
  mask[..., live - 1] = True
  attend = jax.jit(functools.partial(attention.attend, softcap=4.0))
  got = attend(q, *kept(k, v), mask, bias, live=jnp.int32(live))
  want = numpy_attention(q, k, v, mask, bias, 4.0)
  np.testing.assert_allclose(
    got, want.reshape(batch, queries, -1), rtol=2e-5, atol=2e-5
  )


@pytest.mark.parametrize('queries', [1, 3])
def test_what_is_not_live_is_not_looked_at(queries):
  """So a row does not depend on how long its neighbours are."""
  rng = np.random.default_rng(0)
  q = rng.normal(size=(1, queries, 2, 8)).astype(np.float32)
  k, v = (rng.normal(size=(1, 2, 1300, 8)).astype(np.float32) for _ in range(2))
  mask = np.broadcast_to(np.arange(1300) < 200, (1, queries, 1300))
  attend = jax.jit(attention.attend)
  alone = attend(q, *kept(k, v), mask, live=jnp.int32(200))
  longer = attend(q, *kept(k, v), mask, live=jnp.int32(300))
  np.testing.assert_array_equal(alone, longer)
  k[:, :, 256:] = v[:, :, 256:] = np.nan
  np.testing.assert_array_equal(
    alone, attend(q, *kept(k, v), mask, live=jnp.int32(200))
  )
  assert np.isnan(attend(q, *kept(k, v), mask, live=jnp.int32(300))).all()
