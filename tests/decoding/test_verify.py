"""The rules: exact laws by enumeration, fixtures, and the jitted functions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from specjax import base
from specjax.decoding import verify as verify_lib
from tests import references

# False-alarm rate of this file: ALARM for each statistical test.
ALARM = 1e-7
RATIO_RULES = {'sampling': references.sampling, 'block': references.block}
EXACT_RULES = {**RATIO_RULES, 'match': references.match}
NEG = -np.inf


def _context(batch, seed=0, length=None, **controls):
  def rows(name, off, dtype):
    value = np.asarray(controls.get(name, off), dtype)
    return jnp.asarray(np.broadcast_to(value, (batch,)))

  data = np.random.default_rng(seed).integers(0, 2**32, (batch, 2), np.uint32)
  length = np.full(batch, 4) if length is None else length
  return base.Context(
    tokens=jnp.zeros((batch, 16), jnp.int32),
    length=jnp.asarray(length, jnp.int32),
    prompt_length=jnp.asarray(length, jnp.int32),
    controls=base.Controls(
      row_key=jax.random.wrap_key_data(data),
      temperature=rows('temperature', 1.0, np.float32),
      top_k=rows('top_k', 0, np.int32),
      top_p=rows('top_p', 1.0, np.float32),
      min_p=rows('min_p', 0.0, np.float32),
      repetition_penalty=rows('repetition_penalty', 1.0, np.float32),
      max_new_tokens=rows('max_new_tokens', 9, np.int32),
      eos_ids=jnp.asarray(controls.get('eos_ids', [-1])),
      lenience=rows('lenience', 1.0, np.float32),
      beta=rows('beta', 1, np.int32),
      tau=rows('tau', 0.0, np.float32),
    ),
  )


# Smaller blocks are padded to this one, so that few programs are compiled.
ROWS, SLOTS, SIZE = 512, 3, 6


def _padded(context, draft, logits):
  """Rows, empty slots and impossible tokens that change no verdict."""
  batch, slots, size = logits.shape
  rows = np.arange(ROWS) % batch
  context = jax.tree.map(
    lambda x: x[rows] if x.shape[0] == batch else x, context
  )
  ends = np.asarray(context.controls.eos_ids)
  ends = np.append(ends, [-1] * (2 - len(ends)))
  context = context.replace(
    controls=context.controls.replace(eos_ids=jnp.asarray(ends))
  )
  more = ((0, 0), (0, SLOTS + 1 - slots))
  tokens = np.pad(draft.tokens, more, constant_values=base.EMPTY)[rows]
  log_q = draft.log_probs
  if log_q is not None:
    log_q = np.pad(log_q, (*more, (0, SIZE - size)), constant_values=-np.inf)[
      rows
    ]
  logits = np.pad(
    logits, ((0, 0), (0, 0), (0, SIZE - size)), constant_values=NEG
  )
  logits = np.pad(logits, (*more, (0, 0)))[rows]
  return context, base.Draft(tokens, log_q), logits


def _verify(name, context, draft, logits, sampler='gumbel'):
  rule = jax.jit(verify_lib.make(name, sampler).verify)
  batch, slots, size = logits.shape
  logits = np.asarray(logits, np.float32)
  if batch < ROWS and 1 < slots <= SLOTS + 1 and size <= SIZE:
    context, draft, logits = _padded(context, draft, logits)
  verdict = rule(context, draft, logits)
  assert verdict.path is None
  assert verdict.num_accepted.dtype == verdict.next_token.dtype == jnp.int32
  return (
    np.asarray(verdict.num_accepted)[:batch],
    np.asarray(verdict.next_token)[:batch],
  )


# The rules themselves, in float64.


def _models(seed, size=3, zeros=True):
  """Random target and draft models, with some tokens of probability 0."""
  rng = np.random.default_rng(seed)
  tables = {}

  def model(kind):
    def rows(prefix):
      key = (kind, prefix)
      if key not in tables:
        row = rng.dirichlet(np.full(size, 0.7))
        if zeros and rng.random() < 0.3:
          row[rng.integers(size)] = 0
        tables[key] = row / row.sum()
      return tables[key]

    return rows

  return model('p'), model('q')


@pytest.mark.parametrize('name', EXACT_RULES)
@pytest.mark.parametrize('num_draft', [0, 1, 2, 3])
@pytest.mark.parametrize('seed', range(3))
def test_rounds_have_the_targets_law(name, num_draft, seed):
  p, q = _models(seed)
  got = references.decoded_law(EXACT_RULES[name], p, q, (), num_draft, 4, 0)
  want = references.sequence_law(p, (), 4, 0)
  assert sum(want.values()) == pytest.approx(1)
  assert references.total_variation(got, want) < 1e-12


def test_a_point_mass_is_a_draft_like_any_other():
  p, _ = _models(7)

  def q(prefix):
    return references.point_mass((len(prefix) * 2 + 1) % 3, 3)

  want = references.sequence_law(p, (), 4, 0)
  for rule in EXACT_RULES.values():
    got = references.decoded_law(rule, p, q, (), 2, 4, 0)
    assert references.total_variation(got, want) < 1e-12


def test_draft_lengths_may_depend_on_what_came_before_only():
  p, q = _models(11, zeros=False)

  def stop(model, prefix, num_draft, look_back):
    for chance, x, rows in references.drafts(model, prefix, num_draft):
      keep = num_draft
      for slot in range(num_draft):
        at = slot - look_back
        if at >= 0 and x[at] == 1:
          keep = slot
          break
      yield chance, x[:keep], rows[:keep]

  want = references.sequence_law(p, (), 3, 0)
  for rule in RATIO_RULES.values():
    for look_back, exact in ((1, True), (0, False)):
      got = references.decoded_law(
        rule,
        p,
        q,
        (),
        3,
        3,
        0,
        lambda m, prefix, k, b=look_back: stop(m, prefix, k, b),
      )
      distance = references.total_variation(got, want)
      assert distance < 1e-12 if exact else distance > 0.01


@pytest.mark.parametrize(
  'rule',
  [
    references.resample_from_p,
    references.residual_for_bonus,
    references.lenient(0.5),
  ],
)
def test_wrong_rules_are_seen(rule):
  p, q = _models(3, zeros=False)
  got = references.decoded_law(rule, p, q, (), 2, 4, 0)
  want = references.sequence_law(p, (), 4, 0)
  assert references.total_variation(got, want) > 0.01


def _accepted(rule, p, q, num_draft):
  """Mean accepted tokens of a round."""
  total = 0.0
  for chance, x, rows in references.drafts(q, (), num_draft):
    targets = [p(x[:t]) for t in range(num_draft + 1)]
    outcome = rule(targets, rows, x)
    total += chance * sum(t * stop for t, (stop, _) in enumerate(outcome))
  return total


def test_block_fixture():
  def p(_):
    return np.array([1 / 3, 2 / 3])

  def q(_):
    return np.array([2 / 3, 1 / 3])

  assert _accepted(references.sampling, p, q, 2) == pytest.approx(10 / 9)
  assert _accepted(references.block, p, q, 2) == pytest.approx(11 / 9)


def test_block_never_keeps_fewer():
  for seed in range(20):
    p, q = _models(seed)
    for num_draft in (1, 2, 3):
      token = _accepted(references.sampling, p, q, num_draft)
      block = _accepted(references.block, p, q, num_draft)
      assert block >= token - 1e-12
      if num_draft == 1:
        assert block == pytest.approx(token)


def test_acceptance_is_the_overlap():
  p, q = _models(5)
  overlap = np.minimum(p(()), q(())).sum()
  assert _accepted(references.sampling, p, q, 1) == pytest.approx(overlap)
  assert _accepted(references.match, p, q, 1) == pytest.approx(
    (p(()) * q(())).sum()
  )


def test_lenience_bounds_the_excess():
  p, q = _models(9, zeros=False)
  law = references.round_law(references.lenient(0.4), p, q, (), 1)
  first = np.zeros(3)
  for tokens, mass in law.items():
    first[tokens[0]] += mass
  assert np.all(first <= p(()) / 0.4 + 1e-12)


# The jitted functions.


def _cases(seed, cases, num_draft, size, point_mass):
  """Logits, draft tokens, log q; each case has its own draft length."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 1.5, (cases, num_draft + 1, size))
  logits[rng.random(logits.shape) < 0.15] = NEG
  logits[..., 0] = 0.3  # no row loses everything
  q = rng.dirichlet(np.full(size, 0.8), (cases, num_draft))
  q[rng.random(q.shape) < 0.15] = 0
  q[..., 1] += 0.05
  q /= q.sum(axis=-1, keepdims=True)
  tokens = np.stack(
    [rng.choice(size, p=row) for row in q.reshape(-1, size)]
  ).reshape(cases, num_draft)
  drafted = np.arange(cases) % (num_draft + 1)
  empty = np.arange(num_draft) >= drafted[:, None]
  tokens = np.where(empty, base.EMPTY, tokens)
  with np.errstate(divide='ignore'):
    log_q = np.where(empty[..., None], NEG, np.log(q))
  if point_mass:
    q = np.eye(size)[np.maximum(tokens, 0)]
  return logits, tokens, log_q, q, drafted


