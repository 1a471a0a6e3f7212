"""Expected gains of speculative decoding, in closed form.

Symbols: alpha, the mean probability that a draft token is accepted; gamma,
draft tokens a round; c, the time of one drafter step over that of one target
step with a single token. All formulas take the acceptances of a round as
independent and equally likely, which real models only roughly obey.

References:
  Leviathan, Kalman, Matias. Fast inference from Transformers via speculative
    decoding. ICML 2023. https://arxiv.org/abs/2211.17192
  Daliri, Musco, Suresh. Coupling without communication and drafter-invariant
    speculative decoding. 2024. https://arxiv.org/abs/2408.07978
  Xiao et al. ParallelSpec: parallel drafter for efficient speculative
    decoding. 2024. https://arxiv.org/abs/2410.05589
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Time of the target's pass over a block of gamma + 1 tokens over that of one
# token: a number for every gamma alike, a table indexed by gamma, a function of
# gamma, or None where the pass is as cheap as a single token's.
BlockCost = float | Sequence[float] | Callable[[int], float] | None


class Best(NamedTuple):
  """A draft length and what it gains; gamma 0 stands for plain decoding."""

  gamma: int
  factor: float


def _check(alpha: float, gamma: int) -> None:
  if not 0 <= alpha <= 1:
    raise ValueError(f'alpha is a probability in [0, 1], not {alpha}.')
  if gamma < 0 or not float(gamma).is_integer():
    raise ValueError(f'gamma is a whole number of at least 0, not {gamma}.')


def _check_ratio(name: str, value: float) -> None:
  if not value >= 0:
    raise ValueError(f'{name} is a ratio of at least 0, not {value}.')


def _block_cost(block_cost: BlockCost, gamma: int) -> float:
  if block_cost is None:
    return 1.0
  if callable(block_cost):
    cost = float(block_cost(gamma))
  elif np.ndim(block_cost) == 0:
    cost = float(block_cost)
  else:
    if gamma >= len(block_cost):
      raise ValueError(
        f'block_cost has {len(block_cost)} entries and none for '
        f'gamma = {gamma}; it is indexed by gamma from 0.'
      )
    cost = float(block_cost[gamma])
  # Written so that NaN is refused too.
  if not cost > 0:
    raise ValueError(f'A block cost must be positive, not {cost}.')
  return cost


def expected_tokens(alpha: float, gamma: int) -> float:
  """Mean tokens a target run yields, 1 + alpha + ... + alpha^gamma.

  Leviathan et al. 2023, equation 1: (1 - alpha^(gamma+1)) / (1 - alpha), the
  mean of a capped geometric variable, the target's own token included.

  Args:
    alpha: acceptance probability, in [0, 1].
    gamma: draft tokens a round, at least 0.

  Returns:
    Tokens a run, in [1, gamma + 1].

  Raises:
    ValueError: outside these ranges.
  """
  _check(alpha, gamma)
  # alpha .8, gamma 4: 1 + .8 + .64 + .512 + .41 = 3.36
  return float(np.sum(float(alpha) ** np.arange(gamma + 1)))


def expected_tokens_by_position(rates: Sequence[float]) -> float:
  """Mean tokens a run yields when slot i is accepted with its own rate.

  Args:
    rates: probability of each draft slot to be accepted, given that all slots
      before it were.

  Returns:
    1 + r_1 + r_1 r_2 + ...; equal rates give `expected_tokens`.

  Raises:
    ValueError: a rate is no probability.
  """
  for rate in rates:
    _check(rate, 0)
  # rates [.8 .5]: 1 + .8 + .4 = 2.2
  return 1.0 + float(np.sum(np.cumprod(np.asarray(rates, float))))


def accepted_over_drafted(alpha: float, gamma: int) -> float:
  """Mean accepted share of all drafted tokens; never alpha but at gamma = 1.

  Slots behind the first refusal are drafted in vain, so this falls with gamma:
  alpha = 0.75 and gamma = 7 give 0.371.
  """
  _check(alpha, gamma)
  if gamma == 0:
    raise ValueError('Without draft tokens there is no accepted share.')
  return (expected_tokens(alpha, gamma) - 1.0) / gamma


def walltime_factor(
  alpha: float, gamma: int, c: float, block_cost: BlockCost = None
) -> float:
  """Predicted speed over plain decoding, for a drafter of gamma steps.

  Leviathan et al. 2023, theorem 3.8, E / (gamma c + 1), with the 1 replaced by
  the target's real cost of a block of gamma + 1 tokens.

  Args:
    alpha: acceptance probability, in [0, 1].
    gamma: draft steps a round, at least 0.
    c: drafter step time over target step time.
    block_cost: cost of the target's pass, see `BlockCost`.

  Returns:
    The factor; above 1 is faster.

  Raises:
    ValueError: outside these ranges.
  """
  _check_ratio('c', c)
  tokens = expected_tokens(alpha, gamma)
  # alpha .8, gamma 4, c .1: 3.36 / (1 + .4) = 2.4
  return tokens / (_block_cost(block_cost, gamma) + gamma * c)


def one_pass_factor(
  alpha: float, gamma: int, c: float, block_cost: BlockCost = None
) -> float:
  """Predicted speed for a drafter that proposes all gamma tokens in one pass.

  As `walltime_factor`, but the drafter is paid once a round (Xiao et al. 2024).
  `c` is the time of that pass over one target step.
  """
  _check_ratio('c', c)
  tokens = expected_tokens(alpha, gamma)
  # gamma 0 is plain decoding, which runs no drafter.
  drafting = c if gamma else 0.0
  return tokens / (_block_cost(block_cost, gamma) + drafting)


def operations_factor(alpha: float, gamma: int, c_hat: float) -> float:
  """Arithmetic spent a token over plain decoding's; at least 1.

  Leviathan et al. 2023, theorem 3.11:
  (1 - alpha) (gamma c_hat + gamma + 1) / (1 - alpha^(gamma+1)).

  Args:
    alpha: acceptance probability, in [0, 1].
    gamma: draft tokens a round, at least 0.
    c_hat: operations a token of the drafter over those of the target.
  """
  _check_ratio('c_hat', c_hat)
  # alpha .8, gamma 4, c_hat .1: (.4 + 5) / 3.36 = 1.61
  return (gamma * c_hat + gamma + 1) / expected_tokens(alpha, gamma)


def best_gamma(
  alpha: float,
  c: float,
  max_gamma: int,
  block_cost: BlockCost = None,
  *,
  one_pass: bool = False,
) -> Best:
  """The draft length of the largest predicted factor.

  With `block_cost=None` some length gains whenever alpha > c, and the factor
  is then at least (1 + alpha) / (1 + c) (Leviathan et al. 2023, corollary 3.9).

  Args:
    alpha: acceptance probability, in [0, 1].
    c: cost of `walltime_factor` or, with `one_pass`, of `one_pass_factor`.
    max_gamma: longest draft considered, at least 0.
    block_cost: cost of the target's pass, see `BlockCost`; a table needs
      max_gamma + 1 entries.
    one_pass: whether the drafter needs one pass for all its tokens.

  Returns:
    `Best`; the shorter draft on ties, and gamma 0 where drafting only loses.
  """
  _check(alpha, max_gamma)
  factor = one_pass_factor if one_pass else walltime_factor
  best = Best(0, 1.0)
  for gamma in range(1, max_gamma + 1):
    gain = factor(alpha, gamma, c, block_cost)
    # Strictly, so that the shorter of equal drafts is taken: it wastes less.
    if gain > best.factor:
      best = Best(gamma, gain)
  return best


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """D_LK(p, q) = sum |p - (p + q) / 2|, the total variation distance.

  Leviathan et al. 2023, definition 3.2: symmetric, in [0, 1], 0 only for p = q
  and 1 only for disjoint supports. One minus it is the acceptance probability.

  Args:
    p: [..., V], rows that sum to 1.
    q: [..., V].

  Returns:
    float64 [...].
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  # p [.5 .5], q [.8 .2]: .15 + .15 = .3
  return np.abs(p - (p + q) / 2).sum(axis=-1)


