"""Weights in eight bits: what they stand for, and that models run on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.checkpoints import convert
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.distributed import mesh as mesh_lib
from specjax.models.common import quantize
from tests.helpers import t5x_folders
from tests.helpers import tiny


def test_rows_are_within_half_a_step():
  rng = np.random.default_rng(0)
  weight = (
    rng.standard_normal((5, 64), np.float32) * 10.0 ** np.arange(-2, 3)[:, None]
  )
  weight[3] = 0
  whole, scale = quantize.split(jnp.asarray(weight))
  assert whole.dtype == jnp.int8 and scale.shape == (5,)
  error = np.abs(np.asarray(quantize.restored(whole, scale)) - weight)
  largest = np.abs(weight).max(1)
  np.testing.assert_array_less(error.max(1), largest / 254 * 1.001 + 1e-9)


def block_logits(lm, params, prompt):
  """Logits of two tokens behind a prompt, from a compiled program."""

  @jax.jit
  def run(params):
    made = lm.prefill(params, prompt, capacity=8)
    block = jnp.full((2, 2), 7, jnp.int32)
    return lm.extend(params, made.cache, block)[0].logits

  return run(params)


def test_models_run_on_them(tmp_path):
  """The same logits on a mesh as from the restored weights on one device."""
  for name, config in (
    ('decoder', dataclasses.replace(tiny.DECODER, num_attention_heads=8)),
    ('t5', dataclasses.replace(tiny.T5, num_heads=8)),
  ):
    folder = tiny.save(tmp_path / name, config)
    model = loading.load(folder, int8=True)
    kinds = {x.dtype.name for x in jax.tree.leaves(model.params)}
    assert kinds == {'int8', 'float32'}

    def unpack(node):
      if 'scale' in node:
        weight = quantize.restored(node['weight'], node['scale'])
        return {k: v for k, v in node.items() if k != 'scale'} | {
          'weight': weight
        }
      return {
        k: unpack(v) if isinstance(v, dict) else v for k, v in node.items()
      }

    layout = mesh_lib.make_layout(mesh_lib.MeshConfig((2, 4)))
    spread = loading.load(folder, int8=True, layout=layout)
    up = model.params if name == 'decoder' else model.params['decoder']
    assert up['layers_0']['mlp']['up']['weight'].dtype == jnp.int8
    prompt = base.Prompt(
      jnp.full((2, 4), 5, jnp.int32), jnp.full((2,), 4, jnp.int32)
    )

    np.testing.assert_allclose(
      block_logits(spread.lm, spread.params, prompt),
      block_logits(model.lm, unpack(model.params), prompt),
      rtol=2e-4,
      atol=2e-4,
    )


def test_every_kind_of_folder_goes_onto_a_mesh(tmp_path):
  config = dataclasses.replace(t5x_folders.T5_GATED, tie_word_embeddings=False)
  params = t5x_folders.drawn(config)
  hf.save_hf(str(tmp_path / 'hf'), params, config)
  t5x_folders.run(source=tmp_path / 'hf', target=tmp_path / 'orbax', to='orbax')
  t5x_folders.save_t5x(tmp_path / 't5x', config, params, True)
  text = (tmp_path / 'hf' / 'config.json').read_text()
  (tmp_path / 't5x' / 'config.json').write_text(text)
  # A GGUF file becomes a folder of safetensors before it is loaded.
  assert convert.FORMATS == ('safetensors', 'orbax', 'gguf')
  layout = mesh_lib.make_layout(mesh_lib.MeshConfig((4, 2)))
  for name in ('hf', 'orbax', 't5x'):
    model = loading.load(tmp_path / name, layout=layout)
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    down = model.params['decoder']['layers_0']['mlp']['down']['weight']
    assert down.sharding.spec == jax.P(None, 'model')


def test_integer_activations_stay_close_and_leave_blocks_alike(tmp_path):
  folder = tiny.save(tmp_path / 't5', tiny.T5)
  whole = loading.load(folder)
  model = loading.load(folder, dtype='w8a8')
  assert model.config.dtype == 'float32'
  assert {x.dtype.name for x in jax.tree.leaves(model.params)} == {
    'int8',
    'float32',
  }
  again = quantize.floats(quantize.tree(whole.params, quantize.W8A8))
  assert jax.tree.structure(again) == jax.tree.structure(whole.params)
  for a, b in zip(
    jax.tree.leaves(again), jax.tree.leaves(whole.params), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=np.abs(b).max() / 250)
  prompt = base.Prompt(jnp.full((1, 4), 5, jnp.int32), jnp.full((1,), 4))
  tokens = jnp.asarray([[0, 7, 9, 4, 8]])

  def score(model, block):
    lm = model.lm
    cache = lm.prefill(model.params, prompt, capacity=12).cache
    if block:
      return lm.extend(model.params, cache, tokens)[0].logits[0]
    rows = []
    for i in range(5):
      scored, cache = lm.extend(model.params, cache, tokens[:, i : i + 1])
      cache = lm.commit(cache, jnp.ones((1,), jnp.int32))
      rows.append(scored.logits[0, 0])
    return jnp.stack(rows)

  run = jax.jit(lambda: [score(model, True), score(model, False)])
  block, steps = run()
  exact = jax.jit(lambda: score(whole, True))()
  np.testing.assert_allclose(block, steps, atol=0.05 * np.std(exact))
  assert np.corrcoef(np.ravel(block), np.ravel(exact))[0, 1] > 0.99
