"""A target writes its own outputs for a file of inputs.

A drafter learns best from what its target really says. The file that comes
out is JSON lines of `output.record`; training reads their `prompt` and
`tokens` (`config.data.labelled`).
"""

import dataclasses
import time
from typing import Callable, Optional

from specjax.commands import answer_files
from specjax.commands import decode as decode_command
from specjax.decoding import stats
from specjax.distributed import processes
from specjax.inference import batching
from specjax.inference import generate as inference
from specjax.inference.config import DecodeConfig
from specjax.training.data import readers


@dataclasses.dataclass(frozen=True)
class Request:
  """What to label.

  Attributes:
    target: folder or hub id of the model that writes.
    drafter: to be faster, as `drafting.load` takes it; '' for none.
    inputs: files: first column of .tsv, `field` of .jsonl, lines of text.
    field: name in JSON lines.
    output: .jsonl file; a begun one is continued.
    limit: use only the first inputs; 0 uses all.
    config: how to decode, and on which devices.
  """

  target: str
  drafter: str
  inputs: tuple[str, ...]
  field: str
  output: str
  limit: int
  config: DecodeConfig


@dataclasses.dataclass(frozen=True)
class Labelled:
  """What was written now: `answers` lines after `skipped` older ones."""

  answers: int
  skipped: int
  counts: stats.Counts
  seconds: float


def label(
  request: Request, progress: Optional[Callable[[int, int], None]] = None
) -> Labelled:
  """Writes the answers of all inputs that have none yet.

  Of several processes, all of which call it, the first writes all answers.

  Args:
    request: what to label.
    progress: called with (answers done, answers in all) after each batch.

  Returns:
    `Labelled`.

  Raises:
    ValueError, OSError: in one sentence.
  """
  if not request.output.endswith('.jsonl'):
    raise ValueError(f'--output must be a .jsonl file, not {request.output!r}.')
  prompts = readers.read_inputs(request.inputs, request.field)
  prompts = prompts[: request.limit] if request.limit else prompts
  decode_command.check_same_prompts(', '.join(request.inputs), prompts)
  if processes.is_first():
    answer_files.check_writable(request.output)
  skip, keep_bytes = decode_command.answered(
    request.output, prompts, request.config.num_return_sequences
  )
  target, drafter = decode_command.load_models(
    request.target, request.drafter, request.config
  )
  job = batching.plan(
    target, prompts, drafter=drafter, config=request.config, skip=skip
  )
  counts, seconds, done = [], 0.0, 0
  started = time.perf_counter()
  with decode_command.writer(request.output, keep_bytes) as write:
    for batch in inference.stream(job):
      write(batch.answers)
      counts += [answer.counts for answer in batch.answers]
      done += len(batch.answers)
      if progress is not None:
        progress(skip + done, skip + len(job.rows))
  seconds = time.perf_counter() - started
  return Labelled(done, skip, stats.add(counts), seconds)
