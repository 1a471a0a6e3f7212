"""The test of a law: false alarms, power and impossible tokens."""

import numpy as np

from specjax.certify import chi_square


def test_chi_square_keeps_its_false_alarm_rate():
  rng = np.random.default_rng(0)
  cells = [(a, b) for a in range(3) for b in range(3)]
  law = dict(zip(cells, rng.dirichlet(np.ones(9)), strict=True))
  alarms = 0
  for _ in range(400):
    counts = rng.multinomial(2000, list(law.values()))
    seen = {cell: int(n) for cell, n in zip(cells, counts, strict=True) if n}
    alarms += chi_square.compare(law, 2, seen, 0.05)[1] is not None
  assert alarms <= 400 * 0.05 + 4 * np.sqrt(400 * 0.05 * 0.95)


def test_the_stated_power_holds():
  """A law off by the stated distance is flagged nine times out of ten."""
  law = {(0,): 0.5, (1,): 0.5}
  distance = chi_square.detectable(law, 1, 1, 2000, 1e-3)
  rng = np.random.default_rng(1)
  flagged = 0
  for _ in range(300):
    zeros = rng.binomial(2000, 0.5 + distance)
    counts = {(0,): int(zeros), (1,): int(2000 - zeros)}
    flagged += chi_square.compare(law, 1, counts, 1e-3)[1] is not None
  assert flagged / 300 > 0.83


def test_an_impossible_token_is_the_counter_example():
  law = {(0,): 1.0, (1,): 0.0}
  p_value, difference = chi_square.compare(law, 1, {(0,): 99, (1,): 1}, 1e-3)
  assert p_value == 0
  assert difference.tokens == (1,) and difference.expected == 0
