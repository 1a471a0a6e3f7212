"""Progress of a certification, and an estimate of the time left."""

from collections.abc import Callable
import dataclasses
import time

LogFn = Callable[[str], None]
# Steps before a mean of their times is shown: the first ones compile, and an
# estimate from one of them would be several times too long.
_KNOWN = 2


class TimeUpError(Exception):
  """The seconds of an effort are spent; carries one sentence."""


@dataclasses.dataclass
class Steps:
  """The tests of a certification, one after another.

  Attributes:
    total: number of steps.
    log_fn: callback with a line when a step begins.
    report: callback with the line of a finished step.
    seconds: time after which no step begins any more.
    begun: steps begun so far; those left out lower `total`.
    started: time of the start, in seconds of `time.perf_counter`.
    lines: lines of the finished steps.
  """

  total: int
  log_fn: LogFn
  report: LogFn = lambda line: None
  seconds: float = float('inf')
  begun: int = 0
  started: float = dataclasses.field(
    default_factory=lambda: time.perf_counter()
  )
  lines: list[str] = dataclasses.field(default_factory=list)

  def begin(self, title: str) -> None:
    """Logs that a step begins, and the time left by the mean of those before.

    Raises:
      TimeUpError: there is no time left for it.
    """
    spent = time.perf_counter() - self.started
    if spent > self.seconds:
      raise TimeUpError(
        f'{spent:.0f} s were spent on {self.begun} of {self.total} steps; give '
        '--config.effort=standard to take all of them'
      )
    line = f'step {self.begun + 1} of {self.total}: {title}'
    if self.begun >= _KNOWN:
      left = spent / self.begun * (self.total - self.begun)
      line += f', about {in_words(left)} left'
    self.log_fn(line)
    self.begun += 1

  def leave_out(self, count: int = 1) -> None:
    """Counts steps that need not be taken."""
    self.total -= count

  def finish(self, line: str) -> None:
    """Reports a line of the certificate."""
    self.lines.append(line)
    self.report(line)


def in_words(seconds: float) -> str:
  """A duration rounded for a reader: 47.0 -> '45 s', 200.0 -> '3 min'."""
  if seconds <= 90:
    return f'{max(round(seconds / 5) * 5, 5)} s'
  return f'{round(seconds / 60)} min'
