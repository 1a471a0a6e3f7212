"""From logits by depth to a draft that is a tree of candidates.

The slots of a parallel drafter do not see each other's tokens, so q depends on
the depth alone. The draws of one node are still independent of those of
another, as the verifiers require.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import sampling
from specjax.decoding import trees
from specjax.decoding.drafters import drawing


def tree(
  logits: base.Array,
  context: base.Context,
  topology: trees.Topology,
  style: drawing.Style,
) -> base.Draft:
  """Fills a tree with candidates.

  The best few of each depth, shared by all nodes there, for rules that take
  any candidates; under 'position' the best few after adding the target's own
  noise. For 'round' every node draws its children from q without replacement,
  with noise of its own: `traversal` learns about one node's children before it
  turns to another's.

  Args:
    logits: float32 [B, P, V], by depth.
    context: committed tokens and controls.
    topology: tree of N nodes.
    style: way of drawing tokens.

  Returns:
    `Draft` of N nodes; a node is `EMPTY` where q offers nothing more.
  """
  logits = drawing.warped(logits, context, style, *drawing.unseen(logits))
  depth = np.asarray(topology.depth[1:]) - 1
  rank = np.asarray(topology.rank[1:])
  # Paths 0 1 00 01, the best tokens a b at depth 1 and c d at depth 2:
  #   depth [0 0 1 1], rank [0 1 0 1], tokens [a b c d]
  # 'round': parents [0 1], level [0 1], row [0 0 1 1]
  if style.noise == 'round':
    parents = sorted(set(topology.parent[1:]))
    level = np.asarray([topology.depth[slot] for slot in parents])
    row = np.asarray([parents.index(slot) for slot in topology.parent[1:]])
    given = logits[:, level]
  else:
    parents, level = [0] * topology.max_depth, np.arange(topology.max_depth)
    row, given = depth, logits
  found = offered(given, context, parents, level, topology.max_rank, style)
  tokens = found[:, row, rank]
  log_probs = None
  if style.needs_log_probs:
    log_probs = jax.nn.log_softmax(logits)[:, depth]
    # Siblings share their parent's row of q; which of them was drawn first, and
    # what that leaves of q, is a matter of their order alone.
    log_probs = jnp.where((tokens >= 0)[..., None], log_probs, -jnp.inf)
  return base.Draft(tokens, log_probs, broadcast(topology, tokens.shape[0]))


def broadcast(topology: trees.Topology, batch: int) -> base.Tree:
  """The same tree for every row."""
  shape = (batch, topology.num_nodes + 1)
  return base.Tree(
    jnp.broadcast_to(jnp.asarray(topology.parent, jnp.int32), shape),
    jnp.broadcast_to(jnp.asarray(topology.depth, jnp.int32), shape),
  )


def offered(
  logits: base.Array,
  context: base.Context,
  slots: base.Array,
  depth: base.Array,
  count: int,
  style: drawing.Style,
) -> base.Array:
  """The candidates of several nodes for their children.

  Args:
    logits: float32 [B, I, V], warped, after each of I nodes.
    context: committed tokens and controls.
    slots: int [I], the nodes' places in the block, which key 'round' noise.
    depth: int [I], their depths, which key 'position' noise.
    count: R, children wanted.
    style: way of drawing tokens.

  Returns:
    int32 [B, I, R], in the order of ranks; `EMPTY` where q offers no more.
  """
  if style.noise == 'round':
    keys = drawing.slot_keys('round', context, jnp.asarray(slots, jnp.int32))
    # The largest of log q plus Gumbel noise, in falling order, are draws
    # without replacement in the order drawn.
    logits = logits + sampling.gumbel(keys, logits.shape[-1])
  elif style.noise == 'position':
    logits = logits + _target_noise(logits, context, depth, style.sampler)
  return _best(logits, count)


def _best(scores, count: int):
  """The best `count` tokens of [..., V], `EMPTY` where none has a chance."""
  # scores [1 3 -inf], count 4: [1 0 EMPTY EMPTY]
  count_there = min(count, scores.shape[-1])
  values, tokens = lax.top_k(scores, count_there)
  tokens = jnp.where(values > -jnp.inf, tokens, base.EMPTY).astype(jnp.int32)
  missing = [(0, 0)] * (tokens.ndim - 1) + [(0, count - count_there)]
  return jnp.pad(tokens, missing, constant_values=base.EMPTY)


def _target_noise(logits, context, depth, sampler: str):
  """The noise by which the target will sample at these positions.

  The inverse CDF draws a token, not noise: that token is put first.
  """
  keys = drawing.slot_keys('position', context, jnp.asarray(depth, jnp.int32))
  if sampler == 'gumbel':
    return sampling.gumbel(keys, logits.shape[-1])
  # ids [0 1 2], the target will draw 1: noise [0 1e9 0]
  first = sampling.categorical(logits, keys, sampler)
  ids = jnp.arange(logits.shape[-1])
  return jnp.where(ids == first[..., None], 1e9, 0.0)
