"""Groups of cases that are measured by turns.

A gain is a ratio of two times. Taken by turns, both see the same state of the
machine (its clock speed, its other load), which cancels in the ratio.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from specjax.benchmark import cases as cases_lib
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib
from specjax.inference import decode_batch
from specjax.inference import looping


class Group(NamedTuple):
  """Cases of one temperature and batch size, which take turns.

  Attributes:
    request: `BenchmarkRequest` of the run.
    setup: models and prompts of the request.
    cases: ways to decode, plain decoding first.
    batches: prompts that are timed, in batches.
    log_fn: callback with a line of progress.
    looping: prompts whose plain answer loops, in batches of their own: they
      are decoded and checked, and not timed.
    note: 'with loops' where such prompts are timed too, else ''.
  """

  request: request_lib.BenchmarkRequest
  setup: request_lib.Setup
  cases: list[cases_lib.Case]
  batches: list[cases_lib.PromptBatch]
  log_fn: request_lib.LogFn
  looping: Sequence[cases_lib.PromptBatch] = ()
  note: str = ''

  @property
  def every_batch(self) -> list[cases_lib.PromptBatch]:
    """All batches, the timed ones first."""
    return [*self.batches, *self.looping]

  @property
  def is_exempt(self) -> bool:
    """Whether prompts are timed wherever their answers loop."""
    drafting = [case for case in self.cases if case.drafts]
    return all(case.exempt for case in drafting or self.cases)

  def without_loops(self, generations: Sequence) -> 'Group':
    """The group with looping prompts apart.

    Args:
      generations: `Generation` of plain decoding for each batch.
    """
    answers = {}
    for batch, made in zip(self.batches, generations, strict=True):
      for row, number in enumerate(batch.rows):
        answers.setdefault(number, decode_batch.new_tokens(made, row))
    order = sorted(answers)
    sound, note = looping.timed([answers[number] for number in order])
    apart = sorted(set(order) - {order[place] for place in sound})
    if self.is_exempt or note or not apart:
      return self._replace(note='' if self.is_exempt else note)
    self.log_fn(f'{len(apart)} answers end in a loop and are not timed')
    plain = self.plain
    made = self.setup.batches(plain.temperature, plain.batch_size, apart)
    count = sum(batch.rows[0] not in apart for batch in made)
    return self._replace(batches=made[:count], looping=made[count:])

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
      'verifier_used': verifier,
      'num_draft': num_draft,
      'temperature': self.plain.temperature,
      'batch_size': self.plain.batch_size,
      'refill': self.config.refill,
      'dtype': self.config.dtype,
      'quantize': self.config.quantize[0],
      'num_prompts': len(self.setup.prompts),
      'timed_prompts': len({i for b in self.batches for i in b.rows}),
      'timing_note': self.note,
      'generation_config': self.config.generation_config,
      'from_generation_config': self.setup.taken.text(),
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
    made = rows_lib.speed(found, plain, sample_of)
    if self.config.refill:
      return made  # All prompts together took the time.
    return made | {
      'by_category': rows_lib.by_category(
        prompts, self.batches, found, plain, case
      )
    }
