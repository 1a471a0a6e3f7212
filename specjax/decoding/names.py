"""Registries of drafters and rules: a name means one entry."""

import dataclasses
from typing import Any

from specjax import validation


def add(known: dict[str, Any], entry: Any, kind: str) -> Any:
  """Puts an entry into a registry, and returns it.

  Args:
    known: entries by name.
    entry: entry with a `name`.
    kind: 'drafter' or 'verifier', for the message.

  Raises:
    ValueError: there is another entry of that name.
  """
  check(known, entry, kind)
  known[entry.name] = entry
  return entry


def check(known: dict[str, Any], entry: Any, kind: str) -> None:
  """Raises ValueError for a bad or taken name or bad options; see `add`."""
  if not isinstance(entry.name, str) or not entry.name.isidentifier():
    raise ValueError(
      f'The name of a {kind} must be one word of letters, digits and _, since '
      f'options go by it, not {entry.name!r}.'
    )
  options = entry.options
  if not isinstance(options, type) or not dataclasses.is_dataclass(options):
    raise ValueError(
      f'The options of the {kind} {entry.name} must be a dataclass, not '
      f'{options!r}.'
    )
  for field in dataclasses.fields(options):
    if field.default is field.default_factory is dataclasses.MISSING:
      raise ValueError(
        f'The option {field.name} of the {kind} {entry.name} must have a '
        'default.'
      )
  validation.hashable(f'The {kind} {entry.name}', entry)
  if known.get(entry.name, entry) != entry:
    raise ValueError(
      f'There is a {kind} {entry.name!r} already; choose another name.'
    )
