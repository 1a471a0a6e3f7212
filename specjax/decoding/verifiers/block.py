"""Block verification: one joint decision about the whole draft.

Keeps at least as many tokens in expectation as token-by-token sampling, from
the same draft and as much noise, and is exact.

References:
  Sun et al. Block verification accelerates speculative decoding. ICLR 2025.
    https://arxiv.org/abs/2403.10444
"""

import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.entry import VerifierEntry


def joint_ratios(p: Array, q: Array) -> Array:
  """w_i = min(w_{i-1} p_i / q_i, 1), w_0 = 1: [B, K] -> [B, K + 1]."""
  # p [.5 .5], q [1 .25]: w [1 .5 1]
  w = jnp.ones(p.shape[:1], jnp.float32)
  columns = [w]
  for i in range(p.shape[1]):
    # Unrolled: K is small, and each ratio needs the one before it.
    mass = w * p[:, i]
    # 0 / 0 counts as 0: a token of probability 0 is never accepted.
    w = jnp.where(mass >= q[:, i], 1.0, mass / q[:, i])
    w = jnp.where(mass <= 0, 0.0, w)
    columns.append(w)
  return jnp.stack(columns, axis=1)


def excess(
  w: Array, p: Array, draft: Draft, logits: Array, log_normaliser: Array
) -> Array:
  """Z_i = sum over x of (w_i p_{i+1}(x) - q_{i+1}(x))+, i < K: [B, K].

  Meaningless where slot i + 1 is empty. `p` is the target's probability of the
  drafted tokens: for a point mass the sum is w_i (1 - p_{i+1}(x_{i+1})).
  """
  num_draft = draft.tokens.shape[1]
  if draft.log_probs is None:
    return w[:, :num_draft] * (1.0 - p)
  target = jnp.exp(logits - log_normaliser[..., None])[:, :num_draft]
  excess = w[:, :num_draft, None] * target - jnp.exp(draft.log_probs)
  return jnp.maximum(excess, 0.0).sum(axis=-1)


def verify(context: Context, draft: Draft, logits: Array) -> Verdict:
  """Keeps the longest prefix whose own test passes.

  Prefix i passes if u_i < h_i, h_i = Z_i / (Z_i + 1 - w_i), and for the full
  draft h = w. A row's draft length is data: the slots before its first empty.
  """
  common.check(draft, logits, 'block')
  num_draft = draft.tokens.shape[1]
  there = common.filled(draft)
  drafted = there.sum(axis=1)[:, None]
  p, q, log_normaliser = common.probabilities_at(draft, logits)
  w = joint_ratios(p, q)
  z = excess(w, p, draft, logits, log_normaliser)
  # Prefix i = 1..K; z[:, i] belongs to prefix i, the last prefix has none.
  length = jnp.arange(1, num_draft + 1)
  wi = w[:, 1:]
  zi = jnp.pad(z[:, 1:], ((0, 0), (0, min(num_draft, 1))))
  below = zi + 1.0 - wi
  # w = 1 and Z = 0: p and q are equal behind this prefix, which passes surely.
  h = jnp.where(below > 0, zi / jnp.where(below > 0, below, 1.0), 1.0)
  h = jnp.where(length == drafted, wi, h)
  h = jnp.where(jnp.isnan(wi), 0.0, h)
  u, keys = common.round_noise(context, num_draft)
  passed = (u < h) & (length <= drafted)
  # passed [0 1 0]: two tokens. A longer prefix may pass where a shorter failed,
  # which is the gain over deciding token by token.
  num_accepted = jnp.max(
    jnp.where(passed, length, 0), axis=1, initial=0
  ).astype(jnp.int32)
  kept_all = num_accepted == drafted[:, 0]
  # The residual is (w p - q)+ with the w of the kept prefix: what the joint
  # test left of the target there. Behind a full draft the bonus is drawn from
  # p.
  scales = dict(
    p_scale=jnp.where(kept_all, 1.0, common.take_slot(w, num_accepted)),
    q_scale=jnp.ones(logits.shape[0], jnp.float32),
  )
  next_token = common.next_from_residual(
    keys, draft, logits, log_normaliser, num_accepted, **scales
  )
  return Verdict(num_accepted, next_token)


def block(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The rule `block`; exact, and best for drafters with log probabilities.

  For a point mass q it keeps no more than `sampling` does.
  """
  del sampler, max_path, static
  return Verifier(verify, 'round', True)


ENTRY = VerifierEntry(
  'block', 'the longest prefix that passes one joint test', block
)
