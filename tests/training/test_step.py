"""A step's arithmetic: packing, chunks, accumulation, masks, schedules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from specjax import models
from specjax.training import config as config_lib
from specjax.training import objectives
from specjax.training import optimizers
from specjax.training import state as state_lib
from specjax.training import step as step_lib
from specjax.training.data import packing

VOCAB = 24
T5 = models.T5Config(VOCAB, 16, 8, 32, 1, 1, 2)
DECODER = models.DecoderConfig(
  VOCAB, 16, 32, 1, 2, 1, 8, 256, model_type='llama'
)


def pair_examples(count=6, seed=0):
  rng = np.random.default_rng(seed)

  def draw():
    return np.append(rng.integers(2, VOCAB, rng.integers(2, 6)), 1)

  return [(draw(), draw()) for _ in range(count)]


def pair_batch(packed=True):
  pairs = pair_examples()
  rows = [pairs[:3], pairs[3:]] if packed else [[p] for p in pairs]
  return packing.pair_rows(rows, 20, 20, len(rows), 0)


def text_batch(packed=True):
  texts = [(t, 1) for _, t in pair_examples(seed=1)]
  rows = [texts[:3], texts[3:]] if packed else [[t] for t in texts]
  return packing.text_rows(rows, 20, len(rows))


def network(config):
  return objectives.network_of(config, models.make_module(config))


KINDS = [(T5, pair_batch), (DECODER, text_batch)]


def objective(config, **settings):
  return objectives.cross_entropy_objective(
    network(config), config_lib.ObjectiveConfig(**settings)
  )


def distillation(config, **settings):
  return objectives.distillation_objective(
    network(config), network(config), config_lib.ObjectiveConfig(**settings)
  )


@pytest.mark.parametrize('config, batch', KINDS)
def test_a_packed_row_costs_what_its_examples_cost_alone(config, batch):
  made = objective(config)
  params = made.init(jax.random.key(0))
  loss = jax.jit(lambda b: made.loss(params, {}, b, None)[:2])
  packed, alone = loss(batch()), loss(batch(packed=False))
  assert float(packed[1]) == float(alone[1])
  np.testing.assert_allclose(packed[0], alone[0], rtol=1e-5)


@pytest.mark.parametrize(
  'config, batch, name',
  [(T5, pair_batch, 'forward_kl'), (DECODER, text_batch, 'cross_entropy')],
)
def test_chunks_change_neither_loss_nor_gradient(config, batch, name):
  whole = distillation(config, name=name, hard_weight=0.25)
  parts = distillation(config, name=name, hard_weight=0.25, chunk=7)
  params = whole.init(jax.random.key(0))
  teacher = whole.init(jax.random.key(1))

  def run(made):
    return jax.jit(
      jax.value_and_grad(lambda p: made.loss(p, teacher, batch(), None)[0])
    )(params)

  (value, gradient), (again, other) = run(whole), run(parts)
  np.testing.assert_allclose(value, again, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    gradient,
    other,
  )


def test_chunks_need_less_memory():
  config = dataclasses.replace(DECODER, vocab_size=4096)
  batch = packing.text_rows([], 128, 8)

  def temporary(chunk):
    made = distillation(config, name='forward_kl', chunk=chunk)
    params = jax.eval_shape(made.init, jax.random.key(0))
    step = jax.jit(jax.grad(lambda p, t: made.loss(p, t, batch, None)[0]))
    compiled = step.lower(params, params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(4) < 0.5 * temporary(0)


@pytest.mark.parametrize('config, batch', KINDS)
def test_empty_places_contribute_exactly_nothing(config, batch):
  made = objective(config)
  params = made.init(jax.random.key(0))
  clean = batch()
  segments = clean.get('target_segments', clean.get('segments'))
  dirty = {k: v.copy() for k, v in clean.items()}
  for name in ('source', 'target_in', 'target', 'tokens'):
    if name in dirty:
      own = dirty['source_segments'] if name == 'source' else segments
      dirty[name] = np.where(own > 0, dirty[name], 5)
  run = jax.jit(jax.value_and_grad(lambda p, b: made.loss(p, {}, b, None)[0]))
  (value, gradient), (again, other) = run(params, clean), run(params, dirty)
  assert float(value) == float(again)
  jax.tree.map(np.testing.assert_array_equal, gradient, other)


def trained(accumulation=1, steps=2, **settings):
  settings = config_lib.OptimizerConfig(
    warmup_steps=1, accumulation=accumulation, **settings
  )
  made = objective(T5)
  optimizer = optimizers.make_optimizer(settings, 10, models.maps(T5))
  state = state_lib.create(
    made.init(jax.random.key(0)), optimizer, settings.ema
  )
  step = step_lib.make_train_step(
    made, optimizer, seed=0, ema=settings.ema, accumulation=accumulation
  )
  batch = pair_batch(packed=False)
  for _ in range(steps):
    state, metrics = step(state, {}, batch)
  return state, metrics


def test_accumulation_is_the_whole_batch():
  # Parts of different token counts weigh as their tokens do.
  whole, metrics = trained(1)
  state, again = trained(3)
  np.testing.assert_allclose(metrics['loss'], again['loss'], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
    whole.params,
    state.params,
  )


@pytest.mark.parametrize('name', ['adamw', 'adafactor', 'muon'])
def test_optimizers_lower_the_loss(name):
  # Random guessing costs log(VOCAB).
  last = trained(name=name, steps=10, learning_rate=0.03)[1]['loss']
  assert last < 0.9 * np.log(VOCAB)


def test_the_average_lags_behind():
  state, _ = trained(ema=0.9, steps=5)
  away = jax.tree.map(
    lambda a, b: jnp.abs(a - b).max(), state.params, state.ema
  )
  assert 0 < max(float(x) for x in jax.tree.leaves(away)) < 0.1
  assert state_lib.best_params(state) is state.ema


def test_dropout_depends_on_the_step_alone():
  config = dataclasses.replace(T5, dropout_rate=0.3)
  made = objective(config)
  params = made.init(jax.random.key(0))
  loss = jax.jit(lambda key: made.loss(params, {}, pair_batch(), key)[0])
  a, b, c = (loss(jax.random.key(i)) for i in (0, 0, 1))
  assert float(a) == float(b) != float(c)


def test_recomputing_changes_no_gradient():
  grads = []
  for remat in (False, True):
    made = objective(dataclasses.replace(T5, remat=remat))
    params = made.init(jax.random.key(0))
    grads.append(
      jax.jit(
        jax.grad(lambda p, made=made: made.loss(p, {}, pair_batch(), None)[0])
      )(params)
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads
  )


def test_low_precision_keeps_float32_parameters():
  made = objective(dataclasses.replace(T5, dtype='bfloat16'))
  params = made.init(jax.random.key(0))
  grads = jax.jit(jax.grad(lambda p: made.loss(p, {}, pair_batch(), None)[0]))(
    params
  )
  for leaf in jax.tree.leaves((params, grads)):
    assert leaf.dtype == jnp.float32


@pytest.mark.parametrize(
  'name, steps, wanted',
  [
    ('cosine', (0, 9, 10, 55, 100), (0.1, 1, 1, 0.5, 0)),
    ('rsqrt', (0, 9, 39, 999), (0.1, 1, 0.5, 0.1)),
    ('constant', (0, 4, 10, 99), (0.1, 0.5, 1, 1)),
  ],
)
def test_schedules(name, steps, wanted):
  schedule = optimizers.make_schedule(
    config_lib.OptimizerConfig(
      learning_rate=1.0, schedule=name, warmup_steps=10
    ),
    100,
  )
  np.testing.assert_allclose([schedule(s) for s in steps], wanted, atol=1e-6)


def test_clipping_bounds_what_the_optimizer_sees():
  settings = config_lib.OptimizerConfig(clip=1.0, name='adamw')
  optimizer = optimizers.make_optimizer(settings, 10)
  params = {'w': jnp.ones((2, 2))}
  _, state = optimizer.update(
    {'w': jnp.full((2, 2), 100.0)}, optimizer.init(params), params
  )
  first = next(
    s
    for s in jax.tree.leaves(
      state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
    )
    if isinstance(s, optax.ScaleByAdamState)
  )
  np.testing.assert_allclose(first.mu['w'], 0.1 * 0.5, rtol=1e-5)


def test_a_reduced_head_learns_among_the_tokens_it_knows():
  ids = (1, 3, 4, 9, 11, 12, 15)
  small = dataclasses.replace(T5, output_ids=ids, tie_word_embeddings=False)
  batch = pair_batch()
  teacher = network(T5).init(jax.random.key(1))
  whole = network(T5)
  mask = batch['target_segments'] > 0
  p = jax.nn.softmax(
    whole.logits(teacher, whole.hidden(teacher, batch, None)), -1
  )
  drafter = network(small)
  params = drafter.init(jax.random.key(0))
  q = jax.nn.softmax(
    drafter.logits(params, drafter.hidden(params, batch, None)), -1
  )
  kept = p[..., ids]
  near = np.where(mask, np.minimum(kept, q).sum(-1), 0).sum()
  kept = kept / kept.sum(-1, keepdims=True)
  kl = np.where(mask, (kept * np.log(kept / q)).sum(-1), 0).sum()
  place = {token: i for i, token in enumerate(ids)}
  hard = sum(
    -np.log(q[b, t, place[token]])
    for (b, t), token in np.ndenumerate(batch['target'])
    if mask[b, t] and token in place
  )
  for name, wanted in (('forward_kl', kl), ('cross_entropy', hard)):
    made = objectives.distillation_objective(
      drafter, whole, config_lib.ObjectiveConfig(name=name), ids
    )
    total, weight, sums = made.loss(params, teacher, batch, None)
    np.testing.assert_allclose(total, wanted, rtol=1e-4)
    np.testing.assert_allclose(sums['acceptance'], near, rtol=1e-4)
    assert float(weight) == mask.sum()


@pytest.mark.parametrize('ids', [(), (1, 3, 4, 9, 11, 12, 15)])
def test_labels_are_learnt_without_running_the_teacher(ids):
  small = T5
  if ids:
    small = dataclasses.replace(T5, output_ids=ids, tie_word_embeddings=False)
  batch = pair_batch()
  drafter, teacher = network(small), network(T5)
  params = drafter.init(jax.random.key(0))
  frozen = teacher.init(jax.random.key(1))
  made = objectives.distillation_objective(
    drafter, teacher, config_lib.ObjectiveConfig(name='cross_entropy'), ids
  )
  wanted, weight, _ = made.loss(params, frozen, batch, None)
  key = jax.random.key(2)
  # Without parameters the teacher cannot run.
  got, same, sums = made.loss(params, {}, batch, key)
  np.testing.assert_allclose(got, wanted, rtol=1e-5)
  assert float(same) == float(weight) and set(sums) == {'accuracy'}
  logits = drafter.logits(params, drafter.hidden(params, batch, None))
  guess = np.asarray(jnp.argmax(logits, -1))
  guess = np.asarray(ids)[guess] if ids else guess
  right = (guess == batch['target']) & (batch['target_segments'] > 0)
  assert float(sums['accuracy']) == right.sum()
  with pytest.raises(Exception, match='params|scope|embed'):
    made.loss(params, {}, batch, None)
