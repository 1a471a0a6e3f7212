"""Groups of cases that are measured by turns.

A gain is a ratio of two times. Taken by turns, both see the same state of the
machine (its clock speed, its other load), which cancels in the ratio.
"""

from typing import Any, NamedTuple

from specjax.benchmark import cases as cases_lib
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib


class Group(NamedTuple):
  """Cases of one temperature and batch size, which take turns.

  Attributes:
    request: `BenchmarkRequest` of the run.
    setup: models and prompts of the request.
    cases: ways to decode, plain decoding first.
    batches: prompts, in batches.
    log_fn: callback with a line of progress.
  """

  request: request_lib.BenchmarkRequest
  setup: request_lib.Setup
  cases: list[cases_lib.Case]
  batches: list[cases_lib.PromptBatch]
  log_fn: request_lib.LogFn

  @property
  def config(self) -> Any:
    """`BenchmarkConfig` of the setup."""
    return self.setup.config

  @property
  def plain(self) -> cases_lib.Case:
    """The case of plain decoding."""
    return self.cases[0]

  def fields(self, drafter: str, verifier: str, num_draft: int) -> dict:
    """Fields of a row that identify the run."""
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

  def measured(
    self,
    found: measure_lib.Measured,
    plain: measure_lib.Measured,
    case: Any = None,
  ) -> dict:
    """Fields of a row on speed; `plain` is the `Measured` of plain decoding."""
    prompts = self.setup.prompts
    sample_of = rows_lib.samples(prompts, self.batches)
    return rows_lib.speed(found, plain, sample_of) | {
      'by_category': rows_lib.by_category(
        prompts, self.batches, found, plain, case
      )
    }
