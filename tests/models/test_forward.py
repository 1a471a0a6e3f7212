"""The training side: packing, dropout, rematerialisation, mixed precision."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import models
from specjax.distributed import mesh as mesh_lib
from tests.helpers.model_configs import CONFIGS


@functools.partial(
  jax.jit,
  static_argnames=('config', 'deterministic'),
  # Inlined, so that callers may choose how to compile what holds it.
  inline=True,
)
def call(
  config, params, tokens, key=None, segment_ids=None, *, deterministic=True
):
  module = models.make_module(config)
  more = {'deterministic': deterministic}
  if key is not None:
    more['rngs'] = {'dropout': key}
  if isinstance(config, models.T5Config):
    seen = jnp.ones(tokens.shape, bool)
    return module.apply({'params': params}, tokens, seen, tokens, **more)
  more['segment_ids'] = segment_ids
  return module.apply({'params': params}, tokens, **more)


def some_tokens(batch=2, size=6):
  return jax.random.randint(jax.random.key(4), (batch, size), 0, 40)


def test_packed_segments_are_alone():
  config = CONFIGS['decoder']
  params = models.init_params(config, jax.random.key(0))
  tokens = some_tokens(1, 12)
  segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3])
  packed = call(config, params, tokens, segment_ids=segments)
  for first, last in ((0, 5), (5, 9)):
    alone = call(config, params, tokens[:, first:last])
    np.testing.assert_allclose(packed[:, first:last], alone, atol=1e-5)


def test_packed_pairs_are_alone():
  config = CONFIGS['t5']
  module = models.make_module(config)
  params = models.init_params(config, jax.random.key(0))
  source, target = some_tokens(1, 8), some_tokens(1, 6)
  a, b = jnp.array([1] * 4 + [2] * 4), jnp.array([1] * 3 + [2] * 3)

  @jax.jit
  def pack(params):
    inner = (a[:, None] == a)[None]
    encoded = module.apply({'params': params}, source, inner, method='encode')
    state = module.apply(
      {'params': params},
      encoded,
      (b[:, None] == a)[None],
      target,
      target_mask=(b[:, None] == b)[None],
      method='decode',
    )[0]
    return module.apply({'params': params}, state, method='logits_from_hidden')

  @jax.jit
  def alone(params, source, target):
    seen = jnp.ones(source.shape, bool)
    return module.apply({'params': params}, source, seen, target)

  packed = pack(params)
  for s, t in ((slice(0, 4), slice(0, 3)), (slice(4, 8), slice(3, 6))):
    wanted = alone(params, source[:, s], target[:, t])
    np.testing.assert_allclose(packed[:, t], wanted, atol=1e-5)


def one_layer(kind):
  less = {'num_decoder_layers': 1}
  if kind == 'decoder':
    less = {'num_hidden_layers': 1, 'sliding_layers': (True,)}
  return dataclasses.replace(CONFIGS[kind], **less)


@pytest.mark.parametrize('kind', CONFIGS)
def test_dropout_and_remat(kind):
  """Dropout follows its key; recomputing layers changes no gradient."""
  plain = dataclasses.replace(one_layer(kind), dropout_rate=0.1)
  remat = dataclasses.replace(plain, remat=True)
  params = models.init_params(plain, jax.random.key(0))
  assert jax.tree.structure(params) == jax.tree.structure(
    models.abstract_params(remat)
  )
  tokens = some_tokens()

  def loss(config, params, key):
    logits = call(config, params, tokens, key, deterministic=False)
    return jnp.mean(jax.nn.log_softmax(logits)[..., 0])

  def grads(config):
    return jax.jit(
      jax.value_and_grad(functools.partial(loss, config)),
      compiler_options={'xla_backend_optimization_level': 0},
    )

  run = grads(plain)
  first, by_key = run(params, jax.random.key(0))
  other, _ = run(params, jax.random.key(1))
  assert abs(first - other) > 1e-4
  second, recomputed = grads(remat)(params, jax.random.key(0))
  np.testing.assert_allclose(first, second, atol=1e-5)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
    by_key,
    recomputed,
  )
  assert all(np.abs(x).sum() > 0 for x in jax.tree.leaves(by_key))


@pytest.mark.parametrize('kind', CONFIGS)
def test_float32_parameters_bfloat16_compute(kind):
  config = dataclasses.replace(CONFIGS[kind], dtype='bfloat16')
  params = models.init_params(config, jax.random.key(0))
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
  logits = call(config, params, some_tokens())
  assert logits.dtype == jnp.float32
  exact = call(CONFIGS[kind], params, some_tokens())
  assert 0 < np.abs(logits - exact).mean() < 0.1 * np.std(exact)


@pytest.mark.parametrize(
  'field, value, words',
  [
    ('num_attention_heads', 3, 'multiple'),
    ('vocab_size', 0, 'vocab_size must be a positive integer'),
    ('hidden_act', 'tanh', "activation 'tanh' is not supported"),
    ('dropout_rate', 1.0, 'dropout_rate must be in'),
    ('dtype', 'float16', 'dtype must be'),
    ('sliding_window', None, 'sliding_window must be'),
    ('head_dim', 7, 'head_dim must be even'),
  ],
)
def test_bad_settings_are_named(field, value, words):
  config = dataclasses.replace(CONFIGS['decoder'], **{field: value})
  with pytest.raises(ValueError, match=words):
    models.make_module(config)


@pytest.mark.parametrize('kind', CONFIGS)
def test_every_matrix_has_axes(kind):
  layout = mesh_lib.make_layout(mesh_lib.MeshConfig((4, 2)))
  params = models.abstract_params(CONFIGS[kind])
  specs = mesh_lib.parameter_specs(params, layout)
  flat = jax.tree_util.tree_flatten_with_path(specs)[0]
  for path, spec in flat:
    name = jax.tree_util.keystr(path)
    split = 'model' in spec
    assert split != ('norm' in name), name


def test_sharded_forward_equals_one_device():
  config = CONFIGS['decoder']
  params = models.init_params(config, jax.random.key(0))
  tokens = some_tokens()
  layout = mesh_lib.make_layout(
    mesh_lib.MeshConfig((2, 2)), devices=jax.devices()[:4]
  )
  specs = mesh_lib.parameter_specs(params, layout)
  split = jax.device_put(params, jax.tree.map(layout.sharding, specs))
  rows = jax.device_put(tokens, layout.sharding(layout.rows(len(tokens))))
  ours = call(config, split, rows)
  np.testing.assert_allclose(ours, call(config, params, tokens), atol=1e-5)
  with pytest.raises(ValueError, match='number of devices, 8; shapes that do'):
    mesh_lib.make_layout(mesh_lib.MeshConfig((30, 30)))


@pytest.mark.parametrize('kind', CONFIGS)
def test_init_draws_what_the_modules_draw(kind):
  config = dataclasses.replace(one_layer(kind), tie_word_embeddings=False)
  ours = models.init_params(config, jax.random.key(0))
  again = models.init_params(config, jax.random.key(0))
  other = models.init_params(config, jax.random.key(1), dtype='bfloat16')
  theirs = jax.jit(lambda key: models.init_params(config, key))(
    jax.random.key(0)
  )
  jax.tree.map(np.testing.assert_array_equal, ours, again)
  assert not np.array_equal(
    ours['embed']['weight'], other['embed']['weight'].astype(jnp.float32)
  )

  def same_law(x, y):
    assert x.shape == y.shape
    np.testing.assert_allclose(np.mean(x), np.mean(y), atol=5 * np.std(x) / 8)
    np.testing.assert_allclose(np.std(x), np.std(y), rtol=0.4)

  jax.tree.map(same_law, ours, theirs)
