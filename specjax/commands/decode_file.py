"""Decodes a file of prompts for the command `decode.main`."""

from collections.abc import Callable
import contextlib
import dataclasses
import json
from typing import Any

import jax
import tqdm

from specjax import files
from specjax import prompt_files
from specjax.checkpoints import digests
from specjax.checkpoints import model as model_lib
from specjax.commands import answer_files
from specjax.commands import cli
from specjax.commands import comparison
from specjax.commands import inputs
from specjax.commands import ledger as ledger_lib
from specjax.commands import made
from specjax.commands import openai_batch
from specjax.commands import resuming
from specjax.commands import statistics as run_statistics
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters.entry import Source
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import processes
from specjax.inference import batching
from specjax.inference import generate as inference
from specjax.inference import paths
from specjax.inference import planning
from specjax.inference import refusals
from specjax.inference import sources
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
    source: input file or '-', or several.
    output: output file or '-'.
    stats: JSON file for the statistics, or ''.
    resume: whether an interrupted output is continued.
    baseline: part that is decoded plainly too, to measure the ratio: the
      'first' batch, 'all' of the prompts, or 'none'.
    config: `DecodeConfig`.
    corpus: file of earlier answers, read and extended; or ''.
    format: form of input and output, one of `FORMATS`.
    on_error: 'stop' or 'skip', see `planning.plan`.
    shard: 'i/n' for the i-th of n equal runs of prompts, '' for all.
  """

  target: str
  drafter: str
  source: str | tuple[str, ...]
  output: str
  stats: str
  resume: bool
  baseline: str
  config: DecodeConfig
  corpus: str = ''
  format: str = LINES
  shard: str = ''
  on_error: str = refusals.STOP

  @property
  def is_batch(self) -> bool:
    """Whether input and output have the form of OpenAI's batches."""
    return self.format == OPENAI_BATCH

  @property
  def inputs(self) -> tuple[str, ...]:
    """The input files."""
    return (self.source,) if isinstance(self.source, str) else self.source


def decode_file(request: DecodeRequest) -> int:
  """Writes answers to the output and statistics to standard error.

  Args:
    request: files, models and settings.

  Returns:
    The number of prompts that got an error in place of an answer.

  Raises:
    ValueError, OSError, FloatingPointError, MemoryError: one sentence.
  """
  answer_files.check_distinct(
    *(('input', path) for path in request.inputs),
    ('output', request.output),
    ('output', made.path_of(request.output)),
    ('stats', request.stats),
    ('corpus', request.corpus),
  )
  prompts = inputs.read(request)
  # Files are tried before models are loaded: a refusal must come in seconds.
  with answer_files.claimed(request.output) as keep:
    if request.stats and processes.is_first():
      files.check_writable(request.stats)
    return _decode(request, prompts, keep)


def _decode(
  request: DecodeRequest,
  prompts: prompt_files.PromptFiles,
  keep: Callable[[], None],
) -> int:
  """Decodes into an output that this run holds; `keep` keeps it if empty."""
  begun = resuming.begin(request, prompts)
  request = _settled(request, prompts)
  config, is_first = request.config, processes.is_first()
  target, source = load_models(request.target, request.drafter, config)
  corpus = request.corpus or None
  if corpus is not None:
    corpus_lib.check_writable(corpus)
  job = planning.plan(
    target,
    prompts,
    drafter=source,
    config=config,
    skip=begun.skip,
    corpus=corpus,
    on_error=request.on_error,
  )
  note = resuming.note_of(request, job, prompts, begun)
  note_doubts(job)
  _note_what_runs(request, job)
  ledger = _ledger(request, job)
  compile_seconds = inference.warm_up(job)
  try:
    with _writer(request, prompts, begun) as write:
      keep()
      if note is not None:
        made.write(request.output, note)
      _run(request, job, write, ledger)
  finally:
    # Also after an interrupt: --resume skips the prompts that are answered.
    if corpus is not None and is_first:
      planning.extend_corpus(
        request.corpus, target.tokenizer, config.corpus_tokens, ledger.latest
      )
  found = _statistics(job, ledger, compile_seconds)
  if job.refused:
    prompts = refusals.Checked(prompts, dict(job.refused))
  found |= comparison.compare(request, job, target, prompts, begun.skip, ledger)
  if request.stats and is_first:
    found |= {'request': dataclasses.asdict(request)}
    # The note has read the weights, and standard output has no note.
    owners = note or digests.of_owners(request.target, target.tokenizer)
    found |= run_statistics.environment(owners)
    text = json.dumps(found, indent=2, default=str) + '\n'
    files.write_text(request.stats, text)
  # Those of an earlier part too, which a run that goes on leaves as they are.
  earlier = begun.skip // config.num_return_sequences
  failed = ledger.failed + sum(bool(prompts[i].error) for i in range(earlier))
  if failed:
    cli.note(
      f'{failed} of {len(prompts)} prompts have an error in the place of an '
      'answer.'
    )
  return failed


