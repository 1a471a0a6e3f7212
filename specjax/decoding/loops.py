"""Answers that end by repeating themselves: where the loop begins.

A loop is an ending of period at most 8 tokens that is repeated 4 times or more.
A greedy model that has fallen into one does not leave it, and any drafter that
copies is right about it, so what is accepted there is no measure for answers
that a reader would want.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_PERIOD = 8
MIN_REPEATS = 4


class Loop(NamedTuple):
  """The repeated ending of an answer.

  Attributes:
    start: index of its first token.
    period: distance after which it repeats itself, in tokens.
  """

  start: int
  period: int

  @property
  def second(self) -> int:
    """Index at which the second period begins: the first repeated token."""
    return self.start + self.period


def find_loop(tokens: Sequence[int] | np.ndarray) -> Loop | None:
  """Finds the loop in which an answer ends.

  Args:
    tokens: int [N], a generated answer, without prompt and padding.

  Returns:
    The longest such ending, with its shortest period, or None without one. An
    end token behind a repetition is another token: that answer left its loop.
  """
  # [5 1 2 1 2 1 2 1 2 1]: period 2, start 1, second period at 3. The ending
  # need not be whole periods. [5 1 2 1 2 1 2] has three repeats: None.
  tokens = np.asarray(tokens)
  found = None
  for period in range(1, MAX_PERIOD + 1):
    if len(tokens) < MIN_REPEATS * period:
      break
    differing = np.flatnonzero(tokens[period:] != tokens[:-period])
    start = int(differing[-1]) + 1 if len(differing) else 0
    long_enough = len(tokens) - start >= MIN_REPEATS * period
    # [1 0 0 0 0 1 0 0 0 0 ...] ends in four zeros, which are a part of the
    # longer loop of period 5.
    if long_enough and (found is None or start < found.start):
      found = Loop(start, period)
  return found


def loop_start(tokens: Sequence[int] | np.ndarray) -> int | None:
  """Returns the index of the first token of an ending loop, or None."""
  loop = find_loop(tokens)
  return None if loop is None else loop.start
