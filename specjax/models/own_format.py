"""Drafter networks that Hugging Face does not know.

Their folders look like all others, but config.json holds the fields of the
config dataclass under their own names, and a tensor is named by its path in the
parameter tree.
"""

import dataclasses
from typing import Any, Mapping

from specjax.models.spec_drafter.config import BlockwiseConfig
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.speculator import config as speculator_config
from specjax.models.speculator.config import ParallelConfig

CONFIGS = {
  'specjax_spec_drafter': SpecDrafterConfig,
  'specjax_blockwise': BlockwiseConfig,
} | dict.fromkeys(speculator_config.ARCHITECTURES, ParallelConfig)
# Of the running process, and not of the weights.
_NOT_STORED = ('dtype', 'remat')


def is_own(config: Any) -> bool:
  """Whether a config dataclass is one of these networks'."""
  return isinstance(config, tuple(CONFIGS.values()))


def from_json(raw: Mapping[str, Any]) -> Any:
  """Reads a config.json of one of these networks.

  Raises:
    ValueError: a setting is missing or makes no sense.
  """
  kind = CONFIGS[raw['model_type']]
  if kind is ParallelConfig:
    return speculator_config.from_hf(raw)
  given = {}
  for field in dataclasses.fields(kind):
    if field.name in raw and field.name not in _NOT_STORED:
      value = raw[field.name]
      given[field.name] = tuple(value) if isinstance(value, list) else value
    elif field.default is dataclasses.MISSING:
      raise ValueError(
        f'config.json of this {raw["model_type"]} lacks {field.name!r}.'
      )
  made = kind(**given)
  made.validate()
  return made


def with_dtype(config: Any, dtype: str) -> Any:
  """Any config with another compute dtype."""
  if isinstance(config, ParallelConfig):
    return speculator_config.with_run_settings(config, dtype=dtype)
  return dataclasses.replace(config, dtype=dtype)


def to_json(config: Any) -> dict:
  """Returns the config.json of one of these networks."""
  if isinstance(config, ParallelConfig):
    return speculator_config.to_hf(config)
  made = dataclasses.asdict(config)
  for name in _NOT_STORED:
    made.pop(name, None)
  return {
    k: list(v) if isinstance(v, tuple) else v for k, v in made.items()
  } | {'architectures': [type(config).__name__.removesuffix('Config')]}
