"""Rows of 2,048 tokens: memory that a step of training needs."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from specjax import models
from specjax.training import config as config_lib
from specjax.training import state as state_lib
from specjax.training import step as step_lib
from specjax.training.families import speculator_objective
from specjax.training.families import speculator_options
from tests.helpers import speculators

# Memory is planned before code is made, which therefore need not be good.
QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def _working_memory(config, length, **settings):
  """Bytes that a compiled step needs beside its arguments; nothing is run."""
  learner = speculator_objective.objective(
    config,
    models.Decoder(speculators.TRUNK),
    speculator_options.SpeculatorTraining(num_draft=4, **settings),
    config_lib.ObjectiveConfig(name='forward_kl', chunk=64),
  )
  optimizer = optax.sgd(0.1)
  step = step_lib.make_train_step(learner, optimizer, seed=0)

  def start(key):
    params = learner.init(key)
    return state_lib.TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
      ema=None,
    )

  key = jax.random.key(0)
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  batch = {k: ids for k in ('tokens', 'target', 'segments', 'positions')}
  batch['weight'] = jax.ShapeDtypeStruct((1, length), jnp.float32)
  lowered = step.lower(
    jax.eval_shape(start, key),
    jax.eval_shape(lambda key: models.init_params(speculators.TRUNK, key), key),
    batch,
  )
  compiled = lowered.compile(compiler_options=QUICK)
  return compiled.memory_analysis().temp_size_in_bytes


def test_masks_in_chunks_need_hardly_more_than_no_masks():
  """Real tokens read each other with or without masks; that part is given."""
  without = dataclasses.replace(speculators.EAGLE, masks=False)
  given = _working_memory(without, 2048)
  chunked = _working_memory(
    speculators.EAGLE, 2048, anchors=512, anchor_chunk=64
  )
  assert given < chunked < 1.25 * given
  assert _working_memory(speculators.EAGLE, 2048) > 5 * chunked
