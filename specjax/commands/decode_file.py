"""Decodes a file of prompts for the command `decode.main`."""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
from typing import Any

import jax
import tqdm

from specjax import files
from specjax import prompt_files
from specjax import prompts as prompts_lib
from specjax.checkpoints import load as loading
from specjax.checkpoints import model as model_lib
from specjax.commands import answer_files
from specjax.commands import cli
from specjax.commands import comparison
from specjax.commands import openai_batch
from specjax.commands import statistics as run_statistics
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters.entry import Source
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import processes
from specjax.distributed import watch
from specjax.inference import auto_rows
from specjax.inference import batching
from specjax.inference import encoding
from specjax.inference import generate as inference
from specjax.inference import line_settings
from specjax.inference import memory
from specjax.inference import paths
from specjax.inference import planning
from specjax.inference import random_models
from specjax.inference import sources
from specjax.inference import summary
from specjax.inference.config import DecodeConfig

BASELINES = ('first', 'all', 'none')
LINES, OPENAI_BATCH = 'lines', 'openai_batch'
FORMATS = (LINES, OPENAI_BATCH)

# Bytes from which an estimate of memory is shown: a smaller job always fits.
WORTH_TELLING = 1e8


@dataclasses.dataclass(frozen=True)
class DecodeRequest:
  """A file to decode, and the files to write.

  Attributes:
    target: folder or hub id of the target.
    drafter: name of the drafter, as `sources.resolve` takes it.
    source: input file or '-'.
    output: output file or '-'.
    stats: JSON file for the statistics, or ''.
    resume: whether an interrupted output is continued.
    baseline: part that is decoded plainly too, to measure the ratio: the
      'first' batch, 'all' of the prompts, or 'none'.
    config: `DecodeConfig`.
    corpus: file of earlier answers, read and extended; or ''.
    format: form of input and output, one of `FORMATS`.
  """

  target: str
  drafter: str
  source: str
  output: str
  stats: str
  resume: bool
  baseline: str
  config: DecodeConfig
  corpus: str = ''
  format: str = LINES

  @property
  def is_batch(self) -> bool:
    """Whether input and output have the form of OpenAI's batches."""
    return self.format == OPENAI_BATCH


def decode_file(request: DecodeRequest) -> int:
  """Writes answers to the output and statistics to standard error.

  Args:
    request: files, models and settings.

  Returns:
    The number of prompts that got an error in place of an answer.

  Raises:
    ValueError, OSError, FloatingPointError, MemoryError: one sentence.
  """
  config = request.config
  answer_files.check_distinct(
    input=request.source,
    output=request.output,
    stats=request.stats,
    corpus=request.corpus,
  )
  prompts = _read_prompts(request)
  is_first = processes.is_first()
  # Files are tried before models are loaded: a refusal must come in seconds.
  if is_first:
    _check_writable(request)
  skip, keep_bytes = 0, 0
  if request.resume:
    skip, keep_bytes = _answered(request, prompts)
    cli.note(f'{skip} answers are there already.')
  request, estimate = _estimate(request, prompts)
  config = request.config
  if estimate.total >= WORTH_TELLING:
    cli.note(estimate.text())
  target, source = load_models(request.target, request.drafter, config)
  corpus = request.corpus or None
  if corpus is not None:
    corpus_lib.check_writable(corpus)
  job = planning.plan(
    target, prompts, drafter=source, config=config, skip=skip, corpus=corpus
  )
  note_doubts(job)
  _note_what_runs(request, job)
  compile_seconds = inference.warm_up(job)
  answers: list[inference.Answer] = []
  try:
    made = _writer(request, prompts, skip, keep_bytes)
    found = _run(request, job, made, compile_seconds, answers)
  finally:
    # Also after an interrupt: --resume skips the prompts that are answered.
    if corpus is not None and is_first:
      planning.extend_corpus(
        request.corpus,
        target.tokenizer,
        config.corpus_tokens,
        [answer.tokens for answer in answers],
      )
  found |= comparison.compare(request, job, target, prompts, skip, answers)
  if request.stats and is_first:
    found |= {'request': dataclasses.asdict(request)}
    found |= run_statistics.environment(request.target, target.tokenizer)
    made = json.dumps(found, indent=2, default=str) + '\n'
    files.write_text(request.stats, made)
  return _note_failed(answers)


