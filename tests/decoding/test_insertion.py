"""Rows that take finished ones' places decode as if they were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import models
from specjax.checkpoints import model as model_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.hybrid import hybrid
from specjax.inference import assemble
from specjax.inference import costs as costs_lib
from specjax.inference import sources
from tests.helpers import insertions
from tests.helpers import networks

NEW, ROWS, PLACES, SLOTS = 9, 5, 2, 3
HEADS = models.BlockwiseConfig(61, 32, 48, block=4)


def model(kind, seed=0):
  config = networks.CONFIGS[kind]
  lm = models.make_lm(config)
  params = networks.params(kind, seed)
  return model_lib.Model(params, config, None, None, lm, (), 0, kind)


def drafter(name, target):
  """A drafter as `sources.resolve` takes it."""
  if name in ('draft', 'hybrid'):
    draft = model(target.name, seed=1)
    return hybrid(draft) if name == 'hybrid' else draft
  if name == 'blockwise':
    params = models.init_params(HEADS, jax.random.key(1))
    return model_lib.Model(params, HEADS, None, None, None, (), 0, name)
  return name


CASES = [
  ('decoder', name, rule, temperature, options)
  for name, rule, temperature, options in (
    ('none', 'auto', 1.0, {}),
    ('prompt_lookup', 'greedy', 0.0, {}),
    ('suffix', 'match', 1.0, {}),
    ('token_recycling', 'match', 1.0, {'token_recycling': {'tree': 2}}),
    ('unigram', 'block', 1.0, {}),
    ('draft', 'sampling', 1.0, {}),
    ('hybrid', 'coupled', 1.0, {}),
    ('network:eagle', 'traversal', 1.0, {'speculator': {'tree': '0 1 00'}}),
    ('network:parallel', 'sampling', 1.0, {}),
    ('network:medusa', 'greedy', 0.0, {}),
    ('simulated:0.6', 'greedy', 0.0, {}),
  )
] + [
  ('t5', name, rule, temperature, {})
  for name, rule, temperature in (
    ('prompt_lookup', 'greedy', 0.0),
    ('draft', 'block', 1.0),
    ('network:eagle_parallel', 'sampling', 1.0),
    ('network:spec_drafter', 'sampling', 1.0),
    ('blockwise', 'greedy', 0.0),
  )
]


@pytest.mark.parametrize('kind, name, rule, temperature, options', CASES)
def test_a_row_is_what_it_is_alone(kind, name, rule, temperature, options):
  """Its tokens, its end and its rounds, whatever stood in its place before."""
  target = model(kind)
  how = sources.Loading(num_draft=SLOTS)
  source = sources.resolve(drafter(name, target), target, how)
  settings = Sampling(temperature=temperature)
  assembled = assemble.assemble(
    assemble.target_of(target),
    source,
    assemble.Settings(SLOTS, rule, options, warp=settings.warp_spec()),
    quiet=True,
  )
  recipe = assembled.recipe
  prompt = networks.prompt(ROWS, seed=4)
  budgets = [NEW, 4, 7, NEW, 6]
  controls = settings.controls(
    row_keys(0, range(ROWS)), budgets, (5,), assembled.dials()
  )
  script = jnp.asarray(
    np.random.default_rng(0).integers(0, 61, (ROWS, NEW)), jnp.int32
  )

  def params_of(rows):
    return assembled.params(
      DraftData(
        rows=np.asarray(prompt.tokens).tolist(),
        costs=costs_lib.rule(assembled, PLACES),
        script=script[jnp.asarray(rows)],
      )
    )

  alone = [
    insertions.row(
      assemble.compiled(recipe, NEW)(
        params_of([index]), *insertions.rows_of(prompt, controls, [index])
      ),
      0,
    )
    for index in range(ROWS)
  ]
  made = insertions.refilled(
    recipe, params_of, prompt, controls, new=NEW, places=PLACES
  )
  # Whether a search pays is decided for the batch, so the tokens alone are a
  # row's own.
  parts = 5 if assembled.plan.row_independent else 2
  assert [row[:parts] for row in made] == [row[:parts] for row in alone]
  assert len({tuple(row[0]) for row in alone}) == ROWS
