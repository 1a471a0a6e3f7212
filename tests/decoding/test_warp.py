"""The warp against transformers' own processors and a float64 oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import warp as warp_lib
from tests.helpers import references

VOCAB = 37
WARP = jax.jit(warp_lib.warp, static_argnums=0)
ALL = warp_lib.WarpSpec(True, True, True, True, True, 3)


def _context(rng, batch, capacity=20, vocab=VOCAB, **controls):
  def rows(name, off, dtype):
    value = np.asarray(controls.get(name, off), dtype)
    return jnp.asarray(np.broadcast_to(value, (batch,)))

  length = rng.integers(1, capacity + 1, batch)
  # Few distinct tokens, so that n-grams repeat; junk behind the length.
  tokens = rng.integers(0, min(vocab, 4), (batch, capacity))
  key_data = rng.integers(0, 2**32, (batch, 2), np.uint32)
  return base.Context(
    tokens=jnp.asarray(tokens, jnp.int32),
    length=jnp.asarray(length, jnp.int32),
    prompt_length=jnp.asarray(length, jnp.int32),
    controls=base.Controls(
      row_key=jax.random.wrap_key_data(key_data),
      temperature=rows('temperature', 1.0, np.float32),
      top_k=rows('top_k', 0, np.int32),
      top_p=rows('top_p', 1.0, np.float32),
      min_p=rows('min_p', 0.0, np.float32),
      repetition_penalty=rows('repetition_penalty', 1.0, np.float32),
      max_new_tokens=rows('max_new_tokens', 5, np.int32),
      eos_ids=jnp.array([-1]),
      rule={
        'lenience': rows('lenience', 1.0, np.float32),
        'beta': rows('beta', 1, np.int32),
        'tau': rows('tau', 0.0, np.float32),
      },
    ),
  )


def _block(seed, batch, num_draft, capacity=20, **controls):
  rng = np.random.default_rng(seed)
  context = _context(rng, batch, capacity, **controls)
  logits = rng.normal(0, 2, (batch, num_draft + 1, VOCAB)).astype(np.float32)
  drafts = rng.integers(0, 4, (batch, num_draft)).astype(np.int32)
  return context, logits, drafts


def _history(context, drafts, row, slot):
  committed = np.asarray(context.tokens)[row, : int(context.length[row])]
  return [*committed.tolist(), *drafts[row, :slot].tolist()]


def _processors(torch_transformers, row):
  """transformers' own chain, in its own order, for one row's values."""
  lp = torch_transformers
  chain = []
  if row['repetition_penalty'] != 1:
    chain.append(
      lp.RepetitionPenaltyLogitsProcessor(float(row['repetition_penalty']))
    )
  if row['no_repeat_ngram_size']:
    chain.append(lp.NoRepeatNGramLogitsProcessor(row['no_repeat_ngram_size']))
  chain.append(lp.TemperatureLogitsWarper(float(row['temperature'])))
  if row['top_k']:
    chain.append(lp.TopKLogitsWarper(int(row['top_k'])))
  if row['top_p'] < 1:
    chain.append(lp.TopPLogitsWarper(float(row['top_p'])))
  if row['min_p']:
    chain.append(lp.MinPLogitsWarper(float(row['min_p'])))
  return chain


CASES = {
  'temperature': dict(temperature=[0.3, 0.5, 1.0, 1.5, 2.0, 7.0]),
  'top_k': dict(top_k=[1, 2, 5, 0, 36, 400]),
  'top_p': dict(top_p=[0.01, 0.3, 0.9, 1.0, 0.999, 0.6]),
  'min_p': dict(min_p=[0.0, 0.01, 0.1, 0.5, 1.0, 0.3]),
  'penalty': dict(repetition_penalty=[1.0, 0.5, 1.2, 2.0, 1.01, 10.0]),
  'ngram_1': dict(no_repeat_ngram_size=1),
  'ngram_2': dict(no_repeat_ngram_size=2),
  'ngram_3': dict(no_repeat_ngram_size=3),
  'ngram_30': dict(no_repeat_ngram_size=30),
  'all': dict(
    temperature=[0.5, 1.5, 0.7, 1.0, 3.0, 1.5],
    top_k=[0, 20, 5, 9, 0, 12],
    top_p=[0.9, 1.0, 0.8, 0.95, 0.7, 0.9],
    min_p=[0.0, 0.05, 0.1, 0.0, 0.02, 0.01],
    repetition_penalty=[1.3, 1.0, 0.7, 1.1, 2.0, 1.2],
    no_repeat_ngram_size=2,
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_equals_transformers_at_every_draft_position(case, torch):
  from transformers.generation import logits_process

  values = dict(CASES[case])
  size = values.pop('no_repeat_ngram_size', 0)
  context, logits, drafts = _block(len(case), 6, 4, **values)
  # Ties, also at thresholds (transformers breaks those of top-p by position).
  if case in ('top_k', 'min_p', 'temperature'):
    logits = np.round(logits)
  spec = dataclasses.replace(ALL, no_repeat_ngram_size=size)
  got = WARP(spec, logits, context, *warp_lib.chain_paths(jnp.asarray(drafts)))
  for row in range(6):
    settings = {
      name: np.asarray(getattr(context.controls, name))[row]
      for name in (
        'temperature',
        'top_k',
        'top_p',
        'min_p',
        'repetition_penalty',
      )
    }
    settings['no_repeat_ngram_size'] = size
    for slot in range(5):
      ids = torch.tensor([_history(context, drafts, row, slot)])
      scores = torch.tensor(logits[row, slot])[None]
      for processor in _processors(logits_process, settings):
        scores = processor(ids, scores)
      want = scores[0].numpy()
      np.testing.assert_array_equal(np.isinf(got[row, slot]), np.isinf(want))
      np.testing.assert_allclose(got[row, slot], want, rtol=1e-6)


def test_equals_the_oracle_with_everything_on():
  rng = np.random.default_rng(3)
  values = dict(
    temperature=rng.uniform(0.3, 2, 40),
    top_k=rng.integers(0, VOCAB, 40),
    top_p=rng.uniform(0.2, 1, 40),
    min_p=rng.uniform(0, 0.2, 40),
    repetition_penalty=rng.uniform(0.5, 2, 40),
  )
  values['temperature'][::7] = 0
  context, logits, drafts = _block(4, 40, 3, **values)
  got = WARP(ALL, logits, context, *warp_lib.chain_paths(jnp.asarray(drafts)))
  for row in range(40):
    for slot in range(4):
      want = references.warp(
        logits[row, slot],
        _history(context, drafts, row, slot),
        no_repeat_ngram_size=3,
        **{name: value[row] for name, value in values.items()},
      )
      np.testing.assert_allclose(
        references.softmax(got[row, slot]), want, atol=2e-6
      )


def test_values_that_are_off_leave_a_row_untouched():
  context, logits, drafts = _block(5, 7, 2)
  spec = dataclasses.replace(ALL, no_repeat_ngram_size=0)
  got = WARP(spec, logits, context, *warp_lib.chain_paths(jnp.asarray(drafts)))
  np.testing.assert_array_equal(got, logits)
  got = WARP(warp_lib.WarpSpec(), logits.astype(jnp.bfloat16), context)
  assert got.dtype == jnp.float32


def test_rows_do_not_see_their_mates():
  values = dict(top_k=[3, 0, 7], top_p=[0.9, 0.5, 1.0], temperature=[1, 0, 2.0])
  context, logits, drafts = _block(6, 3, 2, **values)
  paths = warp_lib.chain_paths(jnp.asarray(drafts))
  whole = WARP(ALL, logits, context, *paths)
  for row in range(3):
    one = jax.tree.map(
      lambda x, at=row: x if x.shape == (1,) else x[at : at + 1], context
    )
    part = WARP(
      ALL,
      logits[row : row + 1],
      one,
      *(x[row : row + 1] for x in paths),
    )
    np.testing.assert_array_equal(whole[row], part[0])


def test_greedy_rows():
  values = dict(
    temperature=[0.0, 1.0], repetition_penalty=[5.0, 1.0], top_k=[2, 2]
  )
  context, logits, drafts = _block(7, 2, 2, **values)
  logits[0, 0] = -50
  logits[0, 0, [2, 30, 31]] = [9, 5, 5]  # token 2 is made unlikely; then a tie
  context = context.replace(tokens=context.tokens.at[0].set(2))
  spec = warp_lib.WarpSpec(
    sampled=True, top_k=True, repetition_penalty=True, one_hot=True
  )
  paths = warp_lib.chain_paths(jnp.asarray(drafts))
  got = WARP(spec, logits, context, *paths)
  want = np.where(np.arange(VOCAB) == 30, 0, -np.inf)
  np.testing.assert_array_equal(got[0, 0], want)
  assert (np.isfinite(got[0]).sum(axis=-1) == 1).all()
  assert (np.isfinite(got[1]).sum(axis=-1) == 2).all()
  kept = WARP(dataclasses.replace(spec, one_hot=False), logits, context, *paths)
  cold = WARP(
    warp_lib.WarpSpec(repetition_penalty=True), logits, context, *paths
  )
  np.testing.assert_array_equal(kept[0], cold[0])
  np.testing.assert_array_equal(kept[1], got[1])
  np.testing.assert_array_equal(
    np.argmax(cold, axis=-1)[0], np.argmax(got, axis=-1)[0]
  )


def test_ties_at_a_threshold_stay():
  context, logits, _ = _block(8, 3, 0, top_k=[2, 0, 0], top_p=[1, 0.5, 1])
  logits[:] = np.where(np.arange(VOCAB) < 5, 1.0, -3.0)
  context = context.replace(
    controls=context.controls.replace(min_p=jnp.array([0, 0, 1.0]))
  )
  spec = warp_lib.WarpSpec(sampled=True, top_k=True, top_p=True, min_p=True)
  got = WARP(spec, logits, context)
  assert (np.isfinite(got).sum(axis=-1) == 5).all()
  np.testing.assert_array_equal(np.isfinite(got[0, 0]), np.arange(VOCAB) < 5)


@pytest.mark.parametrize(
  'row',
  [
    [0.0, -0.0, 1e-40, -1e-40, 3.0],
    [-np.inf, -np.inf, -np.inf, 2.0, -np.inf],
    [-1e30, 1e30, 0.0, 5.0, -5.0],
    [-7.0, -7.5, -8.0, -9.0, -100.0],
  ],
)
def test_thresholds_are_exact_for_odd_floats(row):
  row = np.array(row, np.float32)
  rng = np.random.default_rng(0)
  context = _context(rng, 6, vocab=5, top_k=[1, 2, 3, 4, 5, 6])
  logits = np.broadcast_to(row, (6, 1, 5))
  got = WARP(warp_lib.WarpSpec(True, top_k=True), logits, context)[:, 0]
  for k in range(1, 7):
    kth = np.sort(row)[::-1][min(k, 5) - 1]
    want = np.where(row >= kth, row, -np.inf)
    # A subnormal may count as the zero it nearly is.
    near = (np.abs(row) < 1e-38) & (np.abs(kth) < 1e-38)
    np.testing.assert_array_equal(
      np.isfinite(got[k - 1])[~near], np.isfinite(want)[~near]
    )


def test_top_k_matches_a_sort_on_a_large_vocabulary():
  rng = np.random.default_rng(9)
  context = _context(rng, 4, top_k=[1, 50, 5000, 32000])
  logits = rng.normal(0, 3, (4, 2, 32000)).astype(np.float32)
  got = WARP(warp_lib.WarpSpec(True, top_k=True), logits, context)
  np.testing.assert_array_equal(
    np.isfinite(got).sum(axis=-1), np.array([[1, 50, 5000, 32000]] * 2).T
  )


def test_a_traced_value_recompiles_nothing():
  traces = []

  @jax.jit
  def call(logits, context):
    traces.append(1)
    return warp_lib.warp(ALL, logits, context)

  for i in range(4):
    context, logits, _ = _block(i, 3, 1, top_k=i, top_p=0.3 + 0.1 * i)
    call(logits, context)
  assert len(traces) == 1


def test_chain_paths_stop_at_the_first_empty_slot():
  drafts = jnp.array([[5, 6, 7], [5, -1, -1], [-1, -1, -1]])
  path, length = warp_lib.chain_paths(drafts)
  assert path.shape == (3, 4, 3)
  np.testing.assert_array_equal(
    length, [[0, 1, 2, 3], [0, 1, 1, 1], [0, 0, 0, 0]]
  )
  # -1 neither marks the last token of the vocabulary nor makes n-grams.
  context, logits, _ = _block(10, 3, 3, repetition_penalty=2.0)
  spec = warp_lib.WarpSpec(repetition_penalty=True, no_repeat_ngram_size=1)
  got = WARP(spec, logits, context, path, length)
  assert np.isfinite(got[..., -1]).all()
  np.testing.assert_array_equal(
    np.where(np.isin(np.arange(VOCAB), [0, 1, 2, 3, 5, 6, 7]), 0, got[1, 1]),
    np.where(np.isin(np.arange(VOCAB), [0, 1, 2, 3, 5, 6, 7]), 0, logits[1, 1]),
  )


def test_no_draft_slots():
  context, logits, drafts = _block(11, 3, 0, repetition_penalty=2.0)
  paths = warp_lib.chain_paths(jnp.asarray(drafts))
  np.testing.assert_array_equal(
    WARP(ALL, logits, context, *paths), WARP(ALL, logits, context)
  )


def test_tree_paths_follow_parents():
  #   0 -> 1 -> 3, 4;  0 -> 2 -> 5;  3 -> 6
  parent = jnp.array([[0, 0, 0, 1, 1, 2, 3]])
  depth = jnp.array([[0, 1, 1, 2, 2, 2, 3]])
  tokens = jnp.array([[10, 11, 12, 13, 14, 15]])
  path, length = warp_lib.tree_paths(tokens, base.Tree(parent, depth), 3)
  got = [
    tuple(np.asarray(path[0, slot, :n])) for slot, n in enumerate(length[0])
  ]
  assert got == [
    (),
    (10,),
    (11,),
    (10, 12),
    (10, 13),
    (11, 14),
    (10, 12, 15),
  ]


def test_a_chain_is_a_tree():
  context, logits, drafts = _block(12, 5, 3, repetition_penalty=1.5)
  spec = warp_lib.WarpSpec(repetition_penalty=True, no_repeat_ngram_size=2)
  slots = jnp.broadcast_to(jnp.arange(4), (5, 4))
  tree = base.Tree(jnp.maximum(slots - 1, 0), slots)
  chain = warp_lib.chain_paths(jnp.asarray(drafts))
  branch = warp_lib.tree_paths(jnp.asarray(drafts), tree, 3)
  np.testing.assert_array_equal(
    WARP(spec, logits, context, *chain), WARP(spec, logits, context, *branch)
  )
