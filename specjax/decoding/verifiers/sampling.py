"""Speculative sampling: keeps a token with probability min(1, p / q).

A chain is tested token by token. In a tree, the children of each accepted node
are tested in slot order. Child x is kept with probability min(1, p(x) / q(x)),
p being what is left of the target's distribution and q what is left of the
drafter's: a refused child leaves (p - q)+ of the one and loses its place in the
other. When no child is left, the next token is drawn from what is left of p.

References:
  Leviathan, Kalman, Matias. Fast inference from Transformers via speculative
    decoding. ICML 2023. https://arxiv.org/abs/2211.17192
  Chen et al. Accelerating large language model decoding with speculative
    sampling. 2023. https://arxiv.org/abs/2302.01318
  Jeon et al. Recursive speculative decoding. 2024 (trees).
    https://arxiv.org/abs/2402.14160
  Chen et al. Sequoia. 2024 (trees). https://arxiv.org/abs/2402.12374
"""

from jax import lax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling as noise
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers import remainders
from specjax.decoding.verifiers.entry import VerifierEntry


def ratio(
  context: Context, draft: Draft, logits: Array, lenience: Array
) -> tuple[Array, Array]:
  """Accepts with min(1, p / (l q)), else draws from (p - l q)+.

  Args:
    context: committed tokens and controls.
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
    p_scale=jnp.ones_like(lenience),
    q_scale=lenience,
  )
  return num_accepted, next_token


def _chain(context: Context, draft: Draft, logits: Array) -> Verdict:
  common.check(draft, logits, 'sampling')
  # lenience 1 is the exact rule; the lossy one shares every line of it.
  ones = jnp.ones(logits.shape[0], jnp.float32)
  return Verdict(*ratio(context, draft, logits, ones))


def _tree(
  context: Context, draft: Draft, logits: Array, *, max_path: int
) -> Verdict:
  """Walks down from the root; see this module's docstring.

  Parents stand before children, so one pass over the slots is the walk.
  """
  common.check_tree(draft, 'sampling')
  batch, num_nodes = draft.tokens.shape
  size = logits.shape[-1]
  uniforms, keys = common.round_noise(context, num_nodes)
  if not num_nodes:
    return remainders.without_draft(logits, keys, max_path)
  root = jnp.zeros((batch,), jnp.int32)

  # p [.5 .5], q [.8 .2], child 0 refused: both become [0 1].
  # `here` is the node reached, `fresh` that none of its children was tested.
  def test(slot, carry):
    here, p, q, fresh, count, path = carry
    at = jnp.full((batch,), slot, jnp.int32)
    token = draft.tokens[:, slot - 1]
    mine = (draft.tree.parent[:, slot] == here) & (token >= 0)
    # The first child meets the drafter's whole distribution.
    q = jnp.where(fresh[:, None], remainders.child_row(draft, at, size), q)
    if draft.log_probs is None:
      q = remainders.child_row(draft, at, size)
    index = jnp.maximum(token, 0)[:, None]
    px = jnp.take_along_axis(p, index, axis=1)[:, 0]
    qx = jnp.take_along_axis(q, index, axis=1)[:, 0]
    passed = mine & (uniforms[:, slot - 1] * qx < px) & (px > 0)
    failed = mine & ~passed
    # After a refusal p is (p - q)+ scaled to 1, since the next child's ratio
    # compares distributions; q loses the child, as siblings are drawn without
    # replacement.
    left = remainders.normalised(jnp.maximum(p - q, 0.0), p)
    p = jnp.where(failed[:, None], left, p)
    q = jnp.where(
      failed[:, None], remainders.without(q, jnp.maximum(token, 0)), q
    )
    p = jnp.where(passed[:, None], remainders.target_row(logits, at), p)
    path = common.put(path, count, at, passed)
    fresh = jnp.where(mine, passed, fresh)
    return (jnp.where(passed, at, here), p, q, fresh, count + passed, path)

  start = (
    root,
    remainders.target_row(logits, root),
    jnp.zeros((batch, size), jnp.float32),
    jnp.ones((batch,), bool),
    root,
    jnp.zeros((batch, max_path), jnp.int32),
  )
  _, p, _, _, count, path = lax.fori_loop(1, num_nodes + 1, test, start)
  return Verdict(count, noise.draw(p, keys), path)


def sampling(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The rule `sampling`: keeps a token with min(1, p / q); exact."""
  del sampler, static
  return Verifier(common.for_paths(_chain, _tree, max_path), 'round', True)


ENTRY = VerifierEntry(
  'sampling',
  'a token with probability min(1, p / q) (target p, drafter q)',
  sampling,
  trees=True,
)
