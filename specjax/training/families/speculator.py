"""Drafters on a target's hidden states: their configs and initial parameters.

Their objective is in `speculator_objective`.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from specjax import models
from specjax.models import registry as model_registry
from specjax.models.speculator import config as speculator_config
from specjax.models.speculator import modeling as network_lib
from specjax.training.families import language_model
from specjax.training.families import speculator_objective
from specjax.training.families import speculator_options
from specjax.training.families.family import BY_DEPTH
from specjax.training.families.family import TrainingFamily
from specjax.training.families.family import TrainingInputs


def _new_config(given: TrainingInputs) -> models.ParallelConfig:
  config, kind = given.config, given.config.model.family
  settings = given.options
  target = model_registry.facts(given.teacher.config)
  output_ids = given.output_ids()
  if given.initial is None:
    trunk = speculator_config.new_trunk(
      target, kind, language_model.shape_of(config.model)
    )
  else:
    found = _initial_trunk(given.initial, kind)
    trunk = found.config
    output_ids = output_ids if found.kind is None else found.output_ids
  trunk = dataclasses.replace(
    trunk,
    vocab_size=target.vocab_size,
    dtype=config.compute_dtype,
    dropout_rate=config.model.dropout,
    remat=config.remat == 'full',
  )
  return models.ParallelConfig(
    trunk=trunk,
    kind=kind,
    masks=settings.masks,
    num_draft=settings.num_draft,
    feature=settings.feature_of(kind),
    mask_embedding=settings.mask_embedding,
    mask_feature=settings.mask_feature,
    output_ids=output_ids,
    **speculator_config.of_target(target, kind),
  )


def _check(given):
  teacher, kind = given.teacher, given.config.model.family
  network_lib.check_tables(
    kind, models.abstract_params(teacher.config), teacher.name
  )
  if given.initial is not None:
    _initial_trunk(given.initial, kind)


def _initial_trunk(initial, kind):
  """Layers and head of the weights that a run begins with."""
  found = speculator_config.trunk_of(initial.config)
  if found is not None and found.kind is not None and found.kind != kind:
    raise ValueError(
      f'{initial.name} holds a {found.kind} drafter, but model.family is '
      f'{kind!r}.'
    )
  if found is None or (found.kind is None and kind != 'parallel'):
    raise ValueError(
      f'{initial.name} cannot become a {kind} drafter; give one of that kind'
      + (' or a decoder-only model.' if kind == 'parallel' else '.')
    )
  layers = found.config
  if found.kind is None and (layers.rope is None or layers.sliding_layers):
    raise ValueError(
      f'{initial.name} cannot become a parallel drafter: it needs rotary '
      'positions and no sliding windows.'
    )
  return found


def initialiser(
  given: TrainingInputs, config: models.ParallelConfig
) -> Callable:
  """Initial parameters: those of a folder, and fresh ones for what it lacks.

  Masks begin as the mean of the folder's embeddings, if it has any; a head with
  fewer tokens begins with their rows.

  Args:
    given: inputs of the run; `initial` is the folder's model, or None.
    config: config of the network.

  Returns:
    key -> parameters.
  """
  initial = given.initial
  fresh = functools.partial(network_lib.init, config)
  if initial is None:
    return fresh

  def init(key):
    params = dict(fresh(key))
    loaded = dict(initial.params)
    if 'head' in loaded and config.output_ids:
      table = loaded['head']['weight']
      if table.shape[0] != len(config.output_ids):
        rows = np.asarray(config.output_ids, np.int32)
        loaded['head'] = {'weight': jnp.take(table, rows, axis=0)}
    masks = params.get('mask_embed')
    if masks and 'embed' in loaded and 'mask_embed' not in loaded:
      mean = jnp.mean(loaded['embed']['weight'], axis=0)
      # Near the mean of the table, where layers that were trained on real
      # tokens know what to do; the noise lets masks of different depths differ.
      params['mask_embed'] = {'weight': mean + 0.1 * masks['weight']}
    for name, value in loaded.items():
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


def _objective(given, made, module):
  del module
  return speculator_objective.objective(
    made,
    given.teacher.module,
    given.options,
    given.config.objective,
  )


def _measured(config, metrics):
  """The config with the acceptance rates by depth, from which trees grow."""
  rates = []
  while not math.isnan(
    rate := metrics.get(f'{BY_DEPTH}{len(rates) + 1}', math.nan)
  ):
    # Four digits: they are written to config.json and read by people.
    rates.append(round(float(rate), 4))
  return dataclasses.replace(config, acceptance=tuple(rates))


FAMILY = TrainingFamily(
  name='speculator',
  kinds=lambda: speculator_config.KINDS,
  validate=speculator_options.validate,
  new_config=_new_config,
  objective=_objective,
  initialiser=initialiser,
  check=_check,
  options=speculator_options.SpeculatorTraining,
  measured=_measured,
  summary="drafters on the target's states (ParallelSpec, Medusa, EAGLE)",
)
