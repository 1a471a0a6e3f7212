"""Rules for trees have the target's law; wrong rules are found out.

First by enumeration in float64, where a rule is an oracle of few lines; then
by chi-square on the whole compiled loop, as in `test_law`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding import sampling
from specjax.decoding import trees
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters import drawing
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import laws
from tests.helpers import recipes
from tests.helpers import references
from tests.helpers import tree_references as oracle
from tests.helpers import verdicts

SIZE = 3
WIDTHS = ((2, 2), (3, 1), (1, 1), (2,))


def _models(seed, by_depth=True):
  """Target, and a drafter that looks at depth alone or at everything."""
  rng = np.random.default_rng(seed)
  tables = {}

  def target(path):
    key = ('p', *path)
    if key not in tables:
      tables[key] = rng.dirichlet(np.ones(SIZE))
    return tables[key]

  def draft(path):
    key = ('q', len(path)) if by_depth else ('q', *path)
    if key not in tables:
      tables[key] = rng.dirichlet(np.ones(SIZE))
    return tables[key]

  return target, draft


def _error(rule, drafts, seed, widths, by_depth=True):
  """Distance of a rule's law from the target's, and accepted tokens."""
  p, q = _models(seed, by_depth)
  made, accepted = oracle.law(rule, drafts, p, q, widths)
  wanted = {}
  for tokens in itertools.product(range(SIZE), repeat=len(widths) + 1):
    rows = [p(tokens[:t])[token] for t, token in enumerate(tokens)]
    wanted[tokens] = float(np.prod(rows))
  return references.total_variation(made, wanted), accepted


@pytest.mark.parametrize('widths', WIDTHS)
def test_the_right_rules_by_enumeration(widths):
  for seed, by_depth in ((0, True), (1, False), (2, True)):
    run = functools.partial(_error, seed=seed, widths=widths, by_depth=by_depth)
    error, kept = run(oracle.rejection, oracle.sampled)
    other, kept_more = run(oracle.traversal, oracle.sampled)
    fixed, _ = run(oracle.point_mass, oracle.best)
    assert max(error, other, fixed) < 1e-12
    assert kept_more >= kept - 1e-12
    if by_depth:
      # Sharing a depth's draws does not hurt the walk from the root.
      assert run(oracle.rejection, oracle.shared)[0] < 1e-12


@pytest.mark.parametrize(
  'rule, drafts',
  [
    (oracle.rejection, oracle.best),
    (oracle.paths_apart, oracle.sampled),
    (oracle.rejection, oracle.pruned),
    (oracle.typical, oracle.sampled),
    (oracle.traversal, oracle.shared),
  ],
)
def test_the_wrong_rules_by_enumeration(rule, drafts):
  worst = max(_error(rule, drafts, seed, (2, 2))[0] for seed in range(4))
  assert worst > 1e-3


TREE = trees.parse('0 1 00 01 10 000', 3)


def _drafter(topology=TREE, noise='round', needs=True, warp=laws.SPEC):
  """Draws from fixed logits by depth, near to nothing in particular."""
  rows = np.random.default_rng(3).normal(0, 1, (topology.max_depth, 4))

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    del params
    logits = jnp.broadcast_to(
      jnp.asarray(rows, jnp.float32), (view.last_token.shape[0], *rows.shape)
    )
    style = drawing.Style(noise, needs, warp)
    return candidates.tree(logits, view.context, topology, style), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(
    init, propose, observe, topology.num_nodes, topology.max_depth
  )


def _recipe(name, **changes):
  verifier = recipes.rule(name, max_path=TREE.max_depth)
  style = dict(noise=verifier.noise, needs=verifier.needs_log_probs) | changes
  return recipes.of(
    fakes.markov_lm(laws.VOCAB),
    _drafter(**style),
    verifier,
    laws.SPEC,
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sampling', 'traversal'])
def test_law_of_the_loop(name):
  assert laws.p_value(laws.program(_recipe(name))) > laws.ALARM


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, changes',
  [
    # The likeliest candidates, judged as if they had been drawn.
    ('sampling', dict(noise='argmax')),
    ('typical', dict()),
  ],
)
def test_wrong_loops_are_found_out(name, changes):
  decode = laws.program(_recipe(name, **changes))
  assert laws.p_value(decode) < laws.ALARM


def _verdict(rule, draft, logits):
  context = verdicts.context(logits.shape[0], seed=4)
  return jax.jit(rule.verify)(context, draft, jnp.asarray(logits, jnp.float32))


def test_traversal_of_a_chain_is_block():
  logits, tokens, log_q, _, drafted = verdicts.cases(2, 256, 3, 6, False)
  full = np.flatnonzero(drafted == 3)
  tokens, log_q, logits = tokens[full], log_q[full], logits[full]
  chain = trees.chain(3)
  shape = (len(full), 4)
  tree = base.Tree(
    jnp.broadcast_to(jnp.asarray(chain.parent), shape),
    jnp.broadcast_to(jnp.asarray(chain.depth), shape),
  )
  draft = base.Draft(jnp.asarray(tokens), jnp.asarray(log_q, jnp.float32))
  wanted = _verdict(recipes.rule('block'), draft, logits)
  for name, twin in (('traversal', 'block'), ('sampling', 'sampling')):
    wanted = _verdict(recipes.rule(twin), draft, logits)
    rule = recipes.rule(name, max_path=3)
    made = _verdict(rule, draft.replace(tree=tree), logits)
    np.testing.assert_array_equal(made.num_accepted, wanted.num_accepted)
    same = np.asarray(made.next_token == wanted.next_token)
    assert same.mean() > 0.98  # rounding moves a sample now and then
    path = np.asarray(made.path)
    for row, count in zip(path, made.num_accepted, strict=True):
      np.testing.assert_array_equal(row[:count], np.arange(1, count + 1))


def test_topologies():
  medusa, eagle = (trees.parse(name, 9) for name in ('medusa', 'eagle'))
  assert (medusa.num_nodes, medusa.max_depth, medusa.max_rank) == (63, 4, 10)
  assert (eagle.num_nodes, eagle.max_depth) == (25, 5)
  assert trees.parse('medusa', 2).max_depth == 2
  assert trees.chain(3).is_chain and not eagle.is_chain
  # Grown trees are the best there are: against all trees of few nodes.
  rates = np.array([[0.6, 0.3, 0.05], [0.5, 0.2, 0.1]])
  worth = {
    path: np.prod([rates[d][r] for d, r in enumerate(path)])
    for size in (1, 2)
    for path in itertools.product(range(3), repeat=size)
  }
  for budget in (1, 4, 7):
    grown = trees.grown(rates, budget)
    wanted = 1 + sum(sorted(worth.values())[-budget:])
    assert trees.expected_tokens(grown, rates) == pytest.approx(wanted)
  # The rates that a drafter brings along decide; the user's come first.
  assert trees.parse('grown:3', 3, (0.9,)) == trees.chain(3)
  assert trees.parse('grown:3', 3, (0.1,)).max_depth == 1
  assert trees.parse('grown:3:0.9', 3, (0.1,)) == trees.chain(3)
  for text, message in (
    ('0 00 10', 'has no parent'),
    ('0 0', 'once'),
    ('', 'at least one node'),
    ('0 00 000', 'deep'),
    ('0 2', 'ranks 0, 1, 2'),
    ('grown:0', 'from 1 to 1024'),
    ('grown:200000', 'from 1 to 1024'),
    ('sequoia', "'sequoia' has no node 0.*give medusa"),
    ('grown:9:2', 'rates from 0 to 1'),
    ('nonsense!', 'no path'),
  ):
    with pytest.raises(ValueError, match=message):
      trees.parse(text, 2)
  with pytest.raises(ValueError, match='before its child'):
    trees.check(trees.Topology((0, 2, 0), (0, 0, 0), (0, 2, 1)))


def _random_trees(nodes):
  """Every row its own tree, with tokens drawn anew in every round."""

  def init(params, prompt, prefilled, *, capacity):
    del params, prefilled, capacity
    rng = np.random.default_rng(6)
    parent = np.zeros((prompt.length.shape[0], nodes + 1), np.int64)
    depth = np.zeros_like(parent)
    for slot in range(1, nodes + 1):
      parent[:, slot] = rng.integers(0, slot, len(parent))
      above = np.take_along_axis(depth, parent[:, slot, None], axis=1)[:, 0]
      depth[:, slot] = above + 1
    return base.Tree(jnp.asarray(parent, 'int32'), jnp.asarray(depth, 'int32'))

  def propose(params, state, view):
    del params
    context = view.context
    keys = sampling.node_keys(
      context.controls.row_key, context.length, nodes, sampling.DRAFT
    )
    tokens = jnp.floor(sampling.uniform(keys) * 5).astype(jnp.int32) - 1
    return base.Draft(tokens, None, state), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(init, propose, observe, nodes, nodes)


def test_random_trees_are_decoded_greedily():
  target = fakes.markov_lm(4)
  params = generate_lib.Params(fakes.markov_params(2, 4))
  recipe = recipes.of(
    target,
    _random_trees(9),
    recipes.rule('greedy', max_path=9),
    warp_lib.WarpSpec(),
  )
  rows = 48
  prompt = base.Prompt(
    jnp.asarray(np.random.default_rng(1).integers(0, 4, (rows, 3))),
    jnp.asarray([1, 2, 3] * (rows // 3)),
  )
  controls = Sampling().controls(row_keys(0, range(rows)), 14)
  made, plain = (
    assemble.compiled(r, 14)(params, prompt, controls)
    for r in (recipe, assemble.plain(target))
  )
  width = plain.tokens.shape[1]
  np.testing.assert_array_equal(made.tokens[:, :width], plain.tokens)
  assert int(made.num_rounds) < 14
