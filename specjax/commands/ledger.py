"""The part of a run's answers that is kept: totals, and few of them whole."""

import collections
import dataclasses
from typing import Any

from specjax.decoding import stats
from specjax.inference import summary
from specjax.inference.generate import Answer
from specjax.inference.generate import Batch


@dataclasses.dataclass
class Ledger:
  """Counts of answers, which may be too many to be kept.

  Attributes:
    most_answers: number of first answers that are kept.
    most_tokens: tokens of the latest answers that are kept, for a corpus.
    first: first answers.
    latest: tokens of the latest answers.
    prompts: number of prompts whose answers have begun.
    answers: number of answers.
    truncated: number of prompts that lost tokens.
    failed: number of prompts with an error in the place of their answers.
    counts: sum of their counts.
    seconds: time of decoding.
    row_rounds: rounds in which rows decoded, see `generate.Batch`.
    all_rounds: rounds that ran, times the rows of a batch.
  """

  most_answers: int
  most_tokens: int
  first: list[Answer] = dataclasses.field(default_factory=list)
  latest: collections.deque = dataclasses.field(
    default_factory=collections.deque
  )
  prompts: int = 0
  answers: int = 0
  truncated: int = 0
  failed: int = 0
  counts: stats.Counts = stats.Counts()
  seconds: float = 0.0
  row_rounds: int = 0
  all_rounds: int = 0
  _tokens: int = 0

  def add(self, batch: Batch) -> None:
    """Adds the answers of a batch."""
    self.seconds += batch.seconds
    self.row_rounds += batch.row_rounds
    self.all_rounds += batch.all_rounds
    for answer in batch.answers:
      self.prompts += answer.sequence == 0
      self.answers += 1
      self.truncated += summary.is_truncated(answer)
      self.failed += answer.sequence == 0 and bool(answer.error)
      self.counts += answer.counts
      if len(self.first) < self.most_answers:
        self.first.append(answer)
      if self.most_tokens:
        self._remember(answer.tokens)

  def _remember(self, tokens: tuple[int, ...]) -> None:
    self.latest.append(tokens)
    self._tokens += len(tokens)
    # A corpus of so many tokens would drop them as well.
    while self._tokens - len(self.latest[0]) >= self.most_tokens:
      self._tokens -= len(self.latest.popleft())

  def totals(
    self, seconds: float | None, compile_seconds: float | None
  ) -> dict[str, Any]:
    """The totals, as `summary.summarize` has them."""
    numbers = {
      'num_prompts': self.prompts,
      'num_answers': self.answers,
      'truncated_prompts': self.truncated,
    }
    return summary.of_totals(self.counts, numbers, seconds, compile_seconds)
