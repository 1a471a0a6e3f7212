"""Checks the tokens of every case against those of plain decoding.

At temperature 0 an exact rule gives the tokens of plain decoding; so do
`coupled` and `match` at any temperature, with the same seed. The other rules
are exact in law only. There the same drafter is run under a rule of the former
kind, which checks the caches, the rollback and the counting: they are the same
code.

Passes over blocks of different widths round differently, so that a near tie
may fall the other way. A first difference counts as such where the two tokens'
scores differ by less than `TOLERANCE`, or where plain decoding done with blocks
of the same width gives the same tokens.
"""

from collections.abc import Sequence
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.benchmark.cases import Case
from specjax.benchmark.cases import PromptBatch
from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.decoding import precision
from specjax.decoding import sampling
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.decoding.drafters.simulated import ENTRY as SIMULATED
from specjax.distributed import transfer
from specjax.inference import assemble

OK, FAILED, INCONCLUSIVE, LOSSY = 'ok', 'FAILED', 'INCONCLUSIVE', 'lossy'
# Verdict on another engine, whose rounding and rules are its own.
DIFFERS = 'differs'
# Differences of two scores below which rounding may decide. bfloat16 has 8
# significant bits, so scores from 8 to 16 are multiples of 0.0625. Rounding of
# activations makes w8a8 as coarse.
TOLERANCE = {'float32': 1e-3, 'bfloat16': 0.06, 'w8a8': 0.06}


class CheckResult(NamedTuple):
  """A verdict on a row.

  Attributes:
    verdict: 'ok', 'FAILED', 'INCONCLUSIVE' (nothing was drafted), 'lossy' (the
      rule changes the target's law, so no token must be equal) or, for another
      engine, 'differs'.
    note: reason, for a reader.
    equal: number of rows equal to plain decoding.
    near_ties: number of rows equal up to a near tie.
    rows: number of all rows.
  """

  verdict: str
  note: str
  equal: int = 0
  near_ties: int = 0
  rows: int = 0


def new_tokens(generation: Any, row: int) -> list[int]:
  """Generated ids of one row of a `Generation` on the host."""
  begin = int(generation.prompt_length[row])
  end = begin + int(generation.num_tokens[row])
  return generation.tokens[row, begin:end].tolist()


def rows_of_tokens(result: Any) -> list[list[int]]:
  """New tokens of every row of a `Generation`, or of a peer's answer."""
  if isinstance(result, dict):
    return result['tokens']
  return [new_tokens(result, row) for row in range(len(result.num_tokens))]


def judged_alike(case: Case) -> bool:
  """Whether the case's own tokens must be those of plain decoding."""
  if not case.recipe.warp.sampled:
    return True
  return case.assembled.rule.keeps_target_sample


def twin_verifier(case: Case) -> str:
  """The rule under which a case exact in law alone is checked."""
  # A drafter that draws can share the target's noise.
  return 'coupled' if case.assembled.plan.has_log_probs else 'match'


def void(ours: Sequence) -> CheckResult | None:
  """The verdict on generations that cannot be compared; None if they can.

  Raises:
    ValueError: a drafter or rule of the user's own broke its contract.
  """
  for generation in ours:
    contract.refuse(generation.faults)
  if any(np.any(g.status == generate_lib.NAN) for g in ours):
    return CheckResult(FAILED, 'the logits of some row are not finite')
  if not sum(int(g.rounds.drafted.sum()) for g in ours):
    return CheckResult(INCONCLUSIVE, 'nothing was drafted')
  return None


