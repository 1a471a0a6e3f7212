"""Checks the tokens of every case against those of plain decoding.

At temperature 0 an exact rule gives the tokens of plain decoding; so do
`coupled` and `match` at any temperature, with the same seed. The other rules
are exact in law only. There the same drafter is run under a rule of the former
kind, which checks the caches, the rollback and the counting: they are the same
code.

In float32 every differing token is an error. Where the target's path promises
no equal tokens (`inference.paths`: bfloat16 and eight bits), blocks of another
width may round a near tie the other way. A first difference counts as such if
plain decoding's logits of the two tokens are closer than the gap that is
measured between the block widths of this run (`inference.bits`).
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import numpy as np

from specjax.benchmark import near_ties
from specjax.benchmark.cases import Case
from specjax.benchmark.cases import PromptBatch
from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.inference import decode_batch
from specjax.inference import paths

OK, FAILED, INCONCLUSIVE, LOSSY = 'ok', 'FAILED', 'INCONCLUSIVE', 'lossy'
# Verdict on another engine, whose rounding and rules are its own.
DIFFERS = 'differs'
# Differences of two scores below which another engine's rounding may decide.
# bfloat16 has 8 significant bits, so scores from 8 to 16 are multiples of
# 0.0625. Rounding of activations makes w8a8 as coarse.
TOLERANCE = {'float32': 1e-3, 'bfloat16': 0.06, 'w8a8': 0.06}


class CheckResult(NamedTuple):
  """A verdict on a row.

  Attributes:
    verdict: 'ok', 'FAILED', 'INCONCLUSIVE' (nothing was drafted), 'lossy' (the
      rule changes the target's law, so no token must be equal) or, for another
      engine, 'differs'.
    note: reason, for a reader.
    equal: number of rows equal to plain decoding.
    near_ties: number of rows equal up to a near tie; 0 in float32.
    rows: number of all rows.
  """

  verdict: str
  note: str
  equal: int = 0
  near_ties: int = 0
  rows: int = 0


def rows_of_tokens(result: Any) -> list[list[int]]:
  """New tokens of every row of a `Generation`, or of a peer's answer."""
  if isinstance(result, dict):
    return result['tokens']
  return [
    decode_batch.new_tokens(result, row)
    for row in range(len(result.num_tokens))
  ]


def judged_alike(case: Case) -> bool:
  """Whether the case's own tokens must be those of plain decoding."""
  if not case.recipe.warp.sampled:
    return True
  return case.assembled.rule.keeps_target_sample


def twin_verifier(case: Case) -> str:
  """The rule under which a case exact in law alone is checked."""
  # A drafter that draws can share the target's noise.
  return 'coupled' if case.assembled.plan.has_log_probs else 'match'


def void(ours: Sequence) -> CheckResult | None:
  """The verdict on generations that cannot be compared; None if they can.

  Raises:
    ValueError: a drafter or rule of the user's own broke its contract.
  """
  for generation in ours:
    contract.refuse(generation.faults)
  if any(np.any(g.status == generate_lib.NAN) for g in ours):
    return CheckResult(FAILED, 'the logits of some row are not finite')
  if not sum(int(g.rounds.drafted.sum()) for g in ours):
    return CheckResult(INCONCLUSIVE, 'nothing was drafted')
  return None


def check(
  case: Case,
  batches: Sequence[PromptBatch],
  plain: Sequence,
  ours: Sequence,
  config: Any,
  *,
  as_exact: bool = False,
) -> CheckResult:
  """Compares a case's generations with those of plain decoding.

  Args:
    case: case whose rule gives equal tokens, or is lossy.
    batches: prompts, in batches.
    plain: `Generation` of numpy arrays for each batch, by plain decoding.
    ours: `Generation` of numpy arrays for each batch, by the case.
    config: `BenchmarkConfig` or `CertifyConfig`.
    as_exact: whether a lossy rule is judged as if it were exact.

  Returns:
    `CheckResult`.
  """
  nothing = void(ours)
  if nothing:
    return nothing
  pairs, unequal = _pairs(plain, map(rows_of_tokens, ours))
  equal = len(pairs) - len(unequal)
  if not (case.exact or as_exact):
    note = f'{equal} of {len(pairs)} rows as in plain decoding'
    return CheckResult(LOSSY, note, equal, 0, len(pairs))
  # Only Gumbel sampling has a score of each token that could nearly tie: logit
  # plus noise. Inverse-CDF sampling compares one number with cumulated shares.
  judged = config.sampler == 'gumbel' or not case.recipe.warp.sampled
  excused = judged and not promises_tokens(case)

  @functools.cache
  def gap_of(index):
    return near_ties.gap_between_widths(case, batches[index], plain[index])

  wrong = [
    pair
    for pair in unequal
    if not (excused and _near_tie(case, batches, plain, pair, gap_of(pair[0])))
  ]
  ties = len(unequal) - len(wrong)
  if wrong:
    return CheckResult(
      FAILED, _describe(batches, wrong), equal, ties, len(pairs)
    )
  note = ''
  if ties:
    note = (
      f'{ties} of {len(pairs)} rows part at a near tie: two logits closer than '
      f'{max(gap_of(pair[0]) for pair in unequal):.2g}, which other block '
      f'widths may turn round in {paths.precision_of(case.params.target)}'
    )
  return CheckResult(OK, note, equal, ties, len(pairs))


def promises_tokens(case: Case) -> bool:
  """Whether the target's tokens depend on no block width."""
  return paths.precision_of(case.params.target) in paths.XLA.equal_tokens


def beside(
  case: Case,
  batches: Sequence[PromptBatch],
  plain: Sequence,
  theirs: Sequence[Sequence[Sequence[int]]],
  config: Any,
) -> CheckResult:
  """Compares another engine's greedy tokens with our plain decoding's.

  Args:
    case: plain decoding of ours.
    batches: prompts, in batches.
    plain: `Generation` of numpy arrays for each batch, by our plain decoding.
    theirs: new tokens of each row of each batch, by the other engine.
    config: `BenchmarkConfig`.

  Returns:
    `CheckResult`: 'ok' if all rows are equal or part at a near tie, else
    'differs'.
  """
  pairs, unequal = _pairs(plain, theirs)
  wrong = [
    pair
    for pair in unequal
    if not _near_tie(case, batches, plain, pair, TOLERANCE[config.dtype])
  ]
  equal, ties = len(pairs) - len(unequal), len(unequal) - len(wrong)
  note = f'identical tokens: {equal} of {len(pairs)}'
  if ties:
    note += f'; {ties} part at a near tie'
  if wrong:
    note += '; ' + _describe(batches, wrong)
  return CheckResult(DIFFERS if wrong else OK, note, equal, ties, len(pairs))


def _pairs(plain: Sequence, theirs) -> tuple[list, list]:
  """(batch, row, plain tokens, their tokens) of all rows, and of unequal ones.

  Args:
    plain: `Generation` of each batch.
    theirs: new tokens of each row of each batch.
  """
  # plain [batch][row] [[[5, 9], [4, 4]]], theirs [[[5, 9], [4, 7]]]: the
  # unequal pairs are [(0, 1, [4, 4], [4, 7])].
  pairs = [
    (index, row, expected, list(got))
    for index, (left, right) in enumerate(zip(plain, theirs, strict=True))
    for row, (expected, got) in enumerate(
      zip(rows_of_tokens(left), right, strict=True)
    )
  ]
  return pairs, [pair for pair in pairs if pair[2] != pair[3]]


def _near_tie(case, batches, plain, pair, limit: float) -> bool:
  """Whether plain decoding hardly preferred its token where two rows part."""
  index, row, expected, got = pair
  at = first_difference(expected, got)
  # One row merely ended earlier.
  if at >= min(len(expected), len(got)):
    return False
  found = near_ties.distance(
    case, batches[index], plain[index], row, at, got[at]
  )
  return found < limit


def _describe(batches, wrong) -> str:
  index, row, expected, got = wrong[0]
  at = first_difference(expected, got)
  prompt = batches[index].rows[row] + 1
  return (
    f'{len(wrong)} rows differ from plain decoding; prompt {prompt} at new '
    f'token {at}: {got[at : at + 3]} for {expected[at : at + 3]}'
  )


def first_difference(left: Sequence[int], right: Sequence[int]) -> int:
  """Index of the first token at which two rows part."""
  for index, (a, b) in enumerate(zip(left, right, strict=False)):
    if a != b:
      return index
  return min(len(left), len(right))
