"""Are the tokens those of plain decoding, on the user's prompts?"""

from typing import Any, Callable, NamedTuple, Optional, Sequence

import jax

from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import prompts as prompts_lib
from specjax.certify import law as law_lib
from specjax.certify.config import CertifyConfig
from specjax.checkpoints import load as loading
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import Sampling
from specjax.inference import assemble

Tell = Callable[[str], None]


class Subject(NamedTuple):
  """What is certified.

  Attributes:
    target: `load.Model`.
    make: `(temperature, num_draft, only) -> Recipe`, the method; `only` are the
      symbols of a law test, which its drafter should keep to, or () for all.
    drafter_params: the drafter's.
    config: `CertifyConfig`.
    prompts: rows of ids.
  """

  target: loading.Model
  make: Callable[[float, int, tuple], generate_lib.Recipe]
  drafter_params: Any
  config: CertifyConfig
  prompts: Sequence[Sequence[int]]

  def recipe(self, temperature, num_draft, only=()) -> generate_lib.Recipe:
    """The method, its target confined to the symbols `only`."""
    made = self.make(float(temperature), num_draft, only)
    return made._replace(target=law_lib.confined(made.target, only))

  def params(self) -> generate_lib.Params:
    """Of target and drafter."""
    return generate_lib.Params(self.target.params, self.drafter_params)

  def sampling(self, temperature: float) -> Sampling:
    """The config's warp, at a temperature."""
    given = self.config.decoding().sampling()
    return Sampling(**{**vars(given), 'temperature': temperature})


class Finding(NamedTuple):
  """One test's result.

  Attributes:
    line: for the report.
    fault: the counter-example, or None where the test passed.
    size: its number of tokens.
    empty: whether nothing was drafted.
  """

  line: str
  fault: Optional[str]
  size: int = 0
  empty: bool = False


def compare(subject, temperature, recipe, title, tell) -> Finding:
  """Compares tokens with plain decoding's."""
  tell(title)
  case, batches, plain, ours = _decode_both(subject, temperature, recipe)
  outcome = check_lib.check(
    case, batches, plain, ours, subject.params(), subject.config
  )
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
  """Prompts; the last batch is filled up with the first of them."""
  return len({prompt for batch in batches for prompt in batch.rows})


def _decode_both(subject, temperature, recipe):
  """(case, batches, plain generations, the method's)."""
  config = subject.config
  prompts = [
    prompts_lib.Prompt(tuple(row))
    for row in subject.prompts[: config.num_prompts or None]
  ]
  settings = _Settings(config, subject.sampling)
  batches = cases_lib.batches(
    prompts, subject.target, settings, temperature, config.batch_size
  )
  plain = assemble.recipe(
    subject.target.lm,
    warp=subject.sampling(temperature).warp_spec(),
    sampler=config.sampler,
  )
  # Lossy rules are compared as if they were exact: that is the question.
  recipe = recipe._replace(verifier=recipe.verifier._replace(exact=True))
  case = cases_lib.Case(
    None,
    recipe.verifier.name,
    recipe.drafter.num_draft,
    temperature,
    config.batch_size,
    recipe,
    subject.params(),
  )

  def run(recipe):
    decode = assemble.compiled(recipe, config.max_new_tokens)
    return [
      jax.device_get(decode(subject.params(), b.prompt, b.controls))
      for b in batches
    ]

  return case, batches, run(plain), run(recipe)


class _Settings(NamedTuple):
  """What `cases.batches` reads of a config."""

  config: CertifyConfig
  sampling: Callable[[float], Sampling]
  ignore_eos: bool = False

  @property
  def seed(self) -> int:
    return self.config.seed

  @property
  def max_new_tokens(self) -> int:
    return self.config.max_new_tokens


def _smallest(subject, batches, plain, ours) -> tuple[str, int]:
  """The earliest difference over all prompts, in words, and its place."""
  best = None
  for batch, left, right in zip(batches, plain, ours):
    for row, prompt in enumerate(batch.rows):
      a = check_lib.new_tokens(left, row)
      b = check_lib.new_tokens(right, row)
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
    f'plain decoding says {show(subject, a[at : at + 1])}',
    at,
  )


def show(subject, tokens: Sequence[int]) -> str:
  tokens = [int(token) for token in tokens]
  tokenizer = subject.target.tokenizer
  if tokenizer is None or not tokens:
    return str(tokens)
  return f'{tokens} {tokenizer.decode(tokens)!r}'
