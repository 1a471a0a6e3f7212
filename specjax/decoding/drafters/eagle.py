"""EAGLE: drafts token by token, from its own states.

Where the target's state is not known yet, the network's own stands for it.
Rows of drafted tokens are not kept; they are written over by the next window.

References:
  Li et al. EAGLE. ICML 2024. https://arxiv.org/abs/2401.15077
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import trees
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import target_conditioned
from specjax.models.common.output_ids import spread


def chain(
  net: Any, topology: Any, vocab_size: int, style: drawing.Style
) -> base.Drafter:
  """Drafts a chain, each token from the one before."""

  num_draft = topology.max_depth

  def first(logits):
    return spread(logits[:, 0], net.config.output_ids, vocab_size)

  def propose(params, state, view):
    context = view.context
    logits, hidden, cache = target_conditioned.window_pass(
      net, params, state, context, num_draft + 1, 1
    )
    zero = jnp.zeros((context.length.shape[0], 1), jnp.int32)

    def step(state, fed):
      cache, hidden = state
      logits, hidden, cache = net.extend(
        params, cache, fed, hidden, zero, slots=zero
      )
      cache = cache.replace(length=cache.length + 1)
      return first(logits), (cache, hidden)

    draft, (cache, _) = drawing.sequence(
      first(logits), step, (cache, hidden), context, num_draft, style
    )
    # The rows just written came from guessed states; they are not kept.
    return draft, state.replace(cache=cache.replace(length=context.length))

  return base.Drafter(
    functools.partial(
      target_conditioned.init, net, num_draft + 1, 2 * num_draft
    ),
    propose,
    target_conditioned.observe,
    num_draft,
    num_draft,
    insert=target_conditioned.insert,
    network_cache=target_conditioned.cache_of,
  )


class _Level(NamedTuple):
  """The nodes of one depth that have children; the root is a level of its own.

  Attributes:
    slots: their block slots.
    above: place of each one's parent in the level before.
    first: number of such nodes at lesser depths, the root not counted.
    reads: bool [n, I], the nodes, of all such, that each may read, in order.
    children: block slots of all their children.
    whose: place in `slots` of each child's parent.
  """

  slots: tuple[int, ...]
  above: np.ndarray
  first: int
  reads: np.ndarray
  children: np.ndarray
  whose: np.ndarray


def _levels(topology: trees.Topology) -> list[_Level]:
  parent, _, depth = topology
  # parent [0 0 0 1 3]: inner [0 1 3], so `place` is {1: 0, 3: 1}; slots 2 and 4
  # are leaves, which are drawn and never fed.
  inner = sorted(set(parent[1:]), key=lambda slot: (depth[slot], slot))
  place = {slot: i for i, slot in enumerate(inner[1:])}
  levels, before = [], ()
  for level in range(topology.max_depth):
    slots = tuple(slot for slot in inner if depth[slot] == level)
    reads = np.zeros((len(slots), max(len(place), 1)), bool)
    for row, slot in enumerate(slots):
      while slot:
        reads[row, place[slot]] = True
        slot = parent[slot]
    children = [s for s in range(1, len(parent)) if parent[s] in slots]
    levels.append(
      _Level(
        slots=slots,
        above=np.asarray([before.index(parent[s]) for s in slots if s], int),
        first=min((place[s] for s in slots if s), default=0),
        reads=reads,
        children=np.asarray(children),
        whose=np.asarray([slots.index(parent[s]) for s in children]),
      )
    )
    before = slots
  return levels


class _Fed(NamedTuple):
  """Inputs of the nodes of a level.

  Attributes:
    index: the level.
    tokens: int32 [B, nodes], of the draft so far.
    states: [B, n, D], of the level before.
    length: int32 [B], of the context.
  """

  index: int
  tokens: base.Array
  states: base.Array
  length: base.Array


def _grow(net, params, cache, level: _Level, given: _Fed):
  """Feeds the nodes of a level; returns what `net.extend` does.

  A node reads the context and its own ancestors. Columns of the cache behind
  the context, 5 tokens long, hold the nodes that have children:
    column    0 1 2 3 4 | 5 6 7
    node a    x x x x x | x . .     (itself)
    node b    x x x x x | x x .     (its parent a, and itself)
  """
  length, inner = given.length, level.reads.shape[1]
  batch = length.shape[0]
  fed = jnp.maximum(given.tokens[:, np.asarray(level.slots) - 1], 0)
  column = jnp.arange(cache.keys[0].shape[-1]) - length[:, None]
  inside = (column >= 0) & (column < inner)
  # [n, B, L]: for each node the columns of its ancestors and its own.
  own = jnp.asarray(level.reads)[:, jnp.clip(column, 0, inner - 1)]
  mask = (column < 0)[:, None] | (inside[:, None] & jnp.moveaxis(own, 0, 1))
  place = jnp.broadcast_to((length - 1 + given.index)[:, None], fed.shape)
  every = jnp.broadcast_to(jnp.arange(fed.shape[1]), (batch, fed.shape[1]))
  return net.extend(
    params,
    cache.replace(length=length + level.first),
    fed,
    given.states[:, level.above],
    jnp.zeros_like(fed),
    slots=every,
    positions=place,
    mask=mask,
  )


def tree(
  net: Any, topology: Any, vocab_size: int, style: drawing.Style
) -> base.Drafter:
  """Drafts a tree, a pass for each depth."""
  levels = _levels(topology)
  rank, deepest = np.asarray(topology.rank), topology.max_depth
  inner = levels[-1].reads.shape[1]

  def propose(params, state, view):
    context = view.context
    batch = context.length.shape[0]
    logits, states, cache = target_conditioned.window_pass(
      net, params, state, context, deepest + 1, 1
    )
    tokens = jnp.full((batch, topology.num_nodes), base.EMPTY, jnp.int32)
    log_probs = None
    if style.needs_log_probs:
      shape = (batch, topology.num_nodes, vocab_size)
      log_probs = jnp.zeros(shape, jnp.float32)
    for index, level in enumerate(levels):
      if index:
        fed = _Fed(index, tokens, states, context.length)
        logits, states, cache = _grow(net, params, cache, level, fed)
      rows = spread(logits, net.config.output_ids, vocab_size)
      # All nodes of a level follow `index` tokens, which `rows` do not show.
      depth = jnp.full(rows.shape[:2], index, jnp.int32)
      rows = drawing.warped(rows, context, style, None, depth)
      found = candidates.offered(
        rows,
        context,
        level.slots,
        [index] * len(level.slots),
        topology.max_rank,
        style,
      )
      node = level.children - 1
      drawn = found[:, level.whose, rank[level.children]]
      tokens = tokens.at[:, node].set(drawn)
      if style.needs_log_probs:
        row = jax.nn.log_softmax(rows)[:, level.whose]
        # A node that q could not fill proposes nothing and has no distribution.
        row = jnp.where((drawn >= 0)[..., None], row, -jnp.inf)
        log_probs = log_probs.at[:, node].set(row)
    cache = cache.replace(length=context.length)
    made = base.Draft(tokens, log_probs, candidates.broadcast(topology, batch))
    return made, state.replace(cache=cache)

  return base.Drafter(
    functools.partial(
      target_conditioned.init, net, deepest + 1, deepest + 1 + inner
    ),
    propose,
    target_conditioned.observe,
    topology.num_nodes,
    deepest,
    insert=target_conditioned.insert,
    network_cache=target_conditioned.cache_of,
  )
