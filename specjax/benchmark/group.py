"""What is measured in turns, so that what slows the machine slows all of it."""

from typing import NamedTuple

from specjax.benchmark import cases as cases_lib
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib


class Group(NamedTuple):
  """Cases of one temperature and batch size, which take turns.

  Attributes:
    request: what was asked for.
    setup: what was loaded for it.
    cases: plain decoding first.
    batches: the prompts.
    log_fn: called with a line about progress.
  """

  request: request_lib.BenchmarkRequest
  setup: request_lib.Setup
  cases: list[cases_lib.Case]
  batches: list[cases_lib.PromptBatch]
  log_fn: request_lib.LogFn

  @property
  def config(self):
    """The `BenchmarkConfig`."""
    return self.setup.config

  @property
  def plain(self) -> cases_lib.Case:
    """Plain decoding."""
    return self.cases[0]

  def fields(self, drafter: str, verifier: str, num_draft: int) -> dict:
    """Fields of a row that identify what was run."""
    return {
      'target': self.request.target,
      'drafter': drafter,
      'verifier': verifier,
      'num_draft': num_draft,
      'temperature': self.plain.temperature,
      'batch_size': self.plain.batch_size,
      'dtype': self.config.dtype,
      'quantize': self.config.quantize[0],
      'num_prompts': len(self.setup.prompts),
      'mode': 'speculative' if num_draft else 'plain',
    }

  def measured(self, found: measure_lib.Measured, plain, case=None) -> dict:
    """Fields of a row on its speed; `plain` is plain decoding's `Measured`."""
    prompts = self.setup.prompts
    sample_of = rows_lib.samples(prompts, self.batches)
    return rows_lib.speed(found, plain, sample_of) | {
      'by_category': rows_lib.by_category(
        prompts, self.batches, found, plain, case
      )
    }
