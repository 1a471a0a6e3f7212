"""How drafters that fill slots are made and trained.

A Spec-Drafter learns the target's own outputs by mask prediction with glancing
(see `block_mask`); Blockwise heads learn the same labels from the target's
frozen last state. Neither changes the target.
"""

import dataclasses
from typing import Any, Callable, Optional

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax.checkpoints import model as model_lib
from specjax.training import config as config_lib
from specjax.training import losses
from specjax.training import objectives
from specjax.training import step as step_lib
from specjax.training.data import batches as batches_lib
from specjax.training.families import block_mask


def check_teacher(family: str, teacher: model_lib.Model) -> None:
  """Raises ValueError if the teacher is no T5."""
  if not isinstance(teacher.config, models.T5Config):
    raise ValueError(
      f'model.family={family!r} drafts for T5 targets, but {teacher.name} is a '
      f'{teacher.config.model_type} model.'
    )


def new_config(
  config: config_lib.TrainConfig,
  teacher: model_lib.Model,
  initial: Optional[model_lib.Model],
  eos_id: int,
  output_ids: tuple,
) -> Any:
  """`SpecDrafterConfig` or `BlockwiseConfig` of the trained drafter.

  Args:
    config: settings of the run.
    teacher: the target.
    initial: where the weights come from, or None.
    eos_id: the end token.
    output_ids: what the head knows; () for all.

  Raises:
    ValueError: the initial weights are another's.
  """
  shape, settings = config.model, config.slots
  if initial is not None:
    return _continued(config, initial)
  shared = dict(
    vocab_size=teacher.config.vocab_size,
    d_ff=shape.mlp,
    block=settings.block,
    hidden_act=shape.activation,
    output_ids=output_ids,
    decoder_start_token_id=teacher.config.decoder_start_token_id,
    pad_token_id=teacher.config.pad_token_id,
    eos_token_id=(eos_id,),
    dtype=config.compute_dtype,
  )
  if shape.family == 'blockwise':
    return models.BlockwiseConfig(d_model=teacher.config.d_model, **shared)
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


def _continued(config, initial):
  """The config of initial weights, with what training may change of it."""
  made, shape = initial.config, config.model
  kind = {
    'spec_drafter': models.SpecDrafterConfig,
    'blockwise': models.BlockwiseConfig,
  }[shape.family]
  if not isinstance(made, kind):
    raise ValueError(
      f'init_from names a {made.model_type}, but model.family is '
      f'{shape.family!r}.'
    )
  made = dataclasses.replace(made, dtype=config.compute_dtype)
  if kind is models.SpecDrafterConfig:
    if config.data.source_length > made.max_source_positions:
      raise ValueError(
        f'init_from has {made.max_source_positions} source positions, but '
        f'data.source_length is {config.data.source_length}; lower it.'
      )
    return dataclasses.replace(
      made,
      block=config.slots.block,
      window=config.slots.window,
      dropout_rate=shape.dropout,
      remat=config.remat == 'full',
    )
  if made.block != config.slots.block:
    raise ValueError(
      f'init_from has {made.block} heads, but slots.block is '
      f'{config.slots.block}.'
    )
  return made


def initialiser(
  config: config_lib.TrainConfig, made: Any, teacher: model_lib.Model
) -> Callable[[base.Array], base.PyTree]:
  """`(key) -> params`; what is taken from the target is checked at once.

  Raises:
    ValueError: the encoder is to begin as the target's and has another shape.
  """

  def init(key):
    params = models.init_params(made, key)
    if isinstance(made, models.BlockwiseConfig):
      return params | {'head': {'weight': _target_head(made, teacher)}}
    if config.slots.init_encoder:
      params = params | _encoder_of(params, teacher)
    return params

  if isinstance(made, models.SpecDrafterConfig) and config.slots.init_encoder:
    for name in ('d_model', 'd_kv', 'd_ff', 'num_heads', 'gated'):
      ours, theirs = getattr(made, name), getattr(teacher.config, name)
      if ours != theirs:
        raise ValueError(
          f"slots.init_encoder copies the target's encoder, but {name} is "
          f'{theirs} there and {ours} here; make the shapes equal or set it to '
          'False.'
        )
  return init


def _encoder_of(params, teacher):
  """The target's embeddings and as many of its encoder layers as fit."""
  encoder = dict(params['encoder'])
  for name, value in teacher.params['encoder'].items():
    if name in encoder:
      encoder[name] = value
  copied = {'encoder': encoder, 'embed': teacher.params['embed']}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), copied)


def _target_head(made, teacher):
  """The rows of the target's projection, its scaling included."""
  config = teacher.config
  name = 'embed' if config.tie_word_embeddings else 'head'
  table = np.asarray(teacher.params[name]['weight'], np.float32)
  if config.scale_decoder_outputs:
    table = table * np.float32(config.d_model**-0.5)
  if made.output_ids:
    table = table[np.asarray(made.output_ids)]
  return jnp.asarray(table)


