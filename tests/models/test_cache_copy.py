"""A decoding step holds no copy of a cache."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from specjax import models
from specjax.base import Prompt
from specjax.base import Tree

pytestmark = pytest.mark.usefixtures('fresh_compilation')

CAPACITY = 512
BLOCK = 4


def config_of(kind):
  if kind == 't5':
    return models.T5Config(32, 16, 16, 16, 1, 2, 4)
  return models.DecoderConfig(32, 16, 16, 2, 4, 2, 16, CAPACITY)


def loop(lm, tree, params, cache, tokens):
  """Rounds of extend and commit until every row is half full."""

  def going(carry):
    return jnp.any(carry[0].length < CAPACITY // 2)

  def step(carry):
    cache, tokens = carry
    scored, cache = lm.extend(params, cache, tokens, tree)
    tokens = jnp.argmax(scored.logits, axis=-1).astype(jnp.int32)
    # Rows advance by different amounts that depend on the logits, and so does
    # the path: moving its columns must wait for the attention that reads them.
    path = None if tree is None else jnp.array([1, 3]) - tokens[:, :1] % 2
    return lm.commit(cache, 1 + tokens[:, 0] % 3, path), tokens

  return lax.while_loop(going, step, (cache, tokens))


@pytest.mark.parametrize('shape', ['chain', 'tree'])
@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('kind', ['t5', 'decoder'])
def test_no_copy(kind, batch, shape):
  config = config_of(kind)
  lm = models.make_lm(config)
  tree = None
  if shape == 'tree':
    tree = Tree(
      jnp.broadcast_to(jnp.array([0, 0, 0, 1]), (batch, BLOCK)),
      jnp.broadcast_to(jnp.array([0, 1, 1, 2]), (batch, BLOCK)),
    )
  params = models.abstract_params(config)
  prompt = Prompt(
    jax.ShapeDtypeStruct((batch, 8), jnp.int32),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )
  cache = jax.eval_shape(
    functools.partial(lm.prefill, capacity=CAPACITY), params, prompt
  ).cache
  run = jax.jit(functools.partial(loop, lm, tree), donate_argnums=(1,))
  tokens = jax.ShapeDtypeStruct((batch, BLOCK), jnp.int32)
  compiled = run.lower(params, cache, tokens).compile()
  arrays = cache.keys + cache.values
  size = sum(x.size * x.dtype.itemsize for x in arrays)
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes >= size
  # The scores of one layer are alive at a time, far less than the caches.
  assert memory.temp_size_in_bytes < 0.5 * size
  text = compiled.as_text()
  for shape in {x.shape for x in arrays}:
    dims = ','.join(map(str, shape))
    copies = re.findall(rf'= f32\[{dims}\]\S* copy[^\n]*', text)
    assert not copies, copies
