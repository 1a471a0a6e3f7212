"""Typical acceptance: keeps tokens that the target finds plausible. Lossy.

A drafted token is kept if its probability exceeds both a constant and what the
target's entropy allows: p(x) > min(epsilon, delta * exp(-H(p))). Of a tree the
longest such path is kept, the first of equals. The next token is the target's
own sample. Rows of temperature 0 keep the argmax alone, so that they are
decoded greedily.

References:
  Cai et al. Medusa. ICML 2024, section 3.3. https://arxiv.org/abs/2401.10774
"""

import jax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.entry import never
from specjax.decoding.verifiers.entry import VerifierEntry

# The published runs' values.
EPSILON, DELTA = 0.09, 0.3


def _plausible(p: Array, token: Array) -> Array:
  """bool [B, N] for target rows [B, N, V] and tokens [B, N]."""
  # 0 log 0 counts as 0; with log 0 the sum would be NaN, and no token passes.
  entropy = -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1)
  # One-hot p: H = 0, bound .09, so the argmax alone passes. Ten equal tokens: H
  # = log 10, bound .3 / 10 = .03, and each of them passes with .1.
  floor = jnp.minimum(EPSILON, DELTA * jnp.exp(-entropy))
  return (common.at_tokens(p, token) > floor) & (token >= 0)


def _next(context: Context, logits: Array, slot: Array, depth: Array) -> Array:
  """The target's own sample after a slot."""
  row = common.take_slot(logits, slot)[:, None]
  return common.target_samples(context, row, depth[:, None], 'gumbel')[:, 0]


def _chain(context: Context, draft: Draft, logits: Array) -> Verdict:
  common.check(draft, logits, 'typical')
  p = jax.nn.softmax(logits)
  ok = _plausible(p[:, :-1], draft.tokens)
  count = common.count_leading(ok)
  return Verdict(count, _next(context, logits, count, count))


def _tree(
  context: Context, draft: Draft, logits: Array, *, max_path: int
) -> Verdict:
  common.check_tree(draft, 'typical')
  parent, depth = draft.tree.parent, draft.tree.depth
  # A node is judged by its parent's row: parent [0 0 0 1] takes rows [0 0 1].
  above = jnp.take_along_axis(logits, parent[:, 1:, None], axis=1)
  ok = _plausible(jax.nn.softmax(above), draft.tokens)
  ok = jnp.pad(ok, ((0, 0), (1, 0)), constant_values=True)
  # After max_path passes a node is reached if all its ancestors are plausible:
  # parent [0 0 0 1], ok [1 0 1 1] -> reached [1 0 1 0]
  reached = ok
  for _ in range(max_path):
    reached = ok & jnp.take_along_axis(reached, parent, axis=1)
  best = jnp.argmax(jnp.where(reached, depth, -1), axis=1)[:, None]
  count = jnp.take_along_axis(depth, best, axis=1)[:, 0]
  path = jnp.zeros((parent.shape[0], max_path), jnp.int32)
  # From the leaf upwards; a slot of depth d is entry d - 1 of the path.
  slot = best
  for _ in range(max_path):
    place = jnp.take_along_axis(depth, slot, axis=1) - 1
    path = jnp.where(jnp.arange(max_path) == place, slot, path)
    slot = jnp.take_along_axis(parent, slot, axis=1)
  following = _next(context, logits, best[:, 0], count)
  return Verdict(count, following, path.astype(jnp.int32))


def typical(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The lossy rule `typical`; for trees of depth `max_path`, 0 for chains."""
  del sampler, static
  return Verifier(common.for_paths(_chain, _tree, max_path))


ENTRY = VerifierEntry(
  'typical',
  'lossy: tokens above a bound that falls with entropy (Medusa)',
  typical,
  trees=True,
  exact_when=never,
)
