"""Group-wise training: what counts, in which layout, and that it learns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from specjax import models
from specjax.models.speculator import modeling as network_lib
from specjax.training import config as config_lib
from specjax.training.data import sources as sources_lib
from specjax.training.families import speculator_objective
from specjax.training.families import speculator_options
from specjax.training.families import speculator_rows
from tests.helpers import settings
from tests.helpers import speculator_logits
from tests.helpers import speculators

Settings = speculator_options.SpeculatorTraining
TEACHER = models.Decoder(speculators.TRUNK)


def _batch(rng, segments, vocab=speculators.VOCAB):
  made = speculators.rows(speculators.TOKEN_ONLY, segments)
  segments = np.asarray(made.segments)
  whole = rng.integers(0, vocab, (segments.shape[0], segments.shape[1] + 1))
  weight = (segments > 0) & (np.asarray(made.positions) != 2)
  return {
    'tokens': jnp.asarray(whole[:, :-1]),
    'target': jnp.asarray(whole[:, 1:]),
    'segments': jnp.asarray(segments),
    'positions': made.positions,
    'weight': jnp.asarray(weight, jnp.float32),
  }


def _loss(config, learning=None, **settings):
  learning = learning or config_lib.ObjectiveConfig()
  made = speculator_objective.objective(
    config, TEACHER, Settings(**settings), learning
  )
  return jax.jit(made.loss)


@pytest.fixture(name='given', scope='module')
def given_fixture():
  frozen = models.init_params(speculators.TRUNK, jax.random.key(9))
  params = network_lib.own(
    speculators.EAGLE, speculators.params(speculators.EAGLE)
  )
  rng = np.random.default_rng(0)
  return params, frozen, _batch(rng, ['111112222222', '111111111000'])


def test_the_loss_is_the_sum_over_slots(given):
  """Against loops over anchors and depths, on the data's tokens."""
  params, frozen, batch = given
  config, decay = speculators.EAGLE, 0.7
  total, weight, _ = _loss(config, num_draft=4, depth_decay=decay)(
    params, frozen, batch, None
  )
  rows = speculator_rows.rows_of(
    speculator_rows.teacher_of(TEACHER), frozen, batch
  )
  bound = network_lib.bind(config, params, frozen)
  anchors = jnp.broadcast_to(jnp.arange(12), (2, 12))
  logits = speculator_logits.trained_logits(config)(bound, rows, anchors)
  log_q = np.asarray(jax.nn.log_softmax(logits))
  wanted = count = 0.0
  segments = np.asarray(batch['segments'])
  for depth, b in itertools.product(range(4), range(2)):
    for a in range(12 - depth):
      there = segments[b, a + depth]
      if there and there == segments[b, a] and batch['weight'][b, a + depth]:
        wanted -= (
          decay**depth * log_q[b, a, depth, batch['target'][b, a + depth]]
        )
        count += decay**depth
  assert float(weight) == pytest.approx(count)
  assert float(total) == pytest.approx(wanted, rel=1e-5)


def test_chunks_and_fewer_groups_have_the_same_loss(given):
  params, frozen, batch = given
  learning = config_lib.ObjectiveConfig(name='forward_kl')
  whole = _loss(speculators.EAGLE, learning, num_draft=4)(
    params, frozen, batch, None
  )
  learning.chunk = 5
  chunked = _loss(speculators.EAGLE, learning, num_draft=4, anchor_chunk=5)(
    params, frozen, batch, None
  )
  for name in whole[2]:
    np.testing.assert_allclose(chunked[2][name], whole[2][name], rtol=1e-4)
  assert float(chunked[0]) == pytest.approx(float(whole[0]), rel=1e-5)
  some = _loss(
    speculators.EAGLE,
    learning,
    num_draft=4,
    anchors=6,
    anchor_chunk=3,
    keep=0.6,
  )
  drawn = [
    float(some(params, frozen, batch, jax.random.key(i))[0]) for i in range(60)
  ]
  error = np.std(drawn) / np.sqrt(len(drawn))
  assert error > 0
  # Ratios of small samples are a little biased, hence not three.
  assert abs(np.mean(drawn) - float(whole[0])) < 4 * error + 0.01 * whole[0]


