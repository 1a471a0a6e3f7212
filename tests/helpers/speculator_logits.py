"""Logits of group-wise training, as a function of parameters and rows."""

import functools

import jax
import jax.numpy as jnp

from specjax import models
from specjax.training.families import speculator_objective as training_lib
from tests.helpers import speculators


@functools.cache
def trained_logits(config, depth=speculators.SLOTS - 1):
  """`(params, rows, anchors) -> logits [B, C, depth + 1, V]`."""
  module = models.make_module(config)

  @jax.jit
  def run(params, rows, anchors):
    apply = functools.partial(module.apply, {'params': params})
    real = training_lib.real_states(config, apply, rows)
    groups = training_lib.group_states(apply, rows, real, anchors, depth)
    groups = groups.reshape(*anchors.shape, depth, -1)
    first = jnp.take_along_axis(real.state, anchors[..., None], axis=1)
    states = jnp.concatenate([first[:, :, None], groups], axis=2)
    return apply(states, method='logits_from_hidden')

  return run
