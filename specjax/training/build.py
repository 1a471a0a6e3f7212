"""From settings to models, data and objective of a run."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from specjax import base
from specjax import models
from specjax import text
from specjax.checkpoints import digests
from specjax.checkpoints import load as loading
from specjax.checkpoints import model as model_lib
from specjax.models import registry
from specjax.training import config as config_lib
from specjax.training import placement as placement_lib
from specjax.training import step as step_lib
from specjax.training.data import batches as batches_lib
from specjax.training.data import labels as labels_lib
from specjax.training.data import sources as sources_lib
from specjax.training.families.family import TrainingInputs


class Run(NamedTuple):
  """Models, data and objective of a run.

  Attributes:
    config: `config_lib.TrainConfig`.
    model_config: config of the trained model.
    module: its Flax module.
    objective: `step_lib.Objective`.
    frozen: the teacher's parameters, or {}.
    teacher: `load.Model`, or None.
    tokenizer: tokenizer of the trained model.
    init: `(key) -> params`, fresh or read from a folder.
    batches: training batches.
    valid: batches of held-out data, or None.
    sources: training examples, `sources_lib.ExampleSource`s.
    valid_source: held-out `sources_lib.ExampleSource`, or None.
  """

  config: config_lib.TrainConfig
  model_config: Any
  module: Any
  objective: step_lib.Objective
  frozen: base.PyTree
  teacher: model_lib.Model | None
  tokenizer: Any
  init: Callable[[base.Array], base.PyTree]
  batches: batches_lib.Batches
  valid: batches_lib.Batches | None
  sources: list
  valid_source: Any


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
  family = config.family
  teacher, initial = _models(config)
  # Before the data are read, which may take minutes.
  family.check(TrainingInputs(config, teacher, initial, None, []))
  tokenizer = _tokenizer(config, teacher, initial)
  sources, valid_source = _sources(config, tokenizer, teacher)
  _check_ids(sources, valid_source, tokenizer, teacher or initial)
  given = TrainingInputs(config, teacher, initial, tokenizer, sources)
  made = family.new_config(given)
  _check_kind(config, made, teacher)
  _check_positions(config, made, teacher)
  module = models.make_module(made)
  batches, valid = _batches(config, made, sources, valid_source)
  return Run(
    config=config,
    model_config=made,
    module=module,
    objective=family.objective(given, made, module),
    frozen={} if teacher is None else teacher.params,
    teacher=teacher,
    tokenizer=tokenizer,
    init=family.initialiser(given, made),
    batches=family.batches(batches),
    valid=valid,
    sources=sources,
    valid_source=valid_source,
  )


def _models(config):
  """(teacher, initial weights), each a `Model` or None."""
  teacher = initial = None
  if config.teacher:
    teacher = loading.load(
      config.teacher,
      dtype=config.compute_dtype,
      layout=placement_lib.decoding_layout(config),
      prepare=False,
    )
    if teacher.lm is None:
      raise ValueError(
        f'{teacher.name} holds a drafter network; teacher must name the target.'
      )
  if config.init_from:
    # In float32 whatever the file has: a step of 1e-4 of a weight is lost in
    # the 8 bits of a bfloat16.
    initial = loading.load(config.init_from, dtype='float32', prepare=False)
  return teacher, initial


def _batches(config, made, sources, valid_source):
  """(batches of training, those of held-out data or None)."""
  shared = dict(
    start_id=registry.facts(made).start_id,
    rows=placement_lib.placement(config, made).own,
  )
  batches = batches_lib.make_batches(
    config.data, sources, seed=config.seed, **shared
  )
  if valid_source is None:
    return batches, None
  # Held-out data are one source, so a share of labelled ones would find none.
  # The seed is fixed, so that runs of any seed see the same batches.
  plain = dataclasses.replace(config.data, labelled_fraction=0.0)
  valid = batches_lib.make_batches(plain, [valid_source], seed=0, **shared)
  return batches, valid


def _check_kind(config, made, teacher):
  """Raises ValueError where data, drafter and teacher are of two kinds."""
  is_pairs = registry.facts(made).is_encoder_decoder
  if is_pairs != (config.data.kind == 'pairs'):
    wanted = 'pairs' if is_pairs else 'text'
    raise ValueError(
      f'An {"encoder-decoder" if is_pairs else "decoder-only model"} learns '
      f'from data.kind={wanted!r}, not {config.data.kind!r}.'
    )
  if teacher is not None and is_pairs != teacher.lm.is_encoder_decoder:
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
    most = registry.facts(shape).positions if shape else None
    is_new = shape is made and not config.init_from
    if most and length > most:
      raise ValueError(
        f'data.target_length={length} exceeds the {most} positions that '
        f'{whose} was made for; lower it'
        + (', or raise model.max_positions.' if is_new else '.')
      )


def _sources(config, tokenizer, teacher):
  """(training examples, held-out examples or None)."""
  settings, eos_id = config.data, tokenizer.eos_token_id
  encode = encoder(tokenizer)
  is_pairs = settings.kind == 'pairs'
  load = sources_lib.load_pairs if is_pairs else sources_lib.load_text
  share = settings.labelled_share()
  sources = []
  if share < 1:
    sources.append(
      load(settings, sources_lib.files(settings.train), encode, eos_id)
    )
  if share > 0:
    reader = _reader(config, tokenizer, teacher)
    labelled = sources_lib.files(settings.labelled)
    sources.append(
      sources_lib.load_labelled(settings, labelled, reader, eos_id)
    )
  if is_pairs and settings.joined_fraction > 0:
    sources_lib.check_joinable(encode, ['It is late.', 'Go home.'], eos_id)
  valid = None
  if settings.valid:
    valid = load(settings, sources_lib.files(settings.valid), encode, eos_id)
  return sources, valid


def _reader(config, tokenizer, teacher):
  """Owner of the labels that a run reads: the teacher, or its tokenizer."""
  if teacher is None:
    owner, name, target = tokenizer, config.tokenizer or config.init_from, None
  else:
    owner, name = teacher.tokenizer, config.teacher
    # A digest reads all weights: once a run, and never without labels.
    target = functools.cache(functools.partial(digests.of_target, name))
  return labels_lib.Reader(
    digests.of_tokenizer(owner), digests.of_template(owner), name, target
  )


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
  """Number of entries of a parameter tree."""
  return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))
