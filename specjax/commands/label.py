"""A target writes its own outputs for a file of inputs.

A drafter learns best from its target's own outputs: those are the tokens that
it has to guess. The file is one of `training.data.labels`, which training reads
(`config.data.labelled`).
"""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import time

from absl import flags
import tqdm

from specjax.commands import answer_files
from specjax.commands import cli
from specjax.commands import decode_file
from specjax.commands import label_files
from specjax.commands import parsing
from specjax.decoding import stats
from specjax.decoding.drafters import registry
from specjax.distributed import processes
from specjax.inference import generate as inference
from specjax.inference import planning
from specjax.inference.config import DecodeConfig
from specjax.training.data import readers


@dataclasses.dataclass(frozen=True)
class LabelRequest:
  """Inputs to label, and the file to write.

  Attributes:
    target: folder or hub id of the model that writes.
    drafter: name as `sources.resolve` takes it, for speed; '' for none.
    inputs: files: first column of .tsv, `field` or `messages` of .jsonl, lines
      of text. A line of .jsonl may hold settings of its own.
    field: name of the inputs in JSON lines.
    output: .jsonl file; a begun one is continued.
    limit: number of first inputs that are used; 0 uses all.
    config: settings of decoding, and the devices.
  """

  target: str
  drafter: str
  inputs: tuple[str, ...]
  field: str
  output: str
  limit: int
  config: DecodeConfig


@dataclasses.dataclass(frozen=True)
class LabelSummary:
  """Lines written now: `answers` of them, after `skipped` older ones."""

  answers: int
  skipped: int
  counts: stats.Counts
  seconds: float


def label(
  request: LabelRequest, progress: Callable[[int, int], None] | None = None
) -> LabelSummary:
  """Writes the answers of all inputs that have none yet.

  Of several processes, all of which call it, the first writes all answers.

  Args:
    request: inputs, models and settings.
    progress: callback with (answers done, answers in all) after each batch.

  Returns:
    `LabelSummary`.

  Raises:
    ValueError, OSError: one sentence.
  """
  if not request.output.endswith('.jsonl'):
    raise ValueError(f'--output must be a .jsonl file, not {request.output!r}.')
  prompts = readers.read_inputs(request.inputs, request.field)
  prompts = prompts[: request.limit] if request.limit else prompts
  processes.check_same(
    f'the prompts in {", ".join(request.inputs)}',
    [(line.source, dict(line.settings)) for line in prompts],
  )
  with answer_files.claimed(request.output):
    return _label(request, prompts, progress)


def _label(request, prompts, progress) -> LabelSummary:
  """Writes to an output that this run holds."""
  if processes.is_first():
    label_files.check_settings(request)
  target, drafter = decode_file.load_models(
    request.target, request.drafter, request.config
  )
  who, begun = {}, (0, 0)
  if processes.is_first():
    who = label_files.owners(request, target)
    begun = label_files.begun(request, target, prompts, who)
  skip, keep_bytes = processes.from_first(begun)
  job = planning.plan(
    target, prompts, drafter=drafter, config=request.config, skip=skip
  )
  head = {}
  if processes.is_first():
    head = label_files.head(request, job, who)
    label_files.check_head(request, head)
  decode_file.note_doubts(job)
  counts, seconds, done = [], 0.0, 0
  started = time.perf_counter()
  with answer_files.lines_writer(request.output, keep_bytes) as write:
    # With the first answers: a run that fails before them leaves no file.
    begin = '' if keep_bytes else json.dumps(head) + '\n'
    for batch in inference.stream(job):
      rows = job.rows[done : done + len(batch.answers)]
      if batch.answers:
        write(begin + label_files.lines(rows, batch.answers, prompts))
        begin = ''
      counts += [answer.counts for answer in batch.answers]
      done += len(batch.answers)
      if progress is not None:
        progress(skip + done, skip + len(job.rows))
  seconds = time.perf_counter() - started
  return LabelSummary(done, skip, stats.add(counts), seconds)


def _define(values: flags.FlagValues):
  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('target', None, 'Model that writes: a folder, a GGUF file or a hub id.')
  text(
    'drafter',
    '',
    f'Drafter, for speed: one of {registry.names()}.',
  )
  text('field', 'source', 'Field of the inputs in JSON lines.')
  text('output', None, 'Answers: a .jsonl file; a begun one is continued.')
  parsing.define_processes(values)
  flags.DEFINE_multi_string(
    'input',
    None,
    'Inputs: the first column of .tsv, a field or the "messages" of .jsonl, or '
    'lines of text. May be repeated.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'limit',
    0,
    'Number of first inputs that are used; 0 uses all.',
    lower_bound=0,
    flag_values=values,
  )


def _run(values: flags.FlagValues, config) -> None:
  """Labels the inputs."""
  parsing.require(values, 'target', 'input', 'output')
  cli.check_one_drafter(values.drafter)
  parsing.join_processes(values, config)
  request = LabelRequest(
    target=values.target,
    drafter=values.drafter,
    inputs=tuple(values.input),
    field=values.field,
    output=values.output,
    limit=values.limit,
    config=config,
  )
  # Shown when there is something to show: an error is one line alone.
  with contextlib.ExitStack() as stack:
    bars = []

    def progress(done, total):
      if not bars:
        bar = tqdm.tqdm(
          total=total, unit='answer', file=cli.stderr(), dynamic_ncols=True
        )
        bars.append(stack.enter_context(bar))
      bars[0].update(done - bars[0].n)

    try:
      made = label(request, progress)
    except KeyboardInterrupt:
      count = int(bars[0].n) if bars else 0
      raise KeyboardInterrupt(
        f'interrupted after {count} answers; the same command continues.'
      ) from None
  counts = made.counts
  cli.note(
    f'{made.answers} answers written after {made.skipped} that were there: '
    f'{counts.num_tokens} tokens in {made.seconds:.1f} s'
    + (
      f', block efficiency {counts.block_efficiency:.2f}.'
      if counts.num_drafted
      else '.'
    )
  )


main = parsing.command(_define, _run)
