"""Checks everything and lays prompts out, before anything is decoded."""

import dataclasses
import os
from typing import Any, Callable, Optional, Sequence

import jax
import numpy as np

from specjax import options as options_lib
from specjax import text as text_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import costs as costs_lib
from specjax.inference import encoding
from specjax.inference import sources
from specjax.inference.batching import Job
from specjax.inference.batching import layout_rows
from specjax.inference.batching import Row
from specjax.inference.config import check_moved
from specjax.inference.config import DecodeConfig
from specjax.inference.config import PER_PROMPT
from specjax.inference.config import per_row

NO_READER = (
  'A corpus is read by drafters that search one, such as suffix and '
  'hybrid:FOLDER; take one of them or leave --corpus out.'
)


def plan(
  model: model_lib.Model,
  prompts: encoding.Prompts,
  *,
  drafter: Any = None,
  config: Optional[DecodeConfig] = None,
  skip: int = 0,
  corpus: Optional[corpus_lib.Corpus] = None,
  **settings,
) -> Job:
  """Checks everything and lays the prompts out. See `generate`.

  Args:
    model: the target.
    prompts: as in `generate`.
    drafter: as in `generate`.
    config: as in `generate`.
    skip: answers that exist already, counted from the first.
    corpus: earlier answers, for the drafters that read them.
    **settings: as in `generate`.

  Returns:
    `Job`.
  """
  config = _configured(config, settings)
  model_lib.check_target(model)
  source = _source(model, drafter, config)
  encoded = encoding.encode(model, prompts, config)
  _check_per_prompt(config, len(encoded))
  rows = _rows(encoded, config.num_return_sequences)[skip:]
  parts = model.layout.size('batch') if model.layout else 1
  batch_size, batches = layout_rows(rows, config.batch_size, parts)
  assembled = assemble.assemble(
    assemble.target_of(model), source, config.recipe_settings(), rows=batch_size
  )
  _check_prompts(assembled, config, encoded)
  if config.stops() and model.tokenizer is None:
    raise ValueError(
      'Stop strings need a tokenizer, and the target has none; leave stop '
      'empty.'
    )
  if corpus is not None and not assembled.plan.reads_corpus:
    raise ValueError(NO_READER)
  data = _data(assembled, config, batch_size, encoded, corpus)
  return Job(
    assembled=assembled,
    params=_place(assembled.params(data), model.layout),
    config=config,
    tokenizer=model.tokenizer,
    eos_ids=() if config.ignore_eos else tuple(model.eos_ids),
    rows=rows,
    batches=batches,
    batch_size=batch_size,
    data=data,
    corpus=corpus,
    layout=model.layout,
  )


def _source(model, drafter, config) -> Optional[Source]:
  """What drafts, where the target's devices are; None for plain decoding."""
  source = None
  if config.num_draft:
    source = sources.resolve(drafter, model, how_to_load(model, config))
  if config.num_beams > 1:
    _check_beams(model, source, config)
  if source is None:
    return None
  source = sources.to_layout(source, model.layout)
  if source.model is not None:
    text_lib.check_same_vocabulary(model.tokenizer, source.model.tokenizer)
  _check_options(config, source)
  return source


def _rows(encoded, sequences: int) -> tuple[Row, ...]:
  """One row for each answer, those of a prompt one after another."""
  return tuple(
    Row(shown, tuple(tokens), index, sequence)
    for index, (shown, tokens) in enumerate(encoded)
    for sequence in range(sequences)
  )


def _check_prompts(assembled, config, encoded) -> None:
  """Raises ValueError for dials or prompts that do not fit."""
  _check_dials(assembled, len(encoded))
  for index, (_, tokens) in enumerate(encoded):
    _check_length(assembled.recipe, config, index, tokens)
    _check_source(assembled, index, len(tokens))


def _configured(config: Optional[DecodeConfig], settings) -> DecodeConfig:
  """The config with keywords in force, validated."""
  check_moved(settings)
  config = dataclasses.replace(config or DecodeConfig(), **settings)
  config.validate()
  return config


def _check_options(config: DecodeConfig, source: sources.Source) -> None:
  """Refuses options of drafters and rules that there are not."""
  for kind, registry, own in (
    ('drafters', drafter_registry, source.entry),
    ('verifiers', verifier_registry, config.rule()),
  ):
    entries = {entry.name: entry for entry in registry.entries()}
    if own is not None:
      entries[own.name] = own
    options_lib.check_names(getattr(config, kind), entries.values(), kind)


def how_to_load(
  model: model_lib.Model, config: DecodeConfig
) -> sources.Loading:
  """How a drafter that is named is loaded for a target.

  Args:
    model: the target.
    config: says in which precision, and onto which devices.
  """
  return sources.Loading(
    dtype=None if config.dtype == 'stored' else config.dtype,
    int8=config.quantize in ('drafter', 'both'),
    layout=sources.drafter_layout(model.layout, config.mesh),
    num_draft=max(config.num_draft, 1),
    seed=1,
  )


def _check_beams(model, source, config) -> None:
  if source is not None:
    raise ValueError(
      f'A beam search (num_beams={config.num_beams}) is not speculative; leave '
      'the drafter out, or num_beams at 1.'
    )
  if model.lm.select is None:
    raise ValueError(
      f'A beam search gathers rows of the cache, but {model.name} has no '
      'select; leave num_beams at 1.'
    )


