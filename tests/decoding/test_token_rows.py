"""Lists of tokens of each row: as if all rows had the list of that row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import token_rows
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.token_rows import PerRow

VOCAB, BATCH = 11, 3
ENDS = PerRow([(), (5,), (0, 9)])
SAMPLING = Sampling(
  min_new_tokens=9,
  suppress_tokens=PerRow([(), (3,), (4, 8)]),
  logit_bias=PerRow([{2: 1.5, 0: -1.0}, {}, {2: -3.0}]),
  bad_words=PerRow([((1, 2), (2, 1, 0)), ((3, 3), (7,)), ()]),
)
WARP = jax.jit(warp_lib.warp, static_argnums=0)


def _of(row):
  lists = ('suppress_tokens', 'logit_bias', 'bad_words')
  own = {name: getattr(SAMPLING, name)[row] for name in lists}
  return dataclasses.replace(SAMPLING, **own), ENDS[row]


def test_a_row_is_warped_by_its_own_lists():
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(0, 4, (BATCH, 8)), jnp.int32)
  drafts = jnp.asarray(rng.integers(0, 4, (BATCH, 4)), jnp.int32)
  logits = rng.normal(0, 2, (BATCH, 5, VOCAB)).astype(np.float32)
  spec, length = SAMPLING.warp_spec(), jnp.array([3, 4, 5])
  sizes = token_rows.sizes(SAMPLING, ENDS)

  def warped(sampling, ends):
    controls = sampling.controls(
      row_keys(0, range(BATCH)), 9, ends, spec=spec, sizes=sizes
    )
    context = base.Context(tokens, length, jnp.array([2, 2, 2]), controls)
    return np.asarray(
      WARP(spec, logits, context, *warp_lib.chain_paths(drafts))
    )

  got = warped(SAMPLING, ENDS)
  for row in range(BATCH):
    np.testing.assert_array_equal(got[row], warped(*_of(row))[row])
    other = warped(*_of((row + 1) % BATCH))[row]
    assert (got[row] != other).any()


def test_a_batch_without_a_list_has_the_sizes_of_the_job():
  sizes = token_rows.sizes(SAMPLING, ENDS)
  assert sizes == (2, 2, 2, 2, 3)
  spec = SAMPLING.warp_spec()
  bare = Sampling(
    suppress_tokens=PerRow([()]),
    logit_bias=PerRow([{}]),
    bad_words=PerRow([()]),
  )
  some, none = (
    sampling.controls(row_keys(0, [0]), 9, PerRow([ends]), {}, spec, sizes)
    for sampling, ends in (
      (dataclasses.replace(bare, suppress_tokens=PerRow([(4, 8)])), (0, 9)),
      (bare, ()),
    )
  )
  assert jax.tree.map(jnp.shape, some) == jax.tree.map(jnp.shape, none)


def test_what_rows_share_is_parted_from_what_each_has():
  sampling = dataclasses.replace(
    SAMPLING, logit_bias={2: 1.5}, bad_words=((1, 2), (3,))
  )
  for ends in ((5,), ENDS):
    controls = sampling.controls(row_keys(0, range(BATCH)), 9, ends)
    own = controls.by_row()
    assert all(len(leaf) == BATCH for leaf in jax.tree.leaves(own))
    assert (own.eos_ids is None) == (ends is not ENDS)
    assert (own.lists.bias, own.lists.bad_words) == (None, None)
    whole = own.with_shared(controls)
    jax.tree.map(
      np.testing.assert_array_equal,
      jax.tree.map(np.asarray, whole.replace(row_key=None)),
      jax.tree.map(np.asarray, controls.replace(row_key=None)),
    )