def check(
  case: Case,
  batches: Sequence[PromptBatch],
  plain: Sequence,
  ours: Sequence,
  config: Any,
  *,
  as_exact: bool = False,
) -> CheckResult:
  """Compares a case's generations with those of plain decoding.

  Args:
    case: case whose rule gives equal tokens, or is lossy.
    batches: prompts, in batches.
    plain: `Generation` of numpy arrays for each batch, by plain decoding.
    ours: `Generation` of numpy arrays for each batch, by the case.
    config: `BenchmarkConfig` or `CertifyConfig`.
    as_exact: whether a lossy rule is judged as if it were exact.

  Returns:
    `CheckResult`.
  """
  nothing = void(ours)
  if nothing:
    return nothing
  pairs, unequal = _pairs(plain, map(rows_of_tokens, ours))
  equal = len(pairs) - len(unequal)
  if not (case.exact or as_exact):
    note = f'{equal} of {len(pairs)} rows as in plain decoding'
    return CheckResult(LOSSY, note, equal, 0, len(pairs))
  # Only Gumbel sampling has a score of each token that could nearly tie: logit
  # plus noise. Inverse-CDF sampling compares one number with cumulated shares.
  judged = config.sampler == 'gumbel' or not case.recipe.warp.sampled
  wrong = [
    pair
    for pair in unequal
    if not (judged and _near_tie(case, batches, pair, config))
  ]
  ties = len(unequal) - len(wrong)
  # The costlier excuse comes last: plain decoding once more, in wide blocks.
  for index in sorted({pair[0] for pair in wrong}):
    same_width = _same_width(case, batches[index], plain[index], config.sampler)
    saved = [
      pair
      for pair in wrong
      if pair[0] == index and new_tokens(same_width, pair[1]) == pair[3]
    ]
    ties += len(saved)
    wrong = [pair for pair in wrong if pair not in saved]
  if wrong:
    return CheckResult(
      FAILED, _describe(batches, wrong), equal, ties, len(pairs)
    )
  note = f'{ties} of {len(pairs)} rows part at a near tie' if ties else ''
  return CheckResult(OK, note, equal, ties, len(pairs))


def beside(
  case: Case,
  batches: Sequence[PromptBatch],
  plain: Sequence,
  theirs: Sequence[Sequence[Sequence[int]]],
  config: Any,
) -> CheckResult:
  """Compares another engine's greedy tokens with our plain decoding's.

  Args:
    case: plain decoding of ours.
    batches: prompts, in batches.
    plain: `Generation` of numpy arrays for each batch, by our plain decoding.
    theirs: new tokens of each row of each batch, by the other engine.
    config: `BenchmarkConfig`.

  Returns:
    `CheckResult`: 'ok' if all rows are equal or part at a near tie, else
    'differs'.
  """
  pairs, unequal = _pairs(plain, theirs)
  wrong = [
    pair for pair in unequal if not _near_tie(case, batches, pair, config)
  ]
  equal, ties = len(pairs) - len(unequal), len(unequal) - len(wrong)
  note = f'identical tokens: {equal} of {len(pairs)}'
  if ties:
    note += f'; {ties} part at a near tie'
  if wrong:
    note += '; ' + _describe(batches, wrong)
  return CheckResult(DIFFERS if wrong else OK, note, equal, ties, len(pairs))


def _pairs(plain: Sequence, theirs) -> tuple[list, list]:
  """(batch, row, plain tokens, their tokens) of all rows, and of unequal ones.

  Args:
    plain: `Generation` of each batch.
    theirs: new tokens of each row of each batch.
  """
  # plain [batch][row] [[[5, 9], [4, 4]]], theirs [[[5, 9], [4, 7]]]: the
  # unequal pairs are [(0, 1, [4, 4], [4, 7])].
  pairs = [
    (index, row, expected, list(got))
    for index, (left, right) in enumerate(zip(plain, theirs, strict=True))
    for row, (expected, got) in enumerate(
      zip(rows_of_tokens(left), right, strict=True)
    )
  ]
  return pairs, [pair for pair in pairs if pair[2] != pair[3]]


def _near_tie(case, batches, pair, config) -> bool:
  """Whether plain decoding hardly preferred its token where two rows part."""
  index, row, expected, got = pair
  gap = _gap(case, batches[index], row, expected, got)
  return gap is not None and gap < TOLERANCE[config.dtype]


def _describe(batches, wrong) -> str:
  index, row, expected, got = wrong[0]
  at = first_difference(expected, got)
  prompt = batches[index].rows[row] + 1
  return (
    f'{len(wrong)} rows differ from plain decoding; prompt {prompt} at new '
    f'token {at}: {got[at : at + 3]} for {expected[at : at + 3]}'
  )


