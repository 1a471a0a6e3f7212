"""Requests to stop a run, and how its processes agree on them."""

import signal
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


def install(flag: dict[str, int]) -> dict[int, Any]:
  """Lets SIGTERM and SIGINT end the run after the current step.

  Args:
    flag: gets the number of the signal as 'signal'; a second one interrupts.

  Returns:
    The handlers before, by the signal's number.
  """

  previous = {}

  def handler(number, frame):
    # The first signal ends the run behind a step and a checkpoint. A second one
    # is from somebody who does not wait for that.
    if flag.get('signal'):
      before = previous.get(number)
      if callable(before):
        before(number, frame)
      raise KeyboardInterrupt
    flag['signal'] = number

  try:
    for number in (signal.SIGTERM, signal.SIGINT):
      previous[number] = signal.signal(number, handler)
  except ValueError:  # Signals only reach the main thread.
    pass
  return previous


def agree(stop: bool, due: bool) -> tuple[bool, bool]:
  """Makes all processes stop if one must, and save when the first is due.

  Args:
    stop: whether this process was asked to stop.
    due: whether a checkpoint is due in this process.

  Returns:
    (whether all stop, whether all save).
  """
  if jax.process_count() == 1:
    return stop, due
  # Saving takes all processes, and one that went another way would leave the
  # others waiting for ever. Clocks differ, so the first one's counts.
  # In:  stop and due of two processes, [[0 1] [1 0]]
  # Out: True, True
  flags = multihost_utils.process_allgather(np.array([stop, due]))
  return bool(flags[:, 0].any()), bool(flags[0, 1])
