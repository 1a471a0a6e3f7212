"""Small models of every drafter, for what is done with prompts."""

import jax

from specjax import models
from specjax.checkpoints import model as model_lib
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.hybrid import hybrid
from specjax.inference import assemble
from specjax.inference import costs as costs_lib
from specjax.inference import sources
from tests.helpers import networks

SLOTS = 3


def weights(config, seed):
  """Random weights, large enough for clear winners and varied text."""
  drawn = models.init_params(config, jax.random.key(seed))
  return jax.tree.map(lambda x: x * (3 if x.ndim > 1 else 1), drawn)


def model(kind, seed=1, config=None):
  """A model with random weights, without a tokenizer."""
  config = config or networks.CONFIGS[kind]
  params = models.prepare(config, weights(config, seed))
  lm = models.make_lm(config)
  module = models.make_module(config)
  return model_lib.Model(params, config, module, None, lm, (), 0, kind)


def drafter(name, target):
  """An argument of `sources.resolve`; 'draft' is a model like the target."""
  if name not in ('draft', 'hybrid'):
    return name
  mixed = jax.tree.map(
    lambda a, b: 0.85 * a + 0.15 * b,
    weights(target.config, 1),
    weights(target.config, 9),
  )
  params = models.prepare(target.config, mixed)
  draft = target._replace(params=params, name='draft')
  return hybrid(draft) if name == 'hybrid' else draft


def assembled(target, name, warp, **settings):
  """`Assembled` of a target and a named drafter."""
  source = sources.resolve(
    drafter(name, target), target, sources.Loading(num_draft=SLOTS)
  )
  settings = assemble.Settings(num_draft=SLOTS, warp=warp, **settings)
  return assemble.assemble(assemble.target_of(target), source, settings)


def data(made, rows):
  """`DraftData` of stated costs."""
  return DraftData(rows=[[0]], costs=costs_lib.rule(made, rows))
