"""Drafts from a table of the latest successors of every token.

The table is int32 [V, k]: row x holds the k distinct tokens that last followed
x, the latest first, `EMPTY` where fewer are known. It is filled from the prompt
and from what is emitted, for all rows of a batch together, and read along a
static tree: slot s proposes the rank-r successor of its parent's token.

(The paper also recycles candidates that the target scored but did not emit; an
`Observation` of this library holds emitted tokens alone.)

References:
  Luo et al. Turning trash into treasure: accelerating inference of large
    language models with token recycling. 2024.
    https://arxiv.org/abs/2408.08696
"""

import dataclasses
import functools
import heapq

from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding import trees
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters import entry
from specjax.models.common import rows as rows_lib


@dataclasses.dataclass
class TokenRecyclingOptions:
  """Options of `token_recycling`.

  Attributes:
    tree: longest path of a tree draft, in tokens, with `num_draft` nodes; 0
      drafts chains.
    successors: successors of a token that the table keeps.
    decay: likelihood of a successor relative to the one before it, which shapes
      trees.
  """

  tree: int = 0
  successors: int = 8
  decay: float = 0.4

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    validation.at_least('token_recycling.tree', self.tree, 0)
    token_recycling(
      vocab_size=1,
      num_draft=max(self.tree, 1),
      num_successors=self.successors,
      max_path=self.tree,
      decay=self.decay,
    )


@functools.cache
def token_recycling(
  *,
  vocab_size: int,
  num_draft: int,
  num_successors: int = 8,
  max_path: int = 0,
  decay: float = 0.4,
  from_prompt: bool = True,
) -> base.Drafter:
  """Makes the drafter; it has no parameters.

  Args:
    vocab_size: V.
    num_draft: K, slots of the chain or nodes of the tree.
    num_successors: k, width of the table.
    max_path: 0 drafts a chain of latest successors; more, a tree with paths of
      at most this length.
    decay: assumed likelihood of a rank relative to the one before; shapes
      trees.
    from_prompt: whether the prompt fills the table too. Not for a source in
      another language.

  Returns:
    A drafter of point masses: verify with `greedy`, `match` or `coupled`.

  Raises:
    ValueError: on sizes out of range.
  """
  _check(num_draft, num_successors, vocab_size, max_path, decay)
  topology = trees.chain(num_draft)
  if max_path:
    topology = template(num_draft, num_successors, max_path, decay)
  nodes = list(zip(topology.parent[1:], topology.rank[1:], strict=True))

  def init(params, prompt, prefilled, *, capacity):
    del params, capacity
    table = jnp.full((vocab_size, num_successors), base.EMPTY, jnp.int32)
    if from_prompt:
      table = learn(
        table, prompt.tokens[:, 0], prompt.tokens[:, 1:], prompt.length - 1
      )
    return table, prefilled.last_token

  def propose(params, state, view):
    del params
    # Last token x, rows x: [a b], a: [c d], paths 0 1 00: draft [a b c]
    tokens = [view.last_token]
    for above, place in nodes:
      token = tokens[above]
      found = state[0][jnp.maximum(token, 0), place]
      tokens.append(jnp.where(token >= 0, found, base.EMPTY))
    tree = None
    if max_path:
      tree = candidates.broadcast(topology, view.last_token.shape[0])
    draft = base.Draft(jnp.stack(tokens[1:], axis=1), tree=tree)
    return draft, (state[0], view.last_token)

  longest = max_path or num_draft
  made = base.Drafter(init, propose, _observe, num_draft, longest)
  return made._replace(insert=_insert)


def _insert(state, fresh, rows):
  """The rows' last tokens; what their prompts show goes into the one table."""
  # Row x of the table [a b c], of the fresh one [d b EMPTY]: [d b a]
  (table, last), (newer, begun) = state, fresh
  # Zeros alone are the table before any row has run.
  table = jnp.where(jnp.any(table != 0), table, base.EMPTY)
  for place in reversed(range(newer.shape[1])):
    token = newer[:, place]
    moved = _to_front(table, token)
    table = jnp.where((token >= 0)[:, None], moved, table)
  return table, rows_lib.insert(last, begun, rows)


def _observe(params, state, observation):
  del params
  table, last = state
  table = learn(table, last, observation.tokens, observation.num_tokens)
  return table, last