def _note_failed(answers: list[inference.Answer]) -> int:
  failed = sum(bool(answer.error) for answer in answers)
  if failed:
    cli.note(f'{failed} of {len(answers)} answers are errors.')
  return failed


def _check_writable(request: DecodeRequest) -> None:
  answer_files.check_writable(request.output)
  if request.stats:
    files.check_writable(request.stats)


def load_models(
  target_name: str, drafter_name: str, config: DecodeConfig
) -> tuple[model_lib.Model, Source | None]:
  """Loads the target and, where one is named, the drafter.

  Args:
    target_name: folder, hub id or `shape:NAME`.
    drafter_name: name as `sources.resolve` takes it.
    config: settings of dtype and devices, among others.

  Raises:
    ValueError, OSError: one sentence.
  """
  target = planning.load_target(target_name, config)
  if not config.num_draft:
    return target, None
  with mesh_lib.about_drafter(config.mesh):
    return target, sources.resolve(
      drafter_name, target, planning.how_to_load(target, config)
    )


def _estimate(
  request: DecodeRequest, prompts: Sequence
) -> tuple[DecodeRequest, memory.MemoryEstimate]:
  """Memory that the run takes of each device, by the longest prompt.

  The request that is returned has a number in the place of batch_size=auto.
  """
  sources.check_name(request.drafter)
  config = line_settings.gather(request.config, prompts, early=True)
  tokens = ()
  if not random_models.is_shape(request.target):
    tokenizer = loading.load_tokenizer(loading.folder_of(request.target))
    longest = max(prompts, key=lambda line: len(str(line.source)))
    tokens = encoding.rough(tokenizer, longest, config)
  given = dict(drafter=request.drafter, prompt_tokens=len(tokens))
  count = len(prompts) * request.config.num_return_sequences
  config = auto_rows.settled(config, request.target, count=count, **given)
  estimate = memory.estimate_memory(request.target, decode=config, **given)
  if request.config.batch_size != config.batch_size:
    cli.note(f'batch_size=auto: {config.batch_size} rows.')
    chosen = dataclasses.replace(request.config, batch_size=config.batch_size)
    request = dataclasses.replace(request, config=chosen)
  return request, estimate


def _read_prompts(request: DecodeRequest) -> prompt_files.PromptFiles:
  """The prompts, which must be the same in all processes."""
  if request.source == '-' and not watch.is_alone():
    raise ValueError(
      'Several processes cannot share standard input; give --input=FILE, the '
      'same one on every host.'
    )
  parse = line_settings.parse
  if request.is_batch:
    config = request.config
    parse = openai_batch.parser(config.num_return_sequences, config.logprobs)
  prompts = prompt_files.read_prompts(
    request.source, parse=parse, is_json=request.is_batch
  )
  processes.check_same(
    f'the prompts in {request.source}', prompts.all_digests()
  )
  return prompts


def answered(
  path: str, prompts: list, per_prompt: int, key: str = 'prompt'
) -> tuple[int, int]:
  """`answer_files.count_answered` of process 0, on every process."""
  found = (0, 0)
  if processes.is_first():
    found = answer_files.count_answered(path, prompts, per_prompt, key)
  skip, keep_bytes = processes.from_first(found)
  return skip, keep_bytes


def writer(path: str, keep_bytes: int) -> contextlib.AbstractContextManager:
  """`answer_files.writer` in process 0; elsewhere a writer of nothing."""
  if processes.is_first():
    return answer_files.writer(path, keep_bytes)
  return contextlib.nullcontext(lambda answers: None)


