"""Token trees: which candidates follow which, as data.

A node is written as its path from the root, one digit a step: '021' is the
second candidate of the third candidate of the first; '0' is the likeliest
first token. A drafter with independent slots offers at each depth the same
candidates below every node, so ranks describe a tree completely.

References:
  Cai et al. Medusa. ICML 2024. https://arxiv.org/abs/2401.10774 (63 nodes)
  Li et al. EAGLE. ICML 2024. https://arxiv.org/abs/2401.15077 (25 nodes)
  Chen et al. Sequoia. 2024. https://arxiv.org/abs/2402.12374 (grown trees)
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax.base import Array

# Bound of depth and rank of a user's tree; both are digits of a path.
MOST = 36
# Nodes of a grown tree; beyond them the tree mask costs more than the target.
MOST_NODES = 1024
# 'a' is rank 10: the path '0a' is (0, 10).
_DIGITS = '0123456789abcdefghijklmnopqrstuvwxyz'
_KNOWN = 'give medusa, eagle, grown:N, or paths of digits such as 0 1 00 01.'

PRESETS = {
  'medusa': (
    '0 00 1 01 2 000 10 02 3 03 4 04 20 05 001 5 06 6 07 010 11 7 08 002 30 '
    '09 8 9 100 020 12 003 40 21 004 005 0000 011 006 030 50 13 007 008 009 '
    '60 040 14 70 012 200 31 22 80 050 15 101 021 90 060 0001 16 070'
  ),
  'eagle': (
    '0 1 2 3 00 01 02 10 11 20 21 30 000 001 002 010 011 020 021 100 0000 '
    '0001 0002 00000 00001'
  ),
}


class Topology(NamedTuple):
  """A tree of N nodes without tokens; hashable.

  Attributes:
    parent: N + 1 block slots; slot 0 is the root and its own parent.
    rank: candidate of its depth that a slot takes; 0 for slot 0.
    depth: 0 for slot 0.
  """

  parent: tuple[int, ...]
  rank: tuple[int, ...]
  depth: tuple[int, ...]

  @property
  def num_nodes(self) -> int:
    return len(self.parent) - 1

  @property
  def max_depth(self) -> int:
    return max(self.depth)

  @property
  def max_rank(self) -> int:
    """Candidates needed at a depth."""
    return max(self.rank) + 1

  @property
  def is_chain(self) -> bool:
    return self.max_depth == self.num_nodes


def of_paths(paths: Sequence[Sequence[int]]) -> Topology:
  """A tree from the paths of its nodes, in any order.

  Siblings stand in the order of their ranks, and parents before children, as
  the verifiers ask.

  Raises:
    ValueError: there is no node, a node is named twice, or its parent is
      missing.
  """
  wanted = [tuple(path) for path in paths]
  if not wanted:
    raise ValueError('A tree needs at least one node.')
  if len(set(wanted)) < len(wanted):
    raise ValueError('A tree names each node once.')
  # paths 1 00 0, in any order:
  #   order   ()  0  1  00
  #   parent  [0  0  0  1], rank [0 0 1 0], depth [0 1 1 2]
  order = [()] + sorted(wanted, key=lambda path: (len(path), path))
  place = {path: slot for slot, path in enumerate(order)}
  for path in order[1:]:
    if path[:-1] not in place or not path:
      raise ValueError(
        f'The node {_text(path) or "(root)"} of a tree has no parent: '
        f'{_text(path[:-1])} is missing.'
      )
  return check(
    Topology(
      parent=tuple(place[path[:-1]] for path in order),
      rank=(0,) + tuple(path[-1] for path in order[1:]),
      depth=tuple(map(len, order)),
    )
  )


def _text(path) -> str:
  return ''.join(_DIGITS[i] if 0 <= i < MOST else f'<{i}>' for i in path)


def chain(num_draft: int) -> Topology:
  """The tree without branches."""
  return of_paths([(0,) * d for d in range(1, num_draft + 1)])


def check(topology: Topology) -> Topology:
  """Returns the tree, or raises ValueError if it is none.

  Parents stand before their children, depths are theirs plus one, and siblings
  have the ranks 0, 1, 2, ... in order.
  """
  parent, rank, depth = topology
  if len(parent) < 2:
    raise ValueError('A tree needs at least one node.')
  if parent[0] or depth[0] or not len(parent) == len(rank) == len(depth):
    raise ValueError('Slot 0 of a tree is the root, its own parent, depth 0.')
  last = {}
  for slot in range(1, len(parent)):
    above = parent[slot]
    if not 0 <= above < slot:
      raise ValueError(
        f'Slot {slot} of a tree has parent {above}: a parent must stand before '
        'its child.'
      )
    if depth[slot] != depth[above] + 1:
      raise ValueError(
        f'Slot {slot} of a tree has depth {depth[slot]}, but its parent has '
        f'depth {depth[above]}.'
      )
    # A draw left out would bias rules that draw without replacement.
    if rank[slot] != last.get(above, -1) + 1:
      raise ValueError(
        f'Slot {slot} of a tree has rank {rank[slot]}: siblings must have the '
        'ranks 0, 1, 2 and so on, in this order.'
      )
    last[above] = rank[slot]
  return topology


def parse(
  text: str, num_draft: int, acceptance: Sequence[float] = ()
) -> Topology:
  """The tree that a user asks for.

  Args:
    text: 'medusa', 'eagle', 'grown:N' (the best N nodes, or as many as there
      can be, for the drafter's acceptance rates), 'grown:N:0.8,0.6,0.5' (for
      these rates by depth), or the paths of its nodes separated by blanks,
      such as '0 1 00 01'.
    num_draft: K, the deepest a tree may reach; deeper nodes of a preset are
      left out, and a tree of the user's own is refused.
    acceptance: measured acceptance rates of the drafter by depth; () takes
      0.7. The last one stands for all deeper ones.

  Raises:
    ValueError: one sentence naming what is wrong.
  """
  text = text.strip()
  if text in PRESETS:
    paths = [path for path in _paths(PRESETS[text]) if len(path) <= num_draft]
    return of_paths(paths)
  if text.startswith('grown:'):
    return _grown(text, num_draft, acceptance)
  paths = _paths(text)
  # A misspelt name consists of valid digits as well.
  if paths and all(path[0] for path in paths):
    raise ValueError(f'{text!r} has no node 0, so it is no tree: {_KNOWN}')
  made = of_paths(paths)
  if made.max_depth > num_draft:
    raise ValueError(
      f'The tree is {made.max_depth} deep, but num_draft is {num_draft}; ask '
      'for as many draft slots or for a flatter tree.'
    )
  return made


def _paths(text: str) -> list[tuple[int, ...]]:
  paths = []
  for word in text.split():
    if any(letter not in _DIGITS for letter in word):
      raise ValueError(f'{word!r} is no path of a tree: {_KNOWN}')
    paths.append(tuple(_DIGITS.index(letter) for letter in word))
  return paths


def _grown(text: str, num_draft: int, measured) -> Topology:
  _, count, *rest = text.split(':')
  try:
    budget = int(count)
    rates = [float(rate) for part in rest for rate in part.split(',')]
  except ValueError:
    budget, rates = 0, []
  in_range = 1 <= budget <= MOST_NODES
  if not in_range or any(not 0 <= rate <= 1 for rate in rates):
    raise ValueError(
      f'{text!r} must be grown:N with a number of nodes from 1 to '
      f'{MOST_NODES}, and perhaps acceptance rates from 0 to 1: '
      'grown:16:0.8,0.6,0.5.'
    )
  # grown:8:0.8,0.6 with num_draft 4: rates [0.8 0.6 0.6 0.6]
  rates = (rates or list(measured) or [0.7])[:num_draft]
  # Depths that were never measured behave as the last one that was.
  rates += rates[-1:] * (num_draft - len(rates))
  acceptance = rank_acceptance(rates)
  return grown(acceptance, min(budget, _largest(acceptance)))


def rank_acceptance(rates: Sequence[float], ranks: int = 10) -> np.ndarray:
  """Acceptance by rank from that of the best candidate, float32 [P, R].

  Each further candidate is taken to catch the same share of what is left.
  """
  rates = np.asarray(rates, np.float32)[:, None]
  # Clipped, since zeros would leave the order of nodes to chance.
  rates = np.clip(rates, 1e-3, 1 - 1e-3)
  # A rate of 0.6: [0.6 0.24 0.096 ...]
  return rates * (1 - rates) ** np.arange(ranks, dtype=np.float32)


def grow(acceptance: Array, num_nodes: int) -> tuple[Array, Array, Array]:
  """The tree of `num_nodes` nodes with most expected accepted tokens.

  Best first: a node is worth the product of the acceptances along its path;
  taking one offers its first child and its next sibling. Runs on device; the
  values are data.

  Args:
    acceptance: float [P, R], that of candidate r at depth p + 1, falling in r.
    num_nodes: N, at least 1 and at most the nodes there can be.

  Returns:
    parent, rank and depth, int32 [N + 1] each, in a valid order.
  """
  most, ranks = acceptance.shape
  slots = num_nodes + 1

  # acceptance [[.6 .2] [.5 .1]], 3 nodes; `value` before each step:
  #   [.6 -1  -1 -1]   takes '0',  offers its child '00' .3, sibling '1' .2
  #   [.2 .3  -1 -1]   takes '00', offers its sibling '01' .06
  #   [.2 .06 -1 -1]   takes '1'
  #   parent [0 0 1 0], rank [0 0 0 1], depth [0 1 2 1]
  # Entry i of `value` and `rank` is the best child of slot i not yet taken.
  def take(step, carry):
    value, rank, made = carry
    above = jnp.argmax(value)
    which, worth = rank[above], value[above]
    depth = made[2][above] + 1
    new = jnp.stack([above, which, depth]).astype(jnp.int32)
    made = lax.dynamic_update_slice_in_dim(made, new[:, None], step, axis=1)
    row = acceptance[depth - 1]
    sibling = worth * row[jnp.minimum(which + 1, ranks - 1)]
    sibling = sibling / jnp.maximum(row[which], 1e-30)
    sibling = jnp.where(which + 1 < ranks, sibling, -1.0)
    child = worth * acceptance[jnp.minimum(depth, most - 1), 0]
    child = jnp.where(depth < most, child, -1.0)
    value = value.at[above].set(sibling).at[step].set(child)
    return value, rank.at[above].set(which + 1), made

  value = jnp.full((slots,), -1.0).at[0].set(acceptance[0, 0])
  rank = jnp.zeros((slots,), jnp.int32)
  made = jnp.zeros((3, slots), jnp.int32)
  *_, made = lax.fori_loop(1, slots, take, (value, rank, made))
  return made[0], made[1], made[2]


@functools.partial(jax.jit, static_argnums=1)
def _grow(acceptance, num_nodes):
  return grow(acceptance, num_nodes)


def _largest(acceptance) -> int:
  """Largest number of nodes of a tree."""
  # 2 ranks at 3 depths: 2 + 4 + 8 nodes.
  most, ranks = acceptance.shape
  return sum(ranks ** (d + 1) for d in range(min(most, 12)))


def grown(acceptance: Sequence, num_nodes: int) -> Topology:
  """`grow` as a `Topology`.

  Raises:
    ValueError: the budget is below 1 or beyond the nodes there can be.
  """
  acceptance = np.asarray(acceptance, np.float32)
  largest = _largest(acceptance)
  if not 1 <= num_nodes <= largest:
    raise ValueError(
      f'A tree of {num_nodes} nodes cannot be grown: the budget must be from 1 '
      f'to {largest}.'
    )
  made = jax.device_get(_grow(jnp.asarray(acceptance), num_nodes))
  return check(Topology(*(tuple(map(int, row)) for row in made)))


def expected_tokens(topology: Topology, acceptance: Sequence) -> float:
  """Tokens a round, the target's own included, if acceptance is as given."""
  # Nodes 0 and 00, acceptance [[.6] [.5]]: 1 + .6 + .6 * .5 = 1.9
  # The root: the target's own token is emitted in every round.
  worth = [1.0]
  for slot in range(1, len(topology.parent)):
    value = acceptance[topology.depth[slot] - 1][topology.rank[slot]]
    worth.append(worth[topology.parent[slot]] * float(value))
  return sum(worth)
