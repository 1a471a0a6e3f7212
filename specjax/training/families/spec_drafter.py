"""The training family of drafters that fill slots.

A Spec-Drafter learns the target's own outputs by mask prediction with glancing
(see `block_mask`); Blockwise heads learn the same labels from the target's
frozen last state. Neither changes the target.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specjax import models
from specjax import validation
from specjax.models import registry as model_registry
from specjax.training.data import batches as batches_lib
from specjax.training.families import slot_objective
from specjax.training.families.family import TrainingFamily
from specjax.training.families.family import TrainingInputs

KINDS = {
  'spec_drafter': models.SpecDrafterConfig,
  'blockwise': models.BlockwiseConfig,
}
_HERE = 'families.spec_drafter'
# Sizes that an encoder shares with the target's: field of the config -> fact.
_ENCODER = {
  'd_model': 'width',
  'd_kv': 'head_dim',
  'd_ff': 'mlp',
  'num_heads': 'heads',
  'gated': 'gated',
}


@dataclasses.dataclass
class SlotOptions:
  """Settings of the kinds 'spec_drafter' and 'blockwise'; see `block_mask`.

  Attributes:
    block: number of masked slots of an example, the longest draft there can be.
    block_min: fewest masked slots of an example, if above 0: then one drafter
      serves every number from it to `block`.
    window: verified tokens that a Spec-Drafter reads; `data.target_length`
      gives it the whole prefix.
    cuts: examples made of one row at each step, which share the encoder's pass.
    reveal_first: share of the wrong guesses that glancing reveals at the first
      step, from 0 to 1.
    reveal_last: share of the wrong guesses that glancing reveals at the last
      step, reached in a linear fall.
    source_copy: whether masked slots begin with the source's embeddings at
      their positions; without it they begin with one learned vector.
    init_encoder: whether training begins with the target's embeddings and
      encoder layers.
  """

  block: int = 25
  block_min: int = 0
  window: int = 32
  cuts: int = 1
  reveal_first: float = 0.5
  reveal_last: float = 0.3
  source_copy: bool = True
  init_encoder: bool = False

  def validate(self) -> None:
    """Raises ValueError with one sentence for a value that cannot be."""
    for name in ('block', 'window', 'cuts'):
      validation.at_least(f'{_HERE}.{name}', getattr(self, name), 1)
    validation.between(f'{_HERE}.block_min', self.block_min, 0, self.block)
    for name in ('reveal_first', 'reveal_last'):
      validation.between(f'{_HERE}.{name}', getattr(self, name), 0, 1)


def _validate(config, settings):
  shape = config.model
  if settings.block > config.data.target_length:
    raise ValueError(
      f'{_HERE}.block={settings.block} exceeds data.target_length='
      f'{config.data.target_length}, the positions there are.'
    )
  if config.eval_draft > settings.block:
    raise ValueError(
      f'eval_draft={config.eval_draft} exceeds {_HERE}.block={settings.block}.'
    )
  wrong = None
  if config.task != 'drafter':
    wrong = "task='drafter'"
  elif config.objective.name != 'cross_entropy':
    wrong = "objective.name='cross_entropy' (labels come from specjax-label)"
  elif config.data.kind != 'pairs':
    wrong = "data.kind='pairs'"
  elif config.data.on_policy_fraction:
    wrong = 'data.on_policy_fraction=0'
  elif (
    shape.output_vocab and shape.tie_embeddings and shape.family != 'blockwise'
  ):
    wrong = 'model.tie_embeddings=False with model.output_vocab'
  if wrong:
    raise ValueError(f'model.family={shape.family!r} needs {wrong}.')


def _check(given):
  kind, teacher = given.config.model.family, given.teacher
  if not model_registry.facts(teacher.config).is_encoder_decoder:
    raise ValueError(
      f'model.family={kind!r} drafts for T5 targets, but {teacher.name} is a '
      f'{teacher.config.model_type} model.'
    )
  initial = given.initial
  if initial is not None and not isinstance(initial.config, KINDS[kind]):
    raise ValueError(
      f'init_from names a {initial.config.model_type}, but model.family is '
      f'{kind!r}.'
    )


def new_config(given: TrainingInputs) -> Any:
  """`SpecDrafterConfig` or `BlockwiseConfig` of the trained drafter.

  Raises:
    ValueError: the initial weights have other sizes.
  """
  config, teacher = given.config, given.teacher
  shape, settings = config.model, given.options
  facts = model_registry.facts(teacher.config)
  if given.initial is not None:
    return _continued(given)
  shared = dict(
    vocab_size=facts.vocab_size,
    d_ff=shape.mlp,
    block=settings.block,
    hidden_act=shape.activation,
    output_ids=given.output_ids(),
    decoder_start_token_id=facts.start_id,
    pad_token_id=facts.pad_id,
    eos_token_id=(given.eos_id,),
    dtype=config.compute_dtype,
  )
  if shape.family == 'blockwise':
    return models.BlockwiseConfig(d_model=facts.width, **shared)
  return models.SpecDrafterConfig(
    d_model=shape.width,
    d_kv=shape.head_dim,
    num_layers=shape.encoder_layers or shape.layers,
    num_decoder_layers=shape.layers,
    num_heads=shape.heads,
    window=settings.window,
    max_positions=config.data.target_length,
    max_source_positions=config.data.source_length,
    source_copy=settings.source_copy,
    gated=shape.gated,
    tie_word_embeddings=shape.tie_embeddings,
    dropout_rate=shape.dropout,
    remat=config.remat == 'full',
    **shared,
  )


def _continued(given):
  """The config of initial weights, with what training may change of it."""
  config, made = given.config, given.initial.config
  shape = config.model
  settings, kind = given.options, KINDS[shape.family]
  made = dataclasses.replace(made, dtype=config.compute_dtype)
  if kind is models.SpecDrafterConfig:
    if config.data.source_length > made.max_source_positions:
      raise ValueError(
        f'init_from has {made.max_source_positions} source positions, but '
        f'data.source_length is {config.data.source_length}; lower it.'
      )
    return dataclasses.replace(
      made,
      block=settings.block,
      window=settings.window,
      dropout_rate=shape.dropout,
      remat=config.remat == 'full',
    )
  if made.block != settings.block:
    raise ValueError(
      f'init_from has {made.block} heads, but {_HERE}.block is '
      f'{settings.block}.'
    )
  return made


def _initialiser(given: TrainingInputs, made: Any):
  """`(key) -> params`; parameters taken from the target are checked at once."""
  if given.initial is not None:
    return lambda key: given.initial.params
  copies = given.options.init_encoder
  is_heads = given.config.model.family == 'blockwise'
  if copies and not is_heads:
    _check_encoder(made, model_registry.facts(given.teacher.config))

  def init(key):
    params = models.init_params(made, key)
    if is_heads:
      return params | {'head': {'weight': _target_head(made, given.teacher)}}
    return params | _encoder_of(params, given.teacher) if copies else params

  return init


def _check_encoder(made, target):
  """Raises ValueError unless the encoder can begin as the target's."""
  for name, fact in _ENCODER.items():
    ours, theirs = getattr(made, name), getattr(target, fact)
    if ours != theirs:
      raise ValueError(
        f"{_HERE}.init_encoder copies the target's encoder, but {name} is "
        f'{theirs} there and {ours} here; make the shapes equal or set it to '
        'False.'
      )