def with_steps(batches: batches_lib.Batches) -> batches_lib.Batches:
  """Batches that know their step: glancing depends on how far training is."""

  def get(step):
    batch = batches.get(step)
    rows = len(next(iter(batch.values())))
    return batch | {'step': np.full(rows, step, np.int32)}

  return batches._replace(get=get)


def objective(
  config: config_lib.TrainConfig,
  made: Any,
  module: Any,
  teacher: objectives.Network,
) -> step_lib.Objective:
  """The objective of a drafter that fills slots.

  Its loss counts the labelled masks; the sums are 'accuracy' over them and, in
  training, 'revealed', how many labels glancing showed.

  Args:
    config: settings of the run.
    made: of `new_config`.
    module: the network.
    teacher: the target's; Blockwise heads read its states.
  """
  settings = config.slots
  spec = block_mask.Spec(
    block=settings.block,
    block_min=settings.block_min or settings.block,
    window=settings.window,
    max_positions=getattr(made, 'max_positions', config.data.target_length),
    mask_id=made.vocab_size,
    cuts=settings.cuts,
  )

  def smoothed(logits, labels, mask, training):
    if made.output_ids:
      ids = jnp.asarray(made.output_ids, jnp.int32)
      labels, known = objectives.place_of(labels, ids, made.vocab_size)
      mask = mask & known
    smooth = config.objective.label_smoothing if training else 0.0
    values = losses.cross_entropy(logits, labels, mask, smooth)
    right = (jnp.argmax(logits, -1) == labels) & mask
    return (
      jnp.sum(values),
      jnp.sum(mask.astype(jnp.float32)),
      jnp.sum(right.astype(jnp.float32)),
    )

  def spec_loss(params, frozen, batch, key):
    del frozen
    training = key is not None
    keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
    cuts = block_mask.examples(batch, keys[0], spec)
    run = passes(module, params, batch, cuts, keys[2:] if training else None)
    sums = {}
    if training:
      guess = jax.lax.stop_gradient(jnp.argmax(run(cuts), -1))
      if made.output_ids:
        guess = jnp.asarray(made.output_ids, jnp.int32)[guess]
      ratio = block_mask.reveal_ratio(
        batch['step'][:, None],
        config.steps,
        settings.reveal_first,
        settings.reveal_last,
      )
      before = jnp.sum(cuts.labelled)
      cuts = block_mask.reveal(cuts, guess, ratio, keys[1])
      shown = before - jnp.sum(cuts.labelled)
      sums['revealed'] = shown.astype(jnp.float32)
    total, weight, right = smoothed(
      run(cuts), cuts.labels, cuts.labelled, training
    )
    return total, weight, sums | {'accuracy': right}

  def heads_loss(params, frozen, batch, key):
    training = key is not None
    base_key = jax.random.key(0) if key is None else key
    cuts = block_mask.examples(batch, base_key, spec)
    states = jax.lax.stop_gradient(teacher.hidden(frozen, batch, None))
    at = jnp.maximum(cuts.before, 0)[..., None]
    states = jnp.take_along_axis(states, at, axis=1)
    logits = module.apply({'params': params}, states, spec.block)
    mask = cuts.labelled & (cuts.before >= 0)[..., None]
    total, weight, right = smoothed(logits, cuts.labels, mask, training)
    return total, weight, {'accuracy': right}

  is_heads = isinstance(made, models.BlockwiseConfig)
  return step_lib.Objective(
    lambda key: models.init_params(made, key),
    heads_loss if is_heads else spec_loss,
  )


def passes(module, params, batch, cuts, keys):
  """`(examples) -> logits [B, C, K, V]`; encodes once.

  Every pass draws the same dropout, so that glancing looks at the very network
  that is then trained.
  """
  source = batch['source_segments']
  same = source[:, :, None] == source[:, None, :]
  rest = dict(deterministic=keys is None)
  rngs = [None, None]
  if keys is not None:
    rngs = [{'dropout': key} for key in keys]
  rows, count, size = cuts.tokens.shape
  slots = cuts.labels.shape[-1]
  # An empty row may read everything, so that no softmax is over nothing.
  mask = cuts.segment[..., None] == source[:, None, :]
  mask |= cuts.segment[..., None] == 0
  place = block_mask.places(source)

  def encode(net):
    encoded = net.encode(batch['source'], same, **rest)
    positions = cuts.positions[..., size - slots :].reshape(rows, -1)
    content = net.masked_content(
      batch['source'], place, positions, jnp.repeat(mask, slots, axis=1)
    )
    return net.project_source(encoded), content.reshape(rows * count, slots, -1)

  variables = {'params': params}
  pairs, content = module.apply(variables, method=encode, rngs=rngs[0])

  def run(cuts):
    def flat(x):
      return x.reshape(rows * count, size)

    def decode(net):
      states = net.decode(
        flat(cuts.tokens),
        flat(cuts.positions),
        flat(cuts.valid),
        content,
        (pairs, mask),
        slots,
        **rest,
      )
      return net.logits_from_hidden(states)

    out = module.apply(variables, method=decode, rngs=rngs[1])
    return out.reshape(rows, count, slots, -1)

  return run
