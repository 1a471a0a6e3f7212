"""The model families: one line each, looked up by the type of a config."""

from typing import Any, Callable, NamedTuple

from specjax.models.decoder import config as decoder_config
from specjax.models.decoder.config import DecoderConfig
from specjax.models.facts import ModelFacts
from specjax.models.spec_drafter import config as spec_drafter_config
from specjax.models.spec_drafter.config import BlockwiseConfig
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.speculator import config as speculator_config
from specjax.models.speculator.config import ParallelConfig
from specjax.models.t5 import config as t5_config
from specjax.models.t5.config import T5Config


class ModelFamily(NamedTuple):
  """A network architecture.

  Attributes:
    name: as registries and messages call it.
    config: its frozen config dataclass.
    role: 'target' for language models, 'drafter' for networks that only draft.
    facts: config -> `ModelFacts`.
    per_device: (config, heads, mlp) -> the config of the size that one device
      computes, where heads and feed-forward are cut into so many parts.
    label: config -> what it is, in words of its paper; '' takes its name.
  """

  name: str
  config: type
  role: str
  facts: Callable[[Any], ModelFacts]
  per_device: Callable[[Any, int, int], Any] = lambda config, heads, mlp: config
  label: Callable[[Any], str] = lambda config: ''

  @property
  def is_target(self) -> bool:
    """Whether its networks are language models."""
    return self.role == 'target'


FAMILIES = (
  ModelFamily(
    'decoder',
    DecoderConfig,
    'target',
    decoder_config.facts,
    decoder_config.per_device,
  ),
  ModelFamily('t5', T5Config, 'target', t5_config.facts, t5_config.per_device),
  ModelFamily(
    'spec_drafter',
    SpecDrafterConfig,
    'drafter',
    spec_drafter_config.facts,
    label=spec_drafter_config.label,
  ),
  ModelFamily(
    'blockwise',
    BlockwiseConfig,
    'drafter',
    spec_drafter_config.heads_facts,
    label=lambda config: 'head-based',
  ),
  ModelFamily('speculator', ParallelConfig, 'drafter', speculator_config.facts),
)
_BY_CONFIG = {family.config: family for family in FAMILIES}


def family_of(config: Any) -> ModelFamily:
  """The family of a config.

  Raises:
    ValueError: no family has configs of this type.
  """
  if config is None:
    raise ValueError(
      'A model of your own (Model.from_lm) belongs to no model family, so '
      'networks that are trained for one cannot draft for it.'
    )
  found = _BY_CONFIG.get(type(config))
  if found is None:
    raise ValueError(
      f'{type(config).__name__} is the config of no registered model family; '
      f'there are {", ".join(family.name for family in FAMILIES)}.'
    )
  return found


def facts(config: Any) -> ModelFacts:
  """`ModelFacts` of a config."""
  return family_of(config).facts(config)


def is_config(value: Any) -> bool:
  """Whether a value is the config of a registered family."""
  return type(value) in _BY_CONFIG
