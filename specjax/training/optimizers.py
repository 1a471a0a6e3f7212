"""Schedules and optimisers from settings, with optax."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from specjax.training import config as config_lib


def make_schedule(
  config: config_lib.OptimizerConfig, steps: int
) -> optax.Schedule:
  """Learning rate by step: a linear rise, then the chosen shape.

  Args:
    config: `OptimizerConfig`.
    steps: steps of the whole run; 'cosine' reaches 0 there.

  Returns:
    step -> float32 learning rate.
  """
  peak, warmup = config.learning_rate, config.warmup_steps

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    # warmup 4: [.25 .5 .75 1 1 ...]; step 0 moves too, or it would be wasted.
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
  config: config_lib.OptimizerConfig,
  steps: int,
  maps: Collection[tuple[str, ...]] = (),
) -> optax.GradientTransformation:
  """The gradient transformation of a run.

  Args:
    config: argument of `make_schedule`.
    steps: argument of `make_schedule`.
    maps: paths of the parameters that Muon updates; see `models.maps`.
  """
  schedule = make_schedule(config, steps)

  def matrices(params):
    # Norms and biases are no maps: decaying them to 0 would switch layers off.
    return jax.tree.map(lambda p: p.ndim > 1, params)

  parts = []
  if config.clip:
    # Before the optimiser, so that one bad batch does not enter its moments.
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
  elif config.name == 'muon':
    parts.append(_muon(config, schedule, frozenset(maps)))
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


def _muon(config, schedule, maps):
  """Muon for maps between spaces, AdamW for all other parameters.

  An update's size does not depend on a matrix's shape (`consistent_rms`), so
  that a learning rate carries over from AdamW, times two or so.
  """

  def dimensions(params):
    def of(path, leaf):
      is_map = leaf.ndim == 2 and tuple(key.key for key in path) in maps
      return contrib.MuonDimensionNumbers() if is_map else None

    return jax.tree_util.tree_map_with_path(of, params)

  return contrib.muon(
    schedule,
    ns_steps=3,
    preconditioning='schatten',  # makes three iterations enough
    weight_decay=config.weight_decay,
    adam_b1=config.b1,
    adam_b2=config.b2,
    adam_learning_rate=lambda step: config.table_rate * schedule(step),
    muon_weight_dimension_numbers=dimensions,
    consistent_rms=0.2,
  )