def _statistic(rule, got, cases, rows, logits, tokens, q, drafted):
  """p-value of all cases together; (count, next token) given the draft."""
  accepted, following = got
  total = freedom = 0
  p = references.softmax(logits)
  for case in range(cases):
    keep = drafted[case]
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
  logits, tokens, log_q, q, drafted = _cases(
    1, cases, num_draft, size, point_mass
  )
  lenience = np.where(np.arange(cases) % 3, 0.5, 0.9)
  context = _context(
    cases * rows,
    seed=2,
    length=np.arange(cases * rows) % 11 + 1,
    lenience=np.repeat(lenience, rows),
  )
  draft = base.Draft(
    jnp.asarray(np.repeat(tokens, rows, axis=0), jnp.int32),
    None
    if point_mass
    else jnp.asarray(np.repeat(log_q, rows, axis=0), jnp.float32),
  )
  got = _verify(name, context, draft, np.repeat(logits, rows, axis=0))
  arguments = got, cases, rows, logits, tokens, q, drafted
  rules = {
    'sampling': lambda _: references.sampling,
    'block': lambda _: references.block,
    'lenient': lambda case: references.lenient(lenience[case]),
    'match': lambda _: references.match,
    'coupled': lambda _: references.match,
  }
  assert _statistic(rules[name], *arguments) > ALARM
  assert (got[0] <= np.repeat(drafted, rows)).all()
  # The same counts must refute every law they do not have.
  wrong = [lambda _: references.resample_from_p]
  if name != 'block' and not point_mass:
    wrong.append(rules['block'])
  if name not in ('match', 'coupled') and not point_mass:
    wrong.append(rules['match'])
  if name != 'sampling' and not point_mass:
    wrong.append(rules['sampling'])
  for rule in wrong:
    assert _statistic(rule, *arguments) < ALARM


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
  context = _context(batch)
  tokens = jnp.asarray(tokens, jnp.int32)
  want = _verify('greedy', context, base.Draft(tokens), logits)
  for rows in (None, jnp.asarray(log_q, jnp.float32)):
    got = _verify(name, context, base.Draft(tokens, rows), logits)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('name', RATIO_RULES)
