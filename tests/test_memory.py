"""Estimates of memory, beside what the compiler says of the same program."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

import specjax
from specjax import base
from specjax import models
from specjax.decoding import build
from specjax.decoding import generate as generate_lib
from specjax.decoding.request import row_keys
from tests import tiny

DECODER = models.DecoderConfig(
  vocab_size=4000,
  hidden_size=256,
  intermediate_size=688,
  num_hidden_layers=3,
  num_attention_heads=8,
  num_key_value_heads=4,
  head_dim=32,
  max_position_embeddings=2048,
)
T5 = models.T5Config(4000, 256, 32, 1024, 3, 3, 8)


def compiled_bytes(config, drafter, decode, prompt_tokens):
  """Arguments, results and temporaries of the whole program."""

  def stored(config):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, decode.dtype),
      models.abstract_params(config),
    )

  batch = decode.batch_size
  given, params = drafter, None
  if not isinstance(drafter, str):
    given, params = models.make_lm(drafter), stored(drafter)
  recipe = build.recipe(
    models.make_lm(config), given, num_draft=decode.num_draft
  )
  prompt = base.Prompt(
    jax.ShapeDtypeStruct((batch, prompt_tokens), jnp.int32),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )
  controls = jax.eval_shape(
    lambda: decode.sampling().controls(row_keys(0, range(batch)), 64)
  )
  program = build.compiled(recipe, decode.max_new_tokens)
  found = (
    jax.jit(lambda *inputs: program(*inputs))
    .lower(generate_lib.Params(stored(config), params), prompt, controls)
    .compile()
    .memory_analysis()
  )
  return (
    found.argument_size_in_bytes
    + found.temp_size_in_bytes
    + found.output_size_in_bytes
  )


@pytest.mark.parametrize(
  'config, layers, dtype, tokens',
  [
    (DECODER, 0, 'bfloat16', 128),
    pytest.param(DECODER, 1, 'float32', 384, marks=pytest.mark.slow),
    pytest.param(T5, 0, 'float32', 128, marks=pytest.mark.slow),
    pytest.param(T5, 1, 'float32', 384, marks=pytest.mark.slow),
  ],
)
@pytest.mark.usefixtures('fresh_compilation')
def test_estimate_is_within_ten_percent(config, layers, dtype, tokens):
  config = dataclasses.replace(config, dtype=dtype)
  drafter = 'prompt_lookup'
  if layers:
    names = {'num_layers', 'num_decoder_layers', 'num_hidden_layers'}
    fields = {f.name for f in dataclasses.fields(config)} & names
    drafter = dataclasses.replace(config, **dict.fromkeys(fields, layers))
  decode = specjax.DecodeConfig(
    batch_size=4, max_new_tokens=64, dtype=dtype, num_draft=3
  )
  estimate = specjax.estimate_memory(
    config, drafter=drafter, decode=decode, prompt_tokens=tokens
  )
  real = compiled_bytes(config, drafter, decode, tokens)
  assert abs(estimate.total / real - 1) < 0.1, (estimate, real)


def test_a_mesh_divides_it():
  config = dataclasses.replace(
    tiny.DECODER, num_attention_heads=8, num_key_value_heads=8
  )
  one = specjax.estimate_memory(config)
  layout = specjax.make_layout(specjax.MeshConfig((2, 4)))
  many = specjax.estimate_memory(config, layout=layout)
  norms = 3 * 32 * 4  # Every device holds them.
  assert many.parameters == (one.parameters - norms) // 4 + norms
  assert math.isclose(many.state, one.state / 8, rel_tol=0.1)
  int8 = specjax.estimate_memory(
    config, decode=specjax.DecodeConfig(quantize='both')
  )
  assert one.parameters / 4 < int8.parameters < one.parameters / 3
  assert many.text().startswith('Memory a device, estimated: 0.00 GB')