def _data(assembled, config, rows, encoded, corpus) -> DraftData:
  """What the drafter's parameters are made of, as far as it is known."""
  return DraftData(
    rows=[tokens for _, tokens in encoded],
    index=None if corpus is None else corpus_lib.index(corpus),
    costs=costs_lib.choose(assembled, config.costs, config.dtype, rows),
  )


def measured(job: Job, progress: Callable[[str], None]) -> Job:
  """The job with measured costs, where they decide anything.

  Args:
    job: from `plan`.
    progress: called with a line when measuring begins.
  """
  assembled, costs = job.assembled, job.data.costs
  if costs is None or costs.origin != 'rule' or not job.batches:
    return job
  if not costs_lib.decide(assembled, job.config.costs, job.config.dtype):
    return job
  found = costs_lib.measure(
    assembled, job.params, job.batch_size, job.batches[0][2], progress
  )
  return with_data(job, job.data._replace(costs=found))


def with_data(job: Job, data: DraftData) -> Job:
  """The job with the drafter's parameters made anew; nothing recompiles."""
  made = _place(job.assembled.params(data), job.layout)
  return dataclasses.replace(job, params=made, data=data)


def open_corpus(path: str, tokenizer: Any, capacity: int) -> corpus_lib.Corpus:
  """Reads a corpus file, or begins an empty corpus if there is none.

  Args:
    path: of the file.
    tokenizer: of the target.
    capacity: most tokens, separators included.

  Raises:
    ValueError: the target has no tokenizer, or the file is not a corpus of
      this one.
  """
  if tokenizer is None:
    raise ValueError('A corpus needs a target with a tokenizer.')
  fingerprint = text_lib.fingerprint(tokenizer)
  if os.path.exists(path):
    return corpus_lib.load(path, capacity, fingerprint)
  return corpus_lib.empty(capacity, fingerprint)


def update_corpus(job: Job, answers: Sequence[Sequence[int]]) -> Job:
  """The job with answers added to its corpus, if it has one.

  The corpus is sorted anew once an eighth of it is new, so that the work stays
  in proportion to what is decoded.
  """
  if job.corpus is None:
    return job
  corpus = corpus_lib.remember(job.corpus, answers)
  unsorted = job.unsorted + sum(len(answer) + 1 for answer in answers)
  job = dataclasses.replace(job, corpus=corpus, unsorted=unsorted)
  if 8 * unsorted < corpus.text.size:
    return job
  job = with_data(job, job.data._replace(index=corpus_lib.index(corpus)))
  return dataclasses.replace(job, unsorted=0)


def _place(params: generate_lib.Params, layout) -> generate_lib.Params:
  """The drafter's parameters that lie on no mesh yet go onto all devices."""
  if layout is None:
    return params
  return params.replace(
    drafter=jax.tree.map(
      lambda x: x if _is_placed(x) else transfer.put(x, layout), params.drafter
    )
  )


def _is_placed(array: Any) -> bool:
  return isinstance(array, jax.Array) and len(array.devices()) > 1


def _check_source(assembled, index: int, length: int) -> None:
  """Refuses a source that is longer than the drafter was trained for."""
  most = assembled.plan.max_source_tokens
  if most is not None and length > most:
    raise ValueError(
      f'Prompt {index + 1} has {length} tokens, but the drafter '
      f'{assembled.source.name} was trained for sources of at most {most}; '
      'shorten it, or decode without this drafter.'
    )


def _check_dials(assembled, count: int) -> None:
  """Refuses a rule's dial with a wrong number of values."""
  for name, value in assembled.dials().items():
    if np.ndim(value) and len(value) != count:
      raise ValueError(
        f'{name} has {len(value)} values for {count} prompts; give one value '
        'or one for each prompt.'
      )


def _check_per_prompt(config: DecodeConfig, count: int) -> None:
  for name in PER_PROMPT:
    value = getattr(config, name)
    if np.ndim(value) and len(value) != count:
      raise ValueError(
        f'{name} has {len(value)} values for {count} prompts; give one value '
        'or one for each prompt.'
      )


def _check_length(recipe, config, index: int, tokens: Sequence[int]) -> None:
  """Refuses what the target's positions cannot hold."""
  lm = recipe.target
  budget = int(per_row(config.max_new_tokens, index))
  given = 1 if lm.is_encoder_decoder else len(tokens)
  # A node of a tree stands where its depth puts it.
  needed = given + budget + recipe.drafter.max_path
  if lm.max_positions is None or needed <= lm.max_positions or not tokens:
    return
  if given >= lm.max_positions:
    raise ValueError(
      f'Prompt {index + 1} has {given} tokens, but the target was made for '
      f'{lm.max_positions} positions; shorten it.'
    )
  raise ValueError(
    f'Prompt {index + 1} has {given} tokens; with {budget} new ones and '
    f'{recipe.drafter.max_path} draft slots that is {needed}, but the target '
    f'was made for {lm.max_positions} positions; shorten it, or lower '
    'max_new_tokens or num_draft.'
  )
