"""A target writes its own outputs for a file of inputs.

A drafter learns best from its target's own outputs: those are the tokens that
it has to guess. The file is one of `training.data.labels`, which training reads
(`config.data.labelled`).
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
import os
import time
from typing import Any

from absl import flags
import tqdm

from specjax import validation
from specjax.checkpoints import digests
from specjax.checkpoints import model as model_lib
from specjax.commands import answer_files
from specjax.commands import cli
from specjax.commands import decode_file
from specjax.commands import parsing
from specjax.decoding import stats
from specjax.decoding.drafters import registry
from specjax.distributed import processes
from specjax.inference import encoding
from specjax.inference import generate as inference
from specjax.inference import generation_config
from specjax.inference import planning
from specjax.inference.config import DecodeConfig
from specjax.training.data import labels
from specjax.training.data import readers

# Settings of decoding on which no answer depends.
_FREE = frozenset(
  {
    'batch_size',
    'mesh',
    'costs',
    'corpus_tokens',
    'explain',
    'logprobs',
    'skip_special_tokens',
  }
)


@dataclasses.dataclass(frozen=True)
class LabelRequest:
  """Inputs to label, and the file to write.

  Attributes:
    target: folder or hub id of the model that writes.
    drafter: name as `sources.resolve` takes it, for speed; '' for none.
    inputs: files: first column of .tsv, `field` or `messages` of .jsonl, lines
      of text.
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
  processes.check_same(f'the prompts in {", ".join(request.inputs)}', prompts)
  with decode_file.claimed(request.output):
    return _label(request, prompts, progress)


def _label(request, prompts, progress) -> LabelSummary:
  """Writes to an output that this run holds."""
  if processes.is_first():
    _check_settings(request)
  target, drafter = decode_file.load_models(
    request.target, request.drafter, request.config
  )
  head, begun = {}, (0, 0)
  if processes.is_first():
    head = _head(request, target)
    begun = _begun(request, target, prompts, head)
  skip, keep_bytes = processes.from_first(begun)
  job = planning.plan(
    target, prompts, drafter=drafter, config=request.config, skip=skip
  )
  decode_file.note_doubts(job)
  counts, seconds, done = [], 0.0, 0
  started = time.perf_counter()
  with _writer(request.output, keep_bytes) as write:
    # With the first answers: a run that fails before them leaves no file.
    begin = '' if keep_bytes else json.dumps(head) + '\n'
    for batch in inference.stream(job):
      rows = job.rows[done : done + len(batch.answers)]
      if batch.answers:
        write(begin + _lines(rows, batch.answers))
        begin = ''
      counts += [answer.counts for answer in batch.answers]
      done += len(batch.answers)
      if progress is not None:
        progress(skip + done, skip + len(job.rows))
  seconds = time.perf_counter() - started
  return LabelSummary(done, skip, stats.add(counts), seconds)


def _lines(rows, answers) -> str:
  """Lines of answers, with the prompts as the target read them."""
  return ''.join(
    json.dumps(
      labels.record(
        row.prompt_index, row.tokens, answer.tokens, answer.finish_reason
      )
    )
    + '\n'
    for row, answer in zip(rows, answers, strict=True)
  )


def _writer(path: str, keep_bytes: int) -> contextlib.AbstractContextManager:
  """A writer of lines in process 0; elsewhere one of nothing."""
  if processes.is_first():
    return answer_files.lines_writer(path, keep_bytes)
  return contextlib.nullcontext(lambda text: None)


def _settings(request: LabelRequest) -> dict[str, Any]:
  """The settings on which the answers depend."""
  found = dataclasses.asdict(request.config)
  found = {k: v for k, v in found.items() if k not in _FREE}
  found['drafter'] = request.drafter
  return json.loads(json.dumps(found, default=str))


def _head(request: LabelRequest, target: model_lib.Model) -> dict[str, Any]:
  """The first line of the output."""
  if target.tokenizer is None:
    raise ValueError(
      f'{request.target} holds no tokenizer, so its answers cannot be labels.'
    )
  return labels.head(
    digests.of_tokenizer(target.tokenizer),
    digests.of_template(target.tokenizer),
    digests.of_target(request.target),
    _settings(request),
    {
      'target': request.target,
      'inputs': list(request.inputs),
      'field': request.field,
    },
    generation_config.decide(request.config, target).values,
  )


def _old_head(path: str) -> dict[str, Any] | None:
  """The head of a begun output; None where there is no whole line yet.

  Raises:
    ValueError: the file is something else.
  """
  if not os.path.isfile(path):
    return None
  with open(path, 'rb') as file:
    first = file.readline()
  # Killed while it wrote the head, or before.
  if not first.endswith(b'\n') and labels.is_begun(first):
    return None
  found = labels.parse_head(first.decode('utf-8', errors='replace'))
  if found is None:
    raise ValueError(
      f'{path} is no begun file of labels, so it cannot be continued; take '
      'another --output.'
    )
  return found


def _check_settings(request: LabelRequest) -> None:
  """Refuses to continue a file of other settings, before models are loaded."""
  old = _old_head(request.output)
  if old is None:
    return
  found = validation.difference(old['settings'], _settings(request))
  if found is not None:
    raise ValueError(
      f'{request.output} was labelled with {found.path}={_shown(found.one)} '
      f'and not {_shown(found.other)}, so it cannot be continued; take another '
      '--output or the settings it was begun with.'
    )


def _shown(value: Any) -> str:
  return 'nothing' if value is validation.ABSENT else repr(value)


def _begun(
  request: LabelRequest,
  target: model_lib.Model,
  prompts: Sequence[Any],
  head: dict[str, Any],
) -> tuple[int, int]:
  """(answers of completed prompts, bytes with the head) of a begun output.

  Raises:
    ValueError: the output is of another target, or answers other prompts.
  """
  path, per_prompt = request.output, request.config.num_return_sequences
  old = _old_head(path)
  if old is None:
    return 0, 0
  for key, word in labels.OWNERS.items():
    if old[key] != head[key]:
      raise ValueError(
        f'{path} was labelled with another {word} than that of '
        f'{request.target}, so it cannot be continued; take another --output.'
      )
  encoded = encoding.encode(target, prompts, request.config)
  sizes = []
  for number, (size, row) in enumerate(labels.rows(path)):
    index = (number - 1) // per_prompt
    sizes.append(size)
    if not number:
      continue
    if index >= len(encoded):
      raise ValueError(
        f'{path} has answers to more than the {len(encoded)} prompts, so it '
        'cannot be continued; give the input it was begun with.'
      )
    wanted = (index, list(encoded[index][1]))
    if not row or (row.get('prompt_index'), row.get('prompt_tokens')) != wanted:
      raise ValueError(
        f'{path}, line {number + 1} does not answer prompt {index + 1} of the '
        'input, so it cannot be continued.'
      )
  # 5 whole answers at 2 a prompt: 4 count, and the third prompt, which has one
  # of its two, is decoded anew.
  count = len(sizes) - 1
  count -= count % per_prompt
  return count, sum(sizes[: count + 1])


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
  with tqdm.tqdm(
    unit='answer', file=cli.stderr(), dynamic_ncols=True, delay=1e-6
  ) as bar:

    def progress(done, total):
      bar.total = total
      bar.update(done - bar.n)

    try:
      made = label(request, progress)
    except KeyboardInterrupt:
      raise KeyboardInterrupt(
        f'interrupted after {int(bar.n)} answers; the same command continues.'
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
