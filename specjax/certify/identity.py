"""Identity tests: are the tokens those of plain decoding, prompt by prompt?

They apply at temperature 0, and above it to rules that keep the target's own
sample. On equal noise an exact method has no freedom: one token that differs is
a fault, unless rounding decides between two nearly equal scores
(`benchmark.check`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import prompts as prompts_lib
from specjax.certify import controls as controls_lib
from specjax.certify.config import CertifyConfig
from specjax.checkpoints import model as model_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding.drafters.entry import DraftData
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import decode_batch

Progress = Callable[[str], None]


class Subject(NamedTuple):
  """The method, models and prompts of a certification.

  Attributes:
    target: model whose law is to be kept.
    make: method under test, `(temperature, num_draft, allowed) -> Assembled`;
      `allowed` are the symbols of a law test, which its drafter should keep to,
      or () for all.
    data: inputs of the drafter's parameters.
    config: `CertifyConfig`.
    prompts: rows of ids.
    broken: name of a broken rule in the place of the method's, or ''.
  """

  target: model_lib.Model
  make: Callable[[float, int, tuple], assemble.Assembled]
  data: DraftData
  config: CertifyConfig
  prompts: Sequence[Sequence[int]]
  broken: str = ''

  @property
  def end_ids(self) -> tuple[int, ...]:
    """The ids that end a text."""
    return self.config.end_ids(self.target.eos_ids)

  def assembled(
    self, temperature: float, num_draft: int, allowed: tuple = ()
  ) -> assemble.Assembled:
    """The method, with its rule broken where `broken` names a mistake."""
    made = self.make(float(temperature), num_draft, allowed)
    if not self.broken:
      return made
    broken = controls_lib.make(self.broken, made.recipe, float(temperature))
    return made if broken is None else made._replace(recipe=broken)

  def params(self, assembled: assemble.Assembled) -> generate_lib.Params:
    """Parameters of target and drafter."""
    return assembled.params(self.data)


class Finding(NamedTuple):
  """One test's result.

  Attributes:
    line: line of the report.
    fault: counter-example, or None where the test passed.
    size: number of tokens of the counter-example.
    empty: whether nothing was drafted.
    doubt: difference that shows though nothing was drafted, or None.
  """

  line: str
  fault: str | None
  size: int = 0
  empty: bool = False
  doubt: str | None = None


def compare(
  subject: Subject,
  temperature: float,
  assembled: assemble.Assembled,
  title: str,
  progress: Progress,
) -> Finding:
  """Compares the method's tokens with plain decoding's.

  Args:
    subject: models, prompts and settings.
    temperature: temperature of the rows.
    assembled: method at that temperature, over the whole vocabulary.
    title: beginning of the line in the report.
    progress: callback with a line of progress.
  """
  progress(title)
  case, batches, plain, ours = _decode_both(subject, temperature, assembled)
  # Lossy rules are compared as if they were exact: that is the question.
  outcome = check_lib.check(
    case, batches, plain, ours, subject.config, as_exact=True
  )
  # Equal tokens show nothing about a rule that had no draft to judge.
  if outcome.verdict == check_lib.INCONCLUSIVE:
    return Finding(f'{title}: nothing was drafted', None, empty=True)
  line = (
    f'{title}: {outcome.equal} of {outcome.rows} rows have the same tokens, '
    f'{outcome.near_ties} more up to a near tie ({_count(batches)} prompts, '
    f'K={case.num_draft}, {subject.config.max_new_tokens} new tokens)'
  )
  if outcome.verdict == check_lib.OK:
    return Finding(line, None)
  fault, size = _smallest(subject, batches, plain, ours)
  return Finding(f'{line}; FAILED', f'{title}: {fault}', size)


def _count(batches) -> int:
  """Number of prompts; the last batch is filled up with the first of them."""
  return len({prompt for batch in batches for prompt in batch.rows})


def _decode_both(subject, temperature, assembled):
  """Decodes both ways: (case, batches, plain generations, the method's)."""
  config = subject.config
  prompts = [
    prompts_lib.EncodedPrompt(tuple(row))
    # num_prompts 0: [:None], which are all
    for row in subject.prompts[: config.num_prompts or None]
  ]
  batches = cases_lib.batches(
    prompts,
    subject.target,
    config,
    config.sampling_at(temperature),
    config.batch_size,
  )
  params = subject.params(assembled)
  case = cases_lib.Case(
    assembled,
    subject.data,
    params,
    assembled.plan.num_draft,
    temperature,
    config.batch_size,
  )
  warp = config.sampling_at(temperature).warp_spec()
  plain = assemble.plain(
    subject.target.lm, warp, config.sampler, config.matmul_precision
  )

  def run(recipe, params, controls):
    decode = assemble.compiled(recipe, config.max_new_tokens)
    return [
      transfer.to_host(decode(params, batch.prompt, controls(batch)))
      for batch in batches
    ]

  expected = run(
    plain, generate_lib.Params(params.target), lambda batch: batch.controls
  )
  return case, batches, expected, run(assembled.recipe, params, case.controls)


def _smallest(subject, batches, plain, ours) -> tuple[str, int]:
  """The earliest difference over all prompts, in words, and its place.

  The earliest one is the cause: tokens behind it continue another text.
  """
  best = None
  for batch, left, right in zip(batches, plain, ours, strict=True):
    for row, prompt in enumerate(batch.rows):
      a = decode_batch.new_tokens(left, row)
      b = decode_batch.new_tokens(right, row)
      if a != b:
        at = check_lib.first_difference(a, b)
        if best is None or at < best[0]:
          best = at, prompt, a, b
  if best is None:
    return 'the logits of some row are not finite', 0
  at, prompt, a, b = best
  return (
    f'prompt {prompt + 1}, after {at} new tokens '
    f'{show(subject, a[:at][-8:])}: {show(subject, b[at : at + 1])} where '
    f'plain decoding has {show(subject, a[at : at + 1])}',
    at,
  )


def show(subject: Any, tokens: Sequence[int]) -> str:
  tokens = [int(token) for token in tokens]
  tokenizer = subject.target.tokenizer
  if tokenizer is None or not tokens:
    return str(tokens)
  return f'{tokens} {tokenizer.decode(tokens)!r}'
