"""A drafter network: K rows of scores for the last token, learnt by counting.

Model family, drafter and training family; none of them resembles ours.
"""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from specjax import base
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry as drafter_entry
from specjax.decoding.drafters import registry as drafter_registry
from specjax.models import registry as model_registry
from specjax.models.common import plain_json
from specjax.models.facts import ModelFacts
from specjax.models.family import FileFormat
from specjax.models.family import ModelFamily
from specjax.training.families import registry as training_registry
from specjax.training.families.family import TrainingFamily
from specjax.training.step import Objective


@dataclasses.dataclass(frozen=True)
class PairsConfig:
  """Settings; hashable."""

  symbols: int
  ahead: int = 2
  dtype: str = 'float32'
  model_type: str = 'toy_pairs'

  def validate(self):
    if self.ahead < 1:
      raise ValueError(f'ahead must be at least 1, not {self.ahead}.')


class Pairs(nn.Module):
  """Scores float32 [..., K, V] of what follows each token."""

  config: PairsConfig

  @nn.compact
  def __call__(self, tokens):
    c = self.config
    shape = (c.symbols, c.ahead, c.symbols)
    scores = self.param('scores', nn.initializers.normal(0.1), shape)
    return scores[jnp.maximum(tokens, 0)]


def _facts(config):
  return ModelFacts(
    width=1,
    layers=1,
    heads=1,
    kv_heads=1,
    head_dim=1,
    mlp=1,
    vocab_size=config.symbols,
    max_draft=config.ahead,
  )


MODEL = ModelFamily(
  name='pairs',
  config=PairsConfig,
  role='drafter',
  facts=_facts,
  network=Pairs,
  init=lambda config, key: Pairs(config).init(key, jnp.zeros((1,), jnp.int32))[
    'params'
  ],
  files=FileFormat(
    {'toy_pairs': ('ToyPairs',)},
    functools.partial(plain_json.from_json, PairsConfig),
    functools.partial(plain_json.to_json, architecture='ToyPairs'),
  ),
)


def _plan(target, source, options, num_draft, rows):
  del options, rows
  config = source.model.config
  return drafter_entry.DraftPlan(
    min(num_draft, config.ahead),
    min(num_draft, config.ahead),
    has_log_probs=True,
    one_pass=True,
    static=target.lm.vocab_size,
  )


def _bind(lm, config, plan, style):
  del lm
  module = Pairs(config)

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    scores = module.apply({'params': params}, view.last_token)
    scores = scores[:, : plan.num_draft, : plan.static]
    return drawing.chain(scores, view.context, style), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(init, propose, observe, plan.num_draft, plan.max_path)


DRAFTER = drafter_entry.DrafterEntry(
  'pairs',
  'what follows the last token',
  _plan,
  _bind,
  lambda plan, target, source, data: source.model.params,
  families=('pairs',),
  needs_training=True,
)


@dataclasses.dataclass
class PairsTraining:
  """Options of training.

  Attributes:
    ahead: K, how many tokens are learnt.
  """

  ahead: int = 2

  def validate(self) -> None:
    if self.ahead < 1:
      raise ValueError(f'families.pairs.ahead must be 1 or more: {self.ahead}.')


def _objective(given, made, module):
  del given

  def loss(params, frozen, batch, key):
    del frozen, key
    scores = jax.nn.log_softmax(
      module.apply({'params': params}, batch['tokens'])
    )
    total = weight = 0.0
    for step in range(made.ahead):
      label = jnp.roll(batch['target'], -step, axis=1)
      mask = (batch['segments'] > 0).at[:, scores.shape[1] - step :].set(False)
      value = -jnp.take_along_axis(
        scores[:, :, step], label[..., None], axis=-1
      )[..., 0]
      total += jnp.sum(jnp.where(mask, value, 0))
      weight += jnp.sum(mask)
    return total, weight, {}

  return Objective(lambda key: MODEL.init(made, key), loss)


TRAINING = TrainingFamily(
  name='pairs',
  kinds=lambda: ('pairs',),
  validate=lambda config, options: None,
  new_config=lambda given: PairsConfig(
    given.teacher.lm.vocab_size, given.options.ahead
  ),
  objective=_objective,
  initialiser=lambda given, made: functools.partial(MODEL.init, made),
  options=PairsTraining,
)


def register() -> None:
  """Makes all three known."""
  model_registry.register(MODEL)
  drafter_registry.register(DRAFTER)
  training_registry.register(TRAINING)
