"""Predicted gain of a way to decode: one model behind every prediction.

A round of speculative decoding costs a proposal and a pass of the target over a
block, and yields some tokens. Costs are in steps, the target's time over one
token a row, so that tokens over cost is the speed over plain decoding: theorem
3.8 with the measured cost of a block. A proposal of 0.6 steps and a block of
1.4 steps that yield 3 tokens are a predicted speed-up of 3 / (0.6 + 1.4) = 1.5.

`explain` of decode.main knows the times of a step and of one block, a
benchmark's rows those of every width that ran, `--plan` those of all widths and
of two draft lengths. All of them assume:

* Between timed widths a block costs what the line between its neighbours gives;
  beyond the widest, what the line from one token through the widest gives.
* More tokens never cost less. A pass timed below a narrower one is noise, and
  the line through it would predict passes that cost nothing.
* A network that runs once a slot is paid by the slot. A draft in one pass costs
  the same for any number of slots.
* Only a share of the rounds drafts; to count all of them would predict too much
  for drafters that search. The other rounds yield one token and pay for their
  proposal too. Where the width follows the draft, a round in which no row
  of the batch drafts costs a plain step; rows are taken as independent.
* A slot is accepted at its own rate where the longest draft has run (`--plan`).
  Elsewhere slots behind the draft are unknown, and the mean rate stands for all
  slots, as in theorem 3.8.

References:
  Leviathan et al. 2023, theorem 3.8 and section 3.5 (the best gamma).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from specjax import theory


class Round(NamedTuple):
  """A round: tokens a row, and the steps of its block and its proposal."""

  tokens: float
  block: float
  draft: float

  @property
  def cost(self) -> float:
    """Steps of the whole round."""
    return self.block + self.draft

  @property
  def speedup(self) -> float:
    """Predicted speed over plain decoding; above 1 is faster."""
    return self.tokens / self.cost


class RoundCosts(NamedTuple):
  """Costs of the parts of a round, in steps; made by `in_steps`.

  Attributes:
    blocks: cost of the target's pass, by tokens a row.
    drafts: cost of proposing, by slots; {} where drafting is free.
  """

  blocks: Mapping[int, float]
  drafts: Mapping[int, float]

  def block(self, slots: float) -> float:
    """Cost of verifying a draft of `slots` tokens; a mean may be fractional."""
    return _on_line(self.blocks, slots + 1)

  def draft(self, slots: float) -> float:
    """Cost of proposing `slots` tokens."""
    return _on_line(self.drafts, slots) if self.drafts else 0.0


def in_steps(
  step: float, blocks: Mapping[int, float], drafts: Mapping[int, float]
) -> RoundCosts:
  """Costs from times of any one unit.

  Args:
    step: time of the target over one token a row.
    blocks: time of the target's pass, by tokens a row.
    drafts: time of proposing, by slots; see `draft_times`.
  """
  return RoundCosts(_rising({1: step, **blocks}, step), _rising(drafts, step))


def draft_times(time: float, slots: int, one_pass: bool) -> dict[int, float]:
  """Times of all drafts from that of one: {slots: time}, for `in_steps`."""
  # 8 slots in 4 ms: one pass takes 4 ms for 2 slots also, {8: 4}; a network
  # that runs once a slot takes 1 ms for them, on the line of {0: 0, 8: 4}.
  return {slots: time} if one_pass else {0: 0.0, slots: time}


def _rising(times: Mapping[int, float], step: float) -> dict[int, float]:
  """Times in steps, none below that of fewer tokens."""
  # step 2 ms, times {1: 2.0, 3: 1.9, 5: 2.6} -> costs {1: 1.0, 3: 1.0, 5: 1.3}
  counts = sorted(times)
  costs = np.maximum.accumulate([times[count] / step for count in counts])
  return dict(zip(counts, costs.tolist(), strict=True))


def _on_line(costs: Mapping[int, float], count: float) -> float:
  """Cost of `count` tokens: between those known, or beyond the most."""
  # costs {1: 1.0, 5: 1.4}: 3 tokens cost 1.2, and 9 cost 1.8
  counts = list(costs)
  least, most = counts[0], counts[-1]
  # A single known width has no slope, so its cost stands for all.
  if count <= most or least == most:
    return float(np.interp(count, counts, list(costs.values())))
  slope = (costs[most] - costs[least]) / (most - least)
  return costs[least] + slope * (count - least)


class Acceptance(NamedTuple):
  """Acceptance of one drafter's drafts under one verifier.

  Attributes:
    rates: accepted over tested tokens by draft slot, at least one; slots behind
      the last have its rate.
    share: share of a row's rounds in which something is drafted.
    is_adaptive: whether rounds without a draft run as plain steps.
  """

  rates: Sequence[float]
  share: float = 1.0
  is_adaptive: bool = False

  def tokens(self, slots: int) -> float:
    """Mean tokens of a round with drafts of at most `slots`."""
    # rates (0.8, 0.5), 3 slots: 1 + 0.8 + 0.8 x 0.5 + 0.8 x 0.5 x 0.5 = 2.4
    known = [self.rates[min(i, len(self.rates) - 1)] for i in range(slots)]
    drafted = theory.expected_tokens_by_position(known)
    return 1 + self.share * (drafted - 1)

  def share_of_blocks(self, batch_size: int) -> float:
    """Share of a batch's rounds in which at least one row has a draft."""
    # share 0.3: of the rounds of 4 rows 1 - 0.7^4 = 0.76 are wide
    return 1 - (1 - self.share) ** batch_size if self.is_adaptive else 1.0


def best(
  costs: RoundCosts,
  accepted: Acceptance,
  most: int,
  batch_size: int = 1,
  *,
  or_plain: bool = False,
  lengths: Sequence[int] = (),
) -> tuple[int, Round]:
  """The draft length of the largest predicted speed-up, the shorter on ties.

  Args:
    costs: costs at this batch size.
    accepted: acceptance of the drafter and verifier.
    most: longest draft considered, at least 1.
    batch_size: number of rows that share a round.
    or_plain: whether 0, plain decoding, is considered too.
    lengths: draft lengths considered, as far as `most` allows; () for all.
  """
  blocks = accepted.share_of_blocks(batch_size)
  # First in the dict, and `max` keeps the first on ties: no draft without a
  # gain.
  rounds = {0: Round(1.0, 1.0, 0.0)} if or_plain else {}
  for slots in [x for x in lengths if x <= most] or range(1, most + 1):
    # Three rounds of four are wide at 1.4 steps, the fourth a step: 1.3
    block = blocks * costs.block(slots) + 1 - blocks
    rounds[slots] = Round(accepted.tokens(slots), block, costs.draft(slots))
  return max(rounds.items(), key=lambda found: found[1].speedup)
