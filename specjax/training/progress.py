"""Progress of a run: a bar, and means since the last line."""

import dataclasses
import sys
import time

import jax
import numpy as np
import tqdm


@dataclasses.dataclass
class Meter:
  """Values and tokens of the steps since it was read.

  Attributes:
    rows: values of each step.
    tokens: number of tokens of the steps that count for the speed.
    started: time at which those began, in seconds.
  """

  rows: list[dict] = dataclasses.field(default_factory=list)
  tokens: int = 0
  started: float = dataclasses.field(default_factory=time.time)

  def add(self, values: dict, tokens: int) -> None:
    """Adds a step."""
    self.rows.append(values)
    self.tokens += tokens

  def leave_out_time(self) -> None:
    """Excludes the steps so far from the speed; one of them compiled."""
    self.tokens, self.started = 0, time.time()

  def read(self) -> dict:
    """Means of the values, and tokens a second; begins anew.

    Tokens a second are missing where no step counts for the speed.
    """
    names = self.rows[0] if self.rows else ()
    found = {k: _mean([row[k] for row in self.rows]) for k in names}
    if self.tokens:
      spent = max(time.time() - self.started, 1e-9)
      found['tokens_per_second'] = self.tokens / spent
    self.rows, self.tokens, self.started = [], 0, time.time()
    return found


def _mean(values: list[float]) -> float:
  """Mean of those that are numbers; nan of none."""
  # A depth of drafts that no row of a batch reaches has no rate there.
  there = [value for value in values if not np.isnan(value)]
  return float(np.mean(there)) if there else float('nan')


def bar(steps: int, first: int) -> tqdm.tqdm:
  """A bar on standard error; of several processes the first shows one.

  Args:
    steps: number of steps of the whole run.
    first: number of steps done before.
  """
  return tqdm.tqdm(
    total=steps,
    initial=first,
    unit='step',
    file=sys.stderr,
    dynamic_ncols=True,
    # Logs of batch systems keep every line that a bar draws.
    mininterval=1.0,
    disable=jax.process_index() > 0,
  )


def leave_out_time(shown: tqdm.tqdm, step: int) -> None:
  """Counts the steps so far, but estimates no time by them.

  Args:
    shown: progress bar of `bar`.
    step: steps done, the last of which compiled.
  """
  shown.reset()
  # tqdm divides time by n - initial: with 1 of 100 steps done and 60 s spent on
  # compiling, it would else promise 99 minutes.
  shown.initial = shown.n = shown.last_print_n = step
  shown.refresh()
