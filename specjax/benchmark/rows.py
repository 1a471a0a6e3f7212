"""Rows of results, computed from timings and counts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from specjax import theory
from specjax.benchmark import check as check_lib
from specjax.benchmark import cost_model
from specjax.benchmark.cases import Case
from specjax.benchmark.measure import Measured
from specjax.benchmark.parts import Parts
from specjax.decoding import stats
from specjax.inference import decode_batch


class Counted(NamedTuple):
  """Counts of a case.

  Attributes:
    timed: counts of all rows that were timed, also of those that filled up the
      last batch.
    every: counts of every prompt once, also of prompts whose plain answer loops
      and which are not timed.
  """

  timed: stats.Counts
  every: stats.Counts


def counts_of(
  case: Case, generations: Sequence, batches: Sequence = ()
) -> stats.Counts:
  """Drafted, accepted and emitted tokens of a case.

  Args:
    case: case that decoded.
    generations: its `Generation`s.
    batches: batches of these, to count every prompt once; () counts all rows.
  """
  counts, seen = [], set()
  for index, g in enumerate(generations):
    for row in range(len(g.num_tokens)):
      number = batches[index].rows[row] if batches else (index, row)
      if number in seen:
        continue
      seen.add(number)
      counts.append(
        stats.count_row(
          g.rounds.drafted[row],
          g.rounds.accepted[row],
          g.rounds.emitted[row],
          int(g.num_tokens[row]),
          case.recipe.drafter.max_path,
          tokens=decode_batch.new_tokens(g, row),
          exempt=case.exempt,
        )
      )
  return stats.add(counts)


def counted(case: Case, measured: Measured, batches: Sequence) -> Counted:
  """Counts of a measured case; `batches` are all its batches, timed or not."""
  return Counted(
    counts_of(case, measured.results),
    counts_of(case, measured.every, batches),
  )


def tokens_by_batch(measured: Measured) -> np.ndarray:
  """New tokens of each batch, int [batches]."""
  return np.array(
    [
      sum(map(len, check_lib.rows_of_tokens(result)))
      for result in measured.results
    ]
  )


def samples(prompts: Sequence, batches: Sequence) -> np.ndarray:
  """Number of the sample that each batch belongs to, int [batches].

  A batch is a sample, but at batch 1 the turns of a chat are one together, as
  Spec-Bench's script sums them.
  """
  # Batches of questions 7, 7, 8 and none: samples [0, 0, 1, 2].
  keys = []
  for index, batch in enumerate(batches):
    question = prompts[batch.rows[0]].question
    alone = len(batch.rows) > 1 or question is None
    keys.append(('batch', index) if alone else ('question', question))
  order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
  return np.array([order[key] for key in keys])


def speed(
  measured: Measured, plain: Measured, sample_of: np.ndarray
) -> dict[str, Any]:
  """Timings of any engine, and its gain over our plain decoding.

  `speedup` compares total tokens over total time. `speedup_spec_bench` compares
  means of the samples' own tokens a second, as Spec-Bench's script does, and
  `speedup_mean_of_ratios` is the mean of the samples' speed-ups.

  Args:
    measured: timings of the engine.
    plain: timings of plain decoding.
    sample_of: number of each batch's sample, from `samples`.
  """
  # Two samples of 100 tokens, plain in 1 s and 4 s, ours in 0.5 s and 4 s: the
  # total gains 5 / 4.5 = 1.11, the mean of rates 225 / 125 = 1.8, and the mean
  # of ratios is 1.5. One figure would hide which prompts gain.
  tokens, seconds = tokens_by_batch(measured), measured.seconds
  total = seconds[:, 0]
  base_tokens, base_total = tokens_by_batch(plain), plain.seconds[:, 0]
  # sample_of [0 0 1], tokens [4 6 5], seconds [1 1 1]: rates [5 5]
  rate = np.bincount(sample_of, tokens) / np.bincount(sample_of, total)
  base_rate = np.bincount(sample_of, base_tokens) / np.bincount(
    sample_of, base_total
  )
  return {
    'num_tokens': int(tokens.sum()),
    'seconds': float(total.sum()),
    'prefill_seconds': _or_none(seconds[:, 1].sum()),
    'decode_seconds': _or_none(seconds[:, 2].sum()),
    'compile_seconds': measured.engine.compile_seconds,
    'tokens_per_second': float(tokens.sum() / total.sum()),
    'ms_per_token': float(1e3 * total.sum() / max(tokens.sum(), 1)),
    'speedup': float(
      (tokens.sum() / total.sum()) / (base_tokens.sum() / base_total.sum())
    ),
    'speedup_spec_bench': float(rate.mean() / base_rate.mean()),
    'speedup_mean_of_ratios': float(np.mean(rate / base_rate)),
    'num_repetitions': len(measured.timings),
    'repetition_seconds': [
      float(x) for x in measured.timings[:, :, 0].sum(axis=1)
    ],
    'peak_memory_bytes': measured.peak.bytes,
    'peak_memory_kind': measured.peak.kind,
    'program_bytes': measured.engine.program_bytes,
    'program_total_bytes': measured.engine.total_bytes,
  }


def _or_none(value) -> float | None:
  return float(value) or None


def drafting(
  counts: stats.Counts, every: stats.Counts | None = None
) -> dict[str, Any]:
  """Fields of a row on drafts: counts and rates of acceptance.

  Args:
    counts: counts of the rows that were timed.
    every: counts of every prompt, which the rates of acceptance and the share
      of loops are taken from; None takes `counts`.
  """
  found = counts.as_dict()
  rates = (every or counts).as_dict()
  return found | {name: rates[name] for name in _OF_EVERY_PROMPT}


_OF_EVERY_PROMPT = (
  'acceptance_rate acceptance_rate_with_loops acceptance_by_position loop_share'
).split()


def _rounds_of(measured: Measured) -> int:
  """Rounds that ran, over all batches (a batch's rows share a round)."""
  return sum(int(g.num_rounds) for g in measured.results)


def busy(measured: Measured, counts: stats.Counts, batch_size: int) -> float:
  """Share of the rows that ran, of all rows of a batch in all rounds."""
  # Rows of 3, 3, 2 and 1 rounds in two batches of 2: 9 of 2 x 3 + 2 x 2.
  return counts.num_target_calls / max(_rounds_of(measured) * batch_size, 1)


def time_of_parts(measured: Measured, parts: Parts | None) -> dict[str, Any]:
  """Fields of a row on the parts of a round's time.

  `loop_efficiency` is the parts' time over the round's.
  """
  rounds = max(_rounds_of(measured), 1)
  decoding = _or_none(measured.seconds[:, 2].sum())
  round_ms = decoding and 1e3 * decoding / rounds
  found = {'num_rounds': rounds, 'round_ms': round_ms}
  if parts is None:
    return found
  return found | {
    'step_ms': parts.step,
    'draft_ms': parts.draft,
    'block_ms': parts.block,
    # What the loop itself costs: verification, emission, commit and launches.
    'overhead_ms': round_ms - parts.draft - parts.block,
    'loop_efficiency': (parts.draft + parts.block) / round_ms,
    'block_ms_by_width': {str(k): v for k, v in parts.by_width.items()},
  }


def acceptance(
  case: Case, counts: stats.Counts, *, by_slot: bool = False
) -> cost_model.Acceptance:
  """Acceptance of a case's drafts before loops, by slot or the mean rate."""
  found = counts.without_loops
  mean = counts.acceptance_rate or 0.0
  rates = counts.acceptance_by_position if by_slot else [mean]
  return cost_model.Acceptance(
    # A slot that was never tested takes the mean.
    [mean if rate is None else rate for rate in rates],
    found.num_draft_rounds / max(found.num_target_calls, 1),
    len(case.recipe.widths) > 1,
  )


def prediction(
  case: Case,
  measured: Measured,
  plain: Measured,
  counts: Counted,
  parts: Parts | None,
  max_draft: int,
) -> dict[str, Any]:
  """Predicted speed of a speculative case; {} where parts are not timed.

  `predicted_speedup_theorem` is Leviathan's theorem 3.8 with the measured
  acceptance rate; `predicted_speedup` divides by what the rounds' blocks really
  cost as well, and counts the rounds without a draft;
  `predicted_speedup_from_counts` takes the measured tokens a round in place of
  the formula's, so that it differs from the measured speed-up by the loop's own
  costs alone. The best K is looked for up to `max_draft`.
  """
  timed, alpha = counts.timed, counts.every.acceptance_rate
  if parts is None or not case.drafts or alpha is None:
    return {}
  k, accepted = case.num_draft, acceptance(case, counts.every)
  expected = cost_model.Round(
    accepted.tokens(k), parts.block / parts.step, parts.draft / parts.step
  )
  # Rows of a batch share a round, so tokens a round of the batch count here.
  rounds = max(_rounds_of(measured), 1)
  counted = expected._replace(
    tokens=timed.num_tokens / rounds / case.batch_size
  )
  gain = (
    float(plain.seconds[:, 2].sum())
    / float(measured.seconds[:, 2].sum())
    * timed.num_tokens
    / max(tokens_by_batch(plain).sum(), 1)
  )
  found = {
    'cost_ratio': expected.draft / k,
    'block_cost': expected.block,
    'drafting_share': accepted.share,
    'predicted_speedup_theorem': theory.walltime_factor(
      alpha, k, expected.draft / k
    ),
    'predicted_speedup': expected.speedup,
    'predicted_speedup_from_counts': counted.speedup,
    'decode_speedup': gain,
    'measured_over_predicted': gain / expected.speedup,
  }
  if case.tree:
    return found
  most = max(max_draft, k)
  # Where drafting gained, plain decoding is not called better.
  return found | advice(case, accepted, parts, most, or_plain=gain < 1)


def advice(
  case: Case,
  accepted: cost_model.Acceptance,
  parts: Parts,
  most: int,
  *,
  or_plain: bool = True,
) -> dict[str, Any]:
  """The best K of a chain by these parts' times, and K's arithmetic.

  Args:
    case: speculative case that was measured.
    accepted: acceptance of its drafts.
    parts: times of a round's parts.
    most: longest draft considered.
    or_plain: whether 0, plain decoding, is considered too.
  """
  drafts = cost_model.draft_times(
    parts.draft, case.num_draft, case.passes in (None, 1)
  )
  best, gain = cost_model.best(
    cost_model.in_steps(parts.step, parts.by_width, drafts),
    accepted,
    most,
    case.batch_size,
    or_plain=or_plain,
  )
  found = {'best_num_draft': best, 'best_predicted_speedup': gain.speedup}
  if parts.operations is not None:
    found['operations_factor'] = theory.operations_factor(
      accepted.rates[0], case.num_draft, parts.operations
    )
  return found


def by_category(
  prompts: Sequence,
  batches: Sequence,
  measured: Measured,
  plain: Measured,
  case: Case,
) -> dict[str, dict]:
  """Gain and tokens a round for each category; empty if there are none."""
  # A batch with rows of several categories is divided by their share: of a
  # batch of 4 rows in 2 s, 3 of them 'math', 1.5 s are those of 'math'.
  names = sorted({p.category for p in prompts if p.category})
  all_tokens, all_base = tokens_by_batch(measured), tokens_by_batch(plain)
  found = {}
  for name in names:
    ours = base = tokens = base_tokens = 0.0
    generations = []
    for index, batch in enumerate(batches):
      share = np.mean([prompts[i].category == name for i in batch.rows])
      if not share:
        continue
      ours += share * measured.seconds[index, 0]
      base += share * plain.seconds[index, 0]
      tokens += share * all_tokens[index]
      base_tokens += share * all_base[index]
      generations.append(measured.results[index])
    if not ours:
      continue
    found[name] = {
      'tokens_per_second': tokens / ours,
      'speedup': (tokens / ours) / (base_tokens / base),
    }
    if case is not None:
      counts = counts_of(case, generations)
      found[name]['block_efficiency'] = counts.block_efficiency
      found[name]['acceptance_rate'] = counts.acceptance_rate
  return found


def verdict(outcome: check_lib.CheckResult | None) -> dict[str, Any]:
  """A check as fields of a row."""
  if outcome is None:
    return {'check': None, 'check_note': ''}
  return {'check': outcome.verdict, 'check_note': outcome.note}
