"""Spec-Verification of SpecDec: keeps tokens among the target's best. Lossy.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from specjax import validation
from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import processors
from specjax.decoding import sampling
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.entry import VerifierEntry


@dataclasses.dataclass
class TopCandidatesOptions:
  """Options of `top_candidates`. One value each, or one a prompt.

  Attributes:
    beta: number of the target's best tokens among which a draft token is kept,
      at least 1; 1 is the rule `greedy`.
    tau: largest distance of a kept token's logit from the best one's, at least
      0.
  """

  beta: int = 1
  tau: float = 0.0

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    validation.each_whole('beta', self.beta, 1)
    validation.each('tau', self.tau, lambda v: v >= 0, '0 or more')


def verify(context: Context, draft: Draft, logits: Array) -> Verdict:
  """Accepts x of rank <= beta whose logit is within tau of the best one's.

  `logits` are those that a greedy decoder would see: not scaled by a
  temperature and not one-hot. The correction or bonus is always the argmax, and
  an end token is kept only if it is the argmax itself, so that a relaxed choice
  never ends a row. Of equal logits the smaller id ranks higher: beta = 1 is
  `greedy`.
  """
  common.check(draft, logits, 'top_candidates')
  controls = context.controls
  target = sampling.argmax(logits)
  best = common.at_tokens(logits, target)[:, :-1]
  tokens = draft.tokens
  seen = logits[:, :-1]
  score = common.at_tokens(seen, tokens)
  # A rank by counting, for K tokens alone; sorting V logits costs far more.
  # logits [3 5 5 1], token 2: one is as large with a smaller id, so rank 2
  ids = jnp.arange(logits.shape[-1])
  ahead = (seen > score[..., None]) | (
    (seen == score[..., None]) & (ids < tokens[..., None])
  )
  rank = 1 + ahead.sum(axis=-1)
  relaxed = (rank <= controls.rule['beta'][:, None]) & (
    best - score <= controls.rule['tau'][:, None]
  )
  is_end = processors.is_end(tokens, controls.eos_ids)
  ok = common.agrees(draft, logits, target) | (relaxed & ~is_end)
  num_accepted = common.count_leading(ok & common.filled(draft))
  return Verdict(num_accepted, common.take_slot(target, num_accepted))


def top_candidates(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The lossy rule `top_candidates`, see `TopCandidatesOptions`."""
  del sampler, max_path, static
  return Verifier(verify)


def _is_exact(options: TopCandidatesOptions) -> bool:
  return bool(np.all(np.asarray(options.beta) == 1))


def _check(target, options: TopCandidatesOptions) -> None:
  most = np.max(options.beta)
  if most > target.lm.vocab_size:
    raise ValueError(
      f'beta must be at most {target.lm.vocab_size}, the number of tokens that '
      f'the target knows, not {most}.'
    )


ENTRY = VerifierEntry(
  'top_candidates',
  "lossy: tokens among the target's best beta, within tau of the best",
  top_candidates,
  TopCandidatesOptions,
  requires_zero_temperature=True,
  greedy_at_zero=False,
  exact_for='argmax',
  exact_when=_is_exact,
  check=_check,
)
