"""Language models: targets on data, and draft models distilled from a target.

Any model family with a `new` can be trained: `--config.model.family` is its
name.
"""

from typing import Any

from specjax import models
from specjax.models import registry as model_registry
from specjax.models.family import Shape
from specjax.models.family import TokenIds
from specjax.training import objectives
from specjax.training.families.family import TrainingFamily
from specjax.training.families.family import TrainingInputs


def kinds() -> tuple[str, ...]:
  """Names of the model families that can be made anew."""
  return tuple(
    one.name for one in model_registry.families() if one.new is not None
  )


def new_config(shape: Any, ids: TokenIds) -> Any:
  """Config of a new language model.

  Args:
    shape: `ModelConfig`.
    ids: special ids and size of its vocabulary.

  Raises:
    ValueError: the family has no such model.
  """
  return model_registry.named(shape.family).new(shape_of(shape), ids)


def shape_of(shape: Any) -> Shape:
  """`Shape` of a `ModelConfig`."""
  given = vars(shape)
  same = {name: given[name] for name in Shape._fields if name in given}
  return Shape(positions=shape.max_positions, **same)


def _validate(config, options):
  del options
  shape = config.model
  reduces = model_registry.named(shape.family).reduce_head is not None
  if shape.output_vocab and (
    config.task != 'drafter' or not reduces or shape.tie_embeddings
  ):
    raise ValueError(
      'model.output_vocab is for drafters with model.tie_embeddings=False, '
      f'and not for model.family={shape.family!r}.'
      if not reduces
      else 'model.output_vocab is for drafters with model.tie_embeddings=False.'
    )
  # Made and dropped: what a family refuses is refused before anything is read.
  new_config(shape, TokenIds(size=2, start=0, pad=0, eos=1))


def _new_config(given: TrainingInputs) -> Any:
  config, initial = given.config, given.initial
  if initial is not None:
    made = initial.config
  else:
    made = new_config(config.model, _token_ids(given))
    if ids := given.output_ids():
      made = model_registry.family_of(made).reduce_head(made, ids)
  return models.replace(
    made,
    dtype=config.compute_dtype,
    dropout_rate=config.model.dropout,
    remat=config.remat == 'full',
  )


def _check(given):
  initial = given.initial
  if initial is not None and initial.lm is None:
    raise ValueError(
      f'{initial.name} holds a {initial.config.model_type} drafter, but '
      f'model.family is {given.config.model.family!r}.'
    )


def _token_ids(given):
  """Vocabulary of a new model: the teacher's, else the tokenizer's."""
  pad_id, eos_id = given.pad_id, given.eos_id
  if given.teacher is None:
    # A multiple of 64, so that a mesh can cut the table.
    size = max(given.tokenizer.get_vocab().values()) + 1
    return TokenIds(-(-size // 64) * 64, pad_id, pad_id, eos_id)
  facts = model_registry.facts(given.teacher.config)
  # The teacher's, since a drafter continues what the teacher's decoder began.
  start_id = pad_id if facts.start_id is None else facts.start_id
  return TokenIds(facts.vocab_size, start_id, pad_id, eos_id)


def _objective(given, made, module):
  network = objectives.network_of(made, module)
  settings = given.config.objective
  if given.teacher is None:
    return objectives.cross_entropy_objective(network, settings)
  return objectives.distillation_objective(
    network,
    objectives.network_of(given.teacher.config, given.teacher.module),
    settings,
    model_registry.facts(made).output_ids,
  )


def _initialiser(given, made):
  if given.initial is not None:
    return lambda key: given.initial.params
  return lambda key: models.init_params(made, key)


FAMILY = TrainingFamily(
  name='language_model',
  kinds=kinds,
  validate=_validate,
  new_config=_new_config,
  objective=_objective,
  initialiser=_initialiser,
  check=_check,
  summary='targets, and draft models like them',
)
