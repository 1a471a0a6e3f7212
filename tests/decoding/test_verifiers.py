"""The jitted rules: their laws by chi-square, and their edges."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from specjax import base
from specjax.decoding.verifiers import registry
from tests.helpers import recipes
from tests.helpers import references
from tests.helpers import verdicts

# False-alarm rate of this file: ALARM for each statistical test.
ALARM = 1e-7
RATIO_RULES = {'sampling': references.sampling, 'block': references.block}
NEG = -np.inf

# Of a chain `traversal` is `block` itself.
CHAIN_RULES = [name for name in registry.names() if name != 'traversal']


def _statistic(rule, got, rows, given):
  """p-value of all cases together; (count, next token) given the draft."""
  accepted, following = got
  total = freedom = 0
  p, q, tokens = references.softmax(given.logits), given.q, given.tokens
  for case, keep in enumerate(given.drafted):
    law = {
      (t, token): stop * chance
      for t, (stop, row) in enumerate(
        rule(case)(p[case][: keep + 1], q[case][:keep], tokens[case][:keep])
      )
      for token, chance in enumerate(row)
      if stop * chance > 1e-12
    }
    block = slice(case * rows, (case + 1) * rows)
    seen = {}
    for outcome in zip(accepted[block], following[block], strict=True):
      seen[outcome] = seen.get(outcome, 0) + 1
    part, cells = references.chi_square(seen, law)
    total, freedom = total + part, freedom + cells
  return stats.chi2.sf(total, freedom) if freedom else float(total < 1e-9)


@pytest.mark.parametrize(
  'name, point_mass',
  [
    *itertools.product(['sampling', 'block', 'lenient'], [False, True]),
    ('match', False),
    ('coupled', True),
  ],
)
def test_verdicts_have_the_rules_law(name, point_mass):
  cases, rows, num_draft, size = 24, 2500, 3, 5
  given = verdicts.cases(1, cases, num_draft, size, point_mass)
  lenience = np.where(np.arange(cases) % 3, 0.5, 0.9)
  context = verdicts.context(
    cases * rows,
    seed=2,
    length=np.arange(cases * rows) % 11 + 1,
    lenience=np.repeat(lenience, rows),
  )
  draft = base.Draft(
    jnp.asarray(np.repeat(given.tokens, rows, axis=0), jnp.int32),
    None
    if point_mass
    else jnp.asarray(np.repeat(given.log_q, rows, axis=0), jnp.float32),
  )
  logits = np.repeat(given.logits, rows, axis=0)
  got = verdicts.verify(name, context, draft, logits)
  rules = {
    'sampling': lambda _: references.sampling,
    'block': lambda _: references.block,
    'lenient': lambda case: references.lenient(lenience[case]),
    'match': lambda _: references.match,
    'coupled': lambda _: references.match,
  }
  assert _statistic(rules[name], got, rows, given) > ALARM
  assert (got[0] <= np.repeat(given.drafted, rows)).all()
  # The same counts must refute every law they do not have.
  wrong = [lambda _: references.resample_from_p]
  if name != 'block' and not point_mass:
    wrong.append(rules['block'])
  if name not in ('match', 'coupled') and not point_mass:
    wrong.append(rules['match'])
  if name != 'sampling' and not point_mass:
    wrong.append(rules['sampling'])
  for rule in wrong:
    assert _statistic(rule, got, rows, given) < ALARM


@pytest.mark.parametrize('name', [*RATIO_RULES, 'match'])
def test_one_hot_rows_are_greedy(name):
  rng = np.random.default_rng(4)
  batch, num_draft, size = 64, 3, 4
  best = rng.integers(0, size, (batch, num_draft + 1))
  logits = np.where(np.eye(size)[best] > 0, 0.0, NEG)
  tokens = np.where(
    rng.random((batch, num_draft)) < 0.6,
    best[:, :-1],
    rng.integers(0, size, (batch, num_draft)),
  )
  tokens[:5, 1:] = base.EMPTY
  log_q = np.where(np.eye(size)[np.maximum(tokens, 0)] > 0, 0.0, NEG)
  log_q[tokens < 0] = NEG
  context = verdicts.context(batch)
  tokens = jnp.asarray(tokens, jnp.int32)
  want = verdicts.verify('greedy', context, base.Draft(tokens), logits)
  for rows in (None, jnp.asarray(log_q, jnp.float32)):
    got = verdicts.verify(name, context, base.Draft(tokens, rows), logits)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('name', RATIO_RULES)
def test_mixed_rows_do_not_disturb_each_other(name):
  logits, tokens, log_q, _, _ = verdicts.cases(5, 8, 3, 5, False)
  cold = np.arange(8) % 2 == 0
  best = np.argmax(logits, axis=-1)
  logits[cold] = np.where(np.eye(5)[best[cold]] > 0, 0.0, NEG)
  context = verdicts.context(8, seed=3, temperature=np.where(cold, 0.0, 1.0))
  tokens, log_q = jnp.asarray(tokens, jnp.int32), jnp.asarray(log_q)
  whole = np.stack(
    verdicts.verify(name, context, base.Draft(tokens, log_q), logits)
  )
  order = np.array([5, 0, 3, 6, 1, 2, 7, 4])
  mixed = jax.tree.map(lambda x: x[order] if x.shape[0] == 8 else x, context)
  got = verdicts.verify(
    name, mixed, base.Draft(tokens[order], log_q[order]), logits[order]
  )
  np.testing.assert_array_equal(np.stack(got), whole[:, order])
  assert ((whole[1] >= 0) & (whole[1] < 5)).all()
  p = references.softmax(logits)
  slots = whole[0]
  assert (p[np.arange(8), slots, whole[1]] > 0).all()


def test_golden_residual():
  rows = 40_000
  p, q = np.array([0.5, 0.3, 0.15, 0.05]), np.full(4, 0.25)
  tokens = np.tile(np.arange(4), rows // 4)[:, None]
  logits = np.tile(np.log(p), (rows, 2, 1))
  draft = base.Draft(
    jnp.asarray(tokens, jnp.int32),
    jnp.full((rows, 1, 4), np.log(q[0]), jnp.float32),
  )
  accepted, following = verdicts.verify(
    'sampling', verdicts.context(rows), draft, logits
  )
  assert (
    stats.binomtest(int(accepted.sum()), rows, 0.70).pvalue > ALARM
  )  # sum min(p, q)
  refused = following[accepted == 0]
  assert set(refused) == {0, 1}
  assert (
    stats.binomtest(int((refused == 0).sum()), len(refused), 5 / 6).pvalue
    > ALARM
  )
  # A token at least as likely as drafted is always kept.
  assert accepted[np.isin(tokens[:, 0], [0, 1])].all()


def test_equal_models_keep_everything():
  rng = np.random.default_rng(6)
  logits = rng.normal(size=(500, 4, 6)).astype(np.float32)
  log_q = jax.nn.log_softmax(jnp.asarray(logits[:, :3]))
  tokens = jnp.asarray(rng.integers(0, 6, (500, 3)), jnp.int32)
  for name in RATIO_RULES:
    accepted, _ = verdicts.verify(
      name, verdicts.context(500), base.Draft(tokens, log_q), logits
    )
    # Up to rounding of p / q; a miss has a probability of about 1e-6 a token.
    assert (accepted == 3).mean() > 0.99


def test_disjoint_supports_keep_nothing():
  logits = np.tile([0.0, 1.0, NEG, NEG], (300, 3, 1))
  log_q = np.tile(np.log([1e-45, 1e-45, 0.5, 0.5]), (300, 2, 1))
  tokens = jnp.tile(jnp.array([[2, 3]]), (300, 1))
  for name in (*RATIO_RULES, 'match', 'lenient'):
    for rows in (jnp.asarray(log_q, jnp.float32), None):
      accepted, following = verdicts.verify(
        name,
        verdicts.context(300, lenience=0.2),
        base.Draft(tokens, rows),
        logits,
      )
      assert not accepted.any()
      assert set(following) == {0, 1}


@pytest.mark.parametrize('name', CHAIN_RULES)
def test_empty_slots_end_a_draft(name):
  size = 4
  logits = np.log(np.tile([0.1, 0.2, 0.3, 0.4], (4, 3, 1)))
  # The last entry of the vocabulary is where -1 would point.
  logits[..., 3] = 50.0
  tokens = jnp.array([[3, -1], [-1, -1], [3, 3], [-1, -1]])
  log_q = np.full((4, 2, size), NEG)
  log_q[np.asarray(tokens) >= 0] = np.log([0.25] * 4)
  context = verdicts.context(
    4, temperature=0.0 if name in ('greedy', 'top_candidates') else 1.0
  )
  for rows in (jnp.asarray(log_q, jnp.float32), None):
    got = verdicts.verify(name, context, base.Draft(tokens, rows), logits)
    np.testing.assert_array_equal(got[0], [1, 0, 2, 0])
    np.testing.assert_array_equal(got[1], [3, 3, 3, 3])


@pytest.mark.parametrize('name', CHAIN_RULES)
def test_no_draft_is_plain_decoding(name):
  logits = np.random.default_rng(8).normal(size=(6, 1, 9))
  context = verdicts.context(6)
  draft = base.Draft(jnp.zeros((6, 0), jnp.int32))
  accepted, following = verdicts.verify(name, context, draft, logits)
  assert not accepted.any()
  assert ((following >= 0) & (following < 9)).all()


@pytest.mark.parametrize('name', CHAIN_RULES)
def test_nan_accepts_nothing_and_stays_in_range(name):
  tokens = jnp.zeros((3, 2), jnp.int32)
  log_q = jnp.log(jnp.full((3, 2, 5), 0.2))
  for some in (slice(None), slice(0, 1), slice(4, 5)):
    logits = np.zeros((3, 3, 5))
    logits[..., some] = np.nan
    for temperature in (0.0, 1.0):
      context = verdicts.context(3, temperature=temperature, beta=5, tau=9.0)
      for rows in (None, log_q):
        accepted, following = verdicts.verify(
          name, context, base.Draft(tokens, rows), logits
        )
        assert ((following >= 0) & (following < 5)).all()
        if name != 'top_candidates' or some != slice(4, 5):
          assert not accepted.any()


@pytest.mark.parametrize('sampler', ['gumbel', 'inverse_cdf'])
def test_target_samples_do_not_depend_on_the_draft(sampler):
  rng = np.random.default_rng(9)
  logits = rng.normal(size=(50, 4, 6))
  context = verdicts.context(50, length=rng.integers(1, 9, 50))
  wide = base.Draft(jnp.asarray(rng.integers(0, 6, (50, 3)), jnp.int32))
  none = base.Draft(jnp.zeros((50, 0), jnp.int32))
  accepted, following = verdicts.verify(
    'coupled', context, wide, logits, sampler
  )
  for slot in range(4):
    rows = accepted == slot
    later = context.replace(length=context.length + slot)
    _, plain = verdicts.verify(
      'match', later, none, logits[:, slot : slot + 1], sampler
    )
    np.testing.assert_array_equal(following[rows], plain[rows])
    kept = accepted > slot
    if slot < 3:
      np.testing.assert_array_equal(
        np.asarray(wide.tokens)[kept, slot], plain[kept]
      )


def test_make():
  exact = {e.name for e in registry.BUILT_IN if e.exact_when(e.options())}
  # Neutral dials make these two exact ones.
  neutral = {'lenient', 'top_candidates'}
  judges_trees = {entry.name for entry in registry.BUILT_IN if entry.trees}
  assert exact - neutral == judges_trees - {'typical'} | {'block'}
  reads = {n for n in registry.names() if recipes.rule(n).needs_log_probs}
  assert reads == {'sampling', 'block', 'lenient', 'traversal'}
  noise = {name: recipes.rule(name).noise for name in registry.names()}
  assert noise['coupled'] == 'position' and noise['match'] == 'private'
  assert {noise[n] for n in reads} == {'round'}
  assert noise['greedy'] == noise['top_candidates'] == 'argmax'
  for name, sampler in itertools.product(
    registry.names(), ['gumbel', 'inverse_cdf']
  ):
    made = recipes.rule(name, sampler)
    assert made is recipes.rule(name, sampler)
    assert made == recipes.rule(name, sampler=sampler)
    assert registry.resolve(name).name == name
    assert hash(made) == hash(recipes.rule(name, sampler))
  assert recipes.rule('match') == recipes.rule('match', 'gumbel')
  with pytest.raises(ValueError, match="'usual'.*greedy, sampling, block"):
    recipes.rule('usual')
  with pytest.raises(ValueError, match="'max'.*gumbel, inverse_cdf"):
    recipes.rule('match', 'max')


@pytest.mark.parametrize('name', CHAIN_RULES)
def test_what_does_not_fit_is_refused(name):
  rule, context = recipes.rule(name).verify, verdicts.context(2)
  tokens = jnp.zeros((2, 3), jnp.int32)
  slots = jnp.zeros((2, 4), jnp.int32)
  tree = base.Draft(tokens, tree=base.Tree(slots, slots))
  with pytest.raises(ValueError, match='draft is a tree'):
    rule(context, tree, jnp.zeros((2, 4, 5)))
  with pytest.raises(ValueError, match='3 tokens needs logits of 4 slots'):
    rule(context, base.Draft(tokens), jnp.zeros((2, 3, 5)))
