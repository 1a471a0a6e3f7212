"""Keyed noise and the samplers that consume it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from specjax.decoding import sampling

ROLES = (
  sampling.TARGET,
  sampling.DRAFT,
  sampling.ACCEPT,
  sampling.RESIDUAL,
  sampling.PRIVATE,
)
# False-alarm rate of each statistical test here.
ALARM = 1e-7

CATEGORICAL = jax.jit(sampling.categorical, static_argnames='sampler')
DRAW = jax.jit(sampling.draw)
GUMBEL = jax.jit(sampling.gumbel, static_argnames='vocab_size')
POSITION_KEYS = jax.jit(sampling.position_keys)
NODE_KEYS = jax.jit(sampling.node_keys, static_argnames='num_nodes')
UNIFORM = jax.jit(sampling.uniform)


def _keys(seed, *shape):
  data = np.random.default_rng(seed).integers(0, 2**32, (*shape, 2), np.uint32)
  return jax.random.wrap_key_data(data)


def _logits(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _data(keys):
  return np.asarray(jax.random.key_data(keys)).reshape(-1, 2)


def test_roles_never_meet_lengths_positions_or_nodes():
  assert len(set(ROLES)) == len(ROLES)
  assert all(2**30 <= role < 2**31 for role in ROLES)


def test_keys_of_all_roles_positions_and_rounds_differ():
  row_key = _keys(0, 3)
  position = np.broadcast_to(np.arange(9), (3, 9))
  found = [_data(POSITION_KEYS(row_key, position, r)) for r in ROLES]
  for length in range(6):
    lengths = np.full((3,), length)
    found += [_data(NODE_KEYS(row_key, lengths, 5, role)) for role in ROLES]
  found = np.concatenate(found)
  assert len(np.unique(found, axis=0)) == len(found)


def test_keys_are_what_their_docstrings_say():
  row_key = _keys(1, 2)
  fold = jax.random.fold_in
  position = jnp.array([[3, 7], [0, 2]])
  got = POSITION_KEYS(row_key, position, sampling.TARGET)
  want = fold(fold(row_key[1], sampling.TARGET), 2)
  np.testing.assert_array_equal(_data(got[1, 1]), _data(want))
  got = NODE_KEYS(row_key, jnp.array([4, 9]), 3, sampling.ACCEPT)
  want = fold(fold(fold(row_key[0], 4), 2), sampling.ACCEPT)
  np.testing.assert_array_equal(_data(got[0, 2]), _data(want))


def test_row_keys_alone_decide_whatever_the_batch():
  row_key = _keys(2, 5)
  position = np.arange(20).reshape(5, 4)
  whole = POSITION_KEYS(row_key, position, sampling.DRAFT)
  rows = np.array([3, 1])
  part = POSITION_KEYS(row_key[rows], position[rows], sampling.DRAFT)
  np.testing.assert_array_equal(_data(whole[rows]), _data(part))
  logits = _logits(0, 5, 4, 700)
  for sampler in sampling.SAMPLERS:
    np.testing.assert_array_equal(
      CATEGORICAL(logits, whole, sampler)[rows],
      CATEGORICAL(logits[rows], part, sampler),
    )


@pytest.mark.parametrize('width', [5, 300])
def test_noise_of_a_token_does_not_depend_on_the_vocabulary(width):
  keys = _keys(3, 4)
  np.testing.assert_array_equal(
    GUMBEL(keys, 301)[:, :width], GUMBEL(keys, width)
  )


def test_cutting_a_padded_tail_changes_no_gumbel_sample():
  keys = _keys(4, 64)
  logits = _logits(1, 64, 1000)
  padded = np.pad(logits, ((0, 0), (0, 72)), constant_values=-np.inf)
  np.testing.assert_array_equal(
    CATEGORICAL(logits, keys), CATEGORICAL(padded, keys)
  )


def test_gumbel_noise_is_finite_and_gumbel():
  noise = np.asarray(GUMBEL(_keys(5, 400), 1000)).ravel()
  assert np.isfinite(noise).all()
  # 32 bits leave no two values of so many draws on one coarse grid point.
  assert stats.kstest(noise, 'gumbel_r').pvalue > ALARM


def test_rare_tokens_keep_their_share():
  # Noise made from 23 bits stops at 16.6. The largest of 2^26 values should
  # exceed that in one run out of e^(2^26 e^-16.6) = 61.
  noise = jax.jit(lambda k: sampling.gumbel(k, 2**16).max(axis=-1))
  top = np.concatenate([np.asarray(noise(k)) for k in _keys(6, 64, 16)])
  assert top.max() > 17
  # The maximum of n Gumbels is a Gumbel shifted by log n.
  assert stats.kstest(top - np.log(2**16), 'gumbel_r').pvalue > ALARM


@pytest.mark.parametrize('size', [1, 2, 7, 511, 513, 1000, 1024, 5003, 32100])
def test_argmax_is_numpys(size):
  rng = np.random.default_rng(size)
  x = rng.normal(size=(3, 4, size)).astype(np.float32)
  x[0, 0] = np.round(x[0, 0])  # many ties: the first one counts
  x[0, 1] = -np.inf
  x[0, 2] = 1.0
  x[0, 3, -1] = 99.0
  x[1, 0, : size // 2] = -np.inf
  got = jax.jit(sampling.argmax)(x)
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, np.argmax(x, axis=-1))
  one_hot = np.where(np.arange(size) == size // 3, 0.0, -np.inf)
  assert sampling.argmax(jnp.asarray(one_hot)) == size // 3


@pytest.mark.parametrize('size', [3, 600])
def test_nan_stays_in_range(size):
  x = jnp.full((4, size), jnp.nan)
  keys = _keys(7, 4)
  for sampler in sampling.SAMPLERS:
    index = CATEGORICAL(x, keys, sampler)
    assert ((index >= 0) & (index < size)).all()
  assert ((sampling.argmax(x) >= 0) & (sampling.argmax(x) < size)).all()


@pytest.mark.parametrize('sampler', sampling.SAMPLERS)
@pytest.mark.parametrize('size', [6, 1000])
def test_samplers_have_the_law_of_the_logits(sampler, size):
  rng = np.random.default_rng(size)
  logits = rng.normal(0, 2, size)
  logits[rng.random(size) < 0.3] = -np.inf
  logits[0] = 1.0
  draws = 40_000
  row = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (draws // 8, size))
  keys = _keys(8, 8, draws // 8)
  seen = np.bincount(
    np.concatenate([np.asarray(CATEGORICAL(row, k, sampler)) for k in keys]),
    minlength=size,
  )
  p = np.exp(logits - logits.max())
  p /= p.sum()
  assert (seen[p == 0] == 0).all()
  order = np.argsort(-p)
  big = order[p[order] * draws >= 5]
  small = np.setdiff1d(np.flatnonzero(p), big)
  observed = np.append(seen[big], seen[small].sum())
  expected = np.append(p[big], p[small].sum()) * draws
  if expected[-1] < 5:
    observed, expected = observed[:-1], expected[:-1]
    expected *= observed.sum() / expected.sum()
  assert len(observed) > 1
  assert stats.chisquare(observed, expected).pvalue > ALARM


def test_inverse_cdf_resolves_far_below_one_uniforms_grid():
  # Given the block, the second uniform decides: block sums are exact here.
  size = 4096
  weights = jnp.full((size,), 1e-12).at[5].set(1.0)
  got = DRAW(jnp.tile(weights, (2000, 1)), _keys(9, 2000))
  assert (got == 5).all()
  # Weights far above and below 1 need no normalising.
  for scale in (1e-30, 1e30):
    heavy = jnp.tile(jnp.array([1.0, 0.0, 1.0]) * scale, (4000, 1))
    got = np.asarray(DRAW(heavy, _keys(10, 4000)))
    assert set(got) == {0, 2}
    assert stats.binomtest(int((got == 0).sum()), 4000).pvalue > ALARM


def test_no_weight_is_never_drawn_even_at_the_ends():
  for size in (4, 2048):
    weights = np.zeros((1, size), np.float32)
    weights[0, [1, size - 2]] = [1e-3, 1.0]
    got = DRAW(jnp.tile(jnp.asarray(weights), (5000, 1)), _keys(11, 5000))
    assert set(np.asarray(got)) == {1, size - 2}


def test_uniform_is_below_one_and_uniform():
  u = np.asarray(UNIFORM(_keys(12, 50, 1000)))
  assert u.shape == (50, 1000) and u.dtype == np.float32
  assert (u >= 0).all() and (u < 1).all()
  assert stats.kstest(u.ravel(), 'uniform').pvalue > ALARM


def test_streams_of_a_round_are_uncorrelated():
  rows = 40_000
  row_key, length = _keys(13, rows), jnp.full((rows,), 6)
  streams = [
    np.asarray(UNIFORM(NODE_KEYS(row_key, length, 2, role)))
    for role in (sampling.DRAFT, sampling.ACCEPT, sampling.RESIDUAL)
  ]
  table = np.corrcoef(np.concatenate(streams, axis=1).T)
  off = np.abs(table[~np.eye(len(table), dtype=bool)])
  assert off.max() < 5.5 / rows**0.5


def test_unknown_sampler():
  with pytest.raises(ValueError, match="'greedy'.*gumbel, inverse_cdf"):
    CATEGORICAL(jnp.zeros((1, 3)), _keys(14, 1), 'greedy')
