"""Oracles for trees, in numpy float64: drafts, rules, wrong rules, laws.

A drafted tree is a tuple of (token, children) pairs. A rule is a function
(p_model, q_model, tree) -> list of (probability, path, next-token weights):
with that probability the tokens of `path` and one more token are emitted.
"""

import itertools

import numpy as np


def _norm(weights, fallback=None):
  total = weights.sum()
  if total > 1e-15:
    return weights / total
  return np.zeros_like(weights) if fallback is None else fallback


def _without(q, token):
  q = q.copy()
  q[token] = 0
  return _norm(q)


def sampled(q_model, prefix, widths):
  """Yields (probability, tree): `widths[d]` children without replacement."""
  if not widths:
    yield 1.0, ()
    return
  q = q_model(prefix)
  for tokens in itertools.permutations(range(len(q)), widths[0]):
    chance, left = 1.0, q
    for token in tokens:
      chance *= left[token]
      left = _without(left, token)
    if chance <= 0:
      continue
    below = [list(sampled(q_model, prefix + (t,), widths[1:])) for t in tokens]
    for parts in itertools.product(*below):
      mass = chance * np.prod([part for part, _ in parts])
      trees = [tree for _, tree in parts]
      yield mass, tuple(zip(tokens, trees, strict=True))


def shared(q_model, prefix, widths):
  """As `sampled`, but all nodes of a depth have the same children.

  q must not depend on the drafted tokens.
  """
  whole = []
  for depth, width in enumerate(widths):
    rows = sampled(lambda _, d=depth: q_model(prefix + (0,) * d), (), (width,))
    whole.append([(mass, [t for t, _ in tree]) for mass, tree in rows])

  def build(levels):
    return tuple((t, build(levels[1:])) for t in levels[0]) if levels else ()

  for parts in itertools.product(*whole):
    yield np.prod([mass for mass, _ in parts]), build([t for _, t in parts])


def best(q_model, prefix, widths):
  """The one tree of each node's likeliest children."""
  if not widths:
    yield 1.0, ()
    return
  order = np.argsort(-q_model(prefix), kind='stable')[: widths[0]]
  below = [
    next(best(q_model, prefix + (int(t),), widths[1:]))[1] for t in order
  ]
  yield 1.0, tuple(zip(map(int, order), below, strict=True))


def rejection(p_model, q_model, tree, path=(), alive=1.0, one_hot=False):
  """Children tested in order; what is left of p after a refusal."""
  p, q = p_model(path), q_model(path)
  out = []
  for token, below in tree:
    if one_hot:
      q = np.eye(len(p))[token]
    keep = min(1.0, p[token] / q[token])
    out += rejection(
      p_model, q_model, below, path + (token,), alive * keep, one_hot
    )
    alive *= 1 - keep
    p = _norm(np.maximum(p - q, 0), p)
    q = _without(q, token)
  return [*out, (alive, path, p)]


def point_mass(p_model, q_model, tree):
  """`rejection` for candidates that were chosen and not drawn."""
  return rejection(p_model, q_model, tree, one_hot=True)


def traversal(p_model, q_model, tree):
  """From the leaves to the root."""
  out, alive = [], 1.0

  def visit(path, children, r):
    """Returns once the node is given up; stops are written to `out`."""
    nonlocal alive
    p, q = p_model(path), q_model(path)
    for token, below in children:
      mass = r * p[token]
      visit(path + (token,), below, min(mass / q[token], 1.0))
      excess = np.maximum(r * p - q, 0)
      bottom = excess.sum() + 1 - r
      r = excess.sum() / bottom if bottom > 1e-15 else 1.0
      p, q = _norm(excess, p), _without(q, token)
    r = r if path else 1.0
    out.append((alive * r, path, p))
    alive *= 1 - r

  visit((), tree, 1.0)
  return out


def typical(p_model, q_model, tree, path=()):
  """Medusa's threshold; the longest plausible path."""
  del q_model

  def deepest(children, path):
    p = p_model(path)
    floor = min(0.09, 0.3 * np.exp(np.sum(p * np.log(p))))
    found = path
    for token, below in children:
      if p[token] > floor:
        found = max(found, deepest(below, path + (token,)), key=len)
    return found

  path = deepest(tree, path)
  return [(1.0, path, p_model(path))]


def paths_apart(p_model, q_model, tree):
  """Wrong: every path is tested alone, and the longest success is kept."""
  paths = []

  def collect(children, path):
    for token, below in children:
      if below:
        collect(below, path + (token,))
      else:
        paths.append(path + (token,))

  collect(tree, ())
  outcomes = [(1.0, ())]
  for path in paths:
    lengths, alive = [], 1.0
    for t, token in enumerate(path):
      p, q = p_model(path[:t]), q_model(path[:t])
      keep = min(1.0, p[token] / q[token])
      lengths.append((alive * (1 - keep), path[:t]))
      alive *= keep
    lengths.append((alive, path))
    outcomes = [
      (mass * more, max(old, new, key=len))
      for mass, old in outcomes
      for more, new in lengths
    ]
  out = []
  for mass, path in outcomes:
    p = p_model(path)
    if len(path) < len(paths[0]):
      p = _norm(np.maximum(p - q_model(path), 0), p)
    out.append((mass, path, p))
  return out


def pruned(q_model, prefix, widths):
  """Wrong: of a sampled tree, children that q finds unlikely are dropped."""

  def prune(tree, path):
    q = q_model(path)
    return tuple(
      (token, prune(below, path + (token,)))
      for token, below in tree
      if q[token] >= 1 / len(q)
    )

  for mass, tree in sampled(q_model, prefix, widths):
    yield mass, prune(tree, prefix)


def law(rule, drafts, p_model, q_model, widths):
  """Law of the next len(widths) + 1 tokens, and the expected accepted ones."""
  size, length = len(p_model(())), len(widths) + 1
  made, accepted = {}, 0.0
  for mass, tree in drafts(q_model, (), widths):
    for chance, path, following in rule(p_model, q_model, tree):
      if mass * chance <= 0:
        continue
      accepted += mass * chance * len(path)
      for token in range(size):
        key = path + (token,)
        made[key] = made.get(key, 0.0) + mass * chance * following[token]
  whole = {}
  for tokens, mass in made.items():
    for rest in itertools.product(range(size), repeat=length - len(tokens)):
      grown, part = tokens, mass
      for token in rest:
        part *= p_model(grown)[token]
        grown += (token,)
      whole[grown] = whole.get(grown, 0.0) + part
  return whole, accepted