def _check(num_draft, num_successors, vocab_size, max_path, decay) -> None:
  if num_draft < 1 or num_successors < 1 or vocab_size < 1:
    raise ValueError(
      'Token recycling needs num_draft, num_successors and vocab_size of at '
      f'least 1, not {num_draft}, {num_successors} and {vocab_size}.'
    )
  if not 0 <= max_path <= num_draft or not 0 < decay < 1:
    raise ValueError(
      'Token recycling needs 0 <= max_path <= num_draft and 0 < decay < 1, '
      f'not {max_path} and {decay}.'
    )


def learn(
  table: base.Array,
  before: base.Array,
  tokens: base.Array,
  num_tokens: base.Array,
) -> base.Array:
  """Moves each token to the front of its predecessor's row.

  Args:
    table: int32 [V, k].
    before: int32 [B], the token before the first.
    tokens: int32 [B, n].
    num_tokens: int32 [B], how many of them count.

  Returns:
    The table. Where rows of the batch meet in one step, the last one wins.
  """
  # Row of x, k = 3:  [a b c]
  # after x b:        [b a c]
  # after x d:        [d b a]
  batch, width = tokens.shape
  if not width:
    return table
  vocab_size = table.shape[0]
  rows = jnp.arange(batch)

  def step(index, carry):
    table, before = carry
    token = lax.dynamic_index_in_dim(tokens, index, axis=1, keepdims=False)
    counts = index < num_tokens
    new = _to_front(table[before], token)
    # One writer for each table row, so that the result is well defined.
    later = (before[:, None] == before) & counts & (rows > rows[:, None])
    writes = counts & ~jnp.any(later, axis=1)
    place = jnp.where(writes, before, vocab_size)
    table = table.at[place].set(new, mode='drop')
    return table, jnp.where(counts, token, before)

  steps = jnp.clip(jnp.max(num_tokens), 0, width)
  return lax.fori_loop(0, steps, step, (table, before))[0]


def _to_front(old, token):
  """Rows of successors int32 [n, k] with `token` int32 [n] as the latest."""
  count = old.shape[1]
  same = old == token[:, None]
  at = jnp.where(jnp.any(same, axis=1), jnp.argmax(same, axis=1), count - 1)
  shifted = jnp.concatenate([token[:, None], old[:, :-1]], axis=1)
  return jnp.where(jnp.arange(count) <= at[:, None], shifted, old)


def template(
  num_nodes: int, num_successors: int, max_path: int, decay: float
) -> trees.Topology:
  """The static tree of most expected accepted tokens, breadth first.

  Rank r is assumed to be right with probability (1 - decay) * decay ** r; the
  most probable nodes are kept.

  Raises:
    ValueError: if no tree within the bounds has so many nodes.
  """
  # decay .4, 3 nodes: 0 (.6), 00 (.36), 1 (.24)
  heap = [(-(1 - decay), 1, (0,))]
  kept = []
  while heap and len(kept) < num_nodes:
    value, depth, path = heapq.heappop(heap)
    kept.append(path)
    if path[-1] + 1 < num_successors:
      sibling = path[:-1] + (path[-1] + 1,)
      heapq.heappush(heap, (value * decay, depth, sibling))
    if depth < max_path:
      heapq.heappush(heap, (value * (1 - decay), depth + 1, path + (0,)))
  if len(kept) < num_nodes:
    raise ValueError(
      f'A tree of paths up to {max_path} with {num_successors} successors has '
      f'{len(kept)} nodes; num_draft must not be larger, but is {num_nodes}.'
    )
  return trees.of_paths(kept)


_OF_TREES = (('successors', 'without a tree'), ('decay', 'without a tree'))


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del source, rows
  return entry.search_plan(
    'token_recycling',
    options.tree,
    num_draft,
    # Rows of a batch share the table.
    row_independent=False,
    # A chain follows the latest successors alone.
    unread_options=() if options.tree else _OF_TREES,
    static=(
      ('vocab_size', target.lm.vocab_size),
      ('num_successors', options.successors),
      ('max_path', options.tree),
      ('decay', options.decay),
      ('from_prompt', not target.lm.is_encoder_decoder),
    ),
  )


ENTRY = entry.DrafterEntry(
  'token_recycling',
  "follows a table of each token's latest successors",
  _plan,
  entry.bind_static(token_recycling),
  options=TokenRecyclingOptions,
)