def _ledger(request: DecodeRequest, job: batching.Job) -> ledger_lib.Ledger:
  """A ledger that keeps what is compared and remembered."""
  several = request.config.num_return_sequences
  # Prompts that get no answer stand between those of the first batch.
  rows = batching.first_batch(job).rows
  last = max((r.prompt_index * several + r.sequence for r in rows), default=-1)
  first = last + 1 - job.rows.begin if rows else 0
  kept = {'none': 0, 'first': first, 'all': len(job.rows)}
  return ledger_lib.Ledger(
    kept[request.baseline],
    request.config.corpus_tokens if request.corpus else 0,
  )


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


def _settled(
  request: DecodeRequest, prompts: prompt_files.PromptFiles
) -> DecodeRequest:
  """The request with a number in the place of batch_size=auto.

  The memory that a run takes of each device is noted, if it is much.
  """
  batch_size, estimate = inputs.estimate(request, prompts)
  if request.config.batch_size != batch_size:
    cli.note(f'batch_size=auto: {batch_size} rows.')
    chosen = dataclasses.replace(request.config, batch_size=batch_size)
    request = dataclasses.replace(request, config=chosen)
  if estimate.total >= WORTH_TELLING:
    cli.note(estimate.text())
  return request


def _writer(
  request: DecodeRequest,
  prompts: prompt_files.PromptFiles,
  begun: resuming.Begun,
) -> contextlib.AbstractContextManager:
  """The output of a request, as a function that writes answers."""
  if not request.is_batch:
    return answer_files.writer(request.output, begun.keep_bytes)
  several = request.config.num_return_sequences
  write = openai_batch.ResponseWriter(prompts, several, request.target)
  return write.opened(request.output, begun.keep_bytes, begun.skip // several)


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
  write: answer_files.Write,
  ledger: ledger_lib.Ledger,
) -> None:
  """Streams answers to the output and counts them."""
  per_prompt = request.config.num_return_sequences
  bar = tqdm.tqdm(
    total=len(job.rows) // per_prompt,
    unit='prompt',
    dynamic_ncols=True,
    file=cli.stderr(),
  )
  try:
    with bar, contextlib.closing(inference.stream(job, cli.note)) as batches:
      for batch in batches:
        write(batch.answers)
        ledger.add(batch)
        bar.set_postfix_str(f'{ledger.counts.num_tokens} tokens', refresh=False)
        bar.update(ledger.answers // per_prompt - bar.n)
        cli.check_interrupt()
  except KeyboardInterrupt:
    resume = '' if request.output == '-' else '; --resume continues it'
    raise KeyboardInterrupt(
      f'interrupted after {ledger.answers} answers{resume}.'
    ) from None


def _statistics(
  job: batching.Job, ledger: ledger_lib.Ledger, compile_seconds: float
) -> dict[str, Any]:
  """Totals of a run, which are shown as a table as well."""
  found = ledger.totals(ledger.seconds, compile_seconds)
  # Of the rounds of all rows of the batches, those in which a row decoded.
  busy, every = ledger.row_rounds, ledger.all_rounds
  found['rows_busy'] = busy / every if every else None
  cli.note(run_statistics.table(found))
  rule = job.assembled.rule.name if job.assembled.drafts else None
  return found | {
    'verifier_used': rule,
    'precision': _precision(job),
    'precision_note': paths.XLA.note(_precision(job)),
    'from_generation_config': job.from_generation_config,
    'prefill_tokens': job.sharing.num_prefilled,
  }
