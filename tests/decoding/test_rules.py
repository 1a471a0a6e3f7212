"""The rules in float64, by enumeration: laws, fixtures and identities."""

import numpy as np
import pytest

from tests.helpers import references

RATIO_RULES = {'sampling': references.sampling, 'block': references.block}
EXACT_RULES = {**RATIO_RULES, 'match': references.match}


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
  rule = EXACT_RULES[name]
  got = references.decoded_law(rule, p, q, (), num_draft, length=4, end=0)
  want = references.sequence_law(p, (), 4, 0)
  assert sum(want.values()) == pytest.approx(1)
  assert references.total_variation(got, want) < 1e-12


def test_a_point_mass_is_a_draft_like_any_other():
  p, _ = _models(7)

  def q(prefix):
    return references.point_mass((len(prefix) * 2 + 1) % 3, 3)

  want = references.sequence_law(p, (), 4, 0)
  for rule in EXACT_RULES.values():
    got = references.decoded_law(rule, p, q, (), 2, length=4, end=0)
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
        length=3,
        end=0,
        propose=lambda m, prefix, k, b=look_back: stop(m, prefix, k, b),
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
  got = references.decoded_law(rule, p, q, (), 2, length=4, end=0)
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
