"""`traversal`: a tree is tested from its leaves to its root.

A path that fails at its leaf is not lost: its shorter form is tested next, and
then its siblings. Keeps at least as many tokens in expectation as testing from
the root, from the same tree; on a chain it is `block`. Exact if every node's
children are drawn independently of other nodes' children, since a subtree is
given up before its neighbour is looked at.

References:
  Weng et al. Traversal verification for speculative tree decoding. 2025.
    https://arxiv.org/abs/2505.12398
"""

from typing import NamedTuple

from jax import lax
import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers import remainders as steps
from specjax.decoding.verifiers.block import verify as verify_chain
from specjax.decoding.verifiers.entry import VerifierEntry


class _Walk(NamedTuple):
  """The state of the walk. Rows of the stacks are the nodes above it.

  Attributes:
    slot, depth: int32 [B], the node at hand.
    gone: bool [B, T], nodes given up.
    path: int32 [B, P], the slots above and at the node.
    p, q: float32 [B, P + 1, V], what is left of the two distributions.
    r: float32 [B, P + 1], the joint acceptance of each node.
    done: bool [B].
  """

  slot: Array
  depth: Array
  gone: Array
  path: Array
  p: Array
  q: Array
  r: Array
  done: Array


def _first_child(draft, walk):
  """The first child not given up, and whether there is one."""
  tokens = jnp.pad(draft.tokens, ((0, 0), (1, 0)), constant_values=-1)
  child = (draft.tree.parent == walk.slot[:, None]) & (tokens >= 0) & ~walk.gone
  # parent [0 0 0 1], at the root, slot 1 gone: child [0 0 1 0], so slot 2
  return jnp.argmax(child, axis=1).astype(jnp.int32), jnp.any(child, axis=1)


def _descend(draft, logits, walk, child, when):
  """Goes to a child: its joint acceptance, and fresh distributions below."""
  size = logits.shape[-1]
  p = common.take_slot(walk.p, walk.depth)
  token = common.take_slot(draft.tokens, jnp.maximum(child - 1, 0))
  if draft.log_probs is None:
    q = steps.child_row(draft, child, size)
  else:
    q = common.take_slot(walk.q, walk.depth)
  index = jnp.maximum(token, 0)[:, None]
  px = jnp.take_along_axis(p, index, axis=1)[:, 0]
  qx = jnp.take_along_axis(q, index, axis=1)[:, 0]
  # r 1, p(x) .3, q(x) .6: joint .5; p(x) at least q(x): 1.
  mass = common.take_slot(walk.r, walk.depth) * px
  # 0 / 0 counts as 0: a token of probability 0 is never accepted.
  joint = jnp.where(mass >= qx, 1.0, mass / jnp.where(qx > 0, qx, 1.0))
  joint = jnp.where(mass > 0, joint, 0.0)
  below = walk.depth + 1
  # Its children's q stands at any of them; a leaf needs none.
  children = draft.tree.parent == child[:, None]
  children &= jnp.arange(children.shape[1]) > 0
  grandchild = jnp.argmax(children, axis=1).astype(jnp.int32)
  return walk._replace(
    slot=jnp.where(when, child, walk.slot),
    depth=jnp.where(when, below, walk.depth),
    path=common.put(walk.path, walk.depth, child, when),
    p=common.put(walk.p, below, steps.target_row(logits, child), when),
    q=common.put(walk.q, below, steps.child_row(draft, grandchild, size), when),
    r=common.put(walk.r, below, joint, when),
  )


def _give_up(draft, walk, when):
  """Returns to the parent, whose distributions lose what was refused."""
  # r 1, p [.5 .5], q [.8 .2], token 0 refused: excess [0 .3], so p and q become
  # [0 1], and r becomes .3 / (.3 + 1 - 1) = 1.
  above = jnp.maximum(walk.depth - 1, 0)
  token = common.take_slot(draft.tokens, jnp.maximum(walk.slot - 1, 0))
  p = common.take_slot(walk.p, above)
  if draft.log_probs is None:
    q = steps.child_row(draft, walk.slot, p.shape[-1])
  else:
    q = common.take_slot(walk.q, above)
  r = common.take_slot(walk.r, above)
  excess = jnp.maximum(r[:, None] * p - q, 0.0)
  total = excess.sum(axis=-1)
  bottom = total + 1.0 - r
  joint = jnp.where(bottom > 0, total / jnp.where(bottom > 0, bottom, 1.0), 1.0)
  slots = jnp.arange(walk.gone.shape[1])
  return walk._replace(
    slot=jnp.where(
      when, common.take_slot(draft.tree.parent, walk.slot), walk.slot
    ),
    depth=jnp.where(when, above, walk.depth),
    gone=walk.gone | ((slots == walk.slot[:, None]) & when[:, None]),
    p=common.put(walk.p, above, steps.normalised(excess, p), when),
    q=common.put(walk.q, above, steps.without(q, jnp.maximum(token, 0)), when),
    r=common.put(walk.r, above, joint, when),
  )


def verify(
  context: Context, draft: Draft, logits: Array, *, max_path: int
) -> Verdict:
  """Depth first, a test at each node once its children are given up."""
  common.check_tree(draft, 'traversal')
  batch, num_nodes = draft.tokens.shape
  size = logits.shape[-1]
  uniforms, keys = common.round_noise(context, num_nodes)
  if not num_nodes:
    return steps.without_draft(logits, keys, max_path)
  uniforms = jnp.pad(uniforms, ((0, 0), (1, 0)))
  root = jnp.zeros((batch,), jnp.int32)
  stack = jnp.zeros((batch, max_path + 1, size), jnp.float32)
  whole = jnp.ones((batch,), bool)
  start = _Walk(
    slot=root,
    depth=root,
    gone=jnp.zeros((batch, num_nodes + 1), bool),
    path=jnp.zeros((batch, max_path), jnp.int32),
    p=common.put(stack, root, steps.target_row(logits, root), whole),
    q=common.put(stack, root, steps.child_row(draft, root + 1, size), whole),
    r=jnp.ones((batch, max_path + 1), jnp.float32),
    done=~whole,
  )

  # parent [0 0 0 1]: where every test fails, the walk stands at
  #   0 1 3 1 0 2 0, tests 3, 1 and 2, and ends at the root.
  def step(walk):
    child, has_child = _first_child(draft, walk)
    going = ~walk.done & has_child
    testing = ~walk.done & ~has_child
    r = common.take_slot(walk.r, walk.depth)
    passed = common.take_slot(uniforms, walk.slot) < r
    # The root passes always: with nothing accepted the next token is drawn
    # there.
    stop = testing & (passed | (walk.slot == 0))
    moved = _descend(draft, logits, walk, child, going)
    moved = _give_up(draft, moved, testing & ~stop)
    return moved._replace(done=walk.done | stop)

  walk = lax.while_loop(lambda walk: ~jnp.all(walk.done), step, start)
  last = common.take_slot(walk.p, walk.depth)
  return Verdict(walk.depth, sampling.draw(last, keys), walk.path)


def traversal(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The rule `traversal` for trees of depth `max_path`; 0 for chains."""
  del sampler, static
  rule = common.for_paths(verify_chain, verify, max_path)
  return Verifier(rule, 'round', True)


ENTRY = VerifierEntry(
  'traversal',
  'as block, for trees: from the leaves to the root',
  traversal,
  trees=True,
)
