"""What a way to decode should gain: the one model behind every prediction.

A round of speculative decoding costs a proposal and a pass of the target over a
block, and yields some tokens. Costs are in steps, the target's time over one
token a row, so that tokens over cost is the speed over plain decoding: theorem
3.8 with a block that costs what it was timed at.

`explain` of decode.main knows the times of a step and of one block, a
benchmark's rows those of every width that ran, `--plan` those of all widths and
of two draft lengths. All of them assume:

* Between timed widths a block costs what the line between its neighbours gives;
  beyond the widest, what the line from one token through the widest gives.
* More tokens never cost less. A pass timed below a narrower one is noise, and
  the line through it would promise passes that cost nothing.
* A network that runs once a slot is paid by the slot. A draft in one pass costs
  the same for any number of slots.
* Only a share of the rounds drafts. To take it as all of them would promise too
  much for drafters that search. The other rounds yield one token and are paid
  their proposal too. Where the width follows the draft, a round in which no row
  of the batch drafts costs a plain step; rows are taken as independent.
* A slot is accepted at its own rate where the longest draft has run (`--plan`).
  Elsewhere slots behind the draft are unknown, and the mean rate stands for all
  slots, as in theorem 3.8.

References:
  Leviathan et al. 2023, theorem 3.8 and section 3.5 (the best gamma).
"""

from typing import Mapping, NamedTuple, Sequence

import numpy as np

from specjax import theory


class Round(NamedTuple):
  """A round: tokens a row, and the steps of its block and its proposal."""

  tokens: float
  verify: float
  draft: float

  @property
  def cost(self) -> float:
    """Steps of the whole round."""
    return self.verify + self.draft

  @property
  def factor(self) -> float:
    """Predicted speed over plain decoding; above 1 is faster."""
    return self.tokens / self.cost


class RoundCosts(NamedTuple):
  """What the parts of a round cost, in steps; made by `in_steps`.

  Attributes:
    blocks: {tokens a row: cost of the target's pass}.
    drafts: {slots: cost of proposing so many}; {} where drafting is free.
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
    blocks: {tokens a row: time of the target's pass}.
    drafts: {slots: time of proposing so many}, see `draft_times`.
  """
  return RoundCosts(_rising({1: step, **blocks}, step), _rising(drafts, step))


def draft_times(time: float, slots: int, one_pass: bool) -> dict[int, float]:
  """Times of all drafts from that of one: {slots: time}, for `in_steps`."""
  return {slots: time} if one_pass else {0: 0.0, slots: time}


def _rising(times: Mapping[int, float], step: float) -> dict[int, float]:
  """Times in steps, none below that of fewer tokens."""
  counts = sorted(times)
  costs = np.maximum.accumulate([times[count] / step for count in counts])
  return dict(zip(counts, costs.tolist()))


def _on_line(costs: Mapping[int, float], count: float) -> float:
  """Cost of `count` tokens: between those known, or beyond the most."""
  counts = list(costs)
  least, most = counts[0], counts[-1]
  if count <= most or least == most:
    return float(np.interp(count, counts, list(costs.values())))
  slope = (costs[most] - costs[least]) / (most - least)
  return costs[least] + slope * (count - least)


class Acceptance(NamedTuple):
  """What drafts of one drafter and verifier are worth.

  Attributes:
    rates: accepted over tested by draft slot, at least one; slots behind the
      last have its rate.
    share: share of a row's rounds in which something is drafted.
    is_adaptive: rounds without a draft run as plain steps.
  """

  rates: Sequence[float]
  share: float = 1.0
  is_adaptive: bool = False

  def tokens(self, slots: int) -> float:
    """Mean tokens of a round with drafts of at most `slots`."""
    known = [self.rates[min(i, len(self.rates) - 1)] for i in range(slots)]
    drafted = theory.expected_tokens_by_position(known)
    return 1 + self.share * (drafted - 1)

  def share_of_blocks(self, batch_size: int) -> float:
    """Share of a batch's rounds that verify a draft; any row's will do."""
    return 1 - (1 - self.share) ** batch_size if self.is_adaptive else 1.0


def best(
  costs: RoundCosts,
  accepted: Acceptance,
  most: int,
  batch_size: int = 1,
  *,
  or_plain: bool = False,
) -> tuple[int, Round]:
  """The draft length of the largest predicted factor, the shorter on ties.

  Args:
    costs: of this batch size.
    accepted: of the drafter and verifier.
    most: longest draft considered, at least 1.
    batch_size: rows that share a round.
    or_plain: 0, plain decoding, is considered too.
  """
  blocks = accepted.share_of_blocks(batch_size)
  rounds = {0: Round(1.0, 1.0, 0.0)} if or_plain else {}
  for slots in range(1, most + 1):
    verify = blocks * costs.block(slots) + 1 - blocks
    rounds[slots] = Round(accepted.tokens(slots), verify, costs.draft(slots))
  return max(rounds.items(), key=lambda found: found[1].factor)
