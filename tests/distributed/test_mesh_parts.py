"""Parts on a mesh: what is read, what is sent, and what does not fit."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import load as loading
from specjax.checkpoints import safetensors
from specjax.models import sharded
from tests.helpers.meshes import DECODER
from tests.helpers.meshes import layout_of
from tests.helpers.meshes import T5


def collectives(function, *arguments):
  """Counts (kind, shape) of the messages in a compiled program."""
  text = jax.jit(function).lower(*arguments).compile().as_text()
  names = 'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter'
  found = re.findall(rf'= (\S+?)(?:{{\S*)? ({names})(?:-start)?\(', text)
  return collections.Counter((kind, shape) for shape, kind in found)


@pytest.mark.parametrize('kind, per_layer', [('decoder', 2), ('t5', 3)])
def test_a_step_sends_no_weights(folders, kind, per_layer):
  model = loading.load(folders[kind], layout=layout_of(2, 4))
  prompt = base.Prompt(
    jnp.ones((8, 4), jnp.int32), jnp.full((8,), 4, jnp.int32)
  )
  cache = model.lm.prefill(model.params, prompt, capacity=16).cache
  found = collectives(
    lambda params, cache, tokens: model.lm.extend(params, cache, tokens)[0],
    model.params,
    cache,
    jnp.ones((8, 5), jnp.int32),
  )
  # An encoder-decoder's layer has a third part, attention to the source. Four
  # rows of five slots lie on each part of the data axis.
  assert found == {
    ('all-reduce', 'f32[4,5,32]'): per_layer + 1,
    ('all-gather', 'f32[4,5,96]'): 1,
  }


def test_every_device_reads_its_part(folders, monkeypatch):
  plain = loading.load(folders['decoder'], prepare=False)
  read = collections.Counter()
  original = safetensors.read_range

  def counting(file, start, into):
    read[start] += 1
    read['bytes'] += into.size
    original(file, start, into)

  monkeypatch.setattr(safetensors, 'read_range', counting)
  layout = layout_of(2, 4)
  model = loading.load(folders['decoder'], layout=layout)
  size = sum(x.nbytes for x in jax.tree.leaves(plain.params))
  # Each byte once, although the data axis holds everything twice.
  assert read.pop('bytes') == size
  assert max(read.values()) == 1
  up = model.params['layers_0']['mlp']['up']['weight']
  assert up.sharding.spec == jax.P('model', None)
  assert {s.data.shape for s in up.addressable_shards} == {(12, 32)}
  # Four devices and two key heads: each head twice.
  key = np.asarray(model.params['layers_0']['attn']['k']['weight'])
  once = np.asarray(plain.params['layers_0']['attn']['k']['weight'])
  np.testing.assert_array_equal(
    key.reshape(2, 2, 8, 32), np.stack([once.reshape(2, 8, 32)] * 2, 1)
  )
  # What one device's part costs, as on a host with that device alone.
  read.clear()
  fetched = {}
  _, leaves, _ = folder_lib.open_folder(folders['decoder'], plain.config)
  shards = 0
  for path, leaf in leaves.items():
    node = model.params
    for name in path:
      node = node[name]
    if node.shape != leaf.shape:
      continue
    index = node.sharding.devices_indices_map(node.shape)[jax.devices()[5]]
    index = tuple(
      slice(*s.indices(n)[:2]) for s, n in zip(index, node.shape, strict=True)
    )
    fetched[path] = leaf.fetch(index)
    shards += fetched[path].nbytes
  assert read['bytes'] == shards < size / 2


def test_what_a_mesh_cannot_hold(folders):
  def complaint(function):
    with pytest.raises(ValueError) as caught:
      function()
    assert str(caught.value).endswith('.')
    return str(caught.value)

  text = complaint(lambda: layout_of(2, 3))
  assert '(2, 3)' in text and '8' in text and '(2, 4)' in text
  text = complaint(lambda: layout_of(2, 4, rules='heads=modle'))
  assert 'heads=modle' in text
  text = complaint(lambda: layout_of(2, 4, rules='embed=model'))
  assert 'vocab and embed' in text and 'both on model' in text
  text = complaint(
    lambda: sharded.fit(DECODER, layout_of(2, 4, rules='batch=model'))
  )
  assert 'batch and heads' in text and 'mesh.rules' in text
  layout = layout_of(2, 4)
  odd = dataclasses.replace(DECODER, num_attention_heads=6)
  text = complaint(lambda: sharded.fit(odd, layout))
  assert 'model axis of 4' in text and 'heads' in text and '(4, 2)' in text
  odd = dataclasses.replace(T5, d_ff=50)
  assert 'feed-forward' in complaint(lambda: sharded.fit(odd, layout))
  model = loading.load(folders['decoder'], layout=layout)
  text = complaint(
    lambda: specjax.generate(model, 'the cat', batch_size=3, max_new_tokens=4)
  )
  assert 'batch_size=3' in text and '2 devices' in text
  # A table whose rows do not fit is kept whole, a head of 8 devices is not.
  odd = dataclasses.replace(DECODER, vocab_size=97)
  assert sharded.fit(odd, layout).table()['vocab'] is None
  assert sharded.fit(DECODER, layout).table()['vocab'] == ('model',)


def test_half_precision_is_kept(folders):
  layout = layout_of(2, 4)
  for kind in ('decoder', 't5'):
    model = loading.load(folders[kind], layout=layout, dtype='bfloat16')
    made = jax.eval_shape(
      lambda params, prompt, model=model: model.lm.prefill(
        params, prompt, capacity=16
      ),
      model.params,
      base.Prompt(jnp.ones((8, 4), jnp.int32), jnp.full((8,), 4, jnp.int32)),
    )
    scored = jax.eval_shape(
      lambda params, cache, tokens, model=model: model.lm.extend(
        params, cache, tokens
      )[0],
      model.params,
      made.cache,
      jnp.ones((8, 3), jnp.int32),
    )
    assert {x.dtype.name for x in jax.tree.leaves(model.params)} == {'bfloat16'}
    assert {x.dtype.name for x in made.cache.keys} == {'bfloat16'}
    assert made.cache.keys[0].dtype == made.cache.values[0].dtype
    assert scored.logits.dtype == jnp.float32