def acceptance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Acceptance probability of a ratio rule, sum min(p, q): [..., V] -> [...].

  Leviathan et al. 2023, theorem 3.5.
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  # p [.5 .5], q [.8 .2]: .5 + .2 = .7
  return np.minimum(p, q).sum(axis=-1)


def match_acceptance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Acceptance probability of independent samples, sum p q: [..., V] -> [...].

  For a point mass q it is p of that token.
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  # p [.5 .5], q [.8 .2]: .4 + .1 = .5
  return (p * q).sum(axis=-1)


def coupled_acceptance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Acceptance probability under shared Gumbel noise: [..., V] -> [...].

  sum_x 1 / sum_y max(p_y / p_x, q_y / q_x) over tokens of positive p and q;
  never below (1 - D) / (1 + D), D = `divergence` (Daliri et al. 2024).
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  # max(p_y / p_x, q_y / q_x) is the first exactly for the tokens y whose ratio
  # p / q is above x's: with tokens in that order, sums to both sides suffice.
  with np.errstate(divide='ignore', invalid='ignore'):
    order = np.argsort(np.nan_to_num(p / q, nan=0.0, posinf=np.inf), axis=-1)
  p = np.take_along_axis(p, order, axis=-1)
  q = np.take_along_axis(q, order, axis=-1)
  # Sorted by p / q, p [.2 .3 .5]: above, the sum of later p, is [.8 .5 0]
  above = p[..., ::-1].cumsum(axis=-1)[..., ::-1] - p
  upto = q.cumsum(axis=-1)
  both = (p > 0) & (q > 0)
  odds = above / np.where(both, p, 1.0) + upto / np.where(both, q, 1.0)
  return np.where(both, 1.0 / np.where(both, odds, 1.0), 0.0).sum(axis=-1)
