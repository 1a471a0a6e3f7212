"""The model families: one line each, looked up by a config or a config.json."""

from collections.abc import Mapping
from typing import Any

from specjax.models.decoder.family import FAMILY as DECODER
from specjax.models.facts import ModelFacts
from specjax.models.family import ModelFamily
from specjax.models.spec_drafter.family import BLOCKWISE
from specjax.models.spec_drafter.family import SPEC_DRAFTER
from specjax.models.speculator.family import FAMILY as SPECULATOR
from specjax.models.t5.family import FAMILY as T5

BUILT_IN = (T5, DECODER, SPEC_DRAFTER, BLOCKWISE, SPECULATOR)
_BY_NAME = {family.name: family for family in BUILT_IN}


def register(family: ModelFamily) -> ModelFamily:
  """Adds a family for this process and returns it.

  Raises:
    ValueError: its name, config class or a `model_type` is taken.
  """
  for other in _BY_NAME.values():
    # A module that registers may be imported twice, under two names.
    if other == family:
      return family
    shared = set(family.files.model_types) & set(other.files.model_types)
    if other.name == family.name or other.config is family.config or shared:
      raise ValueError(
        f'The model family {family.name!r} is too much like {other.name!r}: '
        'name, config class and model types must be its own.'
      )
  _BY_NAME[family.name] = family
  return family


def families() -> tuple[ModelFamily, ...]:
  """All families, built-in ones first."""
  return tuple(_BY_NAME.values())


def named(name: str) -> ModelFamily:
  """The family of a name.

  Raises:
    ValueError: there is none.
  """
  if name not in _BY_NAME:
    raise ValueError(
      f'There is no model family {name!r}; there are {", ".join(_BY_NAME)}.'
    )
  return _BY_NAME[name]


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
  for family in _BY_NAME.values():
    # Not isinstance: a subclass may have fields that this family does not read.
    if type(config) is family.config:
      return family
  raise ValueError(
    f'{type(config).__name__} is the config of no registered model family; '
    f'there are {", ".join(_BY_NAME)}.'
  )


def is_config(value: Any) -> bool:
  """Whether a value is the config of a registered family."""
  return any(type(value) is family.config for family in _BY_NAME.values())


def facts(config: Any) -> ModelFacts:
  """`ModelFacts` of a config."""
  return family_of(config).facts(config)


def of_json(raw: Mapping[str, Any]) -> ModelFamily:
  """The family that reads a config.json.

  Args:
    raw: the parsed file.

  Raises:
    ValueError: its architecture is not supported.
  """
  kind = raw.get('model_type')
  if not isinstance(kind, str):
    raise ValueError(
      f'config.json names no model_type, such as "llama", but {kind!r}.'
    )
  given = raw.get('architectures')
  listed = given if isinstance(given, list) else [given]
  if given is not None and not all(isinstance(name, str) for name in listed):
    raise ValueError(
      'architectures in config.json must be a list of names, such as '
      f'["LlamaForCausalLM"], not {given!r}.'
    )
  for family in _BY_NAME.values():
    names = family.files.model_types.get(kind, ())
    # The model_type of a drafter is ours alone; the one of a language model
    # also belongs to encoders and classifiers, which differ in the
    # architecture.
    named = listed[0] if given else (names or [''])[0]
    if names and (named in names or not family.is_target):
      return family
  named = listed[0] if given else kind
  supported = [
    names[0]
    for family in _BY_NAME.values()
    if family.is_target
    for names in family.files.model_types.values()
  ]
  raise ValueError(
    f'the architecture {named!r} (model_type {kind!r}) is not '
    f'supported; supported are {", ".join(supported)}.'
  )
