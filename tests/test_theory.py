"""Closed forms against published tables, definitions and simulation."""

import numpy as np
import pytest

from specjax import theory

BEST = {
  0.4: [(4, 1.59), (3, 1.53), (2, 1.42), (2, 1.30), (1, 1.17), (1, 1.08)],
  0.5: [(5, 1.88), (4, 1.79), (3, 1.63), (2, 1.46), (1, 1.25), (1, 1.15)],
  0.6: [(7, 2.30), (6, 2.17), (4, 1.92), (3, 1.67), (2, 1.40), (1, 1.23)],
  0.7: [(9, 2.97), (8, 2.76), (6, 2.35), (4, 1.98), (3, 1.58), (2, 1.37)],
  0.8: [(14, 4.23), (11, 3.82), (8, 3.09), (6, 2.47), (4, 1.87), (3, 1.55)],
  0.9: [(24, 7.49), (19, 6.37), (13, 4.67), (10, 3.43), (7, 2.37), (5, 1.87)],
}
COSTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


@pytest.mark.parametrize('alpha', sorted(BEST))
def test_best_gamma(alpha):
  for c, (gamma, factor) in zip(COSTS, BEST[alpha], strict=True):
    best = theory.best_gamma(alpha, c, 40)
    assert best.gamma == gamma
    assert best.factor == pytest.approx(factor, abs=0.00501)
    assert best.factor >= (1 + alpha) / (1 + c) - 1e-12


@pytest.mark.parametrize(
  'alpha, gamma, operations, speed',
  [
    (0.6, 2, 1.53, 1.96),
    (0.7, 3, 1.58, 2.53),
    (0.8, 2, 1.23, 2.44),
    (0.8, 5, 1.63, 3.69),
    (0.9, 2, 1.11, 2.71),
    (0.9, 10, 1.60, 6.86),
  ],
)
def test_operations_and_speed_of_a_free_drafter(
  alpha, gamma, operations, speed
):
  assert theory.operations_factor(alpha, gamma, 0.0) == pytest.approx(
    operations, abs=0.00501
  )
  assert theory.walltime_factor(alpha, gamma, 0.0) == pytest.approx(
    speed, abs=0.00501
  )


@pytest.mark.parametrize(
  'gamma, alpha, c, factor',
  [
    (7, 0.75, 0.02, 3.16),
    (7, 0.80, 0.04, 3.25),
    (7, 0.82, 0.11, 2.50),
    (7, 0.62, 0.02, 2.26),
    (5, 0.68, 0.04, 2.35),
    (3, 0.71, 0.11, 1.93),
    (5, 0.65, 0.02, 2.40),
    (5, 0.73, 0.04, 2.62),
    (3, 0.74, 0.11, 2.02),
    (5, 0.53, 0.02, 1.89),
    (3, 0.55, 0.04, 1.80),
    (3, 0.56, 0.11, 1.54),
  ],
)
def test_predictions_of_the_t5_pairs(gamma, alpha, c, factor):
  got = theory.walltime_factor(alpha, gamma, c)
  assert got == pytest.approx(factor, abs=0.00501)


def test_expected_tokens():
  assert theory.expected_tokens(0.75, 7) == pytest.approx(3.5995, abs=1e-4)
  assert theory.accepted_over_drafted(0.75, 7) == pytest.approx(
    0.3714, abs=1e-4
  )
  assert theory.expected_tokens(1.0, 5) == 6
  assert theory.expected_tokens(0.0, 5) == 1
  assert theory.expected_tokens(0.3, 0) == 1
  near_one = theory.expected_tokens(1 - 1e-12, 9)
  assert near_one == pytest.approx(10, abs=1e-9)
  assert theory.expected_tokens_by_position([0.6] * 4) == pytest.approx(
    theory.expected_tokens(0.6, 4)
  )
  assert theory.expected_tokens_by_position([]) == 1


def test_expected_tokens_is_the_mean_of_a_simulation():
  rng = np.random.default_rng(0)
  accepted = np.cumprod(rng.random((200_000, 6)) < 0.7, axis=1).sum(axis=1)
  error = accepted.std() / len(accepted) ** 0.5
  assert abs(1 + accepted.mean() - theory.expected_tokens(0.7, 6)) < 4 * error