def _encoder_of(params, teacher):
  """The target's embeddings and as many of its encoder layers as fit."""
  encoder = dict(params['encoder'])
  for name, value in teacher.params['encoder'].items():
    # The first layers, where the drafter has fewer; its final norm comes too.
    if name in encoder:
      encoder[name] = value
  copied = {'encoder': encoder, 'embed': teacher.params['embed']}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), copied)


def _target_head(made, teacher):
  """The rows of the target's projection, its scaling included."""
  facts = model_registry.facts(teacher.config)
  name = 'embed' if facts.ties_embeddings else 'head'
  table = np.asarray(teacher.params[name]['weight'], np.float32)
  # A tied T5 scales states before the table; heads have a table of their own
  # and no scale, so it goes into the rows.
  table = table * np.float32(facts.head_scale)
  if made.output_ids:
    table = table[np.asarray(made.output_ids)]
  return jnp.asarray(table)


def _with_steps(batches: batches_lib.Batches) -> batches_lib.Batches:
  """Adds the step to batches: glancing depends on training progress."""

  def get(step):
    batch = batches.get(step)
    rows = len(next(iter(batch.values())))
    # One number a row, so that it is cut over devices as all arrays of a batch
    # are.
    return batch | {'step': np.full(rows, step, np.int32)}

  return batches._replace(get=get)


FAMILY = TrainingFamily(
  name='spec_drafter',
  kinds=lambda: tuple(KINDS),
  validate=_validate,
  new_config=new_config,
  objective=slot_objective.objective,
  initialiser=_initialiser,
  check=_check,
  options=SlotOptions,
  batches=_with_steps,
  summary='drafters that fill masked slots in one pass (SpecDec, Blockwise)',
)