def first_difference(left: Sequence[int], right: Sequence[int]) -> int:
  """Index of the first token at which two rows part."""
  for index, (a, b) in enumerate(zip(left, right, strict=False)):
    if a != b:
      return index
  return min(len(left), len(right))


def _gap(case, batch, row, expected, got) -> float | None:
  """By how much plain decoding preferred its token at the first difference.

  None where one row merely ended earlier, infinity if there is no such token.
  """
  # expected [5, 9, 2], got [5, 7, 2]: at = 1, and if the scores behind [5] are
  # 3.1000 for 9 and 3.0996 for 7, the gap is 0.0004.
  at = first_difference(expected, got)
  if at >= min(len(expected), len(got)):
    return None
  budget = int(batch.controls.max_new_tokens.max())
  padded = np.zeros((1, budget + 1), np.int32)
  padded[0, :at] = expected[:at]
  one = jax.tree.map(lambda x: x[row : row + 1], batch.prompt)
  controls = jax.tree.map(lambda x: x[row : row + 1], batch.controls)
  controls = controls.replace(
    eos_ids=batch.controls.eos_ids, lists=batch.controls.lists
  )
  recipe = case.recipe
  scores = np.asarray(
    _scores(
      precision.of_lm(recipe.target, recipe.matmul_precision),
      recipe.warp,
      case.params.target,
      one,
      controls,
      new=jnp.asarray(padded),
      at=jnp.int32(at),
    )
  )
  if not 0 <= got[at] < len(scores):
    return math.inf
  return float(scores[expected[at]] - scores[got[at]])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(lm, spec, params, prompt, controls, *, new, at):
  """Scores by which new token `at` was chosen, noise included: float32 [V]."""
  width = new.shape[1]
  capacity = prompt.tokens.shape[1] + 2 * width + 2
  prefilled = lm.prefill(params, prompt, capacity=capacity)
  block = jnp.concatenate([prefilled.last_token[:, None], new[:, :-1]], 1)
  scored, _ = lm.extend(
    params, prefilled.cache, block, slots=jnp.full((1, 1), at)
  )
  # Penalties read the history: the prompt, then the new tokens before `at`.
  given = jnp.ones((1,), jnp.int32)
  tokens = jnp.full((1, 1), lm.start_id or 0, jnp.int32)
  if not lm.is_encoder_decoder:
    given, tokens = prompt.length, prompt.tokens
  tokens = jnp.pad(tokens, ((0, 0), (0, capacity - tokens.shape[1])))
  tokens = lax.dynamic_update_slice(tokens, new, (0, given[0]))
  length = given + at
  context = base.Context(tokens, length, given, controls)
  scores = warp_lib.warp(spec, scored.logits, context)[:, 0]
  if spec.sampled:
    keys = sampling.position_keys(
      controls.row_key, length[:, None], sampling.TARGET
    )
    noise = sampling.gumbel(keys[:, 0], scores.shape[-1])
    hot = controls.temperature[:, None] > 0
    scores = scores + jnp.where(hot, noise, 0.0)
  return scores[0]


def _same_width(case: Case, batch: PromptBatch, plain, sampler: str):
  """Plain decoding done with blocks of the case's width.

  Tokens that differ from it are no matter of block width, so the fault is one
  of the rule, a cache or the drafter.
  """
  slots = case.recipe.drafter.num_draft
  # Its drafts are tokens that plain decoding did not take, so hardly any is
  # accepted. The rule is not the case's own, which may be the one that errs.
  assembled = assemble.assemble(
    case.assembled.target,
    Source(SIMULATED, 'spoiled', None, 0.0),
    assemble.Settings(num_draft=slots, warp=case.recipe.warp, sampler=sampler),
  )
  budget = int(batch.controls.max_new_tokens.max())
  rows = np.zeros((len(plain.num_tokens), budget), np.int32)
  for row in range(len(rows)):
    tokens = new_tokens(plain, row)
    rows[row, : len(tokens)] = tokens
  given = assembled.params(DraftData(script=jnp.asarray(rows)))
  generate = assemble.compiled(assembled.recipe, budget)
  return transfer.to_host(
    generate(
      case.params.replace(drafter=given.drafter), batch.prompt, batch.controls
    )
  )
