"""Checks everything and lays prompts out, before anything is decoded."""

from collections.abc import Callable, Sequence
import dataclasses
import os
from typing import Any
import warnings

import jax

from specjax import text as text_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding import insertion
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import costs as costs_lib
from specjax.inference import encoding
from specjax.inference import fitness
from specjax.inference import idle
from specjax.inference import keywords
from specjax.inference import prompt_checks
from specjax.inference import reading
from specjax.inference import refusals
from specjax.inference import sharing
from specjax.inference import sources
from specjax.inference import token_lists
from specjax.inference import windows
from specjax.inference.batching import Job
from specjax.inference.batching import JobRows
from specjax.inference.config import DecodeConfig
from specjax.inference.moved import check_moved

NO_READER = (
  'A corpus is read by drafters that search one, such as suffix and '
  'hybrid:FOLDER; take one of them or leave --corpus out.'
)


# A corpus: the object, or the path of its file.
CorpusLike = corpus_lib.Corpus | str | os.PathLike


def plan(
  model: model_lib.Model | str | os.PathLike,
  prompts: encoding.Prompts,
  *,
  drafter: Any = None,
  config: DecodeConfig | None = None,
  skip: int = 0,
  corpus: CorpusLike | None = None,
  on_error: str = refusals.STOP,
  **settings: Any,
) -> Job:
  """Checks everything and lays the prompts out. See `generate`.

  Args:
    model: argument of `generate`.
    prompts: argument of `generate`.
    drafter: argument of `generate`.
    config: argument of `generate`.
    skip: answers that exist already, counted from the first.
    corpus: argument of `generate`; a file is read only.
    on_error: 'stop' refuses a prompt that cannot be answered; 'skip' gives it a
      row with an error.
    **settings: keywords of `generate`.

  Returns:
    `Job`.
  """
  given = config = _configured(config, settings)
  model = _target(model, config)
  source = _source(model, drafter, config)
  lines = reading.lines_of(model, prompts, config, on_error)
  config, taken, encoded = reading.read(config, model, source, lines)
  rows = JobRows(encoded, config.num_return_sequences, skip)
  batch_size = _batch_rows(model, config, rows)
  assembled = _assembled(model, source, config, batch_size)
  if prompt_checks.check(assembled, config, encoded.lengths, lines):
    # Laid out anew without those that do not fit.
    return plan(
      model, lines, drafter=drafter, config=given, skip=skip, corpus=corpus
    )
  idle.note(config, assembled)
  corpus = _corpus(corpus, model, config, assembled)
  data = _data(assembled, config, batch_size, encoded, corpus)
  return Job(
    assembled=assembled,
    params=_place(assembled.params(data), model.layout),
    config=config,
    tokenizer=model.tokenizer,
    eos_ids=config.end_ids(model.eos_ids),
    sizes=token_lists.sizes(config, model),
    rows=rows,
    batch_size=batch_size,
    **_laid_out(assembled, config, rows, batch_size),
    data=data,
    corpus=corpus,
    layout=model.layout,
    from_generation_config=taken.values,
    refused=getattr(lines, 'errors', {}),
    sharing=sharing.of(assembled, config, encoded.ids),
  )


def _target(model, config: DecodeConfig) -> model_lib.Model:
  """The target, loaded where a name is given."""
  model = sources.as_target(model, lambda name: load_target(name, config))
  model_lib.check_target(model)
  return model


def _assembled(model, source, config: DecodeConfig, rows: int):
  target = assemble.target_of(model)
  return assemble.assemble(target, source, config.recipe_settings(), rows=rows)


def _batch_rows(model, config: DecodeConfig, rows: JobRows) -> int:
  """Rows of every batch."""
  parts = model.layout.size('batch') if model.layout else 1
  live = sum(map(bool, rows.lengths))
  return windows.batch_rows(live, config.batch_size, parts)


def _laid_out(assembled, config, rows: JobRows, batch_size: int) -> dict:
  """The fields `batches` and `refill` of the job."""
  is_sorted = assembled.is_row_independent
  can = insertion.can_insert(assembled.recipe) and config.num_beams == 1
  # Processes would have to agree after every look on which rows are done.
  refills = can and is_sorted and jax.process_count() == 1
  batches, widths = windows.lay_out(
    rows.lengths,
    batch_size,
    config.window,
    is_sorted=is_sorted,
    refills=refills,
  )
  left = (batch for batch in batches if max(batch.places) >= rows.begin)
  return {'batches': tuple(left), 'refill': widths}


def load_target(
  name: str, config: DecodeConfig, seed: int = 0
) -> model_lib.Model:
  """Loads a target in the precision and onto the devices of a config.

  Args:
    name: a folder, a hub id or `shape:NAME`.
    config: settings of the job.
    seed: seed of random weights.

  Raises:
    ValueError, OSError: one sentence naming what is wrong.
  """
  return sources.load_target(
    name,
    dtype=None if config.dtype == 'stored' else config.dtype,
    layout=sources.layout_for(name, config.mesh, config.rows_known),
    int8=config.quantize in ('target', 'both'),
    seed=seed,
  )


