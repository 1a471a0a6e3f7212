"""The training families: one line each."""

from specjax.training.families.family import TrainingFamily
from specjax.training.families.language_model import FAMILY as LANGUAGE_MODEL
from specjax.training.families.spec_drafter import FAMILY as SPEC_DRAFTER
from specjax.training.families.speculator import FAMILY as SPECULATOR

BUILT_IN = (LANGUAGE_MODEL, SPEC_DRAFTER, SPECULATOR)
_BY_NAME = {family.name: family for family in BUILT_IN}


def register(family: TrainingFamily) -> TrainingFamily:
  """Adds a family for this process and returns it.

  Raises:
    ValueError: its name or one of its kinds is taken.
  """
  for other in _BY_NAME.values():
    if other == family:
      return family
    shared = sorted(set(other.kinds()) & set(family.kinds()))
    if other.name == family.name or shared:
      raise ValueError(
        f'The training family {family.name!r} is too much like {other.name!r}: '
        f'name and kinds ({", ".join(shared) or "-"}) must be its own.'
      )
  _BY_NAME[family.name] = family
  return family


def families() -> tuple[TrainingFamily, ...]:
  """All families, built-in ones first."""
  return tuple(_BY_NAME.values())


def kinds() -> tuple[str, ...]:
  """All values of `--config.model.family`."""
  return tuple(kind for one in _BY_NAME.values() for kind in one.kinds())


def of_kind(kind: str) -> TrainingFamily:
  """The family of a value of `--config.model.family`.

  Raises:
    ValueError: no family trains it.
  """
  for family in _BY_NAME.values():
    if kind in family.kinds():
      return family
  raise ValueError(
    f'model.family must be one of {", ".join(kinds())}, not {kind!r}.'
  )
