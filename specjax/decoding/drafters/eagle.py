"""EAGLE: drafts token by token, from its own states.

Where the target's state is not known yet, the network's own stands for it.
Rows of drafted tokens are not kept; they are written over by the next window.

References:
  Li et al. EAGLE. ICML 2024. https://arxiv.org/abs/2401.15077
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import sampling
from specjax.decoding import trees
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters import attached
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters.autoregressive import draft_keys


def chain(net, topology, vocab_size, style: attached.Style) -> base.Drafter:
  """Drafts a chain, each token from the one before."""

  num_draft = topology.max_depth

  def draw(logits, context, path, index):
    path_length = jnp.full((logits.shape[0], 1), index, jnp.int32)
    logits = candidates.spread(logits, net.config.output_ids, vocab_size)
    logits = warp_lib.warp(
      style.warp, logits[:, None], context, path[:, None], path_length
    )[:, 0]
    keys = draft_keys(style.noise, context, index, num_draft)
    if keys is None:
      tokens = sampling.argmax(logits)
    else:
      sampler = 'inverse_cdf' if style.noise == 'round' else style.sampler
      tokens = sampling.categorical(logits, keys, sampler)
    if not style.needs_log_probs:
      return tokens, None
    return tokens, jax.nn.log_softmax(logits)

  def propose(params, state, view):
    context = view.context
    batch = context.length.shape[0]
    logits, hidden, cache = attached.window_pass(
      net, params, state, context, num_draft + 1, 1
    )
    tokens = jnp.full((batch, num_draft), base.EMPTY, jnp.int32)
    drawn, row = draw(logits[:, 0], context, tokens, 0)
    tokens = tokens.at[:, 0].set(drawn)
    log_probs = None
    if style.needs_log_probs:
      log_probs = jnp.zeros((batch, num_draft, vocab_size), jnp.float32)
      log_probs = log_probs.at[:, 0].set(row)
    zero = jnp.zeros((batch, 1), jnp.int32)

    def step(index, carry):
      cache, hidden, tokens, log_probs = carry
      fed = lax.dynamic_slice_in_dim(tokens, index - 1, 1, axis=1)
      logits, hidden, cache = net.extend(params, cache, fed, hidden, zero, zero)
      cache = cache.replace(length=cache.length + 1)
      drawn, row = draw(logits[:, 0], context, tokens, index)
      tokens = tokens.at[:, index].set(drawn)
      if style.needs_log_probs:
        log_probs = log_probs.at[:, index].set(row)
      return cache, hidden, tokens, log_probs

    cache, _, tokens, log_probs = lax.fori_loop(
      1, num_draft, step, (cache, hidden, tokens, log_probs)
    )
    # The rows just written came from guessed states; they are not kept.
    cache = cache.replace(length=context.length)
    return base.Draft(tokens, log_probs), state.replace(cache=cache)

  return base.Drafter(
    functools.partial(attached.init, net, num_draft + 1, 2 * num_draft),
    propose,
    attached.observe,
    num_draft,
    num_draft,
  )


class _Level(NamedTuple):
  """The nodes of one depth that have children; the root is a level of its own.

  Attributes:
    slots: their block slots.
    above: place of each one's parent in the level before.
    first: how many such nodes stand at lesser depths, the root not counted.
    reads: bool [n, I], which of all such nodes each may read, in their order.
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


def tree(net, topology, vocab_size, style: attached.Style) -> base.Drafter:
  """Drafts a tree, a pass for each depth."""
  levels = _levels(topology)
  rank, deepest = np.asarray(topology.rank), topology.max_depth
  inner = levels[-1].reads.shape[1]

  def grow(params, cache, level, index, tokens, states, length):
    """Feeds the nodes of a level; returns what `net.extend` does."""
    batch = length.shape[0]
    fed = jnp.maximum(tokens[:, np.asarray(level.slots) - 1], 0)
    column = jnp.arange(cache.keys[0].shape[-1]) - length[:, None]
    inside = (column >= 0) & (column < inner)
    own = jnp.asarray(level.reads)[:, jnp.clip(column, 0, inner - 1)]
    mask = (column < 0)[:, None] | (inside[:, None] & jnp.moveaxis(own, 0, 1))
    place = jnp.broadcast_to((length - 1 + index)[:, None], fed.shape)
    every = jnp.broadcast_to(jnp.arange(fed.shape[1]), (batch, fed.shape[1]))
    return net.extend(
      params,
      cache.replace(length=length + level.first),
      fed,
      states[:, level.above],
      jnp.zeros_like(fed),
      every,
      positions=place,
      mask=mask,
    )

  def propose(params, state, view):
    context = view.context
    batch = context.length.shape[0]
    logits, states, cache = attached.window_pass(
      net, params, state, context, deepest + 1, 1
    )
    tokens = jnp.full((batch, topology.num_nodes), base.EMPTY, jnp.int32)
    log_probs = None
    if style.needs_log_probs:
      shape = (batch, topology.num_nodes, vocab_size)
      log_probs = jnp.zeros(shape, jnp.float32)
    for index, level in enumerate(levels):
      if index:
        logits, states, cache = grow(
          params, cache, level, index, tokens, states, context.length
        )
      rows = candidates.spread(logits, net.config.output_ids, vocab_size)
      rows = warp_lib.warp(style.warp, rows, context)
      found = candidates.offered(
        rows, context, level.slots, [index] * len(level.slots),
        topology.max_rank, style.noise, style.sampler,
      )  # fmt: skip
      node = level.children - 1
      drawn = found[:, level.whose, rank[level.children]]
      tokens = tokens.at[:, node].set(drawn)
      if style.needs_log_probs:
        row = jax.nn.log_softmax(rows)[:, level.whose]
        row = jnp.where((drawn >= 0)[..., None], row, -jnp.inf)
        log_probs = log_probs.at[:, node].set(row)
    cache = cache.replace(length=context.length)
    made = base.Draft(tokens, log_probs, candidates.broadcast(topology, batch))
    return made, state.replace(cache=cache)

  return base.Drafter(
    functools.partial(attached.init, net, deepest + 1, deepest + 1 + inner),
    propose,
    attached.observe,
    topology.num_nodes,
    deepest,
  )
