"""Chi-square tests of counted continuations, and their power.

Every beginning of the continuations is tested, shortest first, so that a
failure names the smallest one. Bonferroni's correction covers all lengths.

"""

from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy import stats

# Cells expected less often than this are counted together (Cochran's rule).
SMALLEST_EXPECTED = 5.0


class CellDifference(NamedTuple):
  """The smallest disagreement found.

  Attributes:
    tokens: ids of the continuation's beginning.
    expected: exact probability of that beginning.
    observed: relative frequency of that beginning.
    p_value: p-value of the test that failed, after correction.
  """

  tokens: tuple[int, ...]
  expected: float
  observed: float
  p_value: float


def compare(
  probability: dict, longest: int, counts: dict, false_alarm: float
) -> tuple[float, CellDifference | None]:
  """Tests the counts of every beginning, shortest first.

  Args:
    probability: law, {continuation: exact probability}.
    longest: number of tokens of the longest continuation.
    counts: draws, {continuation: count}.
    false_alarm: chance that an exact method fails any test of this law.

  Returns:
    (smallest corrected p-value, `CellDifference` of the shortest beginning that
    fails, or None).
  """
  smallest, found = 1.0, None
  for length in range(1, longest + 1):
    expected = _beginnings(probability, length)
    observed = _beginnings(counts, length)
    p_value, worst = _chi_square(expected, observed)
    p_value = min(1.0, p_value * longest)
    smallest = min(smallest, p_value)
    if p_value < false_alarm and found is None:
      total = sum(observed.values())
      found = CellDifference(
        worst, expected.get(worst, 0.0), observed.get(worst, 0) / total, p_value
      )
  return smallest, found


def _beginnings(weights: dict, length: int) -> dict:
  """Adds up weights of texts with the same first `length` tokens.

  In:  {(5, 5): 3, (5, 9): 4, (9,): 2}, 1
  Out: {(5,): 7, (9,): 2}
  """
  short = {}
  for text, weight in weights.items():
    short[text[:length]] = short.get(text[:length], 0) + weight
  return short


def _chi_square(expected: dict, observed: dict):
  """(p-value, the cell that deviates most)."""
  total = sum(observed.values())
  # One draw of a text that cannot occur is proof; no statistic is needed.
  impossible = [t for t in observed if expected.get(t, 0.0) <= 0.0]
  if impossible:
    return 0.0, max(impossible, key=lambda t: observed[t])
  # The statistic, the sum of (seen - expected)^2 / expected over cells, has the
  # chi-square law only where no expected count is small: a text expected 0.1
  # times and seen once would add 8.1 by itself. Rare cells are therefore
  # merged. With 1,000 draws:
  #
  #   text    probability  expected  seen
  #   (5, 5)        0.600       600   612    12^2 / 600 = 0.24
  #   (5, 9)        0.394       394   380    14^2 / 394 = 0.50
  #   (9, 5)        0.004         4     5
  #   (9, 9)        0.002         2     3
  #   merged        0.006         6     8      2^2 / 6  = 0.67
  #
  # Three cells, so 2 degrees of freedom; the statistic is 1.41 and p = 0.50.
  rare_expected = rare_observed = statistic = 0.0
  cells, worst, deviation = 0, (), -1.0
  for text, probability in expected.items():
    wanted, seen = total * probability, observed.get(text, 0)
    if wanted < SMALLEST_EXPECTED:
      rare_expected += wanted
      rare_observed += seen
      continue
    part = (seen - wanted) ** 2 / wanted
    statistic += part
    cells += 1
    if part > deviation:
      worst, deviation = text, part
  # Expected less than once, even all rare cells together show nothing.
  if rare_expected >= 1.0:
    part = (rare_observed - rare_expected) ** 2 / rare_expected
    statistic += part
    cells += 1
    if part > deviation:
      worst = max(
        (t for t in observed if total * expected[t] < SMALLEST_EXPECTED),
        key=lambda t: observed[t] - total * expected[t],
        default=worst,
      )
  if cells < 2:
    return 1.0, worst
  return float(stats.chi2.sf(statistic, cells - 1)), worst


def detectable(
  probability: dict, longest: int, length: int, samples: int, false_alarm: float
) -> float:
  """A total variation distance that is flagged nine times out of ten.

  A deviation e of the probabilities p gives the statistic a noncentrality of
  samples * sum(e^2 / p), which is at least samples * (sum |e|)^2 by Cauchy and
  Schwarz, that is samples * (2 d)^2 at distance d. With 8,192 samples, 3
  degrees of freedom and a corrected false alarm of 1e-4, a noncentrality of
  32.3 is needed, so d is 0.031.
  """
  cells = sum(
    samples * p >= SMALLEST_EXPECTED
    for p in _beginnings(probability, length).values()
  )
  freedom = max(cells - 1, 1)
  limit = stats.chi2.isf(false_alarm / longest, freedom)
  needed = optimize.brentq(
    lambda x: stats.ncx2.sf(limit, freedom, x) - 0.9, 1e-3, 1e5
  )
  return float(np.sqrt(needed / samples) / 2)
