"""Compares a finished run with plain decoding, and explains its speed."""

from collections.abc import Callable, Sequence
import statistics
import time
from typing import Any

from specjax.checkpoints import model as model_lib
from specjax.commands import cli
from specjax.commands import statistics as run_statistics
from specjax.distributed import processes
from specjax.inference import batching
from specjax.inference import generate as inference
from specjax.inference import planning
from specjax.inference import summary

# A first batch is repeated so often, or for about so long. One pass may be
# slowed by other load, so medians are taken.
REPEATS = 5
SECONDS_OF_REPEATS = 4.0


def compare(
  request: Any,
  job: batching.Job,
  target: model_lib.Model,
  prompts: Sequence,
  skip: int,
  answers: Sequence,
) -> dict[str, Any]:
  """Compares a run with plain decoding, and explains the ratio.

  Args:
    request: `decode_file.DecodeRequest`.
    job: job that was decoded.
    target: `Model` of its target.
    prompts: prompts of the whole input.
    skip: number of answers that were there before.
    answers: answers of the job.

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
    cli.note('Timing the parts of a round, to explain the speed.')
    times = run_statistics.measure_steps(job)
    found = summary.summarize(answers, 1.0, 0.0)
    plan = job.assembled.plan
    parts, sentences = run_statistics.explain(
      found,
      times,
      plan.num_draft,
      measured=added.get('baseline', {}).get('speedup'),
      adaptive=bool(plan.widths),
      one_pass=plan.one_pass,
      tree=plan.is_tree,
    )
    parts['measuring_seconds'] = time.perf_counter() - begin
    added['explanation'] = parts
    cli.note(sentences)
  return added


def _baseline(request, job, target, prompts, skip, answers) -> dict[str, Any]:
  """Decodes the same prompts plainly, and compares tokens and speed."""
  plain_job = planning.plan(target, prompts, config=request.config, skip=skip)
  if request.baseline == 'first':
    job, plain_job = batching.first_batch(job), batching.first_batch(plain_job)
  count = sum(bool(row.tokens) for row in plain_job.rows)
  cli.note(f'Decoding {count} answers plainly as well, for comparison.')
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
  found = summary.summarize(plain_answers, plain, compile_seconds)
  same = run_statistics.same_tokens(plain_answers, answers)
  total = len(plain_answers)
  tokens = sum(answer.counts.num_tokens for answer in answers[:total])
  speed = tokens / speculative
  found |= {
    'speculative_tokens_per_second': speed,
    'speedup': speed / found['tokens_per_second'],
    'identical': same,
    'compared': total,
  }
  cli.note(
    f'Plain decoding of {total} answers: {found["tokens_per_second"]:.1f} '
    f'tokens/s, speculative {speed:.1f}: speed-up '
    f'{found["speedup"]:.2f}; identical tokens: {same} of {total}'
    f'{_about_identity(job)}.'
  )
  return found


def by_turns(
  first: batching.Job, second: batching.Job, is_done: Callable[[int], bool]
) -> tuple[list, list, float, float]:
  """Decodes two jobs by turns, so that both see the same state of the machine.

  Args:
    first: one job.
    second: other job with the same batches.
    is_done: function of the number of passes so far that ends them.

  Returns:
    (answers of the first, of the second, median seconds of either).
  """
  # Batch by batch: plain 1, speculative 1, plain 2, speculative 2 and so on.
  # Were one job to end before the other begins, the ratio would compare a cool
  # with a warm processor.
  seconds = []
  while not seconds or not is_done(len(seconds)):
    batches = []
    for pair in zip(
      inference.stream(first), inference.stream(second), strict=True
    ):
      batches.append(pair)
      cli.check_interrupt()
    seconds.append(
      [sum(one.seconds for one in jobs) for jobs in zip(*batches, strict=True)]
    )
  answers = [
    [a for one in jobs for a in one.answers]
    for jobs in zip(*batches, strict=True)
  ]
  return *answers, *map(statistics.median, zip(*seconds, strict=True))


def _about_identity(job: batching.Job) -> str:
  rule = job.assembled.rule
  if rule.keeps_target_sample:
    return ''
  if not job.assembled.is_exact:
    return f' ({rule.name} is lossy: they need not be the same)'
  return (
    f' ({rule.name} draws with noise of its own: the same law, other tokens)'
  )
