"""Spec-Verification of SpecDec: keeps tokens among the target's best. Lossy.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

import functools

import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling
from specjax.decoding.verifiers import common


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
  ids = jnp.arange(logits.shape[-1])
  ahead = (seen > score[..., None]) | (
    (seen == score[..., None]) & (ids < tokens[..., None])
  )
  rank = 1 + ahead.sum(axis=-1)
  relaxed = (rank <= controls.beta[:, None]) & (
    best - score <= controls.tau[:, None]
  )
  is_end = (tokens[..., None] == controls.eos_ids).any(axis=-1)
  ok = common.agrees(draft, logits, target) | (relaxed & ~is_end)
  num_accepted = common.count_leading(ok & common.filled(draft))
  return Verdict(num_accepted, common.take_slot(target, num_accepted))


@functools.lru_cache(maxsize=None)
def top_candidates() -> Verifier:
  """The lossy rule `top_candidates` (`Controls.beta`, `Controls.tau`)."""
  return Verifier(verify, 'argmax', False, False, 'top_candidates')
