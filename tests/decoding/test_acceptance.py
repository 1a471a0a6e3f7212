"""Acceptance of a real draft model by a real target, predicted and measured."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import theory
from specjax.checkpoints import load as loading
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.inference import assemble
from tests.helpers import recipes
from tests.helpers import shared

GIVEN, NEW, NUM_DRAFT = 24, 64, 4


@functools.cache
def _models():
  return tuple(
    loading.load(shared.weights(name)) for name in ('stories260K', 'llama2xs')
  )


@functools.cache
def _prompt():
  """The first 24 tokens of 100 stories, begin token included."""
  tokenizer = _models()[0].tokenizer
  rows = []
  with open(shared.path('data', 'tinystories_1k', 'valid.jsonl')) as lines:
    for line in lines:
      ids = tokenizer(json.loads(line)['text'])['input_ids']
      ids = ids if ids[0] == 1 else [1, *ids]
      if len(ids) >= GIVEN:
        rows.append(ids[:GIVEN])
      if len(rows) == 100:
        break
  tokens = jnp.asarray(rows, jnp.int32)
  return base.Prompt(tokens, jnp.full((len(rows),), GIVEN, jnp.int32))


@functools.cache
def _decode(verify, with_drafter, temperature=1.0):
  target, draft = _models()
  settings = Sampling(temperature=temperature)
  recipe = recipes.recipe(
    target.lm,
    draft.lm if with_drafter else None,
    num_draft=NUM_DRAFT,
    verify=verify,
    warp=settings.warp_spec(),
  )
  controls = settings.controls(row_keys(0, range(100)), NEW, (1, 2))
  params = generate_lib.Params(target.params, draft.params)
  call = assemble.compiled(recipe, NEW)
  return jax.device_get(call(params, _prompt(), controls))


@functools.cache
def _scorer(lm):
  @jax.jit
  def score(params, tokens):
    batch, width = tokens.shape
    first = base.Prompt(tokens[:, :1], jnp.ones((batch,), jnp.int32))
    prefilled = lm.prefill(params, first, capacity=width + 8)
    # The cache holds all committed tokens but the last: none of this prompt.
    scored, _ = lm.extend(params, prefilled.cache, tokens)
    return jax.nn.softmax(scored.logits[:, GIVEN - 1 : -1])

  return score


def _distributions(generation):
  """p and q [100, 64, V] at every new position of the given texts."""
  tokens = jnp.asarray(generation.tokens[:, : GIVEN + NEW])
  return [
    np.asarray(_scorer(model.lm)(model.params, tokens), np.float64)
    for model in _models()
  ]


def _inside(generation):
  return np.arange(NEW) < generation.num_tokens[:, None]


def test_overlap_and_greedy_agreement_on_the_targets_own_samples():
  plain = _decode('auto', False)
  p, q = _distributions(plain)
  inside = _inside(plain)
  assert inside.sum() > 5000
  overlap = theory.acceptance(p, q)[inside].mean()
  agreement = (p.argmax(-1) == q.argmax(-1))[inside].mean()
  print(f'overlap {overlap:.4f}, greedy agreement {agreement:.4f}')
  assert overlap == pytest.approx(0.646, abs=0.01)
  assert agreement == pytest.approx(0.61, abs=0.015)


@pytest.mark.parametrize(
  'verify, predict',
  [
    ('sampling', theory.acceptance),
    ('coupled', theory.coupled_acceptance),
  ],
)
def test_measured_acceptance_is_the_predicted_one(verify, predict):
  got = _decode(verify, True)
  if verify == 'coupled':
    plain = _decode('auto', False)
    same = (got.tokens[:, : GIVEN + NEW] == plain.tokens[:, : GIVEN + NEW]).all(
      1
    )
    # Blocks of other widths round differently; that may flip a near-tie.
    assert same.mean() >= 0.98
  drafted, accepted, emitted = (
    got.rounds.drafted,
    got.rounds.accepted,
    got.rounds.emitted,
  )
  refused = (accepted < drafted) & (emitted > accepted)
  start = np.cumsum(emitted, axis=1) - emitted
  tested = np.zeros((100, NEW), bool)
  for row, column in zip(*np.nonzero(emitted), strict=True):
    count = accepted[row, column] + refused[row, column]
    tested[row, start[row, column] :][:count] = True
  assert tested.sum() == accepted.sum() + refused.sum()
  assert not tested[~_inside(got)].any()
  p, q = _distributions(got)
  predicted = predict(p[tested], q[tested])
  measured = accepted.sum() / tested.sum()
  error = (predicted * (1 - predicted)).sum() ** 0.5 / tested.sum()
  print(
    f'{verify}: predicted {predicted.mean():.4f}, measured {measured:.4f}, '
    f'standard error {error:.4f}'
  )
  assert abs(measured - predicted.mean()) < 3 * error


def test_measured_greedy_acceptance_is_the_agreement():
  got = _decode('greedy', True, temperature=0.0)
  p, q = _distributions(got)
  agree = (p.argmax(-1) == q.argmax(-1)) & _inside(got)
  # A draft goes on while both agree: the rounds follow from the texts alone.
  accepted = got.rounds.accepted.sum()
  walked = 0
  for row, count in zip(agree, got.num_tokens, strict=True):
    at = 0
    while at < count:
      run = 0
      while run < NUM_DRAFT and at + run < count and row[at + run]:
        run += 1
      walked += run
      at += run + 1
  assert abs(int(accepted) - walked) <= 0.005 * walked
