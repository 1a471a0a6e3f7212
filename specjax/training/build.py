"""From settings to the things a run is made of."""

import dataclasses
from typing import Any, Callable, NamedTuple, Optional

import jax
import numpy as np

from specjax import base
from specjax import models
from specjax import text
from specjax.checkpoints import load as loading
from specjax.checkpoints import model as model_lib
from specjax.training import config as config_lib
from specjax.training import objectives
from specjax.training import placement as placement_lib
from specjax.training import step as step_lib
from specjax.training.data import batches as batches_lib
from specjax.training.data import readers
from specjax.training.data import sources as sources_lib
from specjax.training.families import spec_drafter as spec_drafter_family
from specjax.training.families import speculator as speculator_family
from specjax.training.families import speculator_build


class Run(NamedTuple):
  """What a run is made of.

  Attributes:
    config: `config_lib.TrainConfig`.
    model_config: of the trained model.
    module: its Flax module.
    objective: `step_lib.Objective`.
    frozen: the teacher's parameters, or {}.
    teacher: `load.Model`, or None.
    tokenizer: of the trained model.
    init: `(key) -> params`, fresh or read from a folder.
    batches: of training.
    valid: of held-out data, or None.
    sources: what was read: `sources_lib.Source`s.
    valid_source: held-out `sources_lib.Source`, or None.
  """

  config: config_lib.TrainConfig
  model_config: Any
  module: Any
  objective: step_lib.Objective
  frozen: base.PyTree
  teacher: Optional[model_lib.Model]
  tokenizer: Any
  init: Callable[[base.Array], base.PyTree]
  batches: batches_lib.Batches
  valid: Optional[batches_lib.Batches]
  sources: list
  valid_source: Any


def network_of(module: Any) -> objectives.Network:
  """`Network` of a T5 or decoder module."""
  if isinstance(module.config, models.T5Config):
    return objectives.t5_network(module)
  return objectives.decoder_network(module)


def new_config(
  config: config_lib.TrainConfig,
  vocab_size: int,
  start_id: int,
  pad_id: int,
  eos_id: int,
) -> Any:
  """`T5Config` or `DecoderConfig` of a new model."""
  shape = config.model
  if shape.family == 't5':
    return models.T5Config(
      vocab_size=vocab_size,
      d_model=shape.width,
      d_kv=shape.head_dim,
      d_ff=shape.mlp,
      num_layers=shape.encoder_layers or shape.layers,
      num_decoder_layers=shape.layers,
      num_heads=shape.heads,
      hidden_act=shape.activation,
      gated=shape.gated,
      tie_word_embeddings=shape.tie_embeddings,
      scale_decoder_outputs=shape.tie_embeddings,
      decoder_start_token_id=start_id,
      pad_token_id=pad_id,
      eos_token_id=(eos_id,),
    )
  return models.DecoderConfig(
    model_type='llama',
    vocab_size=vocab_size,
    hidden_size=shape.width,
    intermediate_size=shape.mlp,
    num_hidden_layers=shape.layers,
    num_attention_heads=shape.heads,
    num_key_value_heads=shape.kv_heads or shape.heads,
    head_dim=shape.head_dim,
    hidden_act=shape.activation,
    gated=shape.gated,
    tie_word_embeddings=shape.tie_embeddings,
    max_position_embeddings=shape.max_positions,
    bos_token_id=None,
    pad_token_id=pad_id,
    eos_token_id=(eos_id,),
  )


def _tokenizer(config, teacher, initial):
  """The tokenizer a run uses; teacher and drafter must agree."""
  chosen, whose = None, f'tokenizer={config.tokenizer}'
  if config.tokenizer:
    chosen = loading.load_tokenizer(config.tokenizer)
    if chosen is None:
      raise FileNotFoundError(
        f'No tokenizer in {config.tokenizer}; train.tokenizer makes one.'
      )
  for model in (teacher, initial):
    if model is None:
      continue
    if model.tokenizer is None:
      raise ValueError(f'{model.name} holds no tokenizer.')
    if chosen is None:
      chosen, whose = model.tokenizer, model.name
    names = (whose, model.name)
    text.check_same_vocabulary(chosen, model.tokenizer, names)
  if chosen.eos_token_id is None:
    raise ValueError('The tokenizer has no end-of-sequence token.')
  return chosen


