"""From logits by depth to a draft: a chain, or a tree of candidates.

The slots of a parallel drafter do not see each other's tokens, so q depends on
the depth alone. What is drawn for one node is still independent of what is
drawn for another, which is all that the verifiers ask.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import sampling
from specjax.decoding import trees
from specjax.decoding import warp as warp_lib


def spread(logits, output_ids: tuple, vocab_size: int):
  """Logits [..., V'] of a reduced head over all V tokens; -inf elsewhere."""
  if not output_ids:
    return logits[..., :vocab_size]
  whole = jnp.full((*logits.shape[:-1], vocab_size), -jnp.inf, logits.dtype)
  ids = np.asarray(output_ids, np.int32)
  return whole.at[..., ids].set(logits, mode='drop')


def chain(
  logits,
  context: base.Context,
  *,
  noise: str,
  needs_log_probs: bool,
  warp: warp_lib.WarpSpec,
  sampler: str,
) -> base.Draft:
  """Draws one token a slot.

  Args:
    logits: float32 [B, K, V], of slots that know nothing of each other.
    context: what is committed. Penalties see this history alone, so q differs
      from the target's p behind the first slot; it is honest all the same.
    noise: see `base.Verifier`.
    needs_log_probs: whether to return q.
    warp: switches.
    sampler: of position-keyed noise.
  """
  logits = warp_lib.warp(warp, logits, context)
  batch, num_draft = logits.shape[:2]
  row_key = context.controls.row_key
  if noise == 'argmax':
    tokens = sampling.argmax(logits)
  elif noise == 'round':
    keys = sampling.node_keys(
      row_key, context.length, num_draft, sampling.DRAFT
    )
    tokens = sampling.categorical(logits, keys, 'inverse_cdf')
  else:
    role = {'position': sampling.TARGET, 'private': sampling.PRIVATE}[noise]
    place = context.length[:, None] + jnp.arange(num_draft)
    keys = sampling.position_keys(row_key, place, role)
    tokens = sampling.categorical(logits, keys, sampler)
  log_probs = jax.nn.log_softmax(logits) if needs_log_probs else None
  return base.Draft(tokens, log_probs)


def tree(
  logits,
  context: base.Context,
  topology: trees.Topology,
  *,
  noise: str,
  needs_log_probs: bool,
  warp: warp_lib.WarpSpec,
  sampler: str,
) -> base.Draft:
  """Fills a tree with candidates.

  The best few of each depth, shared by all nodes there, for rules that take
  any candidates; under 'position' the best few after adding the target's own
  noise. For 'round' every node draws its children from q without replacement,
  with noise of its own: `traversal` learns about one node's children before it
  turns to another's.

  Args:
    logits: float32 [B, P, V], by depth.
    context: as in `chain`.
    topology: of N nodes.
    noise, needs_log_probs, warp, sampler: as in `chain`.

  Returns:
    `Draft` of N nodes; a node is `EMPTY` where q offers nothing more.
  """
  logits = warp_lib.warp(warp, logits, context)
  depth = np.asarray(topology.depth[1:]) - 1
  rank = np.asarray(topology.rank[1:])
  if noise == 'round':
    parents = sorted(set(topology.parent[1:]))
    level = np.asarray([topology.depth[slot] for slot in parents])
    row = np.asarray([parents.index(slot) for slot in topology.parent[1:]])
    given = logits[:, level]
  else:
    parents, level = [0] * topology.max_depth, np.arange(topology.max_depth)
    row, given = depth, logits
  found = offered(
    given, context, parents, level, topology.max_rank, noise, sampler
  )
  tokens = found[:, row, rank]
  log_probs = None
  if needs_log_probs:
    log_probs = jax.nn.log_softmax(logits)[:, depth]
    log_probs = jnp.where((tokens >= 0)[..., None], log_probs, -jnp.inf)
  return base.Draft(tokens, log_probs, broadcast(topology, tokens.shape[0]))


def broadcast(topology: trees.Topology, batch: int) -> base.Tree:
  """The same tree for every row."""
  shape = (batch, topology.num_nodes + 1)
  return base.Tree(
    jnp.broadcast_to(jnp.asarray(topology.parent, jnp.int32), shape),
    jnp.broadcast_to(jnp.asarray(topology.depth, jnp.int32), shape),
  )


def offered(logits, context, slots, depth, count: int, noise, sampler):
  """What nodes offer as their children.

  Args:
    logits: float32 [B, I, V], warped, after each of I nodes.
    context: what is committed.
    slots: int [I], the nodes' places in the block, which key 'round' noise.
    depth: int [I], their depths, which key 'position' noise.
    count: R, children wanted.
    noise, sampler: as in `tree`.

  Returns:
    int32 [B, I, R], in the order of ranks; `EMPTY` where q offers no more.
  """
  if noise == 'round':
    keys = sampling.node_keys(
      context.controls.row_key,
      context.length,
      int(max(slots)) + 1,
      sampling.DRAFT,
    )[:, np.asarray(slots)]
    # The largest of log q plus Gumbel noise, in falling order, are draws
    # without replacement in the order drawn.
    logits = logits + sampling.gumbel(keys, logits.shape[-1])
  elif noise == 'position':
    logits = logits + _target_noise(logits, context, depth, sampler)
  return _best(logits, count)


def _best(scores, count: int):
  """The best `count` tokens of [..., V], `EMPTY` where none has a chance."""
  count_there = min(count, scores.shape[-1])
  values, tokens = lax.top_k(scores, count_there)
  tokens = jnp.where(values > -jnp.inf, tokens, base.EMPTY).astype(jnp.int32)
  missing = [(0, 0)] * (tokens.ndim - 1) + [(0, count - count_there)]
  return jnp.pad(tokens, missing, constant_values=base.EMPTY)


def _target_noise(logits, context, depth, sampler: str):
  """The noise by which the target will sample at these positions.

  The inverse CDF draws a token, not noise: that token is put first.
  """
  place = context.length[:, None] + jnp.asarray(depth, jnp.int32)
  keys = sampling.position_keys(
    context.controls.row_key, place, sampling.TARGET
  )
  if sampler == 'gumbel':
    return sampling.gumbel(keys, logits.shape[-1])
  first = sampling.categorical(logits, keys, sampler)
  ids = jnp.arange(logits.shape[-1])
  return jnp.where(ids == first[..., None], 1e9, 0.0)
