"""Estimates of memory, beside the compiler's for the same program."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

import specjax
from specjax import base
from specjax import models
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import random_models
from specjax.models import sharded
from specjax.models.common import quantize
from tests.helpers import recipes
from tests.helpers import tiny

DECODER = models.DecoderConfig(4000, 256, 688, 3, 8, 4, 32, 2048)
T5 = models.T5Config(4000, 256, 32, 1024, 3, 3, 8)
# Few layers and ids of a shape whose prompts are read in pieces.
SMOLLM2 = dataclasses.replace(
  random_models.shape_config('shape:smollm2-135m'),
  num_hidden_layers=2,
  vocab_size=4096,
)


def with_layers(config, count):
  names = {'num_layers', 'num_decoder_layers', 'num_hidden_layers'}
  fields = {f.name for f in dataclasses.fields(config)} & names
  return dataclasses.replace(config, **dict.fromkeys(fields, count))


def abstract(config, dtype, layout, int8=False):
  """A model's parameters as shapes on their devices, and its `CachedLM`."""
  if layout is None:
    shapes, lm = models.abstract_params(config), models.make_lm(config)
    config = dataclasses.replace(config, dtype=dtype)
    if int8:
      shapes = jax.eval_shape(
        lambda x: quantize.tree(x, quantize.WEIGHTS), shapes
      )
    shapes = jax.eval_shape(lambda x: models.prepare(config, x), shapes)
    place = jax.tree.map(
      lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes
    )
  else:
    layout = sharded.fit(config, layout)
    shapes = models.abstract_params(sharded.expanded(config, layout))
    specs = mesh_lib.parameter_specs(shapes, layout)
    place = jax.tree.map(layout.sharding, specs)
    lm = sharded.make_lm(config, layout)
  made = jax.tree.map(
    lambda x, y: jax.ShapeDtypeStruct(
      x.shape, x.dtype if x.dtype == jnp.int8 else dtype, sharding=y
    ),
    shapes,
    place,
  )
  return made, lm


def compiled_bytes(config, drafter, decode, prompt_tokens, layout=None):
  """Arguments, results and temporaries of the whole program, of a device."""
  batch = decode.batch_size
  int8 = decode.quantize == 'both'
  params, lm = abstract(config, decode.dtype, layout, int8)
  given, draft_params = drafter, None
  if not isinstance(drafter, str):
    whole = layout and mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
    draft_params, given = abstract(drafter, decode.dtype, whole, int8)
  recipe = recipes.recipe(
    lm,
    given,
    num_draft=decode.num_draft,
    config=config,
    prefill_chunk=decode.prefill_chunk,
  )
  rows = None if layout is None else layout.sharding(layout.rows(batch))
  prompt = base.Prompt(
    jax.ShapeDtypeStruct((batch, prompt_tokens), jnp.int32, sharding=rows),
    jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows),
  )
  controls = decode.sampling().controls(row_keys(0, range(batch)), 64)
  controls = transfer.put_controls(controls, layout)
  program = assemble.compiled(recipe, decode.max_new_tokens)
  found = (
    jax.jit(lambda *inputs: program(*inputs))
    .lower(generate_lib.Params(params, draft_params), prompt, controls)
    .compile()
    .memory_analysis()
  )
  return (
    found.argument_size_in_bytes
    + found.temp_size_in_bytes
    + found.output_size_in_bytes
  )


