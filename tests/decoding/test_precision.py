"""Float32 products are float32 in programs for TPUs and GPUs too."""

import re

import jax
from jax import export
import jax.numpy as jnp
import optax
import pytest

import specjax
from specjax import base
from specjax.decoding import beam
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.inference import assemble
from specjax.inference import planning
from specjax.inference import timing
from specjax.training import state as state_lib
from specjax.training import step as step_lib

PLATFORMS = ('tpu', 'cuda')
NEW, WIDTH = 8, 16
PRODUCT = re.compile(r'stablehlo\.(dot_general|dot|convolution)\b')
PRECISION = re.compile(r'(HIGHEST|HIGH|DEFAULT), (HIGHEST|HIGH|DEFAULT)\b')
TYPES = re.compile(r': \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)')
PROMPT = base.Prompt(
  jax.ShapeDtypeStruct((2, WIDTH), jnp.int32),
  jax.ShapeDtypeStruct((2,), jnp.int32),
)


@pytest.fixture(autouse=True)
def unset_precision():
  """As in a process of a user, who sets no precision."""
  before = jax.config.jax_default_matmul_precision
  jax.config.update('jax_default_matmul_precision', None)
  yield
  jax.config.update('jax_default_matmul_precision', before)


def products(function, *arguments):
  """{(element types, precisions)} of all products, on every platform."""
  found = set()
  for platform in PLATFORMS:
    made = export.export(jax.jit(function), platforms=[platform])(*arguments)
    for line in filter(PRODUCT.search, made.mlir_module().splitlines()):
      stated = PRECISION.search(line)
      both = stated.groups() if stated else ('DEFAULT', 'DEFAULT')
      found.add(TYPES.search(line).groups() + both)
  return found


FULL = ('f32', 'f32', 'HIGHEST', 'HIGHEST')
QUICK = ('f32', 'f32', 'DEFAULT', 'DEFAULT')


def decoding(target, drafter, **settings):
  """The products of speculative decoding."""
  config = specjax.DecodeConfig(max_new_tokens=NEW, num_draft=3, **settings)
  model = planning.load_target(target, config)
  job = planning.plan(model, [[5, 6, 7]], drafter=drafter, config=config)
  controls = config.sampling().controls(row_keys(0, range(2)), NEW, (2,))

  def generate(params, prompt, controls):
    return generate_lib.generate(
      job.recipe, params, prompt, controls, max_new_tokens=NEW
    )

  return products(generate, job.params, PROMPT, controls)


@pytest.mark.parametrize(
  'target, drafter',
  [
    ('shape:llama-tiny', 'shape:llama-tiny'),
    ('shape:llama-tiny', 'network:eagle'),
    ('shape:t5-tiny', 'shape:t5-tiny'),
    ('shape:t5-tiny', 'network:parallel'),
    ('shape:t5-tiny', 'network:spec_drafter'),
  ],
)
def test_every_product_of_float32_decoding_is_float32(target, drafter):
  before = jax.config.jax_default_matmul_precision
  assert decoding(target, drafter) == {FULL}
  assert jax.config.jax_default_matmul_precision == before


@pytest.mark.parametrize(
  'settings, kinds',
  [
    ({'matmul_precision': 'default'}, {QUICK}),
    ({'quantize': 'both'}, {FULL}),
    ({'dtype': 'bfloat16'}, {('bf16', 'bf16', 'DEFAULT', 'DEFAULT')}),
    (
      {'dtype': 'bfloat16', 'quantize': 'target'},
      {('bf16', 'bf16', 'DEFAULT', 'DEFAULT')},
    ),
    ({'dtype': 'w8a8'}, {QUICK, ('i8', 'i8', 'DEFAULT', 'DEFAULT')}),
  ],
)
def test_other_products_are_left_to_the_compiler(settings, kinds):
  assert decoding('shape:llama-tiny', 'shape:llama-tiny', **settings) == kinds


def test_a_precision_that_there_is_not():
  with pytest.raises(ValueError, match='matmul_precision must be one of'):
    specjax.DecodeConfig(matmul_precision='high').validate()


@pytest.mark.parametrize('mode, want', [('highest', FULL), ('default', QUICK)])
def test_whoever_uses_a_target_has_its_precision(mode, want):
  target = planning.load_target('shape:llama-tiny', specjax.DecodeConfig())
  recipe = assemble.plain(target.lm, matmul_precision=mode)
  params = generate_lib.Params(target.params)
  controls = Sampling().controls(row_keys(0, range(2)), NEW, (2,))

  def start(params, prompt, controls):
    return generate_lib.start(
      recipe, params, prompt, controls, max_new_tokens=NEW
    )

  def search(params, prompt, controls):
    spec = beam.BeamSpec(2, matmul_precision=mode)
    return beam.search(
      target.lm, spec, params, prompt, controls, max_new_tokens=NEW
    )

  def block(params, cache):
    tokens = jnp.ones((2, 3), jnp.int32)
    return timing._extend_steps(recipe, params, cache, tokens, 2)

  assert products(search, params.target, PROMPT, controls) == {want}
  assert products(start, params, PROMPT, controls) == {want}
  cache = jax.eval_shape(start, params, PROMPT, controls).cache
  assert products(block, params, cache) == {want}


def test_training_is_left_to_the_compiler_unless_set():
  def loss(params, frozen, batch, key):
    del frozen, key
    return jnp.sum(jnp.square(batch @ params['w'])), jnp.float32(4), {}

  optimizer, objective = optax.sgd(0.1), step_lib.Objective(None, loss)
  params, batch = {'w': jnp.ones((3, 2))}, jnp.ones((4, 3))
  state = state_lib.TrainState(
    jnp.int32(0), params, optimizer.init(params), None
  )
  for given, want in (({}, QUICK), ({'matmul_precision': 'highest'}, FULL)):
    train = step_lib.make_train_step(objective, optimizer, seed=0, **given)
    evaluate = step_lib.make_eval_step(objective, **given)
    assert products(train, state, {}, batch) == {want}
    assert products(evaluate, params, {}, batch) == {want}
