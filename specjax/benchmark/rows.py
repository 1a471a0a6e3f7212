"""From timings to a row of results."""

from typing import Any, Optional, Sequence

import numpy as np

from specjax import theory
from specjax.benchmark import break_even
from specjax.benchmark import check as check_lib
from specjax.benchmark.cases import Case
from specjax.benchmark.measure import Measured
from specjax.benchmark.parts import Parts
from specjax.decoding import stats


def counts_of(case: Case, generations: Sequence) -> stats.Counts:
  """What the case's rounds did, over all rows."""
  return stats.add(
    [
      stats.count_row(
        g.rounds.drafted[row],
        g.rounds.accepted[row],
        g.rounds.emitted[row],
        int(g.num_tokens[row]),
        case.recipe.drafter.max_path,
      )
      for g in generations
      for row in range(len(g.num_tokens))
    ]
  )


def tokens_by_batch(measured: Measured) -> np.ndarray:
  """New tokens of each batch, int [batches]."""
  return np.array(
    [
      sum(len(row) for row in result['tokens'])
      if isinstance(result, dict)
      else int(result.num_tokens.sum())
      for result in measured.results
    ]
  )


def samples(prompts, batches) -> np.ndarray:
  """Which sample each batch belongs to, int [batches].

  A batch is a sample, but at batch 1 the turns of a chat are one together, as
  Spec-Bench's script sums them.
  """
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
    measured: the engine's runs.
    plain: of plain decoding.
    sample_of: of `samples`.
  """
  tokens, seconds = tokens_by_batch(measured), measured.seconds
  total = seconds[:, 0]
  base_tokens, base_total = tokens_by_batch(plain), plain.seconds[:, 0]
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
    'ms_per_step': None,
    'speedup': float(
      (tokens.sum() / total.sum()) / (base_tokens.sum() / base_total.sum())
    ),
    'speedup_spec_bench': float(rate.mean() / base_rate.mean()),
    'speedup_mean_of_ratios': float(np.mean(rate / base_rate)),
    'repetition_seconds': [
      float(x) for x in measured.timings[:, :, 0].sum(axis=1)
    ],
    'peak_memory_bytes': measured.peak.bytes,
    'peak_memory_kind': measured.peak.kind,
    'program_bytes': measured.engine.program_bytes,
    'program_total_bytes': measured.engine.total_bytes,
  }


def _or_none(value) -> Optional[float]:
  return float(value) or None


def drafting(counts: stats.Counts) -> dict[str, Any]:
  """How well the drafts did."""
  return {
    'num_target_calls': counts.num_target_calls,
    'num_drafted': counts.num_drafted,
    'num_accepted': counts.num_accepted,
    'num_tested': counts.num_tested,
    'block_efficiency': counts.block_efficiency,
    'acceptance_rate': counts.acceptance_rate,
    'draft_acceptance_rate': counts.draft_acceptance_rate,
    'mean_acceptance_length': counts.mean_acceptance_length,
    'acceptance_by_position': counts.acceptance_by_position,
    'acceptance_histogram': list(counts.accepted_histogram),
  }


def rounds_of(measured: Measured) -> int:
  """Rounds that ran, over all batches (a batch's rows share a round)."""
  return sum(int(g.num_rounds) for g in measured.results)


def parts_and_prediction(
  case: Case,
  measured: Measured,
  plain: Measured,
  counts: stats.Counts,
  parts: Optional[Parts],
  max_draft: int,
) -> dict[str, Any]:
  """Where a round's time goes, and what theory expects of it.

  `predicted_theorem` is Leviathan's theorem 3.8 with the measured acceptance
  rate; `predicted` divides by what a block really costs as well, and counts
  the rounds without a draft;
  `predicted_from_counts` takes the measured tokens a round in place of the
  formula's, so that it differs from the measured speed-up by the loop's own
  costs alone. `loop_efficiency` is the parts' time over the round's. The best K
  is looked for up to `max_draft`.
  """
  rounds = max(rounds_of(measured), 1)
  round_ms = 1e3 * float(measured.seconds[:, 2].sum()) / rounds
  found = {'num_rounds': rounds, 'round_ms': round_ms}
  if parts is None:
    return found
  found |= {
    'step_ms': parts.step,
    'draft_ms': parts.draft,
    'verify_ms': parts.verify,
    'overhead_ms': round_ms - parts.draft - parts.verify,
    'loop_efficiency': (parts.draft + parts.verify) / round_ms,
    'verify_ms_by_width': {str(k): v for k, v in parts.by_width.items()},
  }
  if not case.drafts or counts.acceptance_rate is None:
    return found
  c = parts.draft / parts.step / case.num_draft
  v = parts.verify / parts.step
  alpha, k = counts.acceptance_rate, case.num_draft
  # Batch rows share a round, so tokens a round of the batch count here.
  emitted = counts.num_tokens / rounds / case.batch_size
  measured_gain = (
    float(plain.seconds[:, 2].sum()) / float(measured.seconds[:, 2].sum())
    * counts.num_tokens / max(tokens_by_batch(plain).sum(), 1)
  )  # fmt: skip
  share = counts.num_draft_rounds / max(counts.num_target_calls, 1)
  tokens = 1 + share * (theory.expected_tokens(alpha, k) - 1)
  predicted = tokens / (v + k * c)
  return (
    found
    | {
      'c': c,
      'verify_cost': v,
      'drafting_share': share,
      'predicted_theorem': theory.walltime_factor(alpha, k, c),
      'predicted': predicted,
      'predicted_from_counts': emitted / (v + k * c),
      'decode_speedup': measured_gain,
      'measured_over_predicted': measured_gain / predicted,
    }
    | ({} if case.tree else _advice(case, alpha, parts, max_draft))
  )


def _advice(case: Case, alpha: float, parts: Parts, max_draft: int) -> dict:
  """The best K of a chain by these parts' times, and what K computes."""
  widths = sorted(parts.by_width)
  known = [parts.by_width[width] / parts.step for width in widths]

  def block_cost(gamma: int) -> float:
    width = gamma + 1
    if width <= widths[-1]:
      return float(np.interp(width, widths, known))
    # Beyond what was timed: the line through a token and the widest block,
    # which noise may have made the cheaper one.
    slope = max(known[-1] - 1, 0.0) / max(widths[-1] - 1, 1)
    return 1 + slope * (width - 1)

  draft = parts.draft / parts.step
  one_pass = break_even.passes(case).get('passes', 1) == 1
  best = theory.best_gamma(
    alpha,
    draft if one_pass else draft / case.num_draft,
    max(max_draft, case.num_draft),
    block_cost,
    one_pass=one_pass,
  )
  found = {'best_num_draft': best.gamma, 'best_predicted': best.factor}
  if parts.operations is not None:
    found['operations_factor'] = theory.operations_factor(
      alpha, case.num_draft, parts.operations
    )
  return found


def by_category(
  prompts, batches, measured: Measured, plain: Measured, case: Case
) -> dict[str, dict]:
  """Gain and tokens a round for each category; empty if there are none."""
  names = sorted({p.category for p in prompts if p.category})
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
      tokens += share * tokens_by_batch(measured)[index]
      base_tokens += share * tokens_by_batch(plain)[index]
      if not isinstance(measured.results[index], dict):
        generations.append(measured.results[index])
    if not ours:
      continue
    found[name] = {
      'tokens_per_second': tokens / ours,
      'speedup': (tokens / ours) / (base_tokens / base),
    }
    if case is not None and generations:
      counts = counts_of(case, generations)
      found[name]['block_efficiency'] = counts.block_efficiency
      found[name]['acceptance_rate'] = counts.acceptance_rate
  return found


def verdict(outcome: Optional[check_lib.Check]) -> dict[str, Any]:
  """A check as fields of a row."""
  if outcome is None:
    return {'check': None, 'check_note': ''}
  return {'check': outcome.verdict, 'check_note': outcome.note}