def _answered(request: DecodeRequest, prompts: list) -> tuple[int, int]:
  """(answers, bytes) that the output of the request has already."""
  several = request.config.num_return_sequences
  if request.is_batch:  # A line holds all answers to a request.
    names = [line.id for line in prompts]
    lines, keep_bytes = answered(request.output, names, 1, 'custom_id')
    return lines * several, keep_bytes
  shown = [prompts_lib.shown(line.source) for line in prompts]
  return answered(request.output, shown, several)


def _writer(
  request: DecodeRequest, prompts: Sequence, skip: int, keep_bytes: int
) -> contextlib.AbstractContextManager:
  """The output of a request, as a function that writes answers."""
  if not request.is_batch or not processes.is_first():
    return writer(request.output, keep_bytes)
  several = request.config.num_return_sequences
  write = openai_batch.ResponseWriter(prompts, several, request.target)
  return write.opened(request.output, keep_bytes, skip // several)


def note_doubts(job: batching.Job) -> None:
  """Notes settings that are allowed but perhaps not meant.

  Args:
    job: job that is about to be decoded.
  """
  assembled = job.assembled
  about_precision = paths.XLA.note(_precision(job))
  if about_precision:
    cli.note(f'Note: {about_precision}')
  if not assembled.is_exact:
    cli.note(
      f"Note: the verifier {assembled.rule.name} is lossy; the output's "
      "distribution is not the target's."
    )
  if assembled.drafts and assembled.source.model is not None:
    ours, theirs = (
      sum(leaf.size for leaf in jax.tree.leaves(model.params))
      for model in (assembled.source.model, assembled.target)
    )
    if ours > theirs:
      cli.note(
        f'Note: the drafter is larger than its target ({ours:,} and {theirs:,} '
        'parameters), so drafting will cost more than it saves.'
      )


def _precision(job: batching.Job) -> str:
  return paths.precision_of(job.assembled.target.params)


def _note_what_runs(request: DecodeRequest, job: batching.Job) -> None:
  assembled = job.assembled
  how = 'plain decoding'
  if request.config.num_beams > 1:
    how = f'beam search with {request.config.num_beams} beams'
  if assembled.drafts:
    how = (
      f'drafter {request.drafter}, {assembled.plan.num_draft} draft slots, '
      f'verifier {assembled.rule.name}'
    )
  cli.note(f'Target {request.target}: {how}, {request.config.dtype}.')
  is_text = not request.output.endswith('.jsonl')
  if request.config.logprobs is not None and is_text:
    cli.note('Note: logprobs stand in JSON lines; give --output=FILE.jsonl.')


def _run(
  request: DecodeRequest,
  job: batching.Job,
  to_write: contextlib.AbstractContextManager,
  compile_seconds: float,
  answers: list[inference.Answer],
) -> dict[str, Any]:
  """Streams answers to the output and to `answers`; returns statistics."""
  seconds, busy, every = 0.0, 0, 0
  bar = tqdm.tqdm(
    total=len(job.rows), unit='answer', dynamic_ncols=True, file=cli.stderr()
  )
  try:
    with bar, to_write as write:
      with contextlib.closing(inference.stream(job, cli.note)) as batches:
        for batch in batches:
          write(batch.answers)
          answers += batch.answers
          seconds += batch.seconds
          busy, every = busy + batch.row_rounds, every + batch.all_rounds
          bar.update(len(batch.answers))
          cli.check_interrupt()
  except KeyboardInterrupt:
    resume = '' if request.output == '-' else '; --resume continues it'
    raise KeyboardInterrupt(
      f'interrupted after {len(answers)} answers{resume}.'
    ) from None
  found = summary.summarize(answers, seconds, compile_seconds)
  # Of the rounds of all rows of the batches, those in which a row decoded.
  found['rows_busy'] = busy / every if every else None
  cli.note(run_statistics.table(found))
  rule = job.assembled.rule.name if job.assembled.drafts else None
  return found | {
    'verifier_used': rule,
    'precision': _precision(job),
    'precision_note': paths.XLA.note(_precision(job)),
    'from_generation_config': job.from_generation_config,
  }
