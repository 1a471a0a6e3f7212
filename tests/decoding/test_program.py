"""The compiled loop: in place, without the host, compiled once."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from specjax import base
from specjax import models
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from tests.helpers import networks
from tests.helpers import recipes

pytestmark = pytest.mark.usefixtures('fresh_compilation')

BATCH, NEW = 3, 40


def _compile(kind, drafter, widths=(), **sampling):
  """`run` compiled with its state donated, as a streaming caller would."""
  config = networks.CONFIGS[kind]
  # Deep enough that the caches outweigh the scratch space of one layer.
  layers = 'num_decoder_layers' if kind == 't5' else 'num_hidden_layers'
  config = dataclasses.replace(config, **{layers: 4})
  lm = models.make_lm(config)
  params = models.init_params(config, jax.random.key(0))
  settings = Sampling(**sampling)
  recipe = recipes.recipe(
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
  caches = [
    x
    for x in jax.tree.leaves((state.cache, state.drafter))
    if x.ndim == 3 and x.shape[-1] == 700
  ]
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


def _lower(config, rule, temperature, capacity=None, batch=1):
  """`run` with K = 4 drafted by a model of the target's shape, not compiled."""
  lm, settings = models.make_lm(config), Sampling(temperature=temperature)
  recipe = recipes.recipe(
    lm, lm, num_draft=4, verify=rule, warp=settings.warp_spec()
  )
  params = models.abstract_params(config)
  params = generate_lib.Params(params, params)
  prompt = base.Prompt(
    jax.ShapeDtypeStruct((batch, 8), jnp.int32),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )
  controls = settings.controls(row_keys(0, range(batch)), 8, ())
  state = jax.eval_shape(
    lambda *inputs: generate_lib.start(
      recipe, *inputs, max_new_tokens=8, capacity=capacity
    ),
    params,
    prompt,
    controls,
  )
  run = jax.jit(generate_lib.run, static_argnums=0, donate_argnums=2)
  return run.lower(recipe, params, state)


@pytest.mark.parametrize('kind', ['decoder', 't5'])
def test_a_round_grows_by_the_reads_of_attention_alone(kind):
  """Over a capacity of 2,048 tokens: arithmetic, for copies see above."""
  heads, width, layers, batch = 2, 64, 2, 2
  config = {
    't5': models.T5Config(64, 128, width, 64, 1, layers, heads),
    'decoder': models.DecoderConfig(
      64, 128, 64, layers, heads, 1, width, max_position_embeddings=4096
    ),
  }[kind]
  few, many = (
    _lower(config, 'greedy', 0.0, capacity, batch).cost_analysis()['flops']
    # Both are long, so both hold the same part for a few live columns too.
    for capacity in (1000, 1000 + 2048)
  )
  # Blocks of five at the target; of two and of one, counted once, drafting.
  scores = (5 + 2 + 1) * layers * batch * heads
  products = scores * 2 * 2 * width
  assert products <= (many - few) / 2048 < 1.05 * products


@pytest.mark.parametrize(
  ('rule', 'temperature', 'full'),
  [
    ('greedy', 0.0, False),
    ('match', 1.0, False),
    ('coupled', 1.0, False),
    ('sampling', 1.0, True),
  ],
)
def test_only_a_rule_of_ratios_holds_the_drafts_distributions(
  rule, temperature, full
):
  """At 256k tokens: what a draft was drawn from, and the target's softmax."""
  size = 262_144
  config = models.DecoderConfig(
    size, 4, 8, 1, 1, 1, 4, max_position_embeddings=64
  )
  compiled = _lower(config, rule, temperature).compile(
    {'xla_backend_optimization_level': 0}
  )
  text = compiled.as_text()
  drafted = re.findall(rf'\[(?:1,)*4,(?:1,)*{size}\]', text)
  softmax = re.findall(rf'\[[\d,]*{size}\]\S* exponential\(', text)
  assert bool(drafted) == bool(softmax) == full
  # Rows of V float32 entries: the target's logits, and scratch space of the
  # product (eight rows), the noise and the argmax.
  rows = compiled.memory_analysis().temp_size_in_bytes / (4 * size)
  assert rows < {'greedy': 19, 'sampling': 24}.get(rule, 28)