def test_mixed_rows_do_not_disturb_each_other(name):
  logits, tokens, log_q, _, _ = _cases(5, 8, 3, 5, False)
  cold = np.arange(8) % 2 == 0
  best = np.argmax(logits, axis=-1)
  logits[cold] = np.where(np.eye(5)[best[cold]] > 0, 0.0, NEG)
  context = _context(8, seed=3, temperature=np.where(cold, 0.0, 1.0))
  tokens, log_q = jnp.asarray(tokens, jnp.int32), jnp.asarray(log_q)
  whole = np.stack(_verify(name, context, base.Draft(tokens, log_q), logits))
  order = np.array([5, 0, 3, 6, 1, 2, 7, 4])
  mixed = jax.tree.map(lambda x: x[order] if x.shape[0] == 8 else x, context)
  got = _verify(
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
  accepted, following = _verify('sampling', _context(rows), draft, logits)
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
    accepted, _ = _verify(
      name, _context(500), base.Draft(tokens, log_q), logits
    )
    # Up to rounding of p / q; a miss has a probability of about 1e-6 a token.
    assert (accepted == 3).mean() > 0.99


def test_disjoint_supports_keep_nothing():
  logits = np.tile([0.0, 1.0, NEG, NEG], (300, 3, 1))
  log_q = np.tile(np.log([1e-45, 1e-45, 0.5, 0.5]), (300, 2, 1))
  tokens = jnp.tile(jnp.array([[2, 3]]), (300, 1))
  for name in (*RATIO_RULES, 'match', 'lenient'):
    for rows in (jnp.asarray(log_q, jnp.float32), None):
      accepted, following = _verify(
        name, _context(300, lenience=0.2), base.Draft(tokens, rows), logits
      )
      assert not accepted.any()
      assert set(following) == {0, 1}


@pytest.mark.parametrize('name', verify_lib.NAMES)
def test_empty_slots_end_a_draft(name):
  size = 4
  logits = np.log(np.tile([0.1, 0.2, 0.3, 0.4], (4, 3, 1)))
  # The last entry of the vocabulary is where -1 would point.
  logits[..., 3] = 50.0
  tokens = jnp.array([[3, -1], [-1, -1], [3, 3], [-1, -1]])
  log_q = np.full((4, 2, size), NEG)
  log_q[np.asarray(tokens) >= 0] = np.log([0.25] * 4)
  context = _context(
    4, temperature=0.0 if name in ('greedy', 'top_candidates') else 1.0
  )
  for rows in (jnp.asarray(log_q, jnp.float32), None):
    got = _verify(name, context, base.Draft(tokens, rows), logits)
    np.testing.assert_array_equal(got[0], [1, 0, 2, 0])
    np.testing.assert_array_equal(got[1], [3, 3, 3, 3])


@pytest.mark.parametrize('name', verify_lib.NAMES)
def test_no_draft_is_plain_decoding(name):
  logits = np.random.default_rng(8).normal(size=(6, 1, 9))
  context = _context(6)
  draft = base.Draft(jnp.zeros((6, 0), jnp.int32))
  accepted, following = _verify(name, context, draft, logits)
  assert not accepted.any()
  assert ((following >= 0) & (following < 9)).all()


@pytest.mark.parametrize('name', verify_lib.NAMES)
def test_nan_accepts_nothing_and_stays_in_range(name):
  tokens = jnp.zeros((3, 2), jnp.int32)
  log_q = jnp.log(jnp.full((3, 2, 5), 0.2))
  for some in (slice(None), slice(0, 1), slice(4, 5)):
    logits = np.zeros((3, 3, 5))
    logits[..., some] = np.nan
    for temperature in (0.0, 1.0):
      context = _context(3, temperature=temperature, beta=5, tau=9.0)
      for rows in (None, log_q):
        accepted, following = _verify(
          name, context, base.Draft(tokens, rows), logits
        )
        assert ((following >= 0) & (following < 5)).all()
        if name != 'top_candidates' or some != slice(4, 5):
          assert not accepted.any()


@pytest.mark.parametrize('sampler', ['gumbel', 'inverse_cdf'])
def test_target_samples_do_not_depend_on_the_draft(sampler):
  rng = np.random.default_rng(9)
  logits = rng.normal(size=(50, 4, 6))
  context = _context(50, length=rng.integers(1, 9, 50))
  wide = base.Draft(jnp.asarray(rng.integers(0, 6, (50, 3)), jnp.int32))
  none = base.Draft(jnp.zeros((50, 0), jnp.int32))
  accepted, following = _verify('coupled', context, wide, logits, sampler)
  for slot in range(4):
    rows = accepted == slot
    later = context.replace(length=context.length + slot)
    _, plain = _verify(
      'match', later, none, logits[:, slot : slot + 1], sampler
    )
    np.testing.assert_array_equal(following[rows], plain[rows])
    kept = accepted > slot
    if slot < 3:
      np.testing.assert_array_equal(
        np.asarray(wide.tokens)[kept, slot], plain[kept]
      )


# The lossy rules.


def test_top_candidates_follows_its_definition():
  rng = np.random.default_rng(10)
  batch, num_draft, size = 300, 2, 6
  logits = np.round(rng.normal(0, 1, (batch, num_draft + 1, size)), 1)
  tokens = rng.integers(0, size, (batch, num_draft))
  beta = rng.integers(1, 5, batch)
  tau = rng.choice([0.0, 0.5, 1.0, 3.0], batch)
  context = _context(batch, beta=beta, tau=tau, eos_ids=[2, -1])
  got = _verify(
    'top_candidates',
    context,
    base.Draft(jnp.asarray(tokens, jnp.int32)),
    logits,
  )
  logits = logits.astype(np.float32)
  for row in range(batch):
    count = 0
    for slot in range(num_draft):
      scores, token = logits[row, slot], tokens[row, slot]
      rank = list(np.argsort(-scores, kind='stable')).index(token) + 1
      near = scores.max() - scores[token] <= np.float32(tau[row])
      relaxed = rank <= beta[row] and near and token != 2
      if not (rank == 1 or relaxed):
        break
      count += 1
    assert got[0][row] == count
    assert got[1][row] == np.argmax(logits[row, count])


def test_top_candidates_of_rank_one_is_greedy():
  rng = np.random.default_rng(12)
  logits = np.round(rng.normal(size=(200, 4, 5)))  # many ties
  draft = base.Draft(jnp.asarray(rng.integers(0, 5, (200, 3)), jnp.int32))
  context = _context(200, beta=1, tau=100.0, eos_ids=[0, 3])
  np.testing.assert_array_equal(
    _verify('top_candidates', context, draft, logits),
    _verify('greedy', context, draft, logits),
  )


def test_lenient_without_lenience_is_sampling():
  logits, tokens, log_q, _, _ = _cases(13, 400, 3, 5, False)
  draft = base.Draft(jnp.asarray(tokens, jnp.int32), jnp.asarray(log_q))
  context = _context(400, lenience=1.0)
  np.testing.assert_array_equal(
    _verify('lenient', context, draft, logits),
    _verify('sampling', context, draft, logits),
  )
  cold = _context(400, lenience=1.0, temperature=0.0)
  np.testing.assert_array_equal(
    _verify('lenient', cold, draft, logits),
    _verify('greedy', cold, draft, logits),
  )


def test_lenient_greedy_rows_compare_with_the_best():
  p = np.array([0.4, 0.3, 0.2, 0.1])
  logits = np.tile(np.log(p), (8, 2, 1))
  tokens = jnp.array([[0], [1], [2], [3]] * 2)
  lenience = np.repeat([0.4, 0.7], 4)
  context = _context(8, temperature=0.0, lenience=lenience)
  accepted, following = _verify('lenient', context, base.Draft(tokens), logits)
  np.testing.assert_array_equal(accepted, [1, 1, 1, 0, 1, 1, 0, 0])
  assert not following.any()


# The factory.


def test_make():
  exact = {name for name in verify_lib.NAMES if verify_lib.make(name).exact}
  assert exact == {'greedy', 'sampling', 'block', 'coupled', 'match'}
  reads = {n for n in verify_lib.NAMES if verify_lib.make(n).needs_log_probs}
  assert reads == {'sampling', 'block', 'lenient'}
  noise = {name: verify_lib.make(name).noise for name in verify_lib.NAMES}
  assert noise['coupled'] == 'position' and noise['match'] == 'private'
  assert {noise[n] for n in reads} == {'round'}
  assert noise['greedy'] == noise['top_candidates'] == 'argmax'
  for name, sampler in itertools.product(
    verify_lib.NAMES, ['gumbel', 'inverse_cdf']
  ):
    made = verify_lib.make(name, sampler)
    assert made is verify_lib.make(name, sampler)
    assert made == verify_lib.make(name, sampler=sampler)
    assert made.name == name
    assert hash(made) == hash(verify_lib.make(name, sampler))
  assert verify_lib.make('match') == verify_lib.make('match', 'gumbel')
  with pytest.raises(ValueError, match="'typical'.*greedy, sampling, block"):
    verify_lib.make('typical')
  with pytest.raises(ValueError, match="'max'.*gumbel, inverse_cdf"):
    verify_lib.make('match', 'max')


@pytest.mark.parametrize('name', verify_lib.NAMES)
def test_what_does_not_fit_is_refused(name):
  rule, context = verify_lib.make(name).verify, _context(2)
  tokens = jnp.zeros((2, 3), jnp.int32)
  slots = jnp.zeros((2, 4), jnp.int32)
  tree = base.Draft(tokens, tree=base.Tree(slots, slots))
  with pytest.raises(ValueError, match='draft is a tree'):
    rule(context, tree, jnp.zeros((2, 4, 5)))
  with pytest.raises(ValueError, match='3 tokens needs logits of 4 slots'):
    rule(context, base.Draft(tokens), jnp.zeros((2, 3, 5)))