def encoder(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
  """texts -> ids, through the fast tokenizer's own batching."""

  def encode(texts):
    if not texts:
      return []
    return tokenizer(list(texts), verbose=False).input_ids

  return encode


def _round_up(n, multiple=64):
  return -(-n // multiple) * multiple


def build(config: config_lib.TrainConfig) -> Run:
  """Reads models and data and makes what training needs.

  Args:
    config: validated settings.

  Returns:
    `Run`.

  Raises:
    FileNotFoundError, ValueError: one sentence about what is wrong.
  """
  config.validate()
  teacher = initial = None
  if config.teacher:
    teacher = loading.load(
      config.teacher,
      dtype=config.compute_dtype,
      layout=placement_lib.decoding_layout(config),
      prepare=False,
    )
  if config.init_from:
    initial = loading.load(config.init_from, dtype='float32', prepare=False)
  speculator_build.check_roles(config.model.family, teacher, initial)
  if config.model.family in config_lib.SLOT_FAMILIES:
    spec_drafter_family.check_teacher(config.model.family, teacher)
  tokenizer = _tokenizer(config, teacher, initial)
  eos_id = tokenizer.eos_token_id
  sources, valid_source = _sources(config, tokenizer, eos_id)
  _check_ids(sources, valid_source, tokenizer, teacher or initial)
  made = _model_config(config, tokenizer, teacher, initial, sources)
  _check_kind(config, made, teacher)
  _check_positions(config, made, teacher)
  module = models.make_module(made)
  objective, init = _learning(config, made, module, teacher, initial)
  shared = dict(
    start_id=getattr(made, 'decoder_start_token_id', None),
    rows=placement_lib.placement(config).own,
  )
  valid = None
  if valid_source is not None:
    plain = dataclasses.replace(config.data, labelled_fraction=0.0)
    valid = batches_lib.make_batches(plain, [valid_source], seed=0, **shared)
  batches = batches_lib.make_batches(
    config.data, sources, seed=config.seed, **shared
  )
  if config.model.family in config_lib.SLOT_FAMILIES:
    batches = spec_drafter_family.with_steps(batches)
  return Run(
    config=config,
    model_config=made,
    module=module,
    objective=objective,
    frozen={} if teacher is None else teacher.params,
    teacher=teacher,
    tokenizer=tokenizer,
    init=init,
    batches=batches,
    valid=valid,
    sources=sources,
    valid_source=valid_source,
  )


def _learning(config, made, module, teacher, initial):
  """(objective, init) of a run."""
  if isinstance(made, models.ParallelConfig):
    objective = speculator_family.objective(
      made, teacher.module, config.parallel, config.objective
    )
    return objective, speculator_build.initialiser(made, initial)
  if config.model.family in config_lib.SLOT_FAMILIES:
    init = spec_drafter_family.initialiser(config, made, teacher)
    objective = spec_drafter_family.objective(
      config, made, module, network_of(teacher.module)
    )
  else:
    network = network_of(module)
    init = network.init
    if teacher is None:
      objective = objectives.cross_entropy_objective(network, config.objective)
    else:
      objective = objectives.distillation_objective(
        network,
        network_of(teacher.module),
        config.objective,
        getattr(made, 'output_ids', ()),
      )
  return objective, init if initial is None else lambda key: initial.params


def _model_config(config, tokenizer, teacher, initial, sources):
  """The trained model's config: new, or that of the initial weights."""
  eos_id, pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
  pad_id = eos_id if pad_id is None else pad_id
  if config.model.family in speculator_build.FAMILIES:
    ids = ()
    if config.model.output_vocab:
      ids = frequent_ids(sources, config.model.output_vocab, eos_id)
    return speculator_build.model_config(config, teacher, initial, ids)
  if config.model.family in config_lib.SLOT_FAMILIES:
    ids = ()
    if config.model.output_vocab and initial is None:
      ids = frequent_ids(sources, config.model.output_vocab, eos_id)
    return spec_drafter_family.new_config(config, teacher, initial, eos_id, ids)
  if initial is not None:
    made = initial.config
  elif teacher is not None:
    start_id = getattr(teacher.config, 'decoder_start_token_id', pad_id)
    size = teacher.config.vocab_size
    made = new_config(config, size, start_id, pad_id, eos_id)
  else:
    size = _round_up(max(tokenizer.get_vocab().values()) + 1)
    made = new_config(config, size, pad_id, pad_id, eos_id)
  if config.model.output_vocab and initial is None:
    ids = frequent_ids(sources, config.model.output_vocab, eos_id)
    made = dataclasses.replace(made, output_ids=ids)
  return dataclasses.replace(
    made,
    dtype=config.compute_dtype,
    dropout_rate=config.model.dropout,
    remat=config.remat == 'full',
  )


def frequent_ids(
  sources: list[sources_lib.Source], count: int, eos_id: int
) -> tuple[int, ...]:
  """The `count` most frequent ids of the targets, in rising order.

  The end of a sequence is always among them.
  """
  tokens = np.concatenate([source.sides[-1].tokens for source in sources])
  times = np.bincount(tokens, minlength=eos_id + 1)
  times[eos_id] = len(tokens)
  ranked = np.argsort(-times, kind='stable')[:count]
  return tuple(sorted(int(i) for i in ranked if times[i]))


def _check_kind(config, made, teacher):
  is_pairs = not isinstance(made, models.DecoderConfig)
  if isinstance(made, models.ParallelConfig):
    is_pairs = made.encoder_width > 0
  if is_pairs != (config.data.kind == 'pairs'):
    wanted = 'pairs' if is_pairs else 'text'
    raise ValueError(
      f'An {"encoder-decoder" if is_pairs else "decoder-only model"} learns '
      f'from data.kind={wanted!r}, not {config.data.kind!r}.'
    )
  if teacher is not None and is_pairs != isinstance(
    teacher.config, models.T5Config
  ):
    raise ValueError(
      'Teacher and drafter must both be encoder-decoders or both decoder-only.'
    )


def _check_positions(config, made, teacher):
  """Raises ValueError if rows are longer than a model knows positions."""
  length = config.data.target_length
  for whose, shape in (
    ('the trained model', made),
    ('the teacher', teacher and teacher.config),
  ):
    most = getattr(shape, 'max_position_embeddings', None)
    is_new = shape is made and not config.init_from
    if most and length > most:
      raise ValueError(
        f'data.target_length={length} exceeds the {most} positions that '
        f'{whose} was made for; lower it'
        + (', or raise model.max_positions.' if is_new else '.')
      )


def _sources(config, tokenizer, eos_id):
  settings = config.data
  encode = encoder(tokenizer)
  is_pairs = settings.kind == 'pairs'
  load = sources_lib.load_pairs if is_pairs else sources_lib.load_text
  sources = []
  if settings.labelled_fraction < 1:
    sources.append(
      load(settings, sources_lib.files(settings.train), encode, eos_id)
    )
  if settings.labelled_fraction > 0:
    labelled = dataclasses.replace(
      settings,
      source_field=readers.LABELLED[0],
      target_field=readers.LABELLED[1],
    )
    load_labelled = load if is_pairs else sources_lib.load_labelled_text
    sources.append(
      load_labelled(
        labelled, sources_lib.files(settings.labelled), encode, eos_id
      )
    )
  if is_pairs and settings.joined_fraction > 0:
    sources_lib.check_joinable(encode, ['It is late.', 'Go home.'], eos_id)
  valid = None
  if settings.valid:
    valid = load(settings, sources_lib.files(settings.valid), encode, eos_id)
  return sources, valid


def _check_ids(sources, valid_source, tokenizer, model):
  """Raises ValueError if ready ids are not of this model."""
  size = max(tokenizer.get_vocab().values()) + 1
  if model is not None:
    size = model_lib.vocabulary_size(model.config, tokenizer)
  for source in filter(None, (*sources, valid_source)):
    largest = max(int(side.tokens.max(initial=0)) for side in source.sides)
    if largest >= size:
      raise ValueError(
        f'The data hold the token id {largest}, but the model knows ids from 0 '
        f'to {size - 1}; label with the same target and tokenizer.'
      )


def num_parameters(params: base.PyTree) -> int:
  """How many numbers a parameter tree holds."""
  return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))
