"""Loops at the end of an answer, against a search by brute force."""

import numpy as np
import pytest

from specjax.decoding import loops


def _by_brute_force(tokens):
  """The longest ending of 4 periods or more, then the shortest period."""
  for start in range(len(tokens)):
    ending = tokens[start:]
    for period in range(1, 9):
      repeated = ending[period:] == ending[: len(ending) - period]
      if len(ending) >= 4 * period and repeated:
        return start, period
  return None


@pytest.mark.parametrize(
  'tokens, start, second',
  [
    ([], None, None),
    ([7, 7, 7], None, None),
    ([7, 7, 7, 7], 0, 1),
    ([5, 1, 2, 1, 2, 1, 2], None, None),
    ([5, 1, 2, 1, 2, 1, 2, 1, 2, 1], 1, 3),  # not whole periods
    ([9, *[1, 0, 0, 0, 0] * 4], 1, 6),  # not the four zeros alone
    ([9, *range(8), *range(8), *range(8), *range(8)], 1, 9),
    ([*range(9)] * 4, None, None),  # a period of 9
    ([1, 1, 1, 1, 1, 2], None, None),  # it left the loop
  ],
)
def test_known_loops(tokens, start, second):
  assert loops.loop_start(tokens) == start
  found = loops.find_loop(np.array(tokens, np.int32))
  assert (None if found is None else found.second) == second


def test_as_by_brute_force():
  rng = np.random.default_rng(0)
  found = 0
  for _ in range(4000):
    body = rng.integers(0, rng.integers(1, 4), rng.integers(0, 20)).tolist()
    period = rng.integers(0, 3, rng.integers(1, 10)).tolist()
    tail = (period * 7)[: rng.integers(0, 5 * len(period) + 1)]
    want = _by_brute_force(body + tail)
    got = loops.find_loop(body + tail)
    assert (None if got is None else tuple(got)) == want, (body, tail)
    found += got is not None
  assert 1000 < found < 3900
