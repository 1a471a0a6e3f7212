"""Objectives against numpy oracles, finite differences and the verifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from specjax.training import losses
from tests.helpers import recipes

SOFT = losses.NAMES[1:]
B, T, V = 2, 3, 7


def random_logits(seed, shape=(B, T, V)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 2


def oracle(name, target, draft, temperature=1.0, beta=0.5):
  """Divergence at each position, from the definitions, in float64."""
  p = special.softmax(np.float64(target) / temperature, -1)
  q = special.softmax(np.float64(draft) / temperature, -1)
  m = beta * p + (1 - beta) * q

  def kl(a, b):
    return np.sum(special.rel_entr(a, b), -1)

  tv = 0.5 * np.abs(p - q).sum(-1)
  return {
    'cross_entropy': -np.log(
      np.take_along_axis(
        special.softmax(np.float64(draft), -1), target.argmax(-1)[..., None], -1
      )
    )[..., 0],
    'forward_kl': kl(p, q),
    'reverse_kl': kl(q, p),
    'jsd': beta * kl(p, m) + (1 - beta) * kl(q, m),
    'total_variation': tv,
    'negative_log_acceptance': -np.log(np.minimum(p, q).sum(-1)),
    'kl_tv': np.exp(-3 * (1 - tv)) * kl(p, q)
    + (1 - np.exp(-3 * (1 - tv))) * tv,
  }[name]


@pytest.mark.parametrize('name', losses.NAMES)
@pytest.mark.parametrize('temperature', [0.5, 1.0, 1.7])
def test_values_are_the_definitions(name, temperature):
  target, draft = random_logits(0), random_logits(1)
  mask = np.array([[1, 1, 0], [1, 0, 1]])
  wanted = oracle(name, target, draft, temperature)[mask > 0].mean()
  got = losses.divergence(name, target, draft, mask, temperature)
  np.testing.assert_allclose(got, wanted, rtol=2e-5)


@pytest.mark.parametrize('beta', [0.1, 0.5, 0.9])
def test_jsd_with_other_weights(beta):
  target, draft = random_logits(2), random_logits(3)
  got = losses.divergence('jsd', target, draft, np.ones((B, T)), beta=beta)
  wanted = oracle('jsd', target, draft, beta=beta).mean()
  np.testing.assert_allclose(got, wanted, rtol=2e-5)


@pytest.mark.parametrize('name', SOFT)
def test_zero_with_zero_gradient_where_the_two_agree(name):
  logits = jnp.asarray(random_logits(4))
  mask = jnp.ones((B, T))
  value, gradient = jax.value_and_grad(
    lambda draft: losses.divergence(name, logits, draft, mask)
  )(logits)
  assert abs(float(value)) < 1e-6
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize('name', losses.NAMES)
def test_gradients_are_finite_differences(name):
  # The hybrid's weight is a constant to the gradient, so it is held fixed.
  target, draft = random_logits(5, (1, 1, V)), random_logits(6, (1, 1, V))
  mask = np.ones((1, 1))
  gradient = jax.grad(lambda d: losses.divergence(name, target, d, mask))(draft)
  accepted = 1 - oracle('total_variation', target, draft)

  def value(d):
    if name != 'kl_tv':
      return oracle(name, target, d).item()
    weight = np.exp(-3 * accepted)
    kl = oracle('forward_kl', target, d)
    return (
      weight * kl + (1 - weight) * oracle('total_variation', target, d)
    ).item()

  step = 1e-5
  for v in range(V):
    moved = np.zeros((1, 1, V))
    moved[..., v] = step
    slope = (value(draft + moved) - value(draft - moved)) / (2 * step)
    np.testing.assert_allclose(gradient[0, 0, v], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('name', losses.NAMES)
@pytest.mark.parametrize('junk', [np.nan, np.inf, -np.inf, 1e30])
def test_masked_positions_contribute_exactly_nothing(name, junk):
  target, draft = random_logits(7), random_logits(8)
  mask = np.array([[1, 0, 1], [0, 1, 1]])
  labels = np.where(mask, 2, 10**6)
  clean = [np.where(mask[..., None], x, 0) for x in (target, draft)]
  dirty = [np.where(mask[..., None], x, junk) for x in (target, draft)]

  def loss(draft, target):
    return losses.divergence(name, target, draft, mask, labels=labels)

  value, gradient = jax.value_and_grad(loss)(clean[1], clean[0])
  again, other = jax.value_and_grad(loss)(dirty[1], dirty[0])
  assert float(value) == float(again)
  np.testing.assert_array_equal(gradient, other)
  assert np.all(np.asarray(other)[mask == 0] == 0)


def test_all_masked_is_zero():
  logits = random_logits(9)
  for name in losses.NAMES:
    got = losses.divergence(name, logits, logits + 1, np.zeros((B, T)))
    assert float(got) == 0


def test_tokens_the_target_forbids_cost_nothing_and_stay_finite():
  target = random_logits(10)
  target[..., 3:] = -np.inf
  draft = random_logits(11)
  for name in ('forward_kl', 'total_variation', 'negative_log_acceptance'):
    value, gradient = jax.value_and_grad(
      lambda d, name=name: losses.divergence(name, target, d, np.ones((B, T)))
    )(draft)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def best_bump(name, target):
  """The one-bump drafter, over all places and widths, that `name` prefers."""
  place = np.arange(21)
  at, width = np.meshgrid(
    np.linspace(0, 20, 41), np.linspace(0.8, 8, 30), indexing='ij'
  )
  bumps = -0.5 * ((place - at[..., None]) / width[..., None]) ** 2
  values = losses.token_divergence(
    name, np.broadcast_to(target, bumps.shape), bumps, np.ones(at.shape)
  )
  best = np.unravel_index(np.argmin(values), at.shape)
  return special.softmax(bumps[best])


def test_forward_kl_covers_two_modes_and_reverse_kl_picks_one():
  place = np.arange(21)
  p = sum(np.exp(-0.5 * ((place - at) / 1.2) ** 2) for at in (4, 16))
  target = np.log(p / p.sum() + 1e-8)
  forward = best_bump('forward_kl', target)
  reverse = best_bump('reverse_kl', target)
  # Forward: as much on either side, and much of it in the valley between.
  assert abs(forward[:10].sum() - forward[11:].sum()) < 0.05
  assert forward[8:13].sum() > 0.2
  # Reverse: almost everything around one mode.
  assert max(reverse[:9].sum(), reverse[12:].sum()) > 0.95


def test_cross_entropy_takes_given_labels_and_smoothing():
  draft = random_logits(12)
  labels = np.array([[0, 1, 2], [3, 4, 5]])
  log_q = special.log_softmax(np.float64(draft), -1)
  hard = -np.take_along_axis(log_q, labels[..., None], -1)[..., 0]
  smooth = 0.9 * hard - 0.1 * log_q.mean(-1)
  for amount, wanted in ((0.0, hard), (0.1, smooth)):
    got = losses.divergence(
      'cross_entropy',
      None,
      draft,
      np.ones((B, T)),
      labels=labels,
      label_smoothing=amount,
    )
    np.testing.assert_allclose(got, wanted.mean(), rtol=1e-5)


def test_bad_arguments_are_told():
  logits = random_logits(0)
  mask = np.ones((B, T))
  with pytest.raises(ValueError, match='Unknown objective .kll.*forward_kl'):
    losses.divergence('kll', logits, logits, mask)
  with pytest.raises(ValueError, match='needs labels'):
    losses.divergence('cross_entropy', None, logits, mask)
  with pytest.raises(ValueError, match="needs the target's logits"):
    losses.divergence('jsd', None, logits, mask)
  with pytest.raises(ValueError, match='beta must lie strictly'):
    losses.divergence('jsd', logits, logits, mask, beta=1.0)


def test_total_variation_is_one_minus_measured_acceptance():
  from specjax import base
  from specjax.decoding.controls import row_keys
  from specjax.decoding.controls import Sampling

  rows, vocab = 20000, 6
  rng = np.random.default_rng(0)
  p_logits, q_logits = rng.normal(size=(2, vocab)).astype(np.float32) * 1.5
  q = special.softmax(np.float64(q_logits))
  drafted = rng.choice(vocab, size=(rows, 1), p=q).astype(np.int32)
  sampling = Sampling(temperature=1.0)
  controls = sampling.controls(row_keys(0, range(rows)), max_new_tokens=2)
  ones = jnp.ones(rows, jnp.int32)
  context = base.Context(
    tokens=jnp.zeros((rows, 4), jnp.int32),
    length=ones,
    prompt_length=ones,
    controls=controls,
  )
  draft = base.Draft(
    jnp.asarray(drafted),
    jnp.broadcast_to(jax.nn.log_softmax(q_logits), (rows, 1, vocab)),
  )
  logits = jnp.broadcast_to(p_logits, (rows, 2, vocab))
  verdict = recipes.rule('sampling').verify(context, draft, logits)
  accepted = float(np.mean(np.asarray(verdict.num_accepted)))
  wanted = 1 - float(
    losses.divergence(
      'total_variation', p_logits[None], q_logits[None], np.ones(1)
    )
  )
  # Five standard errors.
  assert abs(accepted - wanted) < 5 * np.sqrt(0.25 / rows)
