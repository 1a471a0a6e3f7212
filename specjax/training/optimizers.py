"""Schedules and optimisers from settings, with optax."""

import jax
import jax.numpy as jnp
import optax

from specjax.training import config as config_lib


def make_schedule(
  config: config_lib.OptimizerConfig, steps: int
) -> optax.Schedule:
  """Learning rate by step: a linear rise, then the chosen shape.

  Args:
    config: `OptimizerConfig`.
    steps: of the whole run; 'cosine' reaches 0 there.

  Returns:
    step -> float32 learning rate.
  """
  peak, warmup = config.learning_rate, config.warmup_steps

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    rise = jnp.minimum((step + 1) / max(warmup, 1), 1.0)
    if config.schedule == 'cosine':
      part = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
      shape = 0.5 * (1 + jnp.cos(jnp.pi * part))
    elif config.schedule == 'rsqrt':
      first = max(warmup, 1)
      shape = jnp.sqrt(first / jnp.maximum(step + 1, first))
    else:
      shape = 1.0
    return peak * rise * shape

  return schedule


def make_optimizer(
  config: config_lib.OptimizerConfig, steps: int
) -> optax.GradientTransformation:
  """The gradient transformation of a run; arguments as `make_schedule`."""
  schedule = make_schedule(config, steps)

  def matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)

  parts = []
  if config.clip:
    parts.append(optax.clip_by_global_norm(config.clip))
  if config.name == 'adamw':
    parts.append(
      optax.adamw(
        schedule,
        config.b1,
        config.b2,
        config.eps,
        weight_decay=config.weight_decay,
        mask=matrices,
      )
    )
  else:
    parts.append(
      optax.adafactor(
        schedule,
        multiply_by_parameter_scale=True,
        clipping_threshold=1.0,
        weight_decay_rate=config.weight_decay or None,
        weight_decay_mask=matrices,
      )
    )
  return optax.chain(*parts)
