"""A run that goes on with an output: what is there, and who made it."""

import dataclasses
import os
from typing import Any

from specjax import files
from specjax import prompt_files
from specjax.commands import answer_files
from specjax.commands import cli
from specjax.commands import made
from specjax.distributed import processes
from specjax.inference import batching


@dataclasses.dataclass(frozen=True)
class Begun:
  """An output that a run goes on with.

  Attributes:
    skip: number of answers that are there.
    keep_bytes: their bytes.
    note: note of what made them, None where there is none.
  """

  skip: int = 0
  keep_bytes: int = 0
  note: dict[str, Any] | None = None


def begin(request: Any, prompts: prompt_files.PromptFiles) -> Begun:
  """The output that a run goes on with, on every process.

  Args:
    request: `decode_file.DecodeRequest`; without `resume` nothing is there.
    prompts: prompts of the run.

  Raises:
    ValueError: what is there was made in another way, as far as that is known
      before models are loaded.
  """
  if not request.resume:
    return Begun()
  found, note = (0, 0), None
  if processes.is_first():
    output, config = request.output, request.config
    note = made.read(output)
    if note is not None and os.path.getsize(output):
      old = {'shard': note['shard'], **note['settings']}
      mine = {'shard': request.shard, **made.settings(config, made.free())}
      made.check_settings(output, old, mine)
    several = config.num_return_sequences
    # A line of a batch holds all answers to a request.
    lines = 1 if request.is_batch else several
    number, size = answer_files.count_answered(
      output, len(prompts), lines, _how_lines_answer(request, prompts)
    )
    answered = number // lines
    found = answered * several, size
    if note is None and answered:
      cli.note(
        f'Note: {made.path_of(output)} is missing, so nothing shows what made '
        f'the answers in {output}; the rest is made with the settings of this '
        'run.'
      )
    elif answered:
      made.check_prompts(output, note, prompts, answered)
  skip, keep_bytes = processes.from_first(found)
  cli.note(f'{skip} answers are there already.')
  return Begun(skip, keep_bytes, note if skip else None)


def _how_lines_answer(request: Any, prompts: prompt_files.PromptFiles):
  """The argument `answers` of `answer_files.count_answered`."""
  if request.is_batch:
    return lambda found, index: found.get('custom_id') == prompts[index].id
  if files.kind(request.output) == '.jsonl':
    return answer_files.answers_of(prompts)
  return None


def note_of(
  request: Any,
  job: batching.Job,
  prompts: prompt_files.PromptFiles,
  begun: Begun,
) -> dict[str, Any] | None:
  """The note to write beside the output, None where there is none to write.

  Args:
    request: `decode_file.DecodeRequest`.
    job: job that is about to be decoded.
    prompts: its prompts.
    begun: result of `begin`.

  Raises:
    ValueError: what is there was made in another way.
  """
  is_file = request.output != '-' and not files.is_stream(request.output)
  if not (is_file and processes.is_first()):
    return None
  note = made.of_job(request, job, prompts)
  if begun.note is not None:
    made.check(request.output, begun.note, note)
  return note
