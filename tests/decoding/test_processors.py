"""Processors of the warp against those of transformers and of vLLM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from tests.helpers import references

VOCAB, BATCH, CAPACITY = 37, 6, 20
ENDS = (0, 5, 9)
WARP = jax.jit(warp_lib.warp, static_argnums=0)
# Block: 0 -> 1 -> 3, 4;  0 -> 2 -> 5;  3 -> 6
PARENT, DEPTH = [0, 0, 0, 1, 1, 2, 3], [0, 1, 1, 2, 2, 2, 3]


def _context(rng, sampling):
  """Histories of few distinct tokens, so that words and n-grams repeat."""
  length = rng.integers(1, CAPACITY + 1, BATCH)
  return base.Context(
    tokens=jnp.asarray(rng.integers(0, 4, (BATCH, CAPACITY)), jnp.int32),
    length=jnp.asarray(length, jnp.int32),
    prompt_length=jnp.asarray(rng.integers(1, length + 1), jnp.int32),
    controls=sampling.controls(row_keys(0, range(BATCH)), 5, ENDS),
  )


def _slots(shape, drafts):
  """Paths of every slot: ((path, path_length), lists of tokens [B][T])."""
  if shape == 'chain':
    paths = warp_lib.chain_paths(jnp.asarray(drafts))
    return paths, [[row[:t] for t in range(len(row) + 1)] for row in drafts]
  tree = base.Tree(
    *(jnp.tile(jnp.asarray(x), (BATCH, 1)) for x in (PARENT, DEPTH))
  )
  path, length = warp_lib.tree_paths(jnp.asarray(drafts), tree, 3)
  tokens = []
  for row in drafts:
    paths = [[]]
    for slot in range(1, len(PARENT)):
      paths.append([*paths[PARENT[slot]], row[slot - 1]])
    tokens.append(paths)
  return (path, length), tokens


def _cases(seed, shape, sampling):
  """(warped [B, T, V], logits, [(row, slot, history, prompt length)])."""
  rng = np.random.default_rng(seed)
  context = _context(rng, sampling)
  width = 4 if shape == 'chain' else len(PARENT) - 1
  drafts = rng.integers(0, 4, (BATCH, width)).astype(np.int32)
  logits = rng.normal(0, 2, (BATCH, width + 1, VOCAB)).astype(np.float32)
  paths, tokens = _slots(shape, drafts)
  got = WARP(sampling.warp_spec(), logits, context, *paths)
  cases = []
  for row in range(BATCH):
    committed = context.tokens[row, : int(context.length[row])].tolist()
    for slot, path in enumerate(tokens[row]):
      given = int(context.prompt_length[row])
      cases.append((row, slot, [*committed, *map(int, path)], given))
  return np.asarray(got), logits, cases


BIAS = {0: 3.0, 7: -2.5, 36: 100.0}
SUPPRESSED = [3, 8, 36, 0, 1, 2, 30, 31, 32]
WORDS = ((7,), (1, 2), (2, 1, 0), (3,), (3, 3), (5,), (1, 1, 1, 1, 2), (0, 9))
LEAST = [0, 1, 3, 7, 40, 2]


def _bias(lp, torch, row, given):
  return lp.SequenceBiasLogitsProcessor([[[k], v] for k, v in BIAS.items()])


def _words(lp, torch, row, given):
  words = [list(word) for word in WORDS]
  return lp.NoBadWordsLogitsProcessor(words, list(ENDS))


def _least(lp, torch, row, given):
  return lp.MinNewTokensLengthLogitsProcessor(given, LEAST[row], list(ENDS))


def _suppressed(lp, torch, row, given):
  return lp.SuppressTokensLogitsProcessor(SUPPRESSED)


# The word of one end token is left out, as `token_lists.resolved` does.
OURS = tuple(word for word in WORDS if word != (5,))
TWINS = {
  'logit_bias': (_bias, BIAS),
  'bad_words': (_words, OURS),
  'min_new_tokens': (_least, LEAST),
  'suppress_tokens': (_suppressed, SUPPRESSED),
}


@pytest.mark.parametrize('shape', ['chain', 'tree'])
@pytest.mark.parametrize('name', TWINS)
def test_equals_transformers_at_every_slot(name, shape, torch):
  from transformers.generation import logits_process

  make, value = TWINS[name]
  got, logits, cases = _cases(len(name), shape, Sampling(**{name: value}))
  for row, slot, history, given in cases:
    twin = make(logits_process, torch, row, given)
    want = twin(torch.tensor([history]), torch.tensor(logits[row, slot])[None])
    np.testing.assert_allclose(got[row, slot], want[0].numpy(), rtol=1e-6)


@pytest.mark.parametrize('shape', ['chain', 'tree'])
def test_penalties_equal_vllms_formula(shape):
  frequency = [0.0, 0.5, -1.0, 2.0, 0.3, 1.0]
  presence = [1.5, 0.0, 0.7, -2.0, 0.3, 0.0]
  sampling = Sampling(frequency_penalty=frequency, presence_penalty=presence)
  got, logits, cases = _cases(1, shape, sampling)
  for row, slot, history, given in cases:
    # logits -= frequency * output_bin_counts, then presence * output_mask,
    # where the output has the generated tokens alone.
    counts = np.bincount(history[given:], minlength=VOCAB).astype(np.float32)
    want = logits[row, slot] - np.float32(frequency[row]) * counts
    want = want - np.float32(presence[row]) * (counts > 0)
    np.testing.assert_allclose(got[row, slot], want, rtol=1e-6)
  assert (got != logits).any()


@pytest.mark.parametrize('shape', ['chain', 'tree'])
def test_all_of_them_in_the_documented_order(shape):
  rows = dict(
    temperature=[0.5, 1.5, 0.0, 1.0, 3.0, 1.5],
    top_k=[0, 20, 5, 9, 0, 12],
    top_p=[0.9, 1.0, 0.8, 0.95, 0.7, 0.9],
    min_p=[0.0, 0.05, 0.1, 0.0, 0.02, 0.01],
    repetition_penalty=[1.3, 1.0, 0.7, 1.1, 2.0, 1.2],
    frequency_penalty=[0.0, 0.5, -1.0, 2.0, 0.3, 1.0],
    presence_penalty=[1.5, 0.0, 0.7, -2.0, 0.3, 0.0],
    min_new_tokens=LEAST,
  )
  # The penalty of repetition applies to logits with their bias.
  shared = dict(
    logit_bias={0: -3.0, 1: 2.0, 2: 1.0, 3: -1.5},
    bad_words=OURS,
    suppress_tokens=SUPPRESSED,
    no_repeat_ngram_size=2,
  )
  got, logits, cases = _cases(2, shape, Sampling(**rows, **shared))
  for row, slot, history, given in cases:
    want = references.warp(
      logits[row, slot],
      history,
      prompt_length=given,
      end_ids=ENDS,
      **{name: value[row] for name, value in rows.items()},
      **shared,
    )
    np.testing.assert_allclose(
      references.softmax(got[row, slot]), want, atol=2e-6
    )


def test_slots_that_know_only_how_many_tokens_stand_before_them():
  sampling = Sampling(min_new_tokens=LEAST, presence_penalty=1.0)
  context = _context(np.random.default_rng(3), sampling)
  context = context.replace(prompt_length=context.length)
  logits = jnp.zeros((BATCH, 4, VOCAB))
  depth = jnp.broadcast_to(jnp.arange(4), (BATCH, 4))
  got = WARP(sampling.warp_spec(), logits, context, None, depth)
  want = np.arange(4) < np.array(LEAST)[:, None]
  np.testing.assert_array_equal(np.isinf(got[..., 5]), want)
  assert np.isfinite(got[..., 4]).all()


def test_another_list_of_the_same_bucket_recompiles_nothing():
  traces = []

  @jax.jit
  def call(logits, context):
    traces.append(1)
    return warp_lib.warp(Sampling(**_lists(1)).warp_spec(), logits, context)

  logits = jnp.zeros((BATCH, 1, VOCAB))
  for count in (1, 5, 8):
    sampling = Sampling(**_lists(count))
    context = _context(np.random.default_rng(0), sampling)
    got = np.asarray(call(logits, context))[0, 0]
    assert np.isneginf(got[10 : 10 + count]).all()
    np.testing.assert_array_equal(got[20 : 20 + count], 1.5)
    assert np.isneginf(got).sum() == count
  assert len(traces) == 1
  call(logits, _context(np.random.default_rng(0), Sampling(**_lists(9))))
  assert len(traces) == 2


def _lists(count):
  return dict(
    suppress_tokens=range(10, 10 + count),
    logit_bias={20 + i: 1.5 for i in range(count)},
    bad_words=[(30, 31, 32 + i % 4) for i in range(count)],
  )


# (temperature, filter): the likeliest token alone is left.
COLD = [
  (3e38, dict(top_k=1)),
  (3e38, dict(min_p=1.0)),
  (3e38, dict(top_p=1e-9)),
  (1e39, dict(top_k=1)),
  (1e-30, dict()),
  (2e-38, dict()),
  (1e-38, dict()),
  (1e-45, dict()),
  (1e-30, dict(top_p=0.5)),
  (1e-38, dict(min_p=0.5, top_k=3)),
]


def test_extreme_temperatures_are_greedy():
  spec = warp_lib.WarpSpec(True, top_k=True, top_p=True, min_p=True)
  rng = np.random.default_rng(4)
  logits = rng.normal(0, 5, (BATCH, 3, VOCAB)).astype(np.float32)
  logits[0, 0] = 1e-25 * np.arange(VOCAB)
  logits[1, 0] = -1e4 * np.arange(VOCAB)
  logits[2, 0, 4:] = -np.inf
  for temperature, filters in COLD:
    sampling = Sampling(temperature=temperature, **filters)
    got = np.asarray(WARP(spec, logits, _context(rng, sampling)))
    assert not (np.isnan(got) | np.isposinf(got)).any(), temperature
    weights = np.asarray(jax.nn.softmax(got))
    best = np.argmax(logits, axis=-1)[..., None]
    chance = np.take_along_axis(weights, best, axis=-1)
    np.testing.assert_array_equal(chance, 1.0, (temperature, filters))


def test_the_hottest_law_is_uniform():
  sampling = Sampling(temperature=3e38, suppress_tokens=[3])
  spec, rng = sampling.warp_spec(), np.random.default_rng(5)
  logits = rng.normal(0, 5, (BATCH, 1, VOCAB)).astype(np.float32)
  got = jax.nn.softmax(WARP(spec, logits, _context(rng, sampling)))
  want = np.where(np.arange(VOCAB) == 3, 0, 1 / (VOCAB - 1))
  np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=1e-6)


def test_switches_are_off_by_default():
  assert Sampling().warp_spec() == warp_lib.WarpSpec()
  made = Sampling().controls(row_keys(0, [0]), 1)
  new = 'min_new_tokens presence_penalty frequency_penalty lists'.split()
  assert [getattr(made, name) for name in new] == [None] * 4
  for name, value in (
    ('min_new_tokens', [0, 1]),
    ('presence_penalty', -1.0),
    ('frequency_penalty', [0.0, 0.1]),
    ('suppress_tokens', [1]),
    ('logit_bias', {1: 0.0}),
    ('bad_words', [(1, 2)]),
  ):
    spec = Sampling(**{name: value}).warp_spec()
    assert spec == dataclasses.replace(warp_lib.WarpSpec(), **{name: True})
    assert spec.moves_argmax
    assert spec.reads_path == (name not in ('suppress_tokens', 'logit_bias'))