def test_block_cost():
  table = [1.0, 1.1, 1.2, 1.5, 3.0, 9.0]
  for gamma in range(6):
    want = theory.expected_tokens(0.8, gamma) / (table[gamma] + 0.1 * gamma)
    for cost in (table, np.array(table), lambda g: table[g]):
      got = theory.walltime_factor(0.8, gamma, 0.1, cost)
      assert got == pytest.approx(want)
  assert theory.best_gamma(0.8, 0.1, 5, table).gamma == 2
  assert theory.best_gamma(0.8, 0.1, 5).gamma == 5
  assert theory.walltime_factor(0.8, 3, 0.1, 2.0) == pytest.approx(
    theory.expected_tokens(0.8, 3) / 2.3
  )
  # A draft as dear as the target only loses: plain decoding is best.
  assert theory.best_gamma(0.6, 1.0, 8) == (0, 1.0)
  assert theory.best_gamma(0.9, 0.1, 0) == (0, 1.0)


def test_one_pass():
  assert theory.one_pass_factor(0.7, 5, 0.2) == pytest.approx(
    theory.expected_tokens(0.7, 5) / 1.2
  )
  assert theory.one_pass_factor(0.7, 1, 0.2) == theory.walltime_factor(
    0.7, 1, 0.2
  )
  assert theory.one_pass_factor(0.7, 0, 0.2) == 1
  best = theory.best_gamma(0.7, 0.2, 30, lambda g: 1 + 0.05 * g, one_pass=True)
  factors = [
    theory.one_pass_factor(0.7, g, 0.2, 1 + 0.05 * g) for g in range(1, 31)
  ]
  assert best.gamma == 1 + int(np.argmax(factors))


def test_divergence_and_acceptance():
  p, q = np.array([0.5, 0.3, 0.15, 0.05]), np.full(4, 0.25)
  assert theory.acceptance(p, q) == pytest.approx(0.70)
  assert theory.divergence(p, q) == pytest.approx(0.30)
  rng = np.random.default_rng(1)
  p, q = rng.dirichlet(np.full(9, 0.5), 50), rng.dirichlet(np.full(9, 0.5), 50)
  distance = theory.divergence(p, q)
  np.testing.assert_allclose(theory.acceptance(p, q), 1 - distance)
  np.testing.assert_allclose(theory.divergence(q, p), distance)
  np.testing.assert_allclose(theory.divergence(p, p), 0)
  assert theory.divergence([1, 0], [0, 1]) == 1
  coupled = theory.coupled_acceptance(p, q)
  assert np.all(coupled >= (1 - distance) / (1 + distance) - 1e-12)
  assert np.all(coupled <= 1 - distance + 1e-12)
  np.testing.assert_allclose(theory.coupled_acceptance(p, p), 1)
  point = np.eye(9)[rng.integers(0, 9, 50)]
  np.testing.assert_allclose(
    theory.match_acceptance(p, point), theory.acceptance(p, point)
  )


def test_coupled_acceptance_is_its_formula():
  rng = np.random.default_rng(3)
  for _ in range(20):
    p, q = rng.dirichlet(np.full(7, 0.5)), rng.dirichlet(np.full(7, 0.5))
    p[rng.integers(7)] = 0
    q[rng.integers(7)] = 0
    want = sum(
      1 / sum(max(p[y] / p[x], q[y] / q[x]) for y in range(7))
      for x in range(7)
      if p[x] > 0 and q[x] > 0
    )
    assert theory.coupled_acceptance(p, q) == pytest.approx(want)


def test_coupled_acceptance_is_the_mean_of_a_simulation():
  p, q = np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.2, 0.5, 0.0, 0.3])
  noise = np.random.default_rng(2).exponential(size=(400_000, 4))
  with np.errstate(divide='ignore'):
    same = np.argmin(noise / p, axis=1) == np.argmin(noise / q, axis=1)
  want = theory.coupled_acceptance(p, q)
  error = (want * (1 - want) / len(same)) ** 0.5
  assert abs(same.mean() - want) < 4 * error


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: theory.expected_tokens(1.2, 3), 'alpha'),
    (lambda: theory.expected_tokens(float('nan'), 3), 'alpha'),
    (lambda: theory.expected_tokens(0.5, -1), 'gamma'),
    (lambda: theory.expected_tokens(0.5, 1.5), 'gamma'),
    (lambda: theory.expected_tokens(0.5, float('inf')), 'gamma'),
    (lambda: theory.expected_tokens_by_position([0.5, 1.5]), 'alpha'),
    (lambda: theory.walltime_factor(0.5, 2, -0.1), 'c is a ratio'),
    (lambda: theory.walltime_factor(0.5, 2, 0.1, [1.0]), 'block_cost'),
    (lambda: theory.walltime_factor(0.5, 2, 0.1, 0.0), 'block cost'),
    (lambda: theory.accepted_over_drafted(0.5, 0), 'draft tokens'),
  ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()