@pytest.mark.parametrize(
  'config, layers, dtype, tokens, batch, int8',
  [
    (DECODER, 0, 'bfloat16', 128, 4, 'none'),
    # A single row, which a CPU would multiply by float32 copies.
    (DECODER, 0, 'bfloat16', 64, 1, 'none'),
    (DECODER, 0, 'bfloat16', 64, 1, 'both'),
    pytest.param(DECODER, 1, 'float32', 384, 4, 'none', marks=pytest.mark.slow),
    pytest.param(
      DECODER, 1, 'bfloat16', 256, 1, 'none', marks=pytest.mark.slow
    ),
    (SMOLLM2, 0, 'float32', 4096, 1, 'none'),
    pytest.param(
      SMOLLM2, 1, 'bfloat16', 2048, 2, 'none', marks=pytest.mark.slow
    ),
    pytest.param(T5, 0, 'float32', 1024, 8, 'none', marks=pytest.mark.slow),
    pytest.param(T5, 0, 'float32', 128, 4, 'none', marks=pytest.mark.slow),
    pytest.param(T5, 0, 'float32', 128, 4, 'both', marks=pytest.mark.slow),
    pytest.param(T5, 1, 'float32', 384, 4, 'none', marks=pytest.mark.slow),
    pytest.param(T5, 1, 'bfloat16', 256, 8, 'none', marks=pytest.mark.slow),
    pytest.param(T5, 1, 'bfloat16', 384, 4, 'both', marks=pytest.mark.slow),
  ],
)
@pytest.mark.usefixtures('fresh_compilation')
def test_estimate_is_within_ten_percent(
  config, layers, dtype, tokens, batch, int8
):
  config = dataclasses.replace(config, dtype=dtype)
  drafter = with_layers(config, layers) if layers else 'prompt_lookup'
  decode = specjax.DecodeConfig(
    batch_size=batch, max_new_tokens=64, dtype=dtype, num_draft=3, quantize=int8
  )
  estimate = specjax.estimate_memory(
    config, drafter=drafter, decode=decode, prompt_tokens=tokens
  )
  real = compiled_bytes(config, drafter, decode, tokens)
  assert abs(estimate.total / real - 1) < 0.1, (estimate, real)


@pytest.mark.parametrize(
  'config, layers, shape',
  [
    (DECODER, 1, (2, 4)),
    # Fewer key heads than devices.
    pytest.param(DECODER, 0, (1, 8), marks=pytest.mark.slow),
    pytest.param(T5, 1, (2, 4), marks=pytest.mark.slow),
    pytest.param(T5, 0, (8, 1), marks=pytest.mark.slow),
  ],
)
@pytest.mark.usefixtures('fresh_compilation')
def test_estimate_of_a_device_of_a_mesh(config, layers, shape):
  drafter = with_layers(config, layers) if layers else 'prompt_lookup'
  decode = specjax.DecodeConfig(
    batch_size=8, max_new_tokens=64, dtype='float32', num_draft=3
  )
  layout = specjax.make_layout(specjax.MeshConfig(shape))
  estimate = specjax.estimate_memory(
    config, drafter=drafter, decode=decode, prompt_tokens=128, layout=layout
  )
  real = compiled_bytes(config, drafter, decode, 128, layout)
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


def test_folders_are_estimated_as_they_are_loaded(tmp_path):
  """The stored weights decide on the type, and whether there is a head."""
  config = dataclasses.replace(T5, num_layers=1, tie_word_embeddings=False)
  folder = tiny.save(tmp_path / 'model', config)
  path = tmp_path / 'model' / 'config.json'
  tied = '"tie_word_embeddings": true'
  path.write_text(
    path.read_text().replace('"tie_word_embeddings": false', tied)
  )
  decode = specjax.DecodeConfig(dtype='stored')
  size = 4 * sum(
    math.prod(x.shape) for x in jax.tree.leaves(models.abstract_params(config))
  )
  both = specjax.estimate_memory(
    folder, drafter=f'hybrid:{folder}', decode=decode
  )
  assert both.parameters == 2 * size
  # A network that only drafts is not kept in eight bits.
  heads = models.BlockwiseConfig(config.vocab_size, config.d_model, 32, 4)
  found = [
    specjax.estimate_memory(
      folder, drafter=heads, decode=specjax.DecodeConfig(quantize=name)
    ).parameters
    for name in ('none', 'drafter')
  ]
  assert found[0] == found[1]


def test_a_drafter_network_is_no_target():
  network = models.SpecDrafterConfig(96, 16, 8, 16, 1, 1, 2)
  with pytest.raises(ValueError, match='is a drafter network and cannot be'):
    specjax.estimate_memory(network)


def test_memory_of_long_prompts_grows_with_the_chunk_alone():
  """SmolLM2's own shape, prompts of 4,096 tokens."""

  whole, some = (
    specjax.estimate_memory(
      'shape:smollm2-135m',
      decode=specjax.DecodeConfig(batch_size=1, prefill_chunk=chunk),
      prompt_tokens=4096,
    )
    for chunk in (4096, 512)
  )
  assert some.state == whole.state
  # 9 heads, float32, scores twice.
  assert whole.working > 2 * 9 * 4 * 4096**2 > 6 * some.working
