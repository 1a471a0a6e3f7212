"""Options that change nothing beside the others: named, or refused.

An option of the drafter in use that this plan leaves unread was meant to change
something, so it is refused. An option of another drafter may stand in a config
that serves several, so it is named and the run goes on; but for trees beside
a draft model that can draft none at all.
"""

import dataclasses
from typing import Any

from specjax import options as options_lib
from specjax.decoding.drafters import registry as drafter_registry


def check(config: Any, assembled: Any) -> list[str]:
  """Sentences about settings that change nothing.

  Args:
    config: `DecodeConfig`.
    assembled: `assemble.Assembled`, what decodes.

  Raises:
    ValueError: an option that the drafter in use cannot obey.
  """
  notes = list(config.idle())
  plan, entry = assembled.plan, assembled.source.entry
  if not assembled.drafts:
    return notes
  for name in options_lib.changed(config.drafters):
    if name != entry.name:
      _check_trees(config, name, assembled.source)
      notes.append(
        f'drafters.{name} changes nothing: the drafter in use is {entry.name}.'
      )
  for field, why in plan.unread_options:
    given = getattr(assembled.drafter_options, field)
    if given != getattr(entry.options(), field):
      raise ValueError(
        f'drafters.{entry.name}.{field}={given!r} changes nothing {why}; leave '
        'it out.'
      )
  return notes + [
    f'verifiers.{name} changes nothing: the verifier in use is '
    f'{assembled.rule.name}.'
    for name in options_lib.changed(config.verifiers)
    if name != assembled.rule.name
  ]


def _check_trees(config, name: str, source) -> None:
  """Refuses trees of another drafter beside a model that drafts none."""
  other, entry = drafter_registry.find(name), source.entry
  if other is None or source.model is None or _has_trees(entry):
    return
  given = getattr(options_lib.of(config.drafters, other), 'tree', None)
  if given:
    raise ValueError(
      f'drafters.{name}.tree={given!r} asks for trees, but the drafter in use, '
      f'{entry.name}, drafts chains alone; leave it out, or take the drafter '
      f'{name}.'
    )


def _has_trees(entry) -> bool:
  return 'tree' in {field.name for field in dataclasses.fields(entry.options)}
