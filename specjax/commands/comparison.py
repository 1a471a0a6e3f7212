"""A finished run beside plain decoding, and the reason of its speed."""

import statistics
import time
from typing import Any, Callable

from specjax.commands import cli
from specjax.commands import statistics as run_statistics
from specjax.distributed import processes
from specjax.inference import batching
from specjax.inference import generate as inference
from specjax.inference import planning

# A first batch is repeated this often, or for about so long; medians count.
REPEATS = 5
SECONDS_OF_REPEATS = 4.0


def compare(
  request, job: batching.Job, target, prompts, skip: int, answers
) -> dict[str, Any]:
  """Plain decoding beside it, and the reason of the ratio.

  Args:
    request: `decode_file.DecodeRequest`.
    job: what was decoded.
    target: its target's `Model`.
    prompts: all of the input.
    skip: answers that were there before.
    answers: those that the job gave.

  Returns:
    Fields for `--stats`: 'baseline' and 'explanation', where asked for.
  """
  if not job.assembled.drafts or not job.batches:
    return {}
  added: dict[str, Any] = {}
  if request.baseline != 'none' and any(a.tokens for a in answers):
    added['baseline'] = _baseline(request, job, target, prompts, skip, answers)
  if request.config.explain:
    begin = time.perf_counter()
    times = run_statistics.measure_steps(job)
    found = run_statistics.numbers(answers, 1.0, 0.0)
    plan = job.assembled.plan
    parts, sentences = run_statistics.explain(
      found,
      times,
      plan.num_draft,
      adaptive=bool(plan.widths),
      one_pass=plan.one_pass,
      tree=plan.is_tree,
    )
    parts['measuring_seconds'] = time.perf_counter() - begin
    added['explanation'] = parts
    cli.note(sentences)
  return added


def _baseline(request, job, target, prompts, skip, answers) -> dict[str, Any]:
  """Decodes plainly what was decoded speculatively, and compares."""
  plain_job = planning.plan(target, prompts, config=request.config, skip=skip)
  if request.baseline == 'first':
    job, plain_job = batching.first_batch(job), batching.first_batch(plain_job)
  compile_seconds = inference.warm_up(plain_job)
  begin = time.perf_counter()

  def is_done(times: int) -> bool:
    # Processes must not disagree on when to stop.
    return (
      request.baseline != 'first'
      or times == REPEATS
      or processes.from_first(time.perf_counter() - begin > SECONDS_OF_REPEATS)
    )

  plain_answers, _, plain, speculative = by_turns(plain_job, job, is_done)
  found = run_statistics.numbers(plain_answers, plain, compile_seconds)
  same = run_statistics.same_tokens(plain_answers, answers)
  total = len(plain_answers)
  tokens = sum(answer.counts.num_tokens for answer in answers[:total])
  speed = tokens / speculative
  found |= {
    'speculative_tokens_per_second': speed,
    'measured_factor': speed / found['tokens_per_second'],
    'identical': same,
    'compared': total,
  }
  cli.note(
    f'Plain decoding of {total} answers: {found["tokens_per_second"]:.1f} '
    f'tokens/s, speculative {speed:.1f}: measured factor '
    f'{found["measured_factor"]:.2f}; identical tokens: {same} of {total}'
    f'{_about_identity(job)}.'
  )
  return found


def by_turns(
  first: batching.Job, second: batching.Job, is_done: Callable[[int], bool]
) -> tuple[list, list, float, float]:
  """Decodes two jobs by turns, so that both see the same state of the machine.

  Args:
    first, second: jobs with the same batches.
    is_done: takes how often they were decoded; at least once.

  Returns:
    (answers of the first, of the second, median seconds of either).
  """
  seconds = []
  while not seconds or not is_done(len(seconds)):
    batches = []
    for pair in zip(inference.stream(first), inference.stream(second)):
      batches.append(pair)
      cli.check_interrupt()
    seconds.append([sum(one.seconds for one in jobs) for jobs in zip(*batches)])
  answers = [[a for one in jobs for a in one.answers] for jobs in zip(*batches)]
  return *answers, *map(statistics.median, zip(*seconds))


def _about_identity(job: batching.Job) -> str:
  rule = job.assembled.rule
  if rule.keeps_target_sample:
    return ''
  if not job.assembled.is_exact:
    return f' ({rule.name} is lossy: they need not be the same)'
  return (
    f' ({rule.name} draws with noise of its own: the same law, other tokens)'
  )
