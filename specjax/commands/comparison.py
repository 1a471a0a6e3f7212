"""Compares a finished run with plain decoding, and explains its speed."""

from collections.abc import Callable, Sequence
import dataclasses
import statistics
import time
from typing import Any, NamedTuple

from specjax.checkpoints import model as model_lib
from specjax.commands import cli
from specjax.commands import ledger as ledger_lib
from specjax.commands import statistics as run_statistics
from specjax.distributed import processes
from specjax.inference import batching
from specjax.inference import generate as inference
from specjax.inference import looping
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
  ledger: ledger_lib.Ledger,
) -> dict[str, Any]:
  """Compares a run with plain decoding, and explains the ratio.

  Args:
    request: `decode_file.DecodeRequest`.
    job: job that was decoded.
    target: `Model` of its target.
    prompts: prompts of the whole input.
    skip: number of answers that were there before.
    ledger: counts of its answers, and those that are compared.

  Returns:
    Fields for `--stats`: 'baseline' and 'explanation', where asked for.
  """
  if not job.assembled.drafts or not job.batches:
    return {}
  added: dict[str, Any] = {}
  if request.baseline != 'none' and ledger.counts.num_tokens:
    added['baseline'] = _baseline(
      request, job, target, prompts, skip, ledger.first
    )
  if request.config.explain:
    begin = time.perf_counter()
    cli.note('Timing the parts of a round, to explain the speed.')
    times = run_statistics.measure_steps(job)
    found = ledger.totals(1.0, 0.0)
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
  # Whole batches, by turns: refilled rows of two jobs would need two caches.
  job, plain_job = (
    dataclasses.replace(one, refill=None) for one in (job, plain_job)
  )
  inference.warm_up(job)
  compile_seconds = inference.warm_up(plain_job)
  begin = time.perf_counter()

  def is_done(times: int) -> bool:
    # Processes must not disagree on when to stop.
    return (
      request.baseline != 'first'
      or times == REPEATS
      or processes.from_first(time.perf_counter() - begin > SECONDS_OF_REPEATS)
    )

  turns = by_turns(plain_job, job, is_done)
  plain, speed = turns.tokens_per_second
  total = len(turns.plain)
  ours = {(one.prompt_index, one.sequence): one for one in answers}
  same = run_statistics.same_tokens(
    turns.plain, [ours[one.prompt_index, one.sequence] for one in turns.plain]
  )
  found = summary.summarize(turns.plain, None, compile_seconds)
  found |= {
    'seconds': turns.seconds[0],
    'tokens_per_second': plain,
    'speculative_tokens_per_second': speed,
    'speedup': speed / plain,
    'timed_answers': turns.timed,
    'timing_note': turns.note,
    'identical': same,
    'compared': total,
  }
  cli.note(
    f'Plain decoding of {total} answers: {plain:.1f} tokens/s, speculative '
    f'{speed:.1f}: speed-up {found["speedup"]:.2f}{turns.left_out}; identical '
    f'tokens: {same} of {total}{_about_identity(job)}.'
  )
  return found


class Turns(NamedTuple):
  """Two ways to decode, timed by turns.

  Attributes:
    plain: answers of plain decoding, to all prompts.
    answers: answers of the other job, to all prompts.
    seconds: median seconds of either, over the answers that are timed.
    tokens: tokens of either in these answers.
    timed: number of these answers: those whose plain answer does not loop.
    note: 'with loops' where others are timed too, else ''.
  """

  plain: list
  answers: list
  seconds: tuple[float, float]
  tokens: tuple[int, int]
  timed: int
  note: str

  @property
  def tokens_per_second(self) -> tuple[float, float]:
    """Speed of either."""
    (plain, other), (time, other_time) = self.tokens, self.seconds
    return plain / time, other / other_time

  @property
  def left_out(self) -> str:
    """Answers that are not timed, in words; '' where all are."""
    number = len(self.plain) - self.timed
    if not number:
      return self.note and f' ({self.note})'
    return f' ({self.timed} answers; {number} more end in a loop)'


def by_turns(
  plain: batching.Job, other: batching.Job, is_done: Callable[[int], bool]
) -> Turns:
  """Decodes two jobs by turns, so that both see the same state of the machine.

  Args:
    plain: job of plain decoding. Prompts whose answers loop are left out once
      they are known, because any drafter that copies gains there. It decodes
      whole batches.
    other: other job with the same batches.
    is_done: function of the number of timed passes so far that ends them.

  Returns:
    `Turns`.
  """
  whole, seconds = _pass(plain, other)
  passes, answers, note = [seconds], whole, ''
  if not looping.is_exempt(other.assembled, other.config.ignore_eos):
    # Blank rows have no answer and take no time.
    live = [i for i, row in enumerate(plain.rows) if row.tokens]
    places, note = looping.timed([whole[0][i].tokens for i in live])
    if len(places) < len(live):
      chosen = [live[i] for i in places]
      plain, other = (batching.only(job, chosen) for job in (plain, other))
      answers, seconds = _pass(plain, other)
      passes = [seconds]
  while not is_done(len(passes)):
    passes.append(_pass(plain, other)[1])
  medians = tuple(map(statistics.median, zip(*passes, strict=True)))
  tokens = tuple(sum(a.counts.num_tokens for a in side) for side in answers)
  return Turns(*whole, medians, tokens, len(answers[0]), note)


def _pass(plain, other) -> tuple[list, list[float]]:
  """(answers of either job, seconds of either) of one pass."""
  # Batch by batch: plain 1, speculative 1, plain 2, speculative 2 and so on.
  # Were one job to end before the other begins, the ratio would compare a cool
  # with a warm processor.
  batches = []
  for pair in zip(
    inference.stream(plain), inference.stream(other), strict=True
  ):
    batches.append(pair)
    cli.check_interrupt()
  sides = list(zip(*batches, strict=True))
  return (
    [[a for one in side for a in one.answers] for side in sides],
    [sum(one.seconds for one in side) for side in sides],
  )


def _about_identity(job: batching.Job) -> str:
  rule = job.assembled.rule
  if rule.keeps_target_sample:
    return ''
  if not job.assembled.is_exact:
    return f' ({rule.name} is lossy: they need not be the same)'
  return (
    f' ({rule.name} draws with noise of its own: the same law, other tokens)'
  )
