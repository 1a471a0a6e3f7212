"""Target calls and acceptance of a generation, counted on the host.

Everything is counted after a row was cut at an end token, a stop string or
its budget, from the trace that the loop keeps (`generate.Rounds`). An answer
that ends by repeating itself (`loops`) counts towards acceptance only as far as
its second period: any drafter that copies is right about the rest.

References:
  Leviathan et al. 2023, section 3 (acceptance rate over *tested* positions:
  what stands behind the first rejection was never tested).
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from specjax.decoding import loops


@dataclasses.dataclass(frozen=True)
class Counts:
  """Counts of one row, or of several added up by `+` or `sum`.

  Attributes:
    num_tokens: emitted tokens, an end token included.
    num_target_calls: rounds that emitted something; prefill not counted.
    num_draft_rounds: those of them in which something was drafted.
    num_drafted: proposed tokens in those rounds; empty slots not counted.
    num_accepted: emitted tokens that were drafted.
    num_tested: accepted ones, and one more for each round whose emitted
      correction replaced a drafted token.
    tested_by_position, accepted_by_position: the same by draft slot, [K].
    accepted_histogram: rounds by number of accepted tokens, [K + 1].
    num_loop_tokens: tokens of ending loops, from the first period on.
    unlooped: counts of the rounds before the second period of such loops; None
      where they are all rounds. `acceptance_rate` and `acceptance_by_position`
      are taken from these.
  """

  num_tokens: int = 0
  num_target_calls: int = 0
  num_draft_rounds: int = 0
  num_drafted: int = 0
  num_accepted: int = 0
  num_tested: int = 0
  tested_by_position: tuple[int, ...] = ()
  accepted_by_position: tuple[int, ...] = ()
  accepted_histogram: tuple[int, ...] = ()
  num_loop_tokens: int = 0
  unlooped: 'Counts | None' = None

  @property
  def block_efficiency(self) -> float | None:
    """Tokens a target call, or None before the first call."""
    return _ratio(self.num_tokens, self.num_target_calls)

  @property
  def without_loops(self) -> 'Counts':
    """Counts of the rounds before the second period of ending loops."""
    return self if self.unlooped is None else self.unlooped

  @property
  def acceptance_rate(self) -> float | None:
    """Accepted over tested before loops, or None if nothing was tested."""
    found = self.without_loops
    return _ratio(found.num_accepted, found.num_tested)

  @property
  def acceptance_rate_with_loops(self) -> float | None:
    """Accepted over tested in all rounds, or None if nothing was tested."""
    return _ratio(self.num_accepted, self.num_tested)

  @property
  def loop_share(self) -> float | None:
    """Tokens of ending loops over all tokens, or None without tokens."""
    return _ratio(self.num_loop_tokens, self.num_tokens)

  @property
  def draft_acceptance_rate(self) -> float | None:
    """Accepted over drafted, or None if nothing was drafted."""
    return _ratio(self.num_accepted, self.num_drafted)

  @property
  def mean_acceptance_length(self) -> float | None:
    """One plus the accepted tokens a drafting round (vLLM's definition)."""
    mean = _ratio(self.num_accepted, self.num_draft_rounds)
    return None if mean is None else 1 + mean

  @property
  def acceptance_by_position(self) -> list[float | None]:
    """Accepted over tested for each draft slot, before loops."""
    found = self.without_loops
    return [
      _ratio(a, t)
      for a, t in zip(
        found.accepted_by_position, found.tested_by_position, strict=True
      )
    ]

  def __add__(self, other: 'Counts') -> 'Counts':
    return add((self, other)) if isinstance(other, Counts) else NotImplemented

  def __radd__(self, other: Any) -> 'Counts':
    # `sum` begins with 0.
    return self if other == 0 else NotImplemented

  def as_dict(self, *, by_position: bool = True) -> dict[str, Any]:
    """Counts and ratios as written to files, JSON-able.

    Args:
      by_position: whether lists by draft slot are among them.
    """
    found = {name: getattr(self, name) for name in _WRITTEN}
    if by_position:
      found['acceptance_by_position'] = self.acceptance_by_position
      found['accepted_histogram'] = list(self.accepted_histogram)
    return found


_WRITTEN = (
  'num_tokens num_target_calls num_drafted num_accepted num_tested '
  'block_efficiency acceptance_rate acceptance_rate_with_loops loop_share '
  'draft_acceptance_rate mean_acceptance_length'
).split()


def count_row(
  drafted: np.ndarray,
  accepted: np.ndarray,
  emitted: np.ndarray,
  num_tokens: int,
  num_draft: int,
  *,
  tokens: Sequence[int] = (),
  exempt: bool = False,
) -> Counts:
  """Counts one row of a trace.

  Args:
    drafted: int [R], of `generate.Rounds`, one row of it; likewise
    accepted: int [R] and
    emitted: int [R].
    num_tokens: tokens kept of the row, at most the sum of `emitted`.
    num_draft: K (the longest path for a tree).
    tokens: tokens kept, in which a loop is looked for; () for not looking.
    exempt: whether acceptance counts in a loop as elsewhere.

  Returns:
    `Counts`; what lies behind the cut counts nothing.
  """
  whole = _count(drafted, accepted, emitted, num_tokens, num_draft)
  loop = loops.find_loop(tokens[:num_tokens])
  if loop is None:
    return whole
  # 20 tokens with a loop of period 4 from the third on: 18 loop tokens, and
  # the first 6 tokens decide on acceptance.
  unlooped = None
  if not exempt:
    unlooped = _count(drafted, accepted, emitted, loop.second, num_draft)
  return dataclasses.replace(
    whole, num_loop_tokens=num_tokens - loop.start, unlooped=unlooped
  )


def _count(drafted, accepted, emitted, num_tokens, num_draft) -> Counts:
  """Counts the rounds of a row as far as `num_tokens`."""
  # drafted [4 4 4], accepted [2 4 2], emitted [3 5 2], 9 tokens kept, K = 4:
  #   kept [3 5 1], accepted [2 4 1], rejected [1 0 0], tested [3 4 1]
  before = np.cumsum(emitted) - emitted
  kept = np.clip(num_tokens - before, 0, emitted)
  used = kept > 0
  drafted = np.where(used, drafted, 0)
  accepted = np.where(used, np.minimum(accepted, kept), 0)
  # A tree has more nodes than any of its paths.
  deepest = np.minimum(drafted, num_draft)
  rejected = used & (kept > accepted) & (accepted < deepest)
  tested = accepted + rejected
  slots = np.arange(num_draft)
  return Counts(
    num_tokens=int(kept.sum()),
    num_target_calls=int(used.sum()),
    num_draft_rounds=int((drafted > 0).sum()),
    num_drafted=int(drafted.sum()),
    num_accepted=int(accepted.sum()),
    num_tested=int(tested.sum()),
    tested_by_position=_tuple((tested[:, None] > slots).sum(0)),
    accepted_by_position=_tuple((accepted[:, None] > slots).sum(0)),
    accepted_histogram=_tuple(
      np.bincount(accepted[used & (drafted > 0)], minlength=num_draft + 1)
    ),
  )


def add(counts: Sequence[Counts]) -> Counts:
  """Adds counts up, position by position."""
  total = {}
  for field in dataclasses.fields(Counts):
    values = [getattr(c, field.name) for c in counts]
    if field.name == 'unlooped':
      # A row without a loop adds all its rounds to those before loops.
      if any(value is not None for value in values):
        total[field.name] = add([c.without_loops for c in counts])
    elif field.type is int or field.type == 'int':
      total[field.name] = sum(values)
    else:
      width = max([len(v) for v in values], default=0)
      padded = [v + (0,) * (width - len(v)) for v in values]
      total[field.name] = tuple(map(sum, zip(*padded, strict=True)))
  return Counts(**total)


def _ratio(numerator, denominator) -> float | None:
  return numerator / denominator if denominator else None


def _tuple(array) -> tuple[int, ...]:
  return tuple(int(x) for x in array)
