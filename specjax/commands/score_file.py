"""Scores a file of prompts with completions for the command `decode.main`."""

import dataclasses
import json
import math
import time
from typing import Any

import tqdm

from specjax import files
from specjax.checkpoints import digests
from specjax.commands import answer_files
from specjax.commands import cli
from specjax.commands import inputs
from specjax.commands import statistics as run_statistics
from specjax.distributed import processes
from specjax.inference import pairs as pairs_lib
from specjax.inference import planning
from specjax.inference import scoring
from specjax.inference.config import DecodeConfig


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
  """A file to score, and the files to write.

  Attributes:
    target: folder or hub id of the target.
    inputs: files of JSON lines with a prompt and its `completion` each, or '-'.
    output: file of JSON lines, or '-'.
    stats: JSON file for the totals, or ''.
    config: `DecodeConfig`.
  """

  target: str
  inputs: tuple[str, ...]
  output: str
  stats: str
  config: DecodeConfig


def record(score: scoring.Score) -> dict[str, Any]:
  """The fields of one JSON line; decode/README.md defines them."""
  return {
    **({} if score.id is None else {'id': score.id}),
    'prompt': score.prompt,
    'completion': score.completion,
    'tokens': list(score.tokens),
    'num_tokens': len(score.tokens),
    'logprob': score.logprob,
    'logprobs': [one.as_dict() for one in score.logprobs],
  }


def score_file(request: ScoreRequest) -> None:
  """Writes scores to the output and totals to standard error.

  Args:
    request: files, target and settings.

  Raises:
    ValueError, OSError, FloatingPointError, MemoryError: one sentence.
  """
  answer_files.check_distinct(
    *(('input', path) for path in request.inputs),
    ('output', request.output),
    ('stats', request.stats),
  )
  scoring.check_config(request.config)
  pairs = pairs_lib.of_lines(inputs.read_same(request.inputs))
  is_first = processes.is_first()
  # Files are tried before models are loaded: a refusal must come in seconds.
  with answer_files.claimed(request.output):
    if request.stats and is_first:
      files.check_writable(request.stats)
    target = planning.load_target(request.target, request.config)
    found = _run(request, target, pairs)
  if request.stats and is_first:
    found |= {'request': dataclasses.asdict(request)}
    found |= run_statistics.environment(
      digests.of_owners(request.target, target.tokenizer)
    )
    made = json.dumps(found, indent=2, default=str) + '\n'
    files.write_text(request.stats, made)


def _run(request: ScoreRequest, target, pairs) -> dict[str, Any]:
  """Streams scores to the output; returns the totals."""
  begin, tokens, total = time.perf_counter(), 0, 0.0
  # Checked before the output is opened, which an error would leave empty.
  windows = scoring.stream(target, pairs, request.config)
  window = next(windows)
  bar = tqdm.tqdm(
    total=len(pairs), unit='pair', dynamic_ncols=True, file=cli.stderr()
  )
  with bar, answer_files.lines_writer(request.output) as write:
    while window is not None:
      write(
        ''.join(
          json.dumps(record(one), ensure_ascii=False) + '\n' for one in window
        )
      )
      tokens += sum(len(one.tokens) for one in window)
      total += math.fsum(one.logprob for one in window)
      bar.update(len(window))
      cli.check_interrupt()
      window = next(windows, None)
  found = {
    'num_pairs': len(pairs),
    'num_tokens': tokens,
    'logprob': total,
    'perplexity': math.exp(min(-total / tokens, 700.0)),
    'seconds': time.perf_counter() - begin,
  }
  cli.note(
    f'{len(pairs)} completions of {tokens} tokens: log probability '
    f'{total:.2f}, perplexity {found["perplexity"]:.3f}.'
  )
  return found
