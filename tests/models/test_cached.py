"""The promises of `CachedLM`: trees, paths, slots, rows, capacity, dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import models
from specjax.base import EMPTY
from specjax.base import Prompt
from specjax.base import Tree
from tests.helpers.model_configs import CAPACITY
from tests.helpers.model_configs import CONFIGS

# These programs run once or twice: compiling them well would cost more.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
LENGTHS = (7, 3, 5)
#        0
#      1   2
#     3 4   5
#     6
PARENT = (0, 0, 0, 1, 1, 2, 3)
DEPTH = (0, 1, 1, 2, 2, 2, 3)
# Padded to one length, so that one program serves all of them.
PATHS = ((1, 3, 6), (1, 4, None), (2, 5, None))


@functools.lru_cache
def setup(kind, hidden_layers=()):
  """Returns (lm, params, prefilled cache, last token, jitted extend)."""
  config = CONFIGS[kind]
  params = models.init_params(config, jax.random.key(1))
  lm = models.make_lm(config, hidden_layers=hidden_layers)
  tokens = jax.random.randint(jax.random.key(2), (3, 7), 0, 40)
  prompt = Prompt(tokens, jnp.array(LENGTHS))
  prefill = quick_jit(functools.partial(lm.prefill, capacity=CAPACITY))
  pre = prefill(params, prompt)
  extend = quick_jit(lm.extend)
  # Some committed tokens, at a different length in each row.
  more = jnp.array([[3, 4, 0], [5, 6, 0], [7, 8, 0]])
  start = jnp.concatenate([pre.last_token[:, None], more], axis=1)
  _, cache = extend(params, pre.cache, start)
  cache = lm.commit(cache, jnp.array([3, 2, 3]))
  return lm, params, pre, cache, extend


def tree_of(batch):
  return Tree(
    jnp.tile(jnp.array(PARENT), (batch, 1)),
    jnp.tile(jnp.array(DEPTH), (batch, 1)),
  )


def block():
  return jax.random.randint(jax.random.key(3), (3, len(PARENT)), 0, 40)


@pytest.mark.parametrize('kind', CONFIGS)
def test_tree_equals_its_paths(kind):
  lm, params, _, cache, extend = setup(kind)
  tokens = block()
  scored, _ = extend(params, cache, tokens, tree_of(3))
  for path in PATHS:
    slots = jnp.array((0, *(slot or 0 for slot in path)))
    chain, _ = extend(params, cache, tokens[:, slots])
    real = 1 + sum(slot is not None for slot in path)
    np.testing.assert_allclose(
      scored.logits[:, slots[:real]], chain.logits[:, :real], atol=2e-5
    )


@pytest.mark.parametrize('kind', CONFIGS)
def test_chain_tree_is_a_chain(kind):
  lm, params, _, cache, extend = setup(kind)
  tokens = block()[:, :4]
  place = jnp.tile(jnp.arange(4), (3, 1))
  tree = Tree(jnp.maximum(place - 1, 0), place)
  ours, _ = extend(params, cache, tokens, tree)
  chain, _ = extend(params, cache, tokens)
  np.testing.assert_allclose(ours.logits, chain.logits, atol=2e-5)


@pytest.mark.parametrize('kind', CONFIGS)
def test_commit_path_equals_recompute(kind):
  lm, params, _, cache, extend = setup(kind)
  tokens = block()
  _, wide = extend(params, cache, tokens, tree_of(3))
  # Accepted: two, one and no draft tokens; entries after them are junk.
  path = jnp.array([[1, 4, 0], [2, 6, 6], [5, 1, 3]])
  accepted = jnp.array([2, 1, 0])
  moved = quick_jit(lm.commit)(wide, accepted + 1, path)
  slots = jnp.concatenate([jnp.zeros((3, 1), int), path], axis=1)
  chain = jnp.take_along_axis(tokens, slots, axis=1)
  _, again = extend(params, cache, chain)
  again = lm.commit(again, accepted + 1)
  assert moved.length.tolist() == again.length.tolist()
  more = jnp.array([[9, 8, 7, 6], [7, 6, 5, 4], [5, 4, 3, 2]])
  ours, _ = extend(params, moved, more)
  theirs, _ = extend(params, again, more)
  np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-5)


@pytest.mark.parametrize('kind', CONFIGS)
def test_rollback_forgets(kind):
  lm, params, _, cache, extend = setup(kind)
  tokens = block()[:, :4]
  first, _ = extend(params, cache, tokens)
  _, other = extend(params, cache, 39 - block())
  count = jnp.array([7, 4, 1])
  other = lm.commit(lm.commit(other, count), -count)
  second, _ = extend(params, other, tokens)
  np.testing.assert_array_equal(first.logits, second.logits)


@pytest.mark.parametrize('kind', CONFIGS)
def test_slots_project_only_those(kind):
  lm, params, _, cache, extend = setup(kind, (-1,))
  tokens = block()
  slots = jnp.array([[6, 0], [1, 1], [2, 5]])
  whole, _ = extend(params, cache, tokens, tree_of(3))
  some, _ = extend(params, cache, tokens, tree_of(3), slots)
  assert some.logits.shape == (3, 2, 40)
  np.testing.assert_allclose(
    some.logits,
    jnp.take_along_axis(whole.logits, slots[:, :, None], axis=1),
    atol=1e-5,
  )
  assert some.hidden[0].shape == (3, 7, 16)


@pytest.mark.parametrize('kind', CONFIGS)
def test_select_moves_rows_whole(kind):
  lm, params, _, cache, extend = setup(kind)
  rows = jnp.array([2, 0, 0, 1])
  tokens = block()[:, :4]
  scored, _ = extend(params, cache, tokens)
  chosen = lm.select(cache, rows)
  assert chosen.length.tolist() == cache.length[rows].tolist()
  ours, _ = extend(params, chosen, tokens[rows])
  np.testing.assert_allclose(ours.logits, scored.logits[rows], atol=1e-5)
  keys, values = lm.keys_values(chosen, 1)
  assert keys.shape == chosen.keys[1].shape
  assert values.shape == (keys.shape[0], keys.shape[2], keys.shape[1])


@pytest.mark.parametrize('kind', CONFIGS)
def test_rows_do_not_know_each_other(kind):
  lm, params, _, cache, extend = setup(kind)
  tokens = block()[:, :4]
  together, _ = extend(params, cache, tokens)
  for row in range(3):
    one = lm.select(cache, jnp.array([row]))
    alone, _ = extend(params, one, tokens[row : row + 1])
    np.testing.assert_allclose(alone.logits[0], together.logits[row], atol=1e-5)


@pytest.mark.parametrize('kind', CONFIGS)
def test_hidden_layers(kind):
  layers = (0, 1, 2, -1)
  lm, params, pre, cache, extend = setup(kind, layers)
  scored, _ = extend(params, cache, block())
  assert len(scored.hidden) == 4
  np.testing.assert_array_equal(scored.hidden[2], scored.hidden[3])
  module = models.make_module(CONFIGS[kind])
  logits = module.apply(
    {'params': params}, scored.hidden[3], method='logits_from_hidden'
  )
  np.testing.assert_allclose(logits, scored.logits, atol=1e-5)
  assert len(pre.hidden) == (1 if kind == 't5' else 4)
  assert all(h.shape == (3, 7, 16) for h in pre.hidden)
  with pytest.raises(ValueError, match='hidden layer 3 does not exist'):
    models.make_lm(CONFIGS[kind], hidden_layers=(3,))


@pytest.mark.parametrize('kind', CONFIGS)
def test_empty_slots_harm_nobody(kind):
  lm, params, _, cache, extend = setup(kind)
  tokens = block()[:, :4]
  scored, _ = extend(params, cache, tokens)
  gaps, _ = extend(params, cache, tokens.at[:, 3].set(EMPTY))
  np.testing.assert_array_equal(scored.logits[:, :3], gaps.logits[:, :3])
  assert np.isfinite(gaps.logits).all()


@pytest.mark.parametrize('kind', CONFIGS)
def test_capacity_is_checked_before_tracing(kind):
  lm, params, _, cache, _ = setup(kind)
  prompt = Prompt(jnp.zeros((3, 7), jnp.int32), jnp.array(LENGTHS))
  with pytest.raises(ValueError, match='columns but the'):
    lm.prefill(params, prompt, capacity=0 if kind == 't5' else 6)
  wide = jnp.zeros((3, CAPACITY + 1), jnp.int32)
  with pytest.raises(ValueError, match='a block of 33 slots needs 33'):
    lm.extend(params, cache, wide)


@pytest.mark.parametrize('kind', CONFIGS)
def test_bfloat16(kind):
  exact, params, _, cache, extend = setup(kind)
  lm = models.make_lm(CONFIGS[kind], dtype='bfloat16')
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  prompt = Prompt(
    jax.random.randint(jax.random.key(2), (3, 7), 0, 40), jnp.array(LENGTHS)
  )
  pre = quick_jit(functools.partial(lm.prefill, capacity=CAPACITY))(
    params, prompt
  )
  assert all(x.dtype == jnp.bfloat16 for x in pre.cache.keys)
  scored, after = quick_jit(lm.extend)(params, pre.cache, block())
  assert scored.logits.dtype == jnp.float32
  assert all(x.dtype == jnp.bfloat16 for x in after.values)
  first = setup(kind)[2].cache
  wanted, _ = extend(setup(kind)[1], first, block())
  spread = float(jnp.std(wanted.logits))
  assert float(jnp.abs(scored.logits - wanted.logits).mean()) < 0.1 * spread


def test_padded_table_is_cut():
  config = CONFIGS['decoder']
  lm = models.make_lm(config, vocab_size=33)
  assert lm is models.make_lm(config, vocab_size=33)
  _, params, _, cache, _ = setup('decoder')
  scored, _ = quick_jit(lm.extend)(params, cache, block()[:, :1])
  assert lm.vocab_size == 33 and scored.logits.shape == (3, 1, 33)
