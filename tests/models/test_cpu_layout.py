"""Matrices in the order that decodes fastest, and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.checkpoints import tensor_names
from specjax.models.common import cpu_layout
from tests.helpers.model_configs import CONFIGS


@pytest.mark.parametrize('kind', ['decoder', 't5', 't5_untied'])
def test_prepared_and_stored_order_are_one_model(kind, tmp_path):
  config = CONFIGS['t5' if kind == 't5_untied' else kind]
  if kind == 't5_untied':
    config = dataclasses.replace(config, tie_word_embeddings=False)
  params = models.init_params(config, jax.random.key(0))
  hf.save_hf(str(tmp_path), params, config)
  fast = loading.load(tmp_path)
  plain = loading.load(tmp_path, prepare=False)
  jax.tree.map(np.testing.assert_array_equal, plain.params, params)
  restored = cpu_layout.stored(fast.params)
  jax.tree.map(np.testing.assert_array_equal, restored, params)
  # No matrix of a product is left as it is stored; only tables looked up are.
  left = {
    path[-2]
    for path, leaf in tensor_names.flat(fast.params)
    if path[-1] == 'weight' and leaf.ndim == 2
  }
  assert left <= {'embed', 'positions', 'relative_bias'}
  tied = config.tie_word_embeddings
  assert ('kernel' in fast.params['embed']) == tied
  assert ('kernel' in fast.params.get('head', {})) == (not tied)
  prompt = base.Prompt(jnp.array([[1, 5, 7, 2]]), jnp.array([4]))

  @jax.jit
  def logits(params):
    pre = fast.lm.prefill(params, prompt, capacity=12)
    block = jnp.array([[3, 1, 4]])
    return fast.lm.extend(params, pre.cache, block)[0].logits

  np.testing.assert_allclose(
    logits(fast.params), logits(params), rtol=1e-4, atol=1e-4
  )
  # What is prepared can be written out again.
  hf.save_hf(str(tmp_path / 'again'), fast.params, config)
  again = loading.load(tmp_path / 'again', prepare=False)
  jax.tree.map(np.testing.assert_array_equal, again.params, params)
  for other in (dict(dtype='bfloat16'), dict(dtype='w8a8'), dict(int8=True)):
    flat = tensor_names.flat(loading.load(tmp_path, **other).params)
    assert not any(path[-1] == 'kernel' for path, _ in flat)
