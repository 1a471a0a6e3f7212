"""Prompts that are read in pieces leave what one pass leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.decoding import generate as generate_lib
from specjax.decoding import prefill
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.models.t5 import layers as t5_layers
from tests.helpers import loops
from tests.helpers import networks
from tests.helpers import recipes
from tests.helpers import shared_prompts

pytestmark = pytest.mark.usefixtures('quick_programs')

WIDTH, NEW, CHUNK = 21, 6, 8


def without_what_is_unread(state):
  """The state with zeros where no row of a cache counts."""

  def clear(x):
    if not isinstance(x, models.Cache):
      return x
    heads = x.keys[0].shape[0] // x.length.shape[0]
    inside = jnp.arange(x.keys[0].shape[2]) < x.length[:, None]
    inside = jnp.repeat(inside, heads, axis=0)
    return x.replace(
      keys=tuple(jnp.where(inside[:, None], k, 0) for k in x.keys),
      values=tuple(jnp.where(inside[..., None], v, 0) for v in x.values),
    )

  return jax.tree.map(
    clear, state, is_leaf=lambda x: isinstance(x, models.Cache)
  )


def started(target, drafter, chunk, prompt, temperature=0.0):
  """(state before the first round, new tokens of every row)."""
  settings = Sampling(temperature=temperature)
  made = shared_prompts.assembled(
    target, drafter, settings.warp_spec(), prefill_chunk=chunk
  )
  controls = settings.controls(row_keys(0, range(len(prompt.length))), NEW)

  @jax.jit
  def run(params, prompt):
    how = dict(max_new_tokens=NEW)
    state = generate_lib.start(made.recipe, params, prompt, controls, **how)
    end = generate_lib.run(made.recipe, params, state)
    return state, generate_lib.finish(end)

  state, end = run(made.params(shared_prompts.data(made, NEW)), prompt)
  state = without_what_is_unread((state.cache, state.drafter))
  return state, loops.new_tokens(jax.device_get(end))


@pytest.mark.parametrize(
  'drafter',
  [
    pytest.param('none', marks=pytest.mark.exhaustive),
    'hybrid',
    'network:eagle',
  ],
)
def test_pieces_leave_the_state_of_one_pass(drafter):
  target = shared_prompts.model('decoder')
  prompt = networks.prompt(4, seed=2, width=WIDTH)
  prompt = prompt.replace(length=prompt.length.at[0].set(WIDTH))
  state, tokens = started(target, drafter, WIDTH, prompt)
  pieces, same = started(target, drafter, CHUNK, prompt)
  assert same == tokens
  for want, got in zip(*map(jax.tree.leaves, (state, pieces)), strict=True):
    np.testing.assert_allclose(got, want, atol=2e-3, err_msg=drafter)


@pytest.mark.parametrize(
  'chunk',
  [
    pytest.param(1, marks=pytest.mark.exhaustive),
    5,
    pytest.param(20, marks=pytest.mark.exhaustive),
  ],
)
def test_states_of_pieces_are_those_of_one_pass(chunk):
  """Also where the last piece overlaps, and for a window of few tokens."""
  config = dataclasses.replace(
    networks.CONFIGS['decoder'],
    num_hidden_layers=2,
    sliding_window=4,
    sliding_layers=(True, False),
  )
  lm = models.make_lm(config, hidden_layers=(-1, 0))
  params = models.init_params(config, jax.random.key(0))
  prompt = networks.prompt(3, seed=4, width=WIDTH)
  want = lm.prefill(params, prompt, capacity=30)
  got = prefill.of_lm(lm, chunk).prefill(params, prompt, capacity=30)
  assert np.array_equal(got.last_token, want.last_token)
  assert np.array_equal(got.cache.length, want.cache.length)
  inside = np.arange(WIDTH) < np.asarray(prompt.length)[:, None]
  for a, b in zip(got.hidden, want.hidden, strict=True):
    np.testing.assert_allclose(a[inside], b[inside], atol=1e-5)


@pytest.mark.parametrize('kind', ['t5', 'spec_drafter'])
def test_a_long_source_attends_in_pieces(kind, monkeypatch):
  """And no array of the whole program is as large as all its scores."""
  config = {
    't5': networks.CONFIGS['t5'],
    'spec_drafter': models.SpecDrafterConfig(
      *(61, 32, 8, 48, 1, 1, 4), block=4, max_source_positions=64
    ),
  }[kind]
  params = models.init_params(config, jax.random.key(1))
  prompt = networks.prompt(2, seed=3, width=WIDTH)
  mask = jnp.arange(WIDTH) < prompt.length[:, None]
  module = models.make_module(config)

  def encode(in_pieces):
    return lambda params: module.apply(
      *({'params': params}, prompt.tokens, mask),
      in_pieces=in_pieces,
      method='encode',
    )

  want = encode(False)(params)
  monkeypatch.setattr(t5_layers, 'PIECE', CHUNK)
  np.testing.assert_allclose(encode(True)(params), want, atol=1e-5)
  scores = f'{WIDTH},{WIDTH}]'
  assert scores in str(jax.make_jaxpr(encode(False))(params))
  assert scores not in str(jax.make_jaxpr(encode(True))(params))


def test_pieces_behind_the_longest_prompt_are_left_out():
  def count(longest):
    return prefill.in_pieces(
      lambda n, start, size: n + 1, 0, (8, 30), 8, jnp.asarray(longest)
    )

  assert [int(count(n)) for n in (1, 8, 9, 16, 17, 30)] == [0, 0, 1, 1, 2, 3]


def test_a_model_of_functions_is_read_in_pieces_too():
  """It need not hold its lengths in a place that we know."""
  inner = models.make_lm(networks.CONFIGS['decoder'])
  lm = base.CachedLM(
    lambda p, prompt, *, capacity: base.Prefilled(
      *(lambda made: ({'inside': made.cache}, made.last_token))(
        inner.prefill(p, prompt, capacity=capacity)
      )
    ),
    lambda p, cache, *rest, **more: (
      lambda found: (found[0], {'inside': found[1]})
    )(inner.extend(p, cache['inside'], *rest, **more)),
    lambda cache, *rest: {'inside': inner.commit(cache['inside'], *rest)},
    None,
    None,
    inner.vocab_size,
  )
  params = networks.params('decoder', 1)
  prompt = networks.prompt(3, seed=5, width=WIDTH)
  want, got = (
    recipes.recipe(lm, prefill_chunk=chunk).target.prefill(
      params, prompt, capacity=30
    )
    for chunk in (WIDTH, CHUNK)
  )
  assert np.array_equal(got.cache['inside'].length, prompt.length - 1)
  np.testing.assert_allclose(
    *(without_what_is_unread(x.cache)['inside'].keys[0] for x in (got, want)),
    atol=2e-3,
  )
