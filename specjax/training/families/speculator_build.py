"""From settings to a drafter network: its shape, and where it begins."""

import dataclasses
import functools
from typing import Callable, Optional

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax.checkpoints import model as model_lib
from specjax.models import registry as families
from specjax.models.speculator import config as speculator_config
from specjax.models.speculator import modeling as network_lib
from specjax.training import config as config_lib
from specjax.training.families import speculator_settings

FAMILIES = speculator_settings.FAMILIES


def check_roles(
  family: str,
  teacher: Optional[model_lib.Model],
  initial: Optional[model_lib.Model],
) -> None:
  """Raises ValueError where a drafter network stands for a language model."""
  if teacher is not None and teacher.lm is None:
    raise ValueError(
      f'{teacher.name} holds a drafter network; teacher must name the target.'
    )
  if initial is None or initial.lm is not None:
    return
  made = initial.config
  is_network = isinstance(made, models.ParallelConfig)
  fitting = FAMILIES if is_network else config_lib.SLOT_FAMILIES
  if family not in FAMILIES and family not in fitting:
    kind = made.kind if is_network else made.model_type
    raise ValueError(
      f'{initial.name} holds a {kind} drafter, but model.family is {family!r}.'
    )


def model_config(
  config: config_lib.TrainConfig,
  teacher: model_lib.Model,
  initial: Optional[model_lib.Model],
  output_ids: tuple,
) -> models.ParallelConfig:
  """The trained network's config.

  Args:
    config: `TrainConfig` of one of the drafter families.
    teacher: the target.
    initial: where the weights come from: a drafter network of the same kind,
      or for `parallel` a small language model; None for new ones.
    output_ids: of the head.

  Raises:
    ValueError: the initial weights do not fit.
  """
  settings, family = config.parallel, config.model.family
  trunk = None
  if initial is not None:
    trunk = _initial_trunk(initial, family)
    if isinstance(initial.config, models.ParallelConfig):
      output_ids = initial.config.output_ids
  if trunk is None:
    shape = config.model
    trunk = speculator_config.new_trunk(
      families.facts(teacher.config),
      family,
      speculator_config.Shape(
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        mlp=shape.mlp,
        activation=shape.activation,
        gated=shape.gated,
        tie_embeddings=shape.tie_embeddings,
        positions=shape.max_positions,
      ),
    )
  trunk = dataclasses.replace(
    trunk,
    vocab_size=teacher.config.vocab_size,
    dtype=config.compute_dtype,
    dropout_rate=config.model.dropout,
    remat=config.remat == 'full',
  )
  return models.ParallelConfig(
    trunk=trunk,
    kind=family,
    masks=settings.masks,
    num_draft=settings.num_draft,
    feature=settings.feature_of(family),
    mask_embedding=settings.mask_embedding,
    mask_feature=settings.mask_feature,
    output_ids=output_ids,
    **speculator_config.of_target(families.facts(teacher.config), family),
  )


def _initial_trunk(initial, family) -> models.DecoderConfig:
  """Layers of the weights that a run begins with."""
  config = initial.config
  if isinstance(config, models.ParallelConfig):
    if config.kind != family:
      raise ValueError(
        f'{initial.name} holds a {config.kind} drafter, but model.family is '
        f'{family!r}.'
      )
    return config.trunk
  if family == 'parallel' and isinstance(config, models.DecoderConfig):
    if config.rope is None or config.sliding_layers:
      raise ValueError(
        f'{initial.name} cannot become a parallel drafter: it needs rotary '
        'positions and no sliding windows.'
      )
    return config
  raise ValueError(
    f'{initial.name} cannot become a {family} drafter; give one of that kind'
    + (' or a decoder-only model.' if family == 'parallel' else '.')
  )


def initialiser(
  config: models.ParallelConfig, initial: Optional[model_lib.Model]
) -> Callable[[base.Array], base.PyTree]:
  """Initial parameters: those of a folder, and fresh ones for what it lacks.

  Masks begin as the mean of the folder's embeddings, if it has any; a head with
  fewer tokens begins with their rows.
  """
  fresh = functools.partial(network_lib.init, config)
  if initial is None:
    return fresh

  def init(key):
    params = dict(fresh(key))
    given = dict(initial.params)
    if 'head' in given and config.output_ids:
      table = given['head']['weight']
      if table.shape[0] != len(config.output_ids):
        rows = np.asarray(config.output_ids, np.int32)
        given['head'] = {'weight': jnp.take(table, rows, axis=0)}
    masks = params.get('mask_embed')
    if masks and 'embed' in given and 'mask_embed' not in given:
      mean = jnp.mean(given['embed']['weight'], axis=0)
      params['mask_embed'] = {'weight': mean + 0.1 * masks['weight']}
    for name, value in given.items():
      shapes = [
        jax.tree.map(jnp.shape, tree) for tree in (params.get(name), value)
      ]
      if shapes[0] != shapes[1]:
        raise ValueError(
          f'{initial.name} holds {name} with other shapes than this drafter: '
          'take weights with the same vocabulary and layers.'
        )
      params[name] = value
    return params

  return init
