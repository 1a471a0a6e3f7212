"""The rules that change the target's law do so as documented."""

import jax.numpy as jnp
import numpy as np

from specjax import base
from tests.helpers import verdicts


def test_top_candidates_follows_its_definition():
  rng = np.random.default_rng(10)
  batch, num_draft, size = 300, 2, 6
  logits = np.round(rng.normal(0, 1, (batch, num_draft + 1, size)), 1)
  tokens = rng.integers(0, size, (batch, num_draft))
  beta = rng.integers(1, 5, batch)
  tau = rng.choice([0.0, 0.5, 1.0, 3.0], batch)
  context = verdicts.context(batch, beta=beta, tau=tau, eos_ids=[2, -1])
  got = verdicts.verify(
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
  context = verdicts.context(200, beta=1, tau=100.0, eos_ids=[0, 3])
  np.testing.assert_array_equal(
    verdicts.verify('top_candidates', context, draft, logits),
    verdicts.verify('greedy', context, draft, logits),
  )


def test_top_candidates_accepts_more_the_more_it_is_allowed():
  """In a fixed context: what (beta, tau) keeps, larger ones keep too."""
  rng = np.random.default_rng(14)
  rows, dials = 40, [(b, t) for b in (1, 2, 4) for t in (0.0, 0.7, 2.0)]
  logits = np.repeat(rng.normal(size=(rows, 4, 6)), len(dials), axis=0)
  tokens = np.repeat(rng.integers(0, 6, (rows, 3)), len(dials), axis=0)
  beta, tau = (np.tile(side, rows) for side in zip(*dials, strict=True))
  context = verdicts.context(
    rows * len(dials), beta=beta, tau=tau, eos_ids=[0, -1]
  )
  draft = base.Draft(jnp.asarray(tokens, jnp.int32))
  kept = verdicts.verify('top_candidates', context, draft, logits)[0]
  kept = np.asarray(kept).reshape(rows, 3, 3)
  assert (np.diff(kept, axis=1) >= 0).all() and (
    np.diff(kept, axis=2) >= 0
  ).all()
  assert (kept[:, 0] == kept[:, 0, :1]).all()  # beta = 1, whatever tau is
  assert (kept[:, :, 0] == kept[:, :1, 0]).all()  # tau = 0, without ties
  assert kept[:, 2, 2].sum() > 2 * kept[:, 0, 0].sum()


def test_lenient_without_lenience_is_sampling():
  logits, tokens, log_q, _, _ = verdicts.cases(13, 400, 3, 5, False)
  draft = base.Draft(jnp.asarray(tokens, jnp.int32), jnp.asarray(log_q))
  context = verdicts.context(400, lenience=1.0)
  np.testing.assert_array_equal(
    verdicts.verify('lenient', context, draft, logits),
    verdicts.verify('sampling', context, draft, logits),
  )
  cold = verdicts.context(400, lenience=1.0, temperature=0.0)
  np.testing.assert_array_equal(
    verdicts.verify('lenient', cold, draft, logits),
    verdicts.verify('greedy', cold, draft, logits),
  )


def test_lenient_greedy_rows_compare_with_the_best():
  p = np.array([0.4, 0.3, 0.2, 0.1])
  logits = np.tile(np.log(p), (8, 2, 1))
  tokens = jnp.array([[0], [1], [2], [3]] * 2)
  lenience = np.repeat([0.4, 0.7], 4)
  context = verdicts.context(8, temperature=0.0, lenience=lenience)
  accepted, following = verdicts.verify(
    'lenient', context, base.Draft(tokens), logits
  )
  np.testing.assert_array_equal(accepted, [1, 1, 1, 0, 1, 1, 0, 0])
  assert not following.any()
