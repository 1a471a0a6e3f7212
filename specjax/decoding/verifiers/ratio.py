"""Token-by-token speculative sampling, and its lossy relaxation.

References:
  Leviathan, Kalman, Matias. Fast inference from Transformers via speculative
    decoding. ICML 2023 (lenience: appendix). https://arxiv.org/abs/2211.17192
  Chen et al. Accelerating large language model decoding with speculative
    sampling. 2023. https://arxiv.org/abs/2302.01318
"""

import functools

import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling as noise
from specjax.decoding.verifiers import common


def _ratio(
  context: Context, draft: Draft, logits: Array, lenience: Array
) -> tuple[Array, Array]:
  """Accepts with min(1, p / (l q)), else draws from (p - l q)+.

  Args:
    context: whose round it is.
    draft: the draft.
    logits: float32 [B, T, V], warped.
    lenience: float32 [B].

  Returns:
    num_accepted int32 [B] and next_token int32 [B].
  """
  p, q, log_normaliser = common.probabilities_at(draft, logits)
  u, keys = common.round_noise(context, draft.tokens.shape[1])
  # As a product, and strict: a token of p = 0 is refused even by u = 0, one of
  # p >= q is kept by every u < 1, and NaN refuses.
  ok = (u * lenience[:, None] * q < p) & common.filled(draft)
  num_accepted = common.count_leading(ok)
  next_token = common.next_from_residual(
    keys,
    draft,
    logits,
    log_normaliser,
    num_accepted,
    jnp.ones_like(lenience),
    lenience,
  )
  return num_accepted, next_token


def _verify_sampling(context: Context, draft: Draft, logits: Array) -> Verdict:
  common.check(draft, logits, 'sampling')
  ones = jnp.ones(logits.shape[0], jnp.float32)
  return Verdict(*_ratio(context, draft, logits, ones))


def _verify_lenient(context: Context, draft: Draft, logits: Array) -> Verdict:
  """Rows of temperature 0: accept x if p(x) > l max p (or x is the argmax).

  Their logits should come as the penalties left them
  (`WarpSpec(one_hot=False)`); one-hot rows are judged strictly.
  """
  common.check(draft, logits, 'lenient')
  lenience = context.controls.lenience
  cold = context.controls.temperature == 0
  sampled = _ratio(context, draft, logits, lenience)
  target = noise.argmax(logits)
  at_target = common.at_tokens(logits, target)[:, :-1]
  at_draft = common.at_tokens(logits[:, :-1], draft.tokens)
  ok = at_draft > at_target + jnp.log(lenience)[:, None]
  ok = (ok | common.agrees(draft, logits, target)) & common.filled(draft)
  count = common.count_leading(ok)
  return Verdict(
    jnp.where(cold, count, sampled[0]),
    jnp.where(cold, common.take_slot(target, count), sampled[1]),
  )


@functools.lru_cache(maxsize=None)
def sampling() -> Verifier:
  """The rule `sampling`: keeps a token with min(1, p / q); exact."""
  return Verifier(_verify_sampling, 'round', True, True, 'sampling')


@functools.lru_cache(maxsize=None)
def lenient() -> Verifier:
  """The lossy rule `lenient`: keeps a token with min(1, p / (l q)).

  `Controls.lenience` l in (0, 1]; no token becomes more than 1 / l times as
  likely as it should be, and l = 1 is `sampling`. Rows of temperature 0 follow
  the paper's greedy analogue: a token is kept if the target, at temperature 1,
  gives it more than l times its best token's probability.
  """
  return Verifier(_verify_lenient, 'round', True, False, 'lenient')