def test_a_kept_slot_keeps_its_group():
  settings = Settings(keep=0.5, keep_least=0.3)
  kept = speculator_rows.kept_groups(20, settings, 6)
  assert kept == [10, 6, 6, 6, 6]
  assert speculator_rows.kept_groups(20, Settings(), 3) == [20, 20]
  parts = speculator_rows.plan(kept, 4)
  assert parts == [(0, 2, 5), (2, 1, 1)]
  assert speculator_rows.plan([7, 7], 3) == [(0, 3, 2)]
  segments = jnp.asarray([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
  chosen = np.asarray(
    speculator_rows.choose_anchors(segments, 3, jax.random.key(1))
  )
  assert sorted(chosen[0]) == [0, 1, 2] and len(set(chosen[1])) == 3


def _texts(rng, law, periodic):
  """150 batches of 8 rows of 25 tokens: periodic ones, or noise of a law."""
  if not periodic:
    return rng.choice(speculators.VOCAB, (150, 8, 25), p=law)
  motif = rng.permuted(np.tile(np.arange(8), (150, 8, 1)), axis=-1)[..., :3]
  return np.tile(motif, 9)[..., :25]


def _batch_of(text):
  """Batches in which every row is one segment and every token counts."""
  ones = jnp.ones(text[..., 1:].shape, jnp.int32)
  places = jnp.arange(24, dtype=jnp.int32) * ones
  return {
    'tokens': text[..., :-1],
    'target': text[..., 1:],
    'segments': ones,
    'positions': places,
    'weight': ones.astype(jnp.float32),
  }


@pytest.mark.slow
def test_it_learns_what_can_be_learnt():
  """Periodic text is known at every depth; noise at none, but its law."""
  config = speculators.TOKEN_ONLY
  learner = speculator_objective.objective(
    config, TEACHER, Settings(num_draft=4), config_lib.ObjectiveConfig()
  )
  frozen = models.init_params(speculators.TRUNK, jax.random.key(9))
  optimizer = optax.adam(1e-2)
  rng = np.random.default_rng(5)
  law = rng.dirichlet(np.full(speculators.VOCAB, 0.5))

  @jax.jit
  def fit(params, text):
    def step(carry, batch):
      params, state = carry

      def mean(params):
        total, weight, _ = learner.loss(params, frozen, batch, None)
        return total / weight

      updates, state = optimizer.update(jax.grad(mean)(params), state)
      return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, _batch_of(text))[0][0]

  start = network_lib.init(config, jax.random.key(0))
  for periodic in (True, False):
    trained = fit(start, jnp.asarray(_texts(rng, law, periodic)))
    text = _texts(rng, law, periodic)[0]
    rows = speculators.rows(config, ['1' * 24] * 8)
    rows = rows._replace(tokens=jnp.asarray(text[:, :-1]))
    anchors = jnp.broadcast_to(jnp.arange(24), (8, 24))
    logits = np.asarray(
      speculator_logits.trained_logits(config)(trained, rows, anchors)
    )
    for depth in range(4):
      seen = slice(6, 24 - depth)
      label = text[:, 7 + depth :]
      if periodic:
        assert (logits[:, seen, depth].argmax(-1) == label).mean() > 0.97
      else:
        log_q = np.asarray(jax.nn.log_softmax(logits[:, seen, depth]))
        # Expected under the law itself, so that the sample adds no noise.
        cost = -(log_q * law).sum(-1).mean()
        assert cost - -(law * np.log(law)).sum() < 0.15


def test_settings_that_cannot_work():
  def config(family='parallel', **changes):
    made = config_lib.TrainConfig(
      task='drafter',
      teacher='t',
      model=config_lib.ModelConfig(family=family),
      data=sources_lib.DataConfig(train='x'),
    )
    return settings.assign(made, **changes)

  config('eagle').validate()
  for made, message in (
    (config(families__speculator__masks=False), 'ordinary draft model'),
    (config(families__speculator__feature_weight=1.0), 'feature_weight'),
    (config(families__speculator__keep=0.0), 'speculator.keep'),
    (config(families__speculator__num_draft=0), 'num_draft'),
    (config('medusa', families__speculator__mask_feature='x'), 'mask_feature'),
    (config('eagle', task='target'), "task='drafter'"),
    (
      config('eagle', data__on_policy_fraction=0.5, data__pack=False),
      'on_policy_fraction',
    ),
    (config(model__output_vocab=9), 'tie_embeddings'),
  ):
    with pytest.raises(ValueError, match=message):
      made.validate()
  # A run begun before these settings existed goes on.
  old = config_lib.to_dict(config('t5'))
  del old['families']
  assert not config_lib.difference(old, config_lib.to_dict(config('t5')))
  assert config_lib.difference(
    old, config_lib.to_dict(config(families__speculator__keep=0.5))
  )
