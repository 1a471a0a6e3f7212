"""Runs of the training loop on the toy data."""

import os
import signal

from specjax.training import build
from specjax.training import loop
from tests.helpers import toy


def run(
  files,
  workdir,
  stop_at=None,
  *,
  resume_from=0,
  log_fn=lambda line: None,
  **changes,
):
  """Trains in this process; a signal arrives during step `stop_at`."""
  parts = build.build(toy.config(files, **changes))

  def interrupt(params, batch, step):
    del params
    if step + 1 == stop_at:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch

  return loop.train(
    parts,
    str(workdir),
    on_policy=interrupt,
    resume_from=resume_from,
    log_fn=log_fn,
  )


VARIED = {
  'model__dropout': 0.1,
  'optimizer__ema': 0.9,
  'data__max_examples': 150,
  'steps': 10,
}