def _source(model, drafter, config) -> Source | None:
  """The drafter's `Source` on the target's devices; None: plain decoding."""
  source = None
  if config.num_draft:
    source = sources.resolve(drafter, model, how_to_load(model, config))
  if config.num_beams > 1:
    fitness.check_beams(model, source, config)
  if source is None:
    return None
  source = sources.to_layout(source, model.layout)
  fitness.check(model, source)
  fitness.check_options(config, source)
  return source


def _configured(config: DecodeConfig | None, settings) -> DecodeConfig:
  """The config with keywords in force, validated."""
  check_moved(settings)
  fields = {field.name for field in dataclasses.fields(DecodeConfig)}
  keywords.check(settings, fields | {'config', 'corpus', 'drafter'})
  config = dataclasses.replace(config or DecodeConfig(), **settings)
  config.validate()
  return config


def how_to_load(
  model: model_lib.Model, config: DecodeConfig
) -> sources.Loading:
  """Loader of a drafter that is named, for a target.

  Args:
    model: the target.
    config: settings; state the precision and the devices.
  """
  return sources.Loading(
    dtype=None if config.dtype == 'stored' else config.dtype,
    int8=config.quantize in ('drafter', 'both'),
    layout=sources.drafter_layout(model.layout, config.mesh),
    num_draft=max(config.num_draft, 1),
    seed=1,
  )


def _data(assembled, config, rows, encoded, corpus) -> DraftData:
  """Data for the drafter's parameters, as far as they are known."""
  return DraftData(
    rows=encoded.ids,
    index=None if corpus is None else corpus_lib.index(corpus),
    costs=costs_lib.choose(assembled, config.costs, config.dtype, rows),
  )


def measured(job: Job, progress: Callable[[str], None]) -> Job:
  """The job with measured costs, where they decide anything.

  Args:
    job: result of `plan`.
    progress: called with a line when measuring begins.
  """
  assembled, costs = job.assembled, job.data.costs
  # Only the rule's guess is improved on. A fallback means that the cache folder
  # was of no use, which measuring would not change.
  if costs is None or costs.origin != 'rule' or not job.batches:
    return job
  if not costs_lib.decide(assembled, job.config.costs, job.config.dtype):
    return job
  found = costs_lib.measure(
    assembled, job.params, job.batch_size, job.batches[0].width, progress
  )
  return with_data(job, job.data._replace(costs=found))


def with_data(job: Job, data: DraftData) -> Job:
  """The job with the drafter's parameters made anew; nothing recompiles."""
  # Parameters are data of the program, so a corpus may grow between batches.
  made = _place(job.assembled.params(data), job.layout)
  return dataclasses.replace(job, params=made, data=data)


def open_corpus(path: str, tokenizer: Any, capacity: int) -> corpus_lib.Corpus:
  """Reads a corpus file, or begins an empty corpus if there is none.

  Args:
    path: path of the file.
    tokenizer: tokenizer of the target.
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


def extend_corpus(
  path: str, tokenizer: Any, capacity: int, answers: Sequence[Sequence[int]]
) -> None:
  """Adds answers to a corpus file.

  Args:
    path: path of the file; it is read anew, since other runs may have ended.
    tokenizer: tokenizer of the target.
    capacity: most tokens.
    answers: rows of token ids.
  """
  corpus = open_corpus(path, tokenizer, capacity)
  corpus_lib.save(corpus_lib.remember(corpus, answers), path)


def _corpus(given, model, config, assembled) -> corpus_lib.Corpus | None:
  """The corpus that is given, read from its file where it is a path."""
  if given is None:
    return None
  if not assembled.plan.reads_corpus:
    raise ValueError(NO_READER)
  if not assembled.rule.keeps_target_sample:
    warnings.warn(
      f'With the verifier {assembled.rule.name} tokens depend on what the '
      'corpus holds, so a run that is resumed may give others.',
      stacklevel=3,
    )
  if isinstance(given, (str, os.PathLike)):
    return open_corpus(os.fspath(given), model.tokenizer, config.corpus_tokens)
  if not isinstance(given, corpus_lib.Corpus):
    raise ValueError(
      'corpus must be the path of a file or a specjax.Corpus, not '
      f'{type(given).__name__}.'
    )
  return given


def update_corpus(job: Job, answers: Sequence[Sequence[int]]) -> Job:
  """The job with answers added to its corpus, if it has one."""
  if job.corpus is None:
    return job
  corpus, index = corpus_lib.extend(job.corpus, job.data.index, answers)
  job = dataclasses.replace(job, corpus=corpus)
  return with_data(job, job.data._replace(index=index))


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
  # What a drafter borrows of its target lies there already, and would otherwise
  # be copied.
  return isinstance(array, jax.Array) and len(array.devices()) > 1
