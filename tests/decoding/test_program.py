"""The compiled loop: in place, without the host, compiled once."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from specjax import base
from specjax import models
from specjax.decoding import build
from specjax.decoding import generate as generate_lib
from specjax.decoding.request import row_keys
from specjax.decoding.request import Sampling
from tests.decoding import test_identity

pytestmark = pytest.mark.usefixtures('fresh_compilation')

BATCH, NEW = 3, 40


def _compile(kind, drafter, widths=(), **sampling):
  """`run` compiled with its state donated, as a streaming caller would."""
  config = test_identity.CONFIGS[kind]
  # Deep enough that the caches outweigh the scratch space of one layer.
  layers = 'num_decoder_layers' if kind == 't5' else 'num_hidden_layers'
  config = dataclasses.replace(config, **{layers: 4})
  lm = models.make_lm(config)
  params = models.init_params(config, jax.random.key(0))
  settings = Sampling(**sampling)
  recipe = build.recipe(
    lm,
    {'model': lm, 'none': None}.get(drafter, drafter),
    num_draft=4,
    warp=settings.warp_spec(),
  )._replace(widths=widths)
  params = generate_lib.Params(params, params)
  prompt = base.Prompt(
    jnp.ones((BATCH, 300), jnp.int32), jnp.full((BATCH,), 300, jnp.int32)
  )
  controls = settings.controls(row_keys(0, range(BATCH)), NEW, (5,))
  state = generate_lib.start(
    recipe, params, prompt, controls, max_new_tokens=NEW, capacity=700
  )
  run = jax.jit(generate_lib.run, static_argnums=0, donate_argnums=2)
  return run.lower(recipe, params, state).compile(), state


@pytest.mark.parametrize('kind', ['decoder', 't5'])
@pytest.mark.parametrize(
  ('drafter', 'widths', 'temperature'),
  [
    ('none', (), 0.0),
    ('model', (), 0.0),
    ('model', (), 1.0),
    ('prompt_lookup', (), 0.0),
    ('prompt_lookup', (0, 2, 4), 0.0),
  ],
)
def test_caches_stay_in_place(kind, drafter, widths, temperature):
  compiled, state = _compile(kind, drafter, widths, temperature=temperature)
  text = compiled.as_text()
  keys = state.cache.keys[0]
  shape = re.escape(f'f32[{",".join(map(str, keys.shape))}]')
  copies = re.findall(rf'= {shape}\S* copy\(', text)
  assert not copies, copies
  caches = [x for x in jax.tree.leaves((state.cache, state.drafter))
            if x.ndim == 3 and x.shape[-1] == 700]  # fmt: skip
  size = sum(x.nbytes for x in caches)
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes >= size
  assert memory.temp_size_in_bytes < size
  for word in ('callback', 'infeed', 'outfeed', 'send(', 'recv('):
    assert word not in text, word


def test_a_copy_would_be_seen():
  """The pattern of the test above finds a cache copied every round."""
  cache = jnp.zeros((6, 8, 700))

  def run(cache):
    def step(carry):
      i, cache, kept = carry
      return i + 1, cache.at[0, 0, i].set(1.0), cache

    return jax.lax.while_loop(lambda c: c[0] < 9, step, (0, cache, cache))

  text = jax.jit(run, donate_argnums=0).lower(cache).compile().as_text()
  assert re.findall(r'= f32\[6,8,700\]\S* copy\(', text)
